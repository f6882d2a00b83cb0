"""``/ws/metrics``: what ``/metrics/basic`` and ``/metrics/json`` answer, pushed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from django.db import DatabaseError, InterfaceError

from ops.api.problems import as_problem
from ops.contracts.principal import Scope
from ops.contracts.problems import InvalidRequest
from ops.figures import basic_figures, full_figures
from ops.sockets.consumer import SocketConsumer
from ops.sockets.threads import in_thread


@dataclass(frozen=True, slots=True)
class Push:
    """Figures that a client may choose, and how often they come."""

    type: str
    figures: Callable[[], dict[str, Any]]
    interval_s: float


PUSHES = {"basic": Push("metrics", basic_figures, 1.0), "full": Push("metrics.full", full_figures, 5.0)}


class MetricsConsumer(SocketConsumer):
    """From the moment it is opened, sends ``{"type": "metrics", …}`` with the basic figures once a second.

    ``?figures=full`` asks for ``{"type": "metrics.full", …}`` with all of them every five seconds instead, and
    ``?figures=basic,full`` for both.
    """

    name = "metrics"
    required_scope = Scope.OPS_READ

    async def opened(self) -> None:
        (text,) = parse_qs(self.scope["query_string"].decode("latin-1")).get("figures", ["basic"])[-1:]
        chosen = [name.strip() for name in text.split(",")]
        if set(chosen) - PUSHES.keys():
            known = " or ".join((*PUSHES, ",".join(PUSHES)))
            await self.end(InvalidRequest(f"There are no figures {text[:50]!r}: write ?figures={known}."))
            return
        for name in dict.fromkeys(chosen):
            self.start(self._push(PUSHES[name]))

    async def _push(self, push: Push) -> None:
        while True:
            try:
                await self.send_json({"type": push.type, **await self._figures(push)})
            except (DatabaseError, InterfaceError) as error:  # it comes back
                await self.send_problem(as_problem(error))
            await asyncio.sleep(push.interval_s)

    async def _figures(self, push: Push) -> dict[str, Any]:
        """The basic ones are in memory; all of them ask the database and the machine, which blocks."""
        return push.figures() if push is PUSHES["basic"] else await in_thread(push.figures)()
