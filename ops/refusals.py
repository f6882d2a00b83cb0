"""How a command refuses: one line on stderr and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import CommandError

from ops.contracts.problems import Problem


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a refusal of the services into a `CommandError` with exit code 2."""
    try:
        yield
    except Problem as problem:
        faults = [f"{field} {fault}" for field, fault in problem.errors.items()]
        raise CommandError(" ".join([str(problem), "; ".join(faults)]).strip(), returncode=2) from problem
