"""How requests get from the event loop to a thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
import structlog
from asgiref.testing import ApplicationCommunicator
from django.core.signals import request_finished, request_started
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from pytest_django.fixtures import Settings

from ops.contracts.facts import note
from tests.patience import PATIENCE_S, eventually
from zenglow_site.handler import OneThreadHandler

seen: list[int] = []
closed: list[str] = []


class NotesItsThread:
    """A middleware that knows no async, as most do."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        seen.append(threading.get_ident())
        response = self.get_response(request)
        seen.append(threading.get_ident())
        return response


def plain(request: HttpRequest) -> JsonResponse:
    seen.append(threading.get_ident())
    return JsonResponse({"body": request.body.decode()})


async def on_the_loop(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"thread": threading.get_ident()})


def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one ", b"two"):
            yield part

    return StreamingHttpResponse(parts())


def endless(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more "
                await asyncio.sleep(0)
        finally:
            closed.append("endless")

    return StreamingHttpResponse(parts())


def noting(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        await asyncio.sleep(0)
        note(noted_by=structlog.contextvars.get_contextvars()["request_id"])
        yield b"two"

    return StreamingHttpResponse(parts())


def broken(request: HttpRequest) -> HttpResponse:
    raise ValueError("no")


urlpatterns = [
    path("plain", plain),
    path("loop", on_the_loop),
    path("stream", stream),
    path("endless", endless),
    path("noting", noting),
    path("broken", broken),
]

pytestmark = pytest.mark.urls("tests.site.test_handler")


@pytest.fixture
def handler(settings: Settings) -> OneThreadHandler:
    settings.MIDDLEWARE = ["tests.site.test_handler.NotesItsThread"] * 3
    seen.clear()
    closed.clear()
    return OneThreadHandler()


async def ask(handler: OneThreadHandler, address: str, body: bytes = b"") -> tuple[int, bytes]:
    scope = {"type": "http", "method": "POST", "path": address, "headers": [], "query_string": b""}
    communicator = ApplicationCommunicator(handler, scope)
    await communicator.send_input({"type": "http.request", "body": body})
    start = await communicator.receive_output(PATIENCE_S)
    content, more = b"", True
    while more:
        message = await communicator.receive_output(PATIENCE_S)
        content += message.get("body", b"")
        more = message.get("more_body", False)
    await communicator.wait(PATIENCE_S)
    return start["status"], content


async def test_middleware_and_view_share_one_thread_beside_the_loop(handler: OneThreadHandler) -> None:
    assert await ask(handler, "/plain", b"hello") == (200, b'{"body": "hello"}')
    assert len(seen) == 7
    assert len({*seen}) == 1
    assert seen[0] != threading.get_ident()


@pytest.mark.parametrize("address", ["/plain", "/broken", "/nowhere"])
async def test_a_request_begins_and_ends_on_that_thread(
    handler: OneThreadHandler, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    signalled: list[tuple[str, int]] = []

    def begins(**_: object) -> None:
        signalled.append(("begins", threading.get_ident()))

    def ends(**_: object) -> None:
        signalled.append(("ends", threading.get_ident()))

    request_started.connect(begins)
    request_finished.connect(ends)
    try:
        await ask(handler, address)
    finally:
        request_started.disconnect(begins)
        request_finished.disconnect(ends)
    assert signalled == [("begins", seen[0]), ("ends", seen[0])]


async def test_the_thread_serves_the_next_request(handler: OneThreadHandler) -> None:
    for _ in range(3):
        await ask(handler, "/plain")
        # A thread is free a moment after its answer is sent; a request in between would take another.
        await asyncio.to_thread(eventually, lambda: handler._threads._idle_semaphore._value > 0)
    assert len(seen) == 21
    assert len({*seen}) == 1


async def test_whoever_leaves_is_streamed_nothing_more(handler: OneThreadHandler) -> None:
    scope = {"type": "http", "method": "GET", "path": "/endless", "headers": [], "query_string": b""}
    communicator = ApplicationCommunicator(handler, scope)
    await communicator.send_input({"type": "http.request"})
    assert (await communicator.receive_output(PATIENCE_S))["status"] == 200
    assert (await communicator.receive_output(PATIENCE_S))["body"] == b"more "
    await communicator.send_input({"type": "http.disconnect"})
    await communicator.wait(PATIENCE_S)
    assert closed == ["endless"]


async def test_an_async_view_runs_on_the_event_loop(handler: OneThreadHandler) -> None:
    status, content = await ask(handler, "/loop")
    assert (status, content) == (200, f'{{"thread": {threading.get_ident()}}}'.encode())


async def test_what_is_streamed_asynchronously_arrives(handler: OneThreadHandler) -> None:
    assert await ask(handler, "/stream") == (200, b"one two")


async def test_what_a_stream_notes_stands_on_the_line_of_its_request(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.MIDDLEWARE = ["ops.middleware.RequestIdMiddleware"]
    with caplog.at_level(logging.INFO):
        await asyncio.gather(*(ask(OneThreadHandler(), "/noting") for _ in range(3)))
    lines = request_lines(caplog)
    assert len({line["request_id"] for line in lines}) == len(lines) == 3
    assert [line["noted_by"] for line in lines] == [line["request_id"] for line in lines]


async def test_the_line_of_a_stream_is_written_once_when_whoever_listened_has_left(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.MIDDLEWARE = ["ops.middleware.RequestIdMiddleware"]
    scope = {"type": "http", "method": "GET", "path": "/endless", "headers": [], "query_string": b""}
    communicator = ApplicationCommunicator(OneThreadHandler(), scope)
    with caplog.at_level(logging.INFO):
        await communicator.send_input({"type": "http.request"})
        assert (await communicator.receive_output(PATIENCE_S))["status"] == 200
        assert (await communicator.receive_output(PATIENCE_S))["body"] == b"more "
        assert request_lines(caplog) == []
        await communicator.send_input({"type": "http.disconnect"})
        await communicator.wait(PATIENCE_S)
    (line,) = request_lines(caplog)
    assert (line["path"], line["status"]) == ("/endless", 200)
    assert line["request_id"] == line["correlation_id"]


def request_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [cast(dict[str, Any], record.msg) for record in caplog.records if record.name == "zenglow.request"]


@pytest.mark.parametrize(("address", "status"), [("/broken", 500), ("/nowhere", 404)])
async def test_errors_are_answered(
    handler: OneThreadHandler, address: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await ask(handler, address))[0] == status
