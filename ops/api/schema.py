"""The OpenAPI document: every operation names its scope and its problems."""

from __future__ import annotations

from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

from ops.access import Access, requirement_of
from ops.contracts.principal import Scope
from ops.contracts.problems import CONTENT_TYPE


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details (RFC 9457)."""

    type = serializers.CharField(help_text="A URN such as urn:zenglow:problem:not-found.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(allow_blank=True, help_text="What was wrong, and what to do.")
    instance = serializers.CharField(help_text="The path that was asked for.")
    request_id = serializers.CharField()
    errors = serializers.DictField(  # type: ignore[assignment]
        child=serializers.CharField(), required=False, help_text="The path of each faulty field, with its fault."
    )


class Schema(AutoSchema):
    """Adds the scope to each description and the problem responses to each operation.

    A view whose errors have another shape (`ops.api.problems.register_shape`) names its serializer and media type as
    ``problem_schema``.
    """

    def get_description(self) -> str:  # type: ignore[override]
        own = super().get_description() or ""
        return "\n\n".join(part for part in (own, _access_sentence(self.view, self.method)) if part)

    def get_auth(self) -> list[dict[str, list[str]]]:
        if requirement_of(self.view, self.method) is Access.ANYBODY:
            return []
        # Either header will do: alternatives are separate entries.
        return [{name: scopes} for entry in super().get_auth() for name, scopes in entry.items()]

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction=direction)
        shape, media_type = getattr(self.view, "problem_schema", (ProblemSerializer, CONTENT_TYPE))
        for status, description in self._problems().items():
            if status not in bodies:
                body = self._get_response_for_code(  # type: ignore[no-untyped-call]
                    shape, status, media_types=[media_type]
                )
                bodies[status] = body | {"description": description}
        return bodies

    def _problems(self) -> dict[str, str]:
        problems = {"400": "The request is not valid.", "503": "A store can't be reached; see Retry-After."}
        if requirement_of(self.view, self.method) is not Access.ANYBODY:
            problems |= {
                "401": "No valid API key, and nobody signed in.",
                "403": "The scope is missing, or the request came from another site.",
                "429": "Too many requests; see Retry-After.",
            }
        parameters = {(parameter["in"], parameter["name"]) for parameter in self._get_parameters()}
        is_change = self.method in {"POST", "PUT", "PATCH", "DELETE"}
        if is_change or "{" in self.path or ("query", "collection") in parameters:
            problems["404"] = "There is nothing by that name."
        if is_change:
            problems |= {"409": "What is there stands against it.", "422": "It can't be carried out as things are."}
        if ("header", "If-Match") in parameters:
            problems |= {"412": "Something else is live by now.", "428": "If-Match is missing."}
        if self.method in {"POST", "PUT", "PATCH"}:
            problems |= {"413": "The body is too large.", "415": "The body's media type is not read here."}
        return problems


def _access_sentence(view: object, method: str) -> str:
    match requirement_of(view, method):
        case Scope() as scope:
            return f"Needs the scope `{scope.value}`."
        case Access.ANY_PRINCIPAL:
            return "Needs any API key or a signed-in user."
        case Access.ANYBODY:
            return "Open to anybody."
    return ""
