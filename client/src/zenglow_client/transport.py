"""How a request gets to the server: tried again where that is safe, and every fault one of `errors`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from zenglow_client.errors import ApiError, ServerAwayError, UnexpectedAnswerError, ZenGlowError, api_error

VERSION = "0.1.0"
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
BUSY = {429, 503}
"""Statuses that say "later": `Retry-After` says when."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and how long in all, a request is tried again. ``on_wait`` hears of each pause that the
    server asked for: seconds, and why."""

    attempts: int = 5
    longest_wait_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    on_wait: Callable[[float, str], None] = field(default=lambda seconds, why: None)


class Transport:
    """One connection pool to one server."""

    def __init__(self, client: httpx.Client, patience: Patience) -> None:
        self._client = client
        self._patience = patience

    def close(self) -> None:
        self._client.close()

    def send(self, method: str, path: str, *, is_repeatable: bool, **options: Any) -> httpx.Response:
        """The answer, whose status is below 400. Raises `ZenGlowError`.

        What was refused for its number is sent again after ``Retry-After``, as it was not carried out. A connection
        that could not be made is tried again; one that broke later, only if the request may be repeated.
        """
        waited_s, pause_s, attempt = 0.0, FIRST_PAUSE_S, 1
        while True:
            response: httpx.Response | None = None
            fault: ZenGlowError
            try:
                response = self._client.request(method, path, **options)
            except httpx.TransportError as error:
                fault = away(error, str(self._client.base_url))
                wait_s = pause_s * random.uniform(0.5, 1)  # noqa: S311  (spreads callers; no secret)
                may_repeat = is_repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                if response.status_code < 400:
                    return response
                fault = refusal(response)
                wait_s = getattr(fault, "retry_after_s", None) or pause_s
                may_repeat = response.status_code in BUSY
            waited_s += wait_s
            if not may_repeat or attempt >= self._patience.attempts or waited_s > self._patience.longest_wait_s:
                raise fault
            if response is not None:
                self._patience.on_wait(wait_s, str(fault))
            self._patience.sleep(wait_s)
            attempt, pause_s = attempt + 1, min(pause_s * 2, LONGEST_PAUSE_S)

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer that is read while it comes; not tried again. Closing it tells the server to stop."""
        try:
            with self._client.stream(method, path, **options) as response:
                if response.status_code >= 400:
                    response.read()
                    raise refusal(response)
                yield response
        except httpx.TransportError as error:
            raise away(error, str(self._client.base_url)) from error


def away(error: httpx.TransportError, url: str) -> ServerAwayError:
    """What a broken or missing connection means to whoever asked."""
    match error:
        case httpx.ConnectTimeout() | httpx.ConnectError():
            why = "Is it running, and is the address right?"
        case httpx.TimeoutException():
            why = "It took longer than the time-out allows."
        case _:
            why = "The connection broke."
    return ServerAwayError(f"No answer from {url.rstrip('/')}. {why}")


def refusal(response: httpx.Response) -> ApiError | UnexpectedAnswerError:
    """The error of an answer with a status of 400 or more."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, Mapping) or "status" not in problem:
        if response.status_code in {429, 502, 503, 504}:  # a proxy speaks for the server
            problem = {"detail": f"The server is not ready (HTTP {response.status_code}). Try again in a while."}
        else:
            return UnexpectedAnswerError(
                f"{response.request.url} answers with HTTP {response.status_code}, but not as a ZenGlow server does."
            )
    return api_error(response.status_code, problem, retry_after_s(response.headers.get("Retry-After")))


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header (RFC 9110, section 10.2.3): a number, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
