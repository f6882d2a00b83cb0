"""The two files of a vocabulary: a language model, and how its words sound that are in no dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ENDING = ".lm.bin"


def pronunciation_path(model: Path) -> Path:
    return model.with_name(f"{model.name.removesuffix(ENDING)}.dict")


def pronunciations(model: Path) -> Iterator[tuple[str, str]]:
    """Words with their sounds in ARPAbet; none when there is no such file."""
    path = pronunciation_path(model)
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            word, _, phones = line.partition(" ")
            yield word, phones
