"""The files of a vocabulary: a language model, and how its words sound that are in no dictionary; or hot words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ENDING = ".lm.bin"
HOT_WORDS_ENDING = ".hot.txt"


def pronunciation_path(model: Path) -> Path:
    return model.with_name(f"{model.name.removesuffix(ENDING)}.dict")


def pronunciations(model: Path) -> Iterator[tuple[str, str]]:
    """Words with their sounds in ARPAbet; none when there is no such file."""
    path = pronunciation_path(model)
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            word, _, phones = line.partition(" ")
            yield word, phones


def hot_words_of(path: Path) -> str:
    """What a file of hot words holds: as one line, the most telling first. Raises `OSError`."""
    return " ".join(path.read_text(encoding="utf-8").split())
