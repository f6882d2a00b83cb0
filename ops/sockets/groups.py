"""Messages to open sockets in every process, through the channel layer."""

from __future__ import annotations

import logging
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

PRINCIPALS_CHANGED = "principals"
"""The group that every socket hears: somebody's rights were changed, so that each looks up its own again."""


def tell(group: str, message: dict[str, Any]) -> None:
    """Send ``message`` to the group once the transaction is committed. Without Redis nobody hears it, and it is logged.

    ``message["type"]`` names the method that takes it, as ``principals.changed`` does `principals_changed`.
    """
    transaction.on_commit(lambda: _send(group, message))


def tell_principals_changed() -> None:
    """Let every open socket see whether it may still be."""
    tell(PRINCIPALS_CHANGED, {"type": "principals.changed"})


def _send(group: str, message: dict[str, Any]) -> None:
    layer: Any = get_channel_layer()
    try:
        async_to_sync(layer.group_send)(group, message)
    except (RedisError, OSError) as error:
        logger.warning("Open websockets could not be told: %s", type(error).__name__)
