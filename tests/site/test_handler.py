"""How requests get from the event loop to a thread."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable

import pytest
from asgiref.testing import ApplicationCommunicator
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from pytest_django.fixtures import Settings

from zenglow_site.handler import OneThreadHandler

seen: list[int] = []


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


def broken(request: HttpRequest) -> HttpResponse:
    raise ValueError("no")


urlpatterns = [path("plain", plain), path("loop", on_the_loop), path("stream", stream), path("broken", broken)]

pytestmark = pytest.mark.urls("tests.site.test_handler")


@pytest.fixture
def handler(settings: Settings) -> OneThreadHandler:
    settings.MIDDLEWARE = ["tests.site.test_handler.NotesItsThread"] * 3
    seen.clear()
    return OneThreadHandler()


async def ask(handler: OneThreadHandler, address: str, body: bytes = b"") -> tuple[int, bytes]:
    scope = {"type": "http", "method": "POST", "path": address, "headers": [], "query_string": b""}
    communicator = ApplicationCommunicator(handler, scope)
    await communicator.send_input({"type": "http.request", "body": body})
    start = await communicator.receive_output(30)
    content, more = b"", True
    while more:
        message = await communicator.receive_output(30)
        content += message.get("body", b"")
        more = message.get("more_body", False)
    await communicator.wait(30)
    return start["status"], content


async def test_middleware_and_view_share_one_thread_beside_the_loop(handler: OneThreadHandler) -> None:
    assert await ask(handler, "/plain", b"hello") == (200, b'{"body": "hello"}')
    assert len(seen) == 7
    assert len({*seen}) == 1
    assert seen[0] != threading.get_ident()


async def test_an_async_view_runs_on_the_event_loop(handler: OneThreadHandler) -> None:
    status, content = await ask(handler, "/loop")
    assert (status, content) == (200, f'{{"thread": {threading.get_ident()}}}'.encode())


async def test_what_is_streamed_asynchronously_arrives(handler: OneThreadHandler) -> None:
    assert await ask(handler, "/stream") == (200, b"one two")


@pytest.mark.parametrize(("address", "status"), [("/broken", 500), ("/nowhere", 404)])
async def test_errors_are_answered(
    handler: OneThreadHandler, address: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await ask(handler, address))[0] == status
