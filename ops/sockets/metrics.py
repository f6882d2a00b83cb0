"""``/ws/metrics``: what ``/metrics/basic`` answers, pushed each second."""

from __future__ import annotations

import asyncio

from ops.contracts.principal import Scope
from ops.figures import basic_figures
from ops.sockets.consumer import SocketConsumer

INTERVAL_S = 1.0


class MetricsConsumer(SocketConsumer):
    """Sends ``{"type": "metrics", …}`` once a second, from the moment it is opened."""

    name = "metrics"
    required_scope = Scope.OPS_READ

    async def opened(self) -> None:
        self.start(self._push())

    async def _push(self) -> None:
        while True:
            await self.send_json({"type": "metrics", **basic_figures()})
            await asyncio.sleep(INTERVAL_S)
