"""Every websocket. Each consumer declares the scope it needs; whatever is not here is refused as not found."""

from __future__ import annotations

from typing import Any

from channels.routing import URLRouter
from django.urls import path, re_path

from ops.sockets.handshake import PrincipalOfSocket
from ops.sockets.log import SocketLog
from ops.sockets.metrics import MetricsConsumer
from ops.sockets.refusal import Application, no_such_socket
from rag.chat.consumer import ChatConsumer
from voice.consumer import VoiceConsumer

# Django's `path` is typed for views; Channels gives it applications.
_consumers: dict[str, Any] = {
    "ws/chat": ChatConsumer.as_asgi(),
    "ws/metrics": MetricsConsumer.as_asgi(),
    "ws/voice": VoiceConsumer.as_asgi(),
}
_last: Any = no_such_socket

websocket_urlpatterns = [path(route, consumer) for route, consumer in _consumers.items()]


def websocket_application() -> Application:
    """The routes behind the check of where a socket comes from and who opens it; a line in the log for each."""
    router: Any = URLRouter([*websocket_urlpatterns, re_path("", _last)])
    return SocketLog(PrincipalOfSocket(router))
