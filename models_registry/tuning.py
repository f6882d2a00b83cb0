"""What the page for fusion weights asks of the app that fuses: a look at a query under two weights, and figures.

That app registers its `Preview` and its `Evaluator`; without them the page changes weights and shows nothing of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ops.contracts.principal import Principal

TOP = 10
"""Results that are shown of each ranking."""

STEPS = 100
"""A curve has a value for each hundredth of the LTR weight: `STEPS` + 1 of them."""


class Shares(NamedTuple):
    """Both weights, scaled to sum to 1."""

    ltr: float
    conceptual: float


@dataclass(frozen=True, slots=True)
class Shown:
    """One result of a ranking. Ranks begin at 1; ``other_rank`` is its place in the other ranking.

    ``rank`` and ``other_rank`` count all candidates, so a result that left the top has a place as well.
    """

    chunk_id: int
    title: str
    where: str
    excerpt: str
    score: float
    rank: int
    other_rank: int

    @property
    def moved(self) -> int:
        """Places that it is higher here than there; negative: lower."""
        return self.other_rank - self.rank

    @property
    def fell(self) -> int:
        """Places that it is lower here than there."""
        return -self.moved


@dataclass(frozen=True, slots=True)
class Sides:
    """The top of one query under both weights. ``changed``: results that are in one top and not in the other."""

    current: Sequence[Shown]
    proposed: Sequence[Shown]
    changed: int
    notes: Sequence[str] = ()
    """What the operator should know: what could not be used, and where the weights play no part."""


class Preview(Protocol):
    """Ranks a query under two weights; the second look at a query costs two fusions."""

    def collections(self, principal: Principal) -> Sequence[str]:
        """The slugs of those that can be asked."""

    def sides(self, query: str, collection: str, current: Shares, proposed: Shares, principal: Principal) -> Sides:
        """Raises `Problem`."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """nDCG@10 of a judged collection by LTR weight. ``curve``: `STEPS` + 1 values from 0 to 1; empty until finished.

    ``current`` and ``proposed`` are the values of exactly those weights, and ``p_value`` is that of a paired
    randomisation test of their difference.
    """

    collection: str
    done: int
    total: int
    shares: tuple[Shares, Shares]
    failure: str = ""
    curve: Sequence[float] = ()
    current: float = 0.0
    proposed: float = 0.0
    p_value: float = 1.0
    wins: int = 0
    losses: int = 0
    in_sample: bool = False

    @property
    def is_finished(self) -> bool:
        return bool(self.curve or self.failure)


class Evaluator(Protocol):
    """Measures the weights on judged queries, in the background."""

    def judged_collections(self, principal: Principal) -> Sequence[str]:
        """The slugs of those with judgements."""

    def start(self, collection: str, current: Shares, proposed: Shares, principal: Principal) -> str:
        """Begin a measurement; its id. Raises `Problem`."""

    def find(self, measurement_id: str, principal: Principal) -> Measurement:
        """How far it is. Raises `NotFound`, also for those of collections that the principal may not touch."""


_preview: Preview | None = None
_evaluator: Evaluator | None = None


def register_preview(preview: Preview) -> None:
    """Say how a query is looked at. Called by the app that fuses."""
    global _preview
    _preview = preview


def register_evaluator(evaluator: Evaluator) -> None:
    """Say how weights are measured. Called by the app that evaluates."""
    global _evaluator
    _evaluator = evaluator


def preview() -> Preview | None:
    """The registered one."""
    return _preview


def evaluator() -> Evaluator | None:
    """The registered one."""
    return _evaluator
