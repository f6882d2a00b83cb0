"""What can go wrong.

ZenGlowError
├── ConfigurationError      no address, or a key file that others can read
├── ServerAwayError         nobody answers at the address, or too late
├── UnexpectedAnswerError   something answers that is no ZenGlow
└── ApiError                the server refused (RFC 9457): `status`, `detail`, `errors`, `request_id`
    ├── BadRequestError       400, 409, 412, 413, 415, 422, 428: another request is needed
    ├── NotAuthenticatedError 401
    ├── ForbiddenError        403
    ├── NotFoundError         404
    ├── RateLimitedError      429: `retry_after_s`
    └── ServerError           5xx
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ZenGlowError(Exception):
    """Everything that this package raises on purpose. Its text is meant for people."""


class ConfigurationError(ZenGlowError):
    """The client does not know whom to ask, or whom it asks for."""


class ServerAwayError(ZenGlowError):
    """Nobody answers there."""


class UnexpectedAnswerError(ZenGlowError):
    """An answer that is none of ZenGlow's."""


class ApiError(ZenGlowError):
    """A refusal. ``errors`` maps a field to its fault; ``retry_after_s`` is what the server asked to wait."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.title = str(problem.get("title") or f"HTTP {status}")
        self.detail = str(problem.get("detail") or self.title)
        self.errors: dict[str, str] = dict(problem.get("errors") or {})
        self.request_id = str(problem.get("request_id") or "")
        self.retry_after_s = retry_after_s
        super().__init__(self.detail)


class BadRequestError(ApiError):
    pass


class NotAuthenticatedError(ApiError):
    pass


class ForbiddenError(ApiError):
    pass


class NotFoundError(ApiError):
    pass


class RateLimitedError(ApiError):
    pass


class ServerError(ApiError):
    pass


def api_error(status: int, problem: Mapping[str, Any], retry_after_s: float | None) -> ApiError:
    """The error of a status."""
    known: dict[int, type[ApiError]] = {
        401: NotAuthenticatedError,
        403: ForbiddenError,
        404: NotFoundError,
        429: RateLimitedError,
    }
    kind = known.get(status, ServerError if status >= 500 else BadRequestError)
    return kind(status, problem, retry_after_s)
