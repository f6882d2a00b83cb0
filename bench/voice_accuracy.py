"""How well spoken questions are heard, and whether the right passage is still found.

    python -m bench.voice_accuracy [--questions 40] [--whisper FOLDER]

Questions of several collections, spoken by the synthetic voices of flite and festival that are installed
(`apt install flite festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k`), are heard by PocketSphinx with its
stock model and with the collection's vocabulary, and asked as they were typed, heard, and repaired by their sounds. The
voices of festival were used in no choice of settings. With ``--whisper`` that converted Whisper model hears them too,
without and with the collection's hot words. No person's voice is in it: take the figures for a comparison.

Collections: the sample, and those of ``ZENGLOW_COLLECTIONS_DIR`` of which questions can be spoken.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.setup import prepare

SAMPLE = Path(__file__).resolve().parent.parent / "rag" / "evaluation" / "sample"
FLITE = ("rms", "awb", "kal16")
FESTIVAL = ("cmu_us_slt_arctic_hts", "kal_diphone", "ked_diphone")
WORD = re.compile(r"[a-z']+")
MOST_DOCUMENTS = 2000
"""Of a larger collection as many, the relevant ones of its questions first."""


@dataclass(frozen=True, slots=True)
class Question:
    """``relevant``: ids of the documents that answer it."""

    collection: str
    text: str
    relevant: frozenset[str]
    voice: str
    pcm: bytes = field(repr=False)


@dataclass(slots=True)
class Result:
    """By way of hearing: word errors, and whether a right document was in the top 3."""

    question: Question
    words: int
    errors: dict[str, int] = field(default_factory=dict)
    found: dict[str, bool] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=40, help="of each collection")
    parser.add_argument("--whisper", type=Path, help="folder of a converted Whisper model")
    options = parser.parse_args()
    prepare()
    if shutil.which("flite") is None:
        print("flite is not installed: apt install flite. Skipped.")
        return 0
    results: list[Result] = []
    for folder in _folders():
        print(f"{folder.name}: indexing, and making its vocabulary …", flush=True)
        found = list(_measured(folder, options))
        _report(found)
        results += found
    _report(results)
    return 0


def _measured(folder: Path, options: argparse.Namespace) -> Iterator[Result]:
    from bench.phonetic_repair import Repairer
    from ops.contracts.principal import SYSTEM
    from rag.pipeline.search import SearchRequest, search
    from voice.engines import whisper
    from voice.engines.contracts import VocabularyKind
    from voice.engines.listening import ListeningPool
    from voice.vocabulary import service
    from voice.vocabulary.child import dictionary

    slug = f"voice-{folder.name}"
    texts, questions = _fill(folder, slug, options.questions)
    repairer = Repairer(texts, dictionary())
    ears: Any = ListeningPool("pocketsphinx", "voice.engines.pocketsphinx_child", size=1)
    ways: list[tuple[str, Any, Path | None]] = [("stock", ears, None), ("vocabulary", ears, service.build(slug))]
    if options.whisper:
        large = whisper.engine(options.whisper, {})
        hot = service.build(slug, VocabularyKind.HOT_WORDS)
        ways += [("whisper", large, None), ("hot words", large, hot)]

    def is_found(text: str, relevant: frozenset[str]) -> bool:
        if not text.strip():
            return False
        answer = search(SearchRequest(query=text, collection=slug, top_k=3), SYSTEM)
        return any(result["document_id"] in relevant for result in answer["results"])

    try:
        for question in questions:
            result = Result(question, len(words(question.text)))
            result.found["typed"] = is_found(question.text, question.relevant)
            for name, engine, vocabulary in ways:
                heard = hear(engine, question.pcm, vocabulary)
                result.errors[name] = word_errors(words(question.text), words(heard))
                result.found[name] = is_found(heard, question.relevant)
                if engine is ears:
                    repaired = repairer.repair(heard)
                    result.errors[f"{name}, repaired"] = word_errors(words(question.text), words(repaired))
                    result.found[f"{name}, repaired"] = is_found(repaired, question.relevant)
            yield result
    finally:
        for _, engine, _ in ways:
            engine.close()


def _report(results: list[Result]) -> None:
    if not results:
        print("  none of its questions can be spoken")
        return
    ways = list(results[0].errors)
    print(f"\n{len(results)} spoken questions. Word errors, and how often a right document is in the top 3\n")
    heading = ["", "questions", "", "typed", *ways]
    rows: list[list[str]] = [heading]

    def add(name: str, group: list[Result]) -> None:
        if not group:
            return
        total = sum(result.words for result in group)
        errors = [f"{100 * sum(result.errors[way] for result in group) / total:.1f} %" for way in ways]
        found = [f"{100 * sum(result.found[way] for result in group) / len(group):.0f} %" for way in ("typed", *ways)]
        rows.append([name, str(len(group)), "word errors", "", *errors])
        rows.append(["", "", "top 3", *found])

    for voice in (*FLITE, *FESTIVAL):
        add(voice, [result for result in results if result.question.voice == voice])
    for collection in dict.fromkeys(result.question.collection for result in results):
        add(collection, [result for result in results if result.question.collection == collection])
    add("voices that settings were chosen with", [result for result in results if result.question.voice in FLITE])
    add("other voices", [result for result in results if result.question.voice not in FLITE])
    add("all", results)
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for way, other in (("stock", "vocabulary"), ("stock", "stock, repaired"), ("vocabulary", "vocabulary, repaired")):
        won = sum(result.found[other] and not result.found[way] for result in results)
        lost = sum(result.found[way] and not result.found[other] for result in results)
        print(f"{way} -> {other}: {won} questions won, {lost} lost")


def hear(engine: Any, pcm: bytes, vocabulary: Path | None) -> str:
    recognition = engine.start(lambda transcript: None, vocabulary)
    for start in range(0, len(pcm), 8192):
        recognition.feed(pcm[start : start + 8192])
    text: str = recognition.finish().result().text
    return text


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


def _folders() -> list[Path]:
    from bench.public import folders

    return [SAMPLE, *(folder for folder in folders() if folder != SAMPLE)]


def _can_be_spoken(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z' ,?.-]+", text)) and 4 <= len(text.split()) <= 16


def _fill(folder: Path, slug: str, most: int) -> tuple[list[str], list[Question]]:
    """Index a collection; its texts, and questions about it with a voice each, by turns."""
    from ops.contracts.principal import SYSTEM
    from rag.ingest.beir import BeirFolder
    from rag.ingest.plan import Offer
    from rag.ingest.service import process_batch, start_run
    from rag.models import Collection

    source = BeirFolder(folder)
    relevant: dict[str, set[str]] = {}
    for judgement in source.judgements():
        if judgement.grade > 0:
            relevant.setdefault(judgement.query_id, set()).add(judgement.document_id)
    asked = [one for one in source.queries() if one.identifier in relevant and _can_be_spoken(one.text)]
    asked = asked[:: max(len(asked) // most, 1)][:most]
    wanted = set().union(*(relevant[one.identifier] for one in asked))
    documents = sorted(
        (one for one in source.documents() if one.text), key=lambda one: (one.identifier not in wanted, one.identifier)
    )[:MOST_DOCUMENTS]
    home, _ = Collection.objects.get_or_create(slug=slug)
    run = start_run(
        home,
        [Offer(one.identifier, one.text.encode(), source=one.identifier, title=one.title or "") for one in documents],
        SYSTEM,
        "command",
        enqueue=False,
    )
    started = time.monotonic()
    while process_batch(run.id):
        pass
    print(f"  {len(documents)} documents in {time.monotonic() - started:.0f} s, {len(asked)} questions", flush=True)
    voices = [voice for voice in (*FLITE, *FESTIVAL) if speak("test", voice)]
    questions = []
    for number, one in enumerate(asked):
        voice = voices[number % len(voices)]
        pcm = speak(one.text, voice)
        questions.append(Question(folder.name, one.text, frozenset(relevant[one.identifier]), voice, pcm))
    return [f"{one.title or ''}. {one.text}" for one in documents], questions


if __name__ == "__main__":
    sys.exit(main())
