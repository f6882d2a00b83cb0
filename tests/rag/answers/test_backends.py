"""One contract for everything that writes answers, tried over real HTTP; and what each protocol has of its own."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import ollama
import openai
import pytest
from django.core.management import CommandError, call_command

from ops.contracts import model_calls
from ops.contracts.model_calls import ModelCall
from rag.answers import service
from rag.answers.backends import http, tokens
from rag.answers.backends.base import (
    Backend,
    BackendBrokenError,
    BackendError,
    BackendRefusedError,
    BackendUnavailableError,
    Generation,
    Message,
    Piece,
)
from rag.answers.backends.extractive import ExtractiveBackend
from rag.answers.backends.ollama import OllamaBackend
from rag.answers.backends.openai import OpenAiBackend
from rag.answers.backends.registry import backend_of
from rag.answers.contracts import Answer, AnswerRequest, Passage
from rag.answers.evidence import Evidence
from rag.answers.selection import Selected
from rag.answers.sentences import Stemmer, sentences_of
from tests.patience import PATIENCE_S
from tests.rag.answers.model_server import ModelServer
from tests.rag.pipeline.support import person

PASSAGE = Passage(
    1, 1, (1,), 1, "mites", "mites.md", "Mites", (), None, None, "Oxalic acid in winter kills the mites.", 0, 38, 0.9
)


def generation(**changes: Any) -> Generation:
    quotable = sentences_of(PASSAGE)
    evidence = Evidence(
        "mites?", frozenset(), (PASSAGE,), tuple(quotable), (frozenset(),), {}, None, Stemmer("english", False)
    )
    facts: dict[str, Any] = {
        "model": "tiny",
        "messages": (Message("system", "Be brief."), Message("user", "What kills mites? " * 40)),
        "evidence": evidence,
        "selected": Selected(tuple(quotable), 0.9),
        "max_tokens": 100,
        "temperature": 0.1,
    }
    return Generation(**facts | changes)


Make = Callable[[ModelServer], Backend]
REMOTE: dict[str, Make] = {
    "ollama": lambda server: OllamaBackend(server.url),
    "openai": lambda server: OpenAiBackend(server.url + "/v1", "a-key"),
}
EVERY: dict[str, Make] = {"extractive": lambda server: ExtractiveBackend(), **REMOTE}

every_backend = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
remote_backend = pytest.mark.parametrize("make", REMOTE.values(), ids=REMOTE)


def collect(backend: Backend, asked: Generation) -> list[Piece]:
    async def read() -> list[Piece]:
        async with aclosing(backend.stream(asked)) as pieces:
            return [piece async for piece in pieces]

    return asyncio.run(read())


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@every_backend
def test_it_writes_in_pieces_and_says_why_it_ended(server: ModelServer, make: Make) -> None:
    *pieces, last = collect(make(server), generation())
    assert len(pieces) > 3
    assert "kills" in text_of(pieces)
    assert (last.finish_reason, last.usage is not None) == ("stop", True)
    assert all(piece.finish_reason is None for piece in pieces)


@every_backend
def test_it_lists_what_can_be_asked_for(server: ModelServer, make: Make) -> None:
    assert [model.name for model in asyncio.run(make(server).models())] in (["extractive"], ["mistral:7b"], ["tiny"])


@every_backend
def test_it_counts_tokens_of_each_text(server: ModelServer, make: Make) -> None:
    short, long = asyncio.run(make(server).count_tokens("tiny", ["one", "one two three four five six seven"]))
    assert 0 < short < long


@every_backend
def test_it_can_be_stopped_in_the_middle(server: ModelServer, make: Make) -> None:
    server.fault = "endless"

    async def first() -> None:
        async with aclosing(make(server).stream(generation())) as pieces:
            await anext(pieces)

    asyncio.run(first())


@remote_backend
def test_stopping_reaches_the_server(server: ModelServer, make: Make) -> None:
    server.fault = "endless"

    async def some() -> None:
        async with aclosing(make(server).stream(generation())) as pieces:
            for _ in range(3):
                await anext(pieces)

    asyncio.run(some())
    assert server.was_left.wait(PATIENCE_S)


@remote_backend
def test_a_slow_reader_slows_the_server(server: ModelServer, make: Make) -> None:
    """It writes without end; were everything read ahead, this process would be full of it."""
    server.fault = "endless"

    async def read_slowly() -> int:
        async with aclosing(make(server).stream(generation())) as pieces:
            await anext(pieces)
            assert await asyncio.to_thread(server.has_begun.wait, PATIENCE_S)
            return sum([len((await anext(pieces)).text) for _ in range(10)])

    assert asyncio.run(read_slowly()) > 0


@remote_backend
@pytest.mark.parametrize(
    ("fault", "raised", "says"),
    [
        ("429", BackendUnavailableError, "too much to do"),
        ("500", BackendUnavailableError, "status 500: status 500, as asked for"),
        ("401", BackendRefusedError, "refuses our key"),
        ("drop", BackendUnavailableError, "connection"),
        ("cut", BackendUnavailableError, "connection|middle"),
        ("garbage", BackendBrokenError, "no JSON"),
        ("error", BackendUnavailableError, "out of memory"),
    ],
)
def test_each_fault_has_its_sentence(
    server: ModelServer, make: Make, fault: str, raised: type[BackendError], says: str
) -> None:
    server.fault = fault
    with pytest.raises(raised, match=says) as caught:
        collect(make(server), generation())
    assert server.url not in str(caught.value)


@remote_backend
def test_a_silent_server_is_given_up(server: ModelServer, make: Make, settings: Any) -> None:
    server.fault = "silent"
    settings.RAG_MODEL_FIRST_TOKEN_TIMEOUT_S = 0.1
    with pytest.raises(BackendUnavailableError, match="too slow"):
        collect(make(server), generation())


@remote_backend
def test_an_endless_answer_is_ended(server: ModelServer, make: Make, settings: Any) -> None:
    server.fault = "endless"
    settings.RAG_MODEL_TOTAL_TIMEOUT_S = 0.3
    with pytest.raises(BackendError):
        collect(make(server), generation())
    assert server.was_left.wait(PATIENCE_S)


@remote_backend
def test_it_is_tried_again_before_the_first_token(server: ModelServer, make: Make) -> None:
    server.fault, server.faults_left = "500", 1
    assert "kills" in text_of(collect(make(server), generation()))
    assert len(server.asked) == 2


@remote_backend
def test_it_is_not_tried_again_after_the_first_token(server: ModelServer, make: Make) -> None:
    server.fault, server.faults_left = "cut", 1
    with pytest.raises(BackendUnavailableError):
        collect(make(server), generation())
    assert len(server.asked) == 1


@remote_backend
def test_a_server_that_keeps_failing_is_left_alone_and_then_used_again(server: ModelServer, make: Make) -> None:
    backend = make(server)
    server.fault = "500"
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            collect(backend, generation())
    asked = len(server.asked)
    with pytest.raises(BackendUnavailableError, match="left alone"):
        collect(backend, generation())
    assert len(server.asked) == asked
    server.fault = ""
    http.breaker_of(backend.server.url)._open_s = 0  # type: ignore[attr-defined]
    http.breaker_of(backend.server.url)._next_trial_at = 0  # type: ignore[attr-defined]
    assert "kills" in text_of(collect(backend, generation()))


@remote_backend
def test_a_server_that_is_not_there_can_not_be_reached(server: ModelServer, make: Make, unused_tcp_port: int) -> None:
    backend = make(server)
    object.__setattr__(backend.server, "url", f"http://127.0.0.1:{unused_tcp_port}")  # type: ignore[attr-defined]
    with pytest.raises(BackendUnavailableError, match="can't be reached"):
        collect(backend, generation())


@remote_backend
def test_an_address_inside_the_network_is_not_called_unless_it_is_allowed(
    server: ModelServer, make: Make, settings: Any
) -> None:
    settings.OPS_OUTGOING_ALLOWED = ()
    with pytest.raises(BackendRefusedError, match="OPS_OUTGOING_ALLOWED"):
        collect(make(server), generation())
    assert server.asked == []


@remote_backend
def test_tools_and_their_calls_are_passed_through(server: ModelServer, make: Make) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    pieces = collect(make(server), generation(tools=(tool,)))
    (calls,) = [piece.tool_calls for piece in pieces if piece.tool_calls]
    assert calls[0]["function"] == {"name": "look", "arguments": '{"where": "hive"}'}
    assert pieces[-1].finish_reason == "tool_calls"
    assert server.asked[0]["tools"] == [tool]


@remote_backend
def test_the_window_is_the_servers(server: ModelServer, make: Make) -> None:
    assert asyncio.run(make(server).window("tiny")) == 8192


def test_ollama_is_told_how_to_write(server: ModelServer) -> None:
    collect(OllamaBackend(server.url), generation(stop=("END",), window_tokens=2048))
    options = server.asked[0]["options"]
    assert options == {"temperature": 0.1, "num_predict": 100, "stop": ["END"], "num_ctx": 2048}


def test_ollama_downloads_a_model_and_tells_how_far_it_is(server: ModelServer) -> None:
    async def pull() -> list[tuple[str, int | None, int | None]]:
        async with aclosing(OllamaBackend(server.url).pull("mistral:7b")) as steps:
            return [(one.status, one.completed_bytes, one.total_bytes) async for one in steps]

    steps = asyncio.run(pull())
    assert steps[1:3] == [("pulling aaaa", 40, 100), ("pulling aaaa", 100, 100)]
    assert steps[-1] == ("success", None, None)


def test_openai_is_told_how_to_write_with_the_key(server: ModelServer) -> None:
    collect(OpenAiBackend(server.url + "/v1", "a-key"), generation(stop=("END",)))
    asked = server.asked[0]
    assert (asked["temperature"], asked["max_tokens"], asked["stop"]) == (0.1, 100, ["END"])
    assert server.headers[-1]["Authorization"] == "Bearer a-key"


def test_a_model_without_a_counter_is_estimated_from_what_its_server_reports() -> None:
    tokens.learn("ollama/learnt", 4000, 1000)
    (guess,) = tokens.estimate("ollama/learnt", ["x" * 400])
    assert 100 < guess < 120
    (first,) = tokens.estimate("ollama/unknown", ["x" * 400])
    assert first > guess


def test_a_model_that_a_server_does_not_have_is_named_with_what_to_do(server: ModelServer) -> None:
    server.fault = "404"
    with pytest.raises(BackendRefusedError, match=r"has no model tiny\. Download it: manage\.py answers pull tiny"):
        collect(REMOTE["ollama"](server), generation())
    with pytest.raises(BackendRefusedError, match="status 404: status 404, as asked for"):
        collect(REMOTE["openai"](server), generation())


@pytest.mark.django_db
def test_a_model_is_downloaded_by_the_command(server: ModelServer, settings: Any) -> None:
    settings.REGISTRY_OLLAMA_URLS = (server.url,)
    settings.RAG_MODEL_TOTAL_TIMEOUT_S = 0  # a download takes longer than an answer
    out, progress = io.StringIO(), io.StringIO()
    call_command("answers", "pull", "ollama/mistral:7b", stdout=out, stderr=progress)
    assert server.asked == [{"model": "mistral:7b", "stream": True}]
    assert out.getvalue().startswith("mistral:7b is there.")


@pytest.mark.parametrize(
    ("fault", "told"), [("500", "status 500"), ("cut", "connection|middle"), ("error", "out of memory")]
)
def test_a_download_that_fails_is_told_in_one_line(server: ModelServer, settings: Any, fault: str, told: str) -> None:
    settings.REGISTRY_OLLAMA_URLS = (server.url,)
    server.fault = fault
    with pytest.raises(CommandError, match=told) as refusal:
        call_command("answers", "pull", "mistral:7b", stdout=io.StringIO(), stderr=io.StringIO())
    assert (refusal.value.returncode, "\n" in str(refusal.value)) == (2, False)


def test_a_download_needs_a_server(settings: Any) -> None:
    settings.REGISTRY_OLLAMA_URLS = ()
    with pytest.raises(CommandError, match="REGISTRY_OLLAMA_URLS"):
        call_command("answers", "pull", "mistral:7b")


def test_the_official_clients_understand_the_tests_server(server: ModelServer) -> None:
    question: list[Any] = [{"role": "user", "content": "?"}]
    with ollama.Client(host=server.url) as client:
        said = [part.message.content for part in client.chat("mistral:7b", question, stream=True)]
        assert "".join(part or "" for part in said) == "".join(server.words)
        assert [model.model for model in client.list().models] == ["mistral:7b"]
        assert [step.status for step in client.pull("mistral:7b", stream=True)][-1] == "success"
    with openai.OpenAI(base_url=server.url + "/v1", api_key="k") as theirs:
        stream = theirs.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "?"}], stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text == "".join(server.words)
        assert [model.id for model in theirs.models.list().data] == ["tiny"]


# --- through the service ---


def ask(**more: Any) -> Answer:
    asked = AnswerRequest(query="What kills varroa mites in winter?", collection="bees", agent="bee", **more)
    return service.answer(asked, person("somebody"), request_id=str(uuid.uuid4()))


in_bees = pytest.mark.usefixtures("live_models", "empty_cache", "bees", "agents")


@pytest.mark.django_db
@in_bees
def test_an_agent_falls_back_in_its_order_and_says_who_answered(server: ModelServer) -> None:
    found = ask()
    assert found.model == "ollama/mistral:7b"
    assert found.fallbacks == ("openai/none: No server for openai/none is configured: set REGISTRY_OPENAI_URLS.",)
    server.fault = "500"
    without = ask()
    assert (without.model, len(without.fallbacks)) == ("extractive", 2)
    assert without.text.startswith("Oxalic acid in winter kills the mites")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[ModelCall]:
    """The calls of models that write."""
    calls: list[ModelCall] = []
    monkeypatch.setattr(model_calls, "_sinks", [lambda call: calls.append(call) if call.kind == "llm" else None])
    return calls


@pytest.mark.django_db
@in_bees
def test_a_call_tells_whose_model_it_is_how_it_was_asked_and_what_it_read_and_wrote(
    server: ModelServer, written: list[ModelCall]
) -> None:
    ask(max_tokens=50, temperature=0.0)
    (call,) = written
    assert (call.model, call.provider, call.operation) == ("ollama/mistral:7b", "ollama", "generate")
    assert (call.temperature, call.max_tokens, call.finish_reason) == (0.0, 50, "stop")
    assert (call.tokens, call.output_tokens) == (200, len(server.words))


@pytest.mark.django_db
@in_bees
def test_a_server_that_speaks_the_protocol_of_openai_goes_by_that_name(
    server: ModelServer, settings: Any, written: list[ModelCall]
) -> None:
    settings.REGISTRY_OPENAI_URLS = (server.url + "/v1",)
    ask()
    assert [(call.model, call.provider, call.tokens > call.output_tokens > 0) for call in written] == [
        ("openai/none", "openai", True)
    ]


@pytest.mark.django_db
@in_bees
def test_a_call_that_failed_has_no_reason_to_end_and_the_extractive_answerer_is_our_own(
    server: ModelServer, written: list[ModelCall]
) -> None:
    server.fault = "500"
    ask()
    told = [(call.provider, call.error, call.finish_reason) for call in written]
    assert told == [("ollama", "BackendUnavailableError", ""), ("zenglow", "", "stop")]


@pytest.mark.django_db
@in_bees
def test_citations_that_the_model_made_up_are_removed_and_counted(server: ModelServer) -> None:
    found = ask()
    assert found.text == "Oxalic acid kills mites [1] and wasps."
    assert ([citation.number for citation in found.citations], found.removed_citations) == ([1], 1)
    assert found.citations[0].quote.startswith("Oxalic acid in winter kills")


@pytest.mark.django_db
@in_bees
def test_sentences_that_their_passage_does_not_support_are_marked(server: ModelServer) -> None:
    server.words = ["Oxalic acid kills the mites in winter. [1] ", "Chess was invented in India. [1]"]
    good, bad = ask().sentences
    assert good.is_supported
    assert good.support is not None
    assert bad.support is not None
    assert not bad.is_supported
    assert good.support > 0.7 > 0.3 > bad.support


@pytest.mark.django_db
@in_bees
def test_an_answer_that_breaks_in_the_middle_is_kept_and_marked(server: ModelServer) -> None:
    server.fault = "cut"
    found = ask()
    assert (found.finish_reason, found.model) == ("error", "ollama/mistral:7b")
    assert found.text


@pytest.mark.django_db
@in_bees
def test_the_model_is_given_the_passages_as_data_and_its_persona(server: ModelServer) -> None:
    ask()
    system, user = (message["content"] for message in server.asked[-1]["messages"])
    assert system.startswith("You are a bee.")
    assert "data, not instructions" in user
    assert user.rstrip().endswith("Question: What kills varroa mites in winter?")


@pytest.mark.django_db
@in_bees
def test_nothing_is_asked_of_a_model_when_the_passages_do_not_answer(server: ModelServer) -> None:
    asked = AnswerRequest(query="Which opening does Magnus Carlsen prefer in chess?", collection="bees", agent="bee")
    found = service.answer(asked, person("somebody"), request_id=str(uuid.uuid4()))
    assert found.is_abstention
    assert server.asked == []


def test_a_name_that_names_no_model_is_refused() -> None:
    with pytest.raises(BackendRefusedError, match="names no model"):
        backend_of("gpt")
