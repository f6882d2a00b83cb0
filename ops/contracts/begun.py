"""A span that is opened here and closed elsewhere, on any thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


class BegunSpan:
    """Below the span that is current now. ``None`` stands for no span: then it keeps the context alone."""

    __slots__ = ("_context", "_span")

    def __init__(self, span: AbstractContextManager[object] | None) -> None:
        self._context = copy_context()
        self._span = span
        if span is not None:
            self._context.run(span.__enter__)

    def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns; spans that it opens are below this one."""
        return self._context.run(work)

    def end(self, error: BaseException | None = None) -> None:
        """Close it, as failed by ``error`` if there is one. Once; it does nothing after that."""
        span, self._span = self._span, None
        if span is not None:
            with nullcontext() if error is None else suppress(type(error)):
                self._context.run(span.__exit__, None if error is None else type(error), error, None)
