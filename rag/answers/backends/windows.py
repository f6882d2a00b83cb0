"""How long a model's context may be, asked of its server once in a while."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from rag.answers.backends.base import BackendError, BackendUnavailableError

KEPT_S = 300.0


class Windows:
    """By model. A server that can't tell is asked again after `KEPT_S` as well."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int | None]] = {}

    async def get(self, model: str, read: Callable[[str], Awaitable[int | None]]) -> int | None:
        known = self._known.get(model)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        try:
            window = await read(model)
        except BackendUnavailableError:
            return None  # shows when it is asked to write
        except BackendError:
            window = None  # it does not tell
        self._known[model] = (time.monotonic() + KEPT_S, window)
        return window
