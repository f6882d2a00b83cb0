"""How a request gets from the event loop to a thread: once, with all of the middleware."""

from __future__ import annotations

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class OneThreadHandler(ASGIHandler):
    """Runs middleware and view of a request together on the request's own thread.

    Django's handler runs middleware on the event loop, from where each one that knows no ``async`` changes to the
    thread and back, on the way in and on the way out: a dozen times with what this project uses, and each change waits
    for its turn on a busy machine. A view that is ``async`` runs on the event loop as before.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        """Build the chain for synchronous use, whatever the base class asks for."""
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """The response of the whole chain."""
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)


def asgi_application() -> OneThreadHandler:
    """What `django.core.asgi.get_asgi_application` returns, with our handler."""
    django.setup(set_prefix=False)
    return OneThreadHandler()
