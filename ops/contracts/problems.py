"""Errors as RFC 9457 problem details: one tree, one shape.

Problem
├── InvalidRequest        400
├── AuthenticationNeeded  401
├── Forbidden             403
├── NotFound              404
├── Conflict              409
├── PreconditionFailed    412
├── TooLarge              413
├── UnsupportedMedia      415
├── Unprocessable         422
├── PreconditionRequired  428
├── TooManyRequests       429
└── Unavailable           503
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """A refusal that a caller can act on. ``detail`` is one or two sentences that say what to do next.

    ``errors`` maps a field's path to its fault. ``extra`` are further members of the problem object.
    ``retry_after_s`` becomes the ``Retry-After`` header.
    """

    status = 500
    code = "internal-error"
    title = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Mapping[str, str] | None = None,
        retry_after_s: int | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.errors = dict(errors or {})
        self.retry_after_s = retry_after_s
        self.extra = extra

    def as_dict(self, *, request_id: str, instance: str) -> dict[str, Any]:
        """The problem object. ``type`` is a URN, so that it never has to resolve."""
        body: dict[str, Any] = {
            "type": f"urn:zenglow:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = self.errors
        return body | self.extra


class InvalidRequest(Problem):
    status, code, title = 400, "invalid-request", "The request is not valid"


class AuthenticationNeeded(Problem):
    status, code, title = 401, "authentication-needed", "Authentication is needed"


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(Problem):
    status, code, title = 404, "not-found", "Not found"


class MethodNotAllowed(Problem):
    status, code, title = 405, "method-not-allowed", "Method not allowed"


class NotAcceptable(Problem):
    status, code, title = 406, "not-acceptable", "Not acceptable"


class Conflict(Problem):
    status, code, title = 409, "conflict", "Conflict"


class PreconditionFailed(Problem):
    status, code, title = 412, "precondition-failed", "Somebody else was faster"


class TooLarge(Problem):
    status, code, title = 413, "too-large", "The request is too large"


class UnsupportedMedia(Problem):
    status, code, title = 415, "unsupported-media-type", "Unsupported media type"


class Unprocessable(Problem):
    status, code, title = 422, "unprocessable", "The request can't be carried out"


class PreconditionRequired(Problem):
    status, code, title = 428, "precondition-required", "A precondition is required"


class TooManyRequests(Problem):
    status, code, title = 429, "too-many-requests", "Too many requests"


class InternalError(Problem):
    status, code, title = 500, "internal-error", "Internal error"


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "Temporarily unavailable"
