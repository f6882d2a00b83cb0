"""The whole way from a question to an answer that quotes its sources."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from ops.contracts.principal import Scope
from ops.contracts.problems import InvalidRequest, NotFound
from ops.instrumentation.performance import performance_writer
from ops.models import QueryPerformance
from rag.answers import service
from rag.answers.contracts import Answer, AnswerRequest, Turn
from rag.models import Collection, Document
from tests.rag.api.conftest import assert_problem, client_of, post  # noqa: F401
from tests.rag.pipeline.support import Text, fill, person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache", "bees")]


def ask(query: str, **more: Any) -> Answer:
    return service.answer(
        AnswerRequest(query=query, collection="bees", **more), person("somebody"), request_id=str(uuid.uuid4())
    )


def test_an_answer_quotes_the_sentence_that_answers() -> None:
    found = ask("What kills varroa mites in winter?")
    assert found.text.startswith("Oxalic acid in winter kills the mites while there is no brood. [")
    assert (found.model, found.finish_reason) == ("extractive", "stop")


def test_each_citation_points_at_the_very_characters_of_its_document() -> None:
    found = ask("What kills varroa mites in winter?")
    assert found.citations
    for citation in found.citations:
        marker = f"[{citation.number}]"
        assert found.text[citation.at : citation.at + len(marker)] == marker
        assert Document.objects.get(pk=citation.pk).text[citation.start : citation.end] == citation.quote
        assert citation.quote in found.text


def test_passages_are_parts_of_their_documents_under_their_numbers() -> None:
    found = ask("How do bees show each other flowers?")
    assert [passage.number for passage in found.passages] == list(range(1, len(found.passages) + 1))
    for passage in found.passages:
        assert Document.objects.get(pk=passage.pk).text[passage.start : passage.end] == passage.text


def test_what_is_quoted_word_for_word_is_supported() -> None:
    found = ask("What kills varroa mites in winter?")
    assert [sentence.support for sentence in found.sentences] == [1.0] * len(found.sentences)
    assert all(sentence.is_supported and sentence.citations for sentence in found.sentences)


def test_it_says_plainly_that_the_passages_do_not_answer() -> None:
    found = ask("Which chess opening does Magnus Carlsen prefer against the Sicilian defence?")
    assert found.is_abstention
    assert found.text.startswith("I found nothing in “bees” that answers this.")
    assert found.sentences == ()


def test_prose_answers_before_the_code_that_it_is_about() -> None:
    code = '@dataclass(frozen=True) class Hive: """How many frames of brood a hive holds in spring."""'
    prose = "In spring a hive has nine frames of brood."
    fill(Collection.objects.create(slug="code"), {"hive.py": Text(code), "hive.md": Text(prose)})
    found = service.answer(
        AnswerRequest(query="How many frames of brood does a hive hold in spring?", collection="code"),
        person("somebody"), request_id=str(uuid.uuid4()),
    )  # fmt: skip
    assert found.text.startswith("In spring a hive has nine frames")


def test_an_empty_collection_gives_an_abstention_without_sources() -> None:
    Collection.objects.create(slug="empty")
    found = service.answer(
        AnswerRequest(query="Anything?", collection="empty"), person("somebody"), request_id=str(uuid.uuid4())
    )
    assert (found.is_abstention, found.passages, found.citations) == (True, (), ())


def test_nobody_is_answered_from_what_they_may_not_read() -> None:
    asked = "What does the apiary's safe open with?"
    assert "seventeen" not in ask(asked).text
    keeper = service.answer(
        AnswerRequest(query=asked, collection="bees"), person("keeper", "keepers"), request_id=str(uuid.uuid4())
    )
    assert "seventeen" in keeper.text


def test_a_follow_up_is_searched_with_what_it_is_about() -> None:
    found = ask("And in summer?", history=(Turn("user", "How are varroa mites treated in winter?"),))
    assert found.standalone_query == "And in summer? varroa mites treated winter"
    assert "Treat again in summer with formic acid" in found.text


def test_a_short_answer_is_cut_and_says_so() -> None:
    found = ask("What kills varroa mites in winter?", max_tokens=5)
    assert found.finish_reason == "length"
    assert len(found.text) < 30


def test_it_stops_at_a_stop_string() -> None:
    found = ask("What kills varroa mites in winter?", stop=("while",))
    assert found.text.startswith("Oxalic acid in winter kills the mites ")
    assert "while" not in found.text


@pytest.mark.parametrize(
    "changes", [{"max_tokens": 0}, {"temperature": 3.0}, {"stop": ("",)}, {"query": "  "}, {"top_k": 100_000}]
)
def test_a_question_that_can_not_be_asked_names_its_fault(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(InvalidRequest) as caught:
        ask(**{"query": "Bees?", **changes})
    assert list(caught.value.errors) == [name]


def test_an_unknown_agent_is_not_found() -> None:
    with pytest.raises(NotFound, match="no agent 'nobody'"):
        ask("Bees?", agent="nobody")


def test_the_api_answers_whole(client_of: Any) -> None:  # noqa: F811
    answer = post(client_of(Scope.QUERY), "/rag/query", {"query": "What kills mites in winter?", "collection": "bees"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["text"].startswith("Oxalic acid")
    assert body["request_id"] == answer["X-Request-ID"]
    assert body["timings_ms"]["total_ms"] > 0


def events_of(response: Any) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events of a streamed response, read on an event loop as the server reads it."""
    import asyncio

    async def read() -> bytes:
        return b"".join([part async for part in response.streaming_content])

    found = []
    for block in asyncio.run(read()).decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines["event"], json.loads(lines["data"])))
    return found


@pytest.mark.parametrize("way", ["accept", "field"])
def test_the_api_streams_retrieval_then_words_then_the_whole(
    client_of: Any,  # noqa: F811
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = {"query": "What kills mites in winter?", "collection": "bees"}
    client: Client = client_of(Scope.QUERY)
    if way == "accept":
        response = post(client, "/rag/query", body, Accept="text/event-stream")
    else:
        response = post(client, "/rag/query", body | {"stream": True})
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"

    async def here(work: Any) -> Any:
        return work()

    # The test's transaction is this thread's.
    monkeypatch.setattr(service, "in_thread", here)
    events = events_of(response)
    names = [name for name, _ in events]
    assert (names[0], names[-1]) == ("retrieval", "done")
    done = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "token") == done["text"]
    assert [data["citation"]["number"] for name, data in events if name == "citation"] == [
        citation["number"] for citation in done["citations"]
    ]


def test_a_wrong_question_is_a_problem_also_where_events_are_asked_for(client_of: Any) -> None:  # noqa: F811
    client = client_of(Scope.QUERY)
    answer = post(client, "/rag/query", {"query": "x", "collection": "nowhere"}, Accept="text/event-stream")
    assert_problem(answer, 404, "not-found")


def test_a_key_without_the_scope_gets_no_answer(client_of: Any) -> None:  # noqa: F811
    assert_problem(post(client_of(Scope.FEEDBACK), "/rag/query", {"query": "x"}), 403, "forbidden")


def test_a_broken_embedder_leaves_answers_by_words(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_embedder", lambda slug: None)
    assert ask("What kills varroa mites in winter?").text.startswith("Oxalic acid in winter kills")


def test_its_row_in_the_performance_store_holds_the_time_of_the_generation() -> None:
    written = ask("What kills varroa mites in winter?")
    refused = ask("Which chess opening does Magnus Carlsen prefer against the Sicilian defence?")
    performance_writer().flush()
    answered, abstained = (QueryPerformance.objects.get(request_id=one.request_id) for one in (written, refused))
    assert answered.generation_ms is not None
    assert answered.generation_ms > 0
    assert answered.pipeline_ms is not None
    assert abstained.generation_ms is None
