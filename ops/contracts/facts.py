"""What became known about the piece of work that is under way: a request, a task or a websocket session.

Whoever knows something says ``note(variant="stable")``; it stands on the one log line of that work and, while tracing
is on, on its span. Never the text of a query, which is known here by its hash alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)
_describe_span: Callable[[Mapping[str, Any]], None] | None = None


def note(**facts: Any) -> None:
    """Add to what is known of the work under way; does nothing outside of any."""
    known = _facts.get()
    if known is not None:
        known.update(facts)
    if _describe_span is not None:
        _describe_span(facts)


@contextmanager
def collecting() -> Iterator[dict[str, Any]]:
    """A piece of work: yields what is noted inside it, in threads that take over its context as well."""
    known: dict[str, Any] = {}
    token = _facts.set(known)
    try:
        yield known
    finally:
        _facts.reset(token)


def trace_facts(describe_span: Callable[[Mapping[str, Any]], None] | None) -> None:
    """Put facts on spans from now on; ``None``: no longer."""
    global _describe_span
    _describe_span = describe_span
