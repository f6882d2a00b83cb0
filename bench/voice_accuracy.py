"""How well spoken questions are heard, and whether the right passage is still found: with and without the vocabulary.

Questions of the sample collection are spoken by the synthetic voices of flite and festival that are installed
(`apt install flite festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k`). The voices of festival were used
in no choice of settings. No person's voice is in it: take the figures for a comparison.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.setup import prepare

SAMPLE = Path(__file__).resolve().parent.parent / "rag" / "evaluation" / "sample"
FLITE = ("rms", "awb", "kal16")
FESTIVAL = ("cmu_us_slt_arctic_hts", "kal_diphone", "ked_diphone")
QUESTIONS = 60
SLUG = "voice-accuracy"
WORD = re.compile(r"[a-z']+")


@dataclass(frozen=True, slots=True)
class Spoken:
    question_id: str
    text: str
    voice: str
    is_held_out: bool
    pcm: bytes


def main() -> int:
    prepare()
    if shutil.which("flite") is None:
        print("flite is not installed: apt install flite. Skipped.")
        return 0
    relevant = _fill()
    questions = _questions(relevant)
    from ops.contracts.principal import SYSTEM
    from rag.pipeline.search import SearchRequest, search
    from voice.engines.listening import ListeningPool
    from voice.vocabulary import service

    def found(text: str, question_id: str) -> bool:
        if not text.strip():
            return False
        answer = search(SearchRequest(query=text, collection=SLUG, top_k=3), SYSTEM)
        return any(result["document_id"] in relevant[question_id] for result in answer["results"])

    ears = ListeningPool("pocketsphinx", "voice.engines.pocketsphinx_child", size=1)
    vocabulary = service.build(SLUG)
    rows: list[tuple[Spoken, int, dict[str, tuple[int, bool]], bool]] = []
    try:
        for one in questions:
            heard: dict[str, tuple[int, bool]] = {}
            for name, model in (("stock", None), ("vocabulary", vocabulary)):
                recognition = ears.start(lambda transcript: None, model)
                for start in range(0, len(one.pcm), 8192):
                    recognition.feed(one.pcm[start : start + 8192])
                text = recognition.finish().result().text
                heard[name] = word_errors(words(one.text), words(text)), found(text, one.question_id)
            rows.append((one, len(words(one.text)), heard, found(one.text, one.question_id)))
    finally:
        ears.close()
    print(f"{len(rows)} spoken questions over {SLUG}; word error rate, and how often a right document is in the top 3")
    print(f"{'voices':<34} {'questions':>9}  {'WER stock':>9} {'vocab.':>7}   {'typed':>6} {'stock':>6} {'vocab.':>6}")
    groups = [(voice, [row for row in rows if row[0].voice == voice]) for voice in (*FLITE, *FESTIVAL)]
    groups += [
        ("all that settings were chosen with", [row for row in rows if not row[0].is_held_out]),
        ("all others", [row for row in rows if row[0].is_held_out]),
        ("all", rows),
    ]
    for name, group in groups:
        if not group:
            continue
        total = sum(row[1] for row in group)
        rates = [100 * sum(row[2][kind][0] for row in group) / total for kind in ("stock", "vocabulary")]
        hits = [sum(row[3] for row in group)]
        hits += [sum(row[2][kind][1] for row in group) for kind in ("stock", "vocabulary")]
        shares = [100 * hit / len(group) for hit in hits]
        print(
            f"{name:<34} {len(group):>9}  {rates[0]:>8.1f}% {rates[1]:>6.1f}%   "
            f"{shares[0]:>5.0f}% {shares[1]:>5.0f}% {shares[2]:>5.0f}%"
        )
    return 0


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """The Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for position, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], position
        for column, word in enumerate(heard, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (expected != word)),
            )
    return row[-1]


def speak(text: str, voice: str) -> bytes:
    """PCM16 at 16 kHz with a little silence around it; empty when the voice is not there."""
    from voice import sounds

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        if voice in FLITE:
            command = ["flite", "-voice", voice, "-t", text, "-o", str(path)]
        elif shutil.which("text2wave"):
            command = ["text2wave", "-eval", f"(voice_{voice})", "-o", str(path)]
        else:
            return b""
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        if done.returncode or not path.exists():
            return b""
        pcm = sounds.decode(path.read_bytes(), longest_bytes=1 << 24, longest_s=60)
    return bytes(9600) + pcm + bytes(9600)


def _questions(relevant: dict[str, set[str]]) -> list[Spoken]:
    voices = [voice for voice in (*FLITE, *FESTIVAL) if speak("test", voice)]
    lines = (SAMPLE / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    asked = [
        one
        for one in asked
        if one["_id"] in relevant
        and re.fullmatch(r"[A-Za-z' ,?.-]+", one["text"])
        and 4 <= len(one["text"].split()) <= 16
    ]
    spoken = []
    for number, one in enumerate(asked[:: max(len(asked) // QUESTIONS, 1)][:QUESTIONS]):
        voice = voices[number % len(voices)]
        spoken.append(Spoken(one["_id"], one["text"], voice, voice in FESTIVAL, speak(one["text"], voice)))
    return spoken


def _fill() -> dict[str, set[str]]:
    """Index the sample; the documents that answer each question."""
    from ops.contracts.principal import SYSTEM
    from rag.ingest.plan import Offer
    from rag.ingest.service import process_batch, start_run
    from rag.models import Collection

    home, _ = Collection.objects.get_or_create(slug=SLUG)
    documents = [json.loads(line) for line in (SAMPLE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    offers = [
        Offer(one["_id"], one["text"].encode(), source=one["_id"], title=one.get("title", "")) for one in documents
    ]
    run = start_run(home, offers, SYSTEM, "command", enqueue=False)
    while process_batch(run.id):
        pass
    relevant: dict[str, set[str]] = {}
    for line in (SAMPLE / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, document, grade = line.split("\t")[:3]
        if int(grade) > 0:
            relevant.setdefault(question, set()).add(document)
    return relevant


if __name__ == "__main__":
    sys.exit(main())
