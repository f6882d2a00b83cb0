"""Registration of what `manage.py doctor` looks at: an app says what may be wrong with its part, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    TROUBLE = "trouble"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, with its figure, and the command that comes next; none where nothing has to be done."""

    level: Level
    what: str
    next: str = ""


Ask = Callable[[], Iterable[Finding]]
"""May raise: that is trouble, named by the exception's type."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """``asks_database``: it can't be made while PostgreSQL is away."""

    ask: Ask
    asks_database: bool


_diagnoses: dict[str, Diagnosis] = {}


def register_diagnosis(name: str, ask: Ask, *, asks_database: bool = True) -> None:
    """Register, or replace, the diagnosis of this name."""
    _diagnoses[name] = Diagnosis(ask, asks_database)


def diagnoses() -> dict[str, Diagnosis]:
    """Every diagnosis by name, in the order of their registration."""
    return dict(_diagnoses)
