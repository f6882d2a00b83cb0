"""Registration of health checks: an app says what it depends on, ``/health/ready`` asks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """``DEGRADED`` answers, but slower or with less; ``FAILED`` does not."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. ``detail`` is one sentence, free of secrets, that says what to do when not ``OK``."""

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A named question about one dependency.

    ``critical``: without it the server can't answer, so ``/health/ready`` is 503. Otherwise a failure only degrades.
    ``ask`` may raise: that counts as ``FAILED`` with the exception's type as its detail.
    """

    name: str
    ask: Callable[[], Report]
    critical: bool


_checks: dict[str, HealthCheck] = {}


def register_health_check(name: str, ask: Callable[[], Report], *, critical: bool) -> None:
    """Register, or replace, the check called ``name``."""
    _checks[name] = HealthCheck(name, ask, critical)


def health_checks() -> tuple[HealthCheck, ...]:
    """Every registered check, sorted by name."""
    return tuple(_checks[name] for name in sorted(_checks))


_signs_of_life: list[Callable[[], Collection[str]]] = []


def register_sign_of_life(look: Callable[[], Collection[str]]) -> None:
    """``look`` names the worker processes that gave a sign of life lately, as ``host:pid``. It may raise."""
    _signs_of_life.append(look)


def signs_of_life() -> frozenset[str]:
    """The worker processes that gave one lately, by whatever was registered."""
    return frozenset(name for look in _signs_of_life for name in look())
