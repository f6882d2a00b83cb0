"""Calls that follow from one another, and calls without the right to them: the answers keep to the document as well.

What follows from what (a collection that is made, read, filled and deleted) schemathesis infers from the document.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ops.contracts.problems import CONTENT_TYPE
from ops.routes import routes
from tests.contract.conftest import Server
from tests.contract.test_answers import MAY_BE_UNAVAILABLE, OPERATIONS, contract

pytestmark = pytest.mark.django_db

CHAINS = 6
CALLS_EACH = 8
PLAIN = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
NOT_IN_THE_DOCUMENT = {"api/schema/", "api/docs/", "mcp"}
"""MCP describes itself to its clients."""


def test_the_document_has_every_route_of_the_api() -> None:
    """So that what tries the document tries the API."""
    for route in routes():
        if hasattr(route.view, "cls") and route.pattern not in NOT_IN_THE_DOCUMENT:
            path = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.pattern)
            assert {f"{method} {path}" for method in route.requirements} <= set(OPERATIONS)


def test_chains_of_calls_are_answered_as_the_document_says(server: Server) -> None:
    followed = 0

    class Workflow(contract.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"base_url": server.url, "headers": server.headers}

        def validate_response(self, response: Any, case: Case, **more: Any) -> None:
            nonlocal followed
            followed += 1
            excluded = [positive_data_acceptance]
            if case.operation.label in MAY_BE_UNAVAILABLE:
                excluded.append(not_a_server_error)
            case.validate_response(response, excluded_checks=excluded)

    Workflow.run(settings=settings(max_examples=CHAINS, stateful_step_count=CALLS_EACH, **PLAIN))
    assert followed > CHAINS


@pytest.mark.parametrize(
    "name", sorted(label for label, one in OPERATIONS.items() if one.definition.raw.get("security"))
)
@pytest.mark.parametrize("key", ["none", "wrong"])
def test_without_a_key_that_works_it_is_refused_as_its_schema_says(name: str, key: str, server: Server) -> None:
    headers = {} if key == "none" else {"X-API-Key": server.key[:-1] + ("a" if server.key[-1] != "a" else "b")}

    @settings(max_examples=1, **PLAIN)
    @given(case=OPERATIONS[name].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def ask(case: Case) -> None:
        answer = case.call(base_url=server.url, headers=headers)
        # Clients of OpenAI's API read its own kind of error.
        kind = "application/json" if name.split()[1].startswith("/v1/") else CONTENT_TYPE
        assert (answer.status_code, answer.headers["content-type"]) == (401, [kind])
        assert answer.headers["www-authenticate"][0].startswith("Bearer")
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])

    ask()
