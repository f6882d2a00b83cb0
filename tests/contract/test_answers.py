"""Every operation, asked in ways that the OpenAPI document allows and in ways that it does not.

No answer is a fault of the server, every answer is one that the document describes, and every refusal is a problem
detail. The requests are the same in each run, so that what has passed passes again.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ops.contracts.problems import CONTENT_TYPE
from tests.contract.conftest import Server
from tests.contract.test_openapi import SNAPSHOT

pytestmark = pytest.mark.django_db

EXAMPLES = 16

contract = schemathesis.openapi.from_path(SNAPSHOT)
OPERATIONS = {
    operation.label: operation
    # What deletes comes last, so that the others find what there is.
    for operation in sorted(
        (found.ok() for found in contract.get_all_operations()), key=lambda one: one.method == "delete"
    )
}

THERE = {"slug": "default", "document_id": "tea", "name": "ltr-default", "collection": "default"}
"""What a server knows by the names of parameters: few would guess it."""

# Not to be ready is an answer, too.
MAY_BE_UNAVAILABLE = {"GET /health/ready"}

# What a setting decides, or a service for every way in alike, is no part of the document: top_k's greatest value, say.
NOT_PROMISED = [positive_data_acceptance]


def cases(operation: Any) -> st.SearchStrategy[Case]:
    """Requests that keep to the document and, where anything in them can be wrong, requests that don't."""
    return st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )


def name_what_is_there(case: Case, **there: str | int) -> None:
    """Put the names of things that exist into a request that keeps to the document."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    known = THERE | there
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part |= {name: known[name] for name in known.keys() & part.keys()}


# The server's other threads draw random numbers when they like: a pool of connections does, to spread its work.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_answers_as_its_schema_says(name: str, server: Server) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(OPERATIONS[name]), is_about_what_is_there=st.booleans())
    def ask(case: Case, is_about_what_is_there: bool) -> None:
        if is_about_what_is_there:
            evaluation = server.evaluation_id
            name_what_is_there(case, run_id=server.run_id, evaluation_id=evaluation, a=evaluation, b=evaluation)
        answer = case.call(base_url=server.url, headers=server.headers)
        excluded = [*NOT_PROMISED, *([not_a_server_error] if name in MAY_BE_UNAVAILABLE else [])]
        case.validate_response(answer, excluded_checks=excluded)
        if answer.status_code >= 400 and name not in MAY_BE_UNAVAILABLE:
            is_openai = " /v1/" in name
            media_type = "application/json" if is_openai else CONTENT_TYPE
            assert answer.headers["content-type"] == [media_type], (answer.status_code, answer.text)
            problem = answer.json()["error"] if is_openai else answer.json()
            assert is_openai or problem["status"] == answer.status_code
            assert problem["request_id"]

    ask()
