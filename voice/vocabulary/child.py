"""The process in which a vocabulary is made: reads passages from its input, one a line, and writes a model.

python -m voice.vocabulary.child STOCK_ARPA OUT WORDS WEIGHT

``STOCK_ARPA`` is made when it is not there. The library crashes while it writes the stock model's triples, behind
everything that we need: so it does that in one more process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from voice.engines.vocabularies import pronunciation_path
from voice.vocabulary.mix import arpa_lines, count, mix, read_general
from voice.vocabulary.words import WORD, pronounce, read_passages, spoken_sentences

CONVERT = """
import sys, pocketsphinx
# Held until the end: the model only borrows its logarithms, and writes nonsense once they are gone.
config, logarithms = pocketsphinx.Config(loglevel="FATAL"), pocketsphinx.LogMath(1.0001)
pocketsphinx.NGramModel(config, logarithms, sys.argv[1]).write(sys.argv[2])
"""
STOCK_PAIRS = 2_000_000
"""Pairs that the stock model has, about: with fewer on disk its export failed."""


def main(stock_path: str, out_path: str, size: str, weight: str) -> None:
    os.nice(10)
    stock, out = Path(stock_path), Path(out_path)
    texts = read_passages(sys.stdin.buffer)
    if not stock.exists():
        export_stock(stock)
    known = dictionary()
    added = {
        word: phones
        for word in {word for text in texts for word in WORD.findall(text.lower())} - known.keys()
        if (phones := pronounce(word, known)) is not None
    }
    domain = count(spoken_sentences(texts, known.keys() | added.keys()))
    with stock.open(encoding="utf-8", errors="replace") as lines:
        general = read_general(lines, int(size), domain.words)
    pronunciations = "".join(f"{word} {phones}\n" for word, phones in sorted(added.items()))
    pronunciation_path(out).write_text(pronunciations, encoding="utf-8")
    draft = out.with_suffix(f".{os.getpid()}.arpa")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.writelines(arpa_lines(mix(general, domain, float(weight))))
        _to_binary(draft, out)
    finally:
        draft.unlink(missing_ok=True)


def dictionary() -> dict[str, str]:
    """The words whose pronunciation is known, with the first of them."""
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    with path.open(encoding="utf-8") as lines:
        entries = (line.rstrip("\n").split(" ", 1) for line in lines)
        return {entry[0]: entry[1] for entry in entries if len(entry) == 2 and "(" not in entry[0]}


def export_stock(path: Path) -> None:
    import pocketsphinx

    draft = path.with_suffix(f".{os.getpid()}.arpa")
    _convert(pocketsphinx.get_model_path("en-us/en-us.lm.bin"), draft)
    try:
        with draft.open(encoding="utf-8", errors="replace") as lines:
            pairs = sum(1 for line in lines if line.count("\t") == 3)
        if pairs < STOCK_PAIRS:
            raise RuntimeError(f"PocketSphinx wrote {pairs} pairs of its model instead of two million.")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _to_binary(arpa: Path, out: Path) -> None:
    """Loads in a tenth of the time. Raises `RuntimeError` when nothing was written."""
    draft = out.with_name(f"{out.name}.{os.getpid()}.lm.bin")
    if _convert(arpa, draft) != 0:
        raise RuntimeError("PocketSphinx could not write the model.")
    draft.replace(out)


def _convert(source: str | Path, target: Path) -> int:
    """Have the library write a model as the ending of ``target`` says; its exit code, negative where it crashed."""
    command = [sys.executable, "-c", CONVERT, str(source), str(target)]
    return subprocess.run(command, check=False, capture_output=True).returncode


if __name__ == "__main__":
    main(*sys.argv[1:])
