"""Labelled text and how a detector is measured on it.

A find is *right* when it overlaps a label and reaches beyond it by at most `SLACK` characters: the word ``Bearer`` or
a user's name in a URL may go with the secret, the rest of the line may not. A label is *recalled* when finds cover
every character of it: half a card number in a log is a card number in a log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

SLACK = 12

Span = tuple[int, int, str]
"""Start, end (exclusive) and kind."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of text. ``kind`` groups the line in reports, also when nothing is labelled in it."""

    text: str
    spans: tuple[Span, ...]
    kind: str


def labelled(kind: str, template: str, value: str) -> Case:
    """``template`` with ``value`` in place of its ``{}``, labelled; other braces stay as they are."""
    before, after = template.split("{}", 1)
    return Case(before + value + after, ((len(before), len(before) + len(value), kind),), kind)


def harmless(kind: str, text: str) -> Case:
    return Case(text, (), kind)


@dataclass(slots=True)
class Measure:
    """Counts over a set of cases, with what went wrong, for whoever has to mend it."""

    labels: Counter[str] = field(default_factory=Counter)
    recalled: Counter[str] = field(default_factory=Counter)
    finds: int = 0
    right: int = 0
    missed: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.recalled.total() / self.labels.total()

    @property
    def precision(self) -> float:
        return self.right / self.finds if self.finds else 1.0

    def recall_of(self, kind: str) -> float:
        return self.recalled[kind] / self.labels[kind]


def measure(cases: Iterable[Case], find: Callable[[str], Iterable[Span]]) -> Measure:
    result = Measure()
    for case in cases:
        found = list(find(case.text))
        for start, end, kind in case.spans:
            result.labels[kind] += 1
            covered = {position for a, b, _ in found for position in range(max(a, start), min(b, end))}
            if len(covered) == end - start:
                result.recalled[kind] += 1
            else:
                result.missed.append((kind, case.text))
        for a, b, what in found:
            result.finds += 1
            if any(a < end and b > start and start - SLACK <= a and b <= end + SLACK for start, end, _ in case.spans):
                result.right += 1
            else:
                result.wrong.append((what, case.text))
    return result
