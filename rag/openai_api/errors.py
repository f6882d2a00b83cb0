"""Refusals below ``/v1`` in OpenAI's shape, which its clients read: see decision 24."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from ops.contracts.problems import NotFound, Problem

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class ModelNotFound(NotFound):
    """What was named as ``model`` is neither an agent nor an embedder."""

    code = "model-not-found"


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """``{"error": {…}}``: the message says what the problem's detail says, ``param`` is the first field at fault."""
    kind = _TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    code = _CODES.get(problem.status, problem.code.replace("-", "_"))
    return {
        "error": {
            "message": problem.detail or problem.title,
            "type": kind,
            "param": next(iter(problem.errors), None),
            "code": code,
            "request_id": request_id,
        },
        **problem.extra,  # such as the scope that is missing
    }


class ErrorSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="What was wrong, and what to do.")
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True, help_text="The field at fault.")
    code = serializers.CharField()
    request_id = serializers.CharField()


class ErrorBodySerializer(serializers.Serializer[Any]):
    """An error as OpenAI's clients read it."""

    error = ErrorSerializer()
