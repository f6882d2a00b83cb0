"""``supabase_rpc``: what is sent, and what becomes of a search when PostgREST fails in each of its ways."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection

from ops.contracts.health import State
from ops.contracts.principal import SYSTEM
from rag.models import Chunk, Collection
from rag.pipeline import retrieval
from rag.pipeline.remote.guard import FAILURES_TO_OPEN
from rag.pipeline.retrieval import check_retrieval
from rag.pipeline.search import SearchRequest, search
from tests.rag.pipeline.support import Text, fill, person
from tests.rag.retrieval.postgrest import PostgREST

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]

DOCUMENTS = {
    "owls": Text("Owls hunt at night without a sound.", metadata={"year": 1999}),
    "bees": Text("Bees dance to tell each other where flowers are.", metadata={"year": 2001}),
    "staff": Text("Bees that only the staff may read about.", access_groups=["staff"]),
}


@pytest.fixture
def collection(db: None) -> Collection:
    collection = Collection.objects.create(slug="birds")
    fill(collection, DOCUMENTS)
    return collection


def ask(query: str = "how bees dance", **given: Any) -> dict[str, Any]:
    return search(SearchRequest(query=query, collection="birds", **given), SYSTEM)


def found_by(answer: dict[str, Any], leg: str) -> set[str]:
    return {result["document_id"] for result in answer["results"] if result["matched_by"][leg] is not None}


def test_an_answer_names_its_mode_and_is_that_of_pgvector(
    collection: Collection, supabase: PostgREST, settings: Any
) -> None:
    answer = ask()
    assert (answer["retrieval_mode"], answer["degraded"], len(supabase.requests)) == ("supabase_rpc", [], 1)
    settings.RAG_RETRIEVAL_MODE = "pgvector"
    ours = ask()
    assert (ours["retrieval_mode"], ours["cache"]) == ("pgvector", "none")
    assert ours["results"] == answer["results"]
    assert len(supabase.requests) == 1


def test_groups_and_filters_reach_the_function(collection: Collection, supabase: PostgREST) -> None:
    reader = person("ada", "staff", "club")
    search(SearchRequest(query="bees", collection="birds", filters={"year": [1999, 2001]}), reader)
    (sent,) = supabase.requests
    assert sent["reader_groups"] == ["club", "staff"]
    assert sent["filter"] == {"year": [1999, 2001]}
    assert (sent["collection"], sent["match_count"]) == (collection.id, 100)


def test_everybody_may_not_call_the_function(supabase: PostgREST) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT proacl::text FROM pg_proc WHERE proname = 'match_documents'")
        ((granted,),) = cursor.fetchall()
    # An entry without a role's name before "=" would be everybody's.
    assert not any(entry.startswith("=") for entry in granted.strip("{}").split(","))


def test_an_answer_of_the_servers_that_may_not_be_read_is_dropped(collection: Collection, supabase: PostgREST) -> None:
    """A replica may lag behind a changed access list."""
    secret = Chunk.objects.get(document__document_id="staff").id
    supabase.answers.append((200, f'[{{"id": {secret}, "similarity": 1}}]'))
    answer = search(SearchRequest(query="flower", collection="birds"), person("eve"))
    assert found_by(answer, "dense") == set()
    assert "staff" not in {result["document_id"] for result in answer["results"]}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, '{"message":"No API key found in request","hint":null}', "refuses SUPABASE_KEY"),
        (401, '{"code":"PGRST301","message":"JWSError","details":null,"hint":null}', "refuses SUPABASE_KEY"),
        (403, '{"code":"42501","message":"permission denied","details":null,"hint":null}', "refuses SUPABASE_KEY"),
        (404, '{"code":"PGRST202","message":"no function","details":null,"hint":null}', "match_documents.sql"),
        (500, '{"code":"57014","message":"statement timeout","details":null,"hint":null}', "57014"),
        (200, "<html>a proxy</html>", "not what match_documents returns|error"),
        (200, '{"rows": []}', "not what match_documents returns"),
    ],
)
def test_a_fault_leaves_the_words_and_says_so(
    collection: Collection, supabase: PostgREST, status: int, body: str, reason: str
) -> None:
    supabase.answers.append((status, body))
    answer = ask()
    assert answer["degraded"] == ["dense"]
    assert found_by(answer, "dense") == set()
    assert found_by(answer, "lexical") == {"bees", "staff"}
    supabase.answers.append((status, body))
    report = check_retrieval()
    assert report.state is State.DEGRADED
    assert re.search(reason, report.detail), report.detail
    # It recovers by itself, and what was degraded was not kept.
    whole = ask()
    assert (whole["degraded"], whole["cache"], found_by(whole, "dense")) == ([], "none", set(DOCUMENTS))
    assert check_retrieval().state is State.OK


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_between_two_states_is_asked_again(collection: Collection, supabase: PostgREST, status: int) -> None:
    supabase.answers.append((status, "<html>Bad Gateway</html>"))
    supabase.answers.append((503, '{"code":"PGRST002","message":"no connection","details":null,"hint":null}'))
    answer = ask()
    assert (answer["degraded"], found_by(answer, "dense")) == ([], set(DOCUMENTS))


def test_without_the_function_it_names_the_file_to_apply(collection: Collection, supabase: PostgREST) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION match_documents")
    assert ask()["degraded"] == ["dense"]
    assert "rag/sql/match_documents.sql" in check_retrieval().detail


def test_a_wrong_key_is_named(collection: Collection, supabase: PostgREST, settings: Any) -> None:
    settings.SUPABASE_KEY = "anon-key"
    retrieval.forget()
    report = check_retrieval()
    assert (report.state, "SUPABASE_KEY" in report.detail) == (State.DEGRADED, True)
    assert "anon-key" not in report.detail


def test_a_server_that_stops_and_comes_back(collection: Collection, supabase: PostgREST, settings: Any) -> None:
    settings.RAG_RETRIEVAL_PAUSE_S = 0
    retrieval.forget()
    assert ask()["degraded"] == []
    supabase.stop()
    lost = ask("which bees dance")
    assert (lost["degraded"], found_by(lost, "lexical")) == (["dense"], {"bees", "staff"})
    assert check_retrieval().state is State.DEGRADED
    supabase.start()
    back = ask("which bees dance")
    assert (back["degraded"], found_by(back, "dense")) == ([], set(DOCUMENTS))
    assert check_retrieval().state is State.OK


def test_a_server_that_hangs_is_left_alone_after_some_time_outs(
    collection: Collection, supabase: PostgREST, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RAG_RETRIEVAL_TIMEOUT_S, settings.RAG_RETRIEVAL_PAUSE_S = 0.1, 3600
    retrieval.forget()
    supabase.release.clear()
    for number in range(FAILURES_TO_OPEN):
        assert ask(f"question {number}")["degraded"] == ["dense"]
    supabase.release.set()
    # It would answer now, and is not asked.
    unasked = retrieval.retriever_for("supabase_rpc")
    monkeypatch.setattr(unasked, "_post", lambda *_: pytest.fail("it was asked"))
    assert ask("one more question")["degraded"] == ["dense"]


def test_a_mode_without_its_settings_is_refused_by_name(settings: Any) -> None:
    settings.RAG_RETRIEVAL_MODE = "supabase_rpc"
    settings.SUPABASE_URL, settings.SUPABASE_KEY = "https://abc.supabase.co", None
    (error,) = (message for message in run_checks() if message.id == "rag.E001")
    assert "SUPABASE_KEY" in error.msg
    assert "SUPABASE_URL" not in error.msg
