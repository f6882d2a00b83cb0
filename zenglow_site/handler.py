"""How a request gets from the event loop to a thread: once, with all that is to be done for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, cast

import django
from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.db import close_old_connections
from django.http import FileResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

THREADS = 64
"""Requests that are worked on at once; further ones wait. More connections than the pool has are never needed."""

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class OneThreadHandler(ASGIHandler):
    """Does everything for a request on one thread: signals, middleware, view, and giving back its connection.

    Django's handler starts a thread for each request and changes to it at least three times, and runs middleware on
    the event loop, from where each one that knows no ``async`` changes to the thread and back. Each change waits for
    its turn on a busy machine. Here the threads are kept, and a request changes to one of them once. A view that is
    ``async`` runs on the event loop as before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")

    def load_middleware(self, is_async: bool = False) -> None:
        """Build the chain for synchronous use, whatever the base class asks for."""
        super().load_middleware(is_async=False)

    async def handle(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        try:
            response = await sync_to_async(self._answer, thread_sensitive=False, executor=self._threads)(scope, body)
            if response.streaming:
                await self._stream(response, receive, send)
            else:
                await self.send_response(response, send)
        finally:
            body.close()

    def _answer(self, scope: dict[str, Any], body: IO[bytes]) -> HttpResponseBase:
        """The response of the whole chain; unless it is still to be streamed, the request has ended with it."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        try:
            request, refusal = self.create_request(scope, body)
            response = self.get_response(request) if request is not None else cast(HttpResponseBase, refusal)
            response._handler_class = self.__class__  # type: ignore[attr-defined]
        except BaseException:
            signals.request_finished.send(sender=self.__class__)
            raise
        if response.streaming:
            # What is streamed comes from other threads: this one keeps no connection meanwhile.
            close_old_connections()
        else:
            response.close()
        return response

    async def _stream(self, response: HttpResponseBase, receive: Receive, send: Send) -> None:
        """Send what a response yields, for as long as somebody listens."""
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size  # the server cuts it as it likes
        # What a stream does is the request's: its ids stand on every line, and what it notes on the request's own.
        context = getattr(response, "request_context", None)
        sending = asyncio.get_running_loop().create_task(self.send_response(response, send), context=context)
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await sync_to_async(response.close, thread_sensitive=False, executor=self._threads)()


def asgi_application() -> OneThreadHandler:
    """What `django.core.asgi.get_asgi_application` returns, with our handler."""
    django.setup(set_prefix=False)
    return OneThreadHandler()
