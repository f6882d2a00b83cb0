"""OpenAI's own Python client, against a running server: one URL and one key are all that changes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.doors.conftest import TEA, Product

QUESTION = "How warm should green tea be?"
EMBEDDER = "all-MiniLM-L6-v2"


def client_of(product: Product, who: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{product.url}/v1", api_key=product.keys.get(who, who), max_retries=0, **options)


@pytest.fixture
def client(product: Product) -> Iterator[OpenAI]:
    with client_of(product, "reader") as made:
        yield made


def ask(client: OpenAI, text: str = QUESTION, model: str = "extractive", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def test_agents_and_the_embedder_appear_as_models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"extractive", "extractive@papers", EMBEDDER} <= set(names)
    assert client.models.retrieve("extractive@papers").owned_by == "zenglow"


def test_a_question_is_answered_with_citations_as_annotations(client: OpenAI, product: Product) -> None:
    answer = ask(client, temperature=0.1, max_tokens=200)
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.finish_reason) == ("chat.completion", "extractive", "stop")
    assert "70 to 80 degrees" in choice.message.content
    cited = choice.message.annotations[0].url_citation
    assert choice.message.content[cited.start_index : cited.end_index] == "[1]"
    assert cited.url.startswith(f"{product.url}/documents/")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    passage = answer.zenglow["passages"][0]
    assert (passage["document_id"], passage["text"]) == ("tea", TEA)
    assert answer.zenglow["model"] == "extractive"


def test_a_stream_says_the_same_and_ends_with_its_usage(client: OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    first, *_, last = chunks
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert first.choices[0].delta.role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert last.usage.total_tokens == whole.usage.total_tokens
    annotations = [one for delta in deltas for one in (delta.model_extra or {}).get("annotations", [])]
    assert annotations == [one.model_dump() for one in whole.choices[0].message.annotations]
    assert len({chunk.id for chunk in chunks}) == 1


def test_what_was_said_before_counts(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="extractive",
        messages=[
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "70 to 80 degrees Celsius."},
            {"role": "user", "content": [{"type": "text", "text": "And what does hotter water do to green tea?"}]},
        ],
    )
    assert "bitter" in answer.choices[0].message.content


def test_a_question_that_no_passage_answers_is_said_to_be_one(client: OpenAI) -> None:
    answer = ask(client, "Who won the chess championship of 1972?")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.zenglow["finish_reason"] == "abstained"
    assert answer.choices[0].message.content.startswith("I found nothing")


def test_an_agent_is_asked_on_a_collection_by_its_name(client: OpenAI) -> None:
    assert "70 to 80" in ask(client, model="extractive@papers").choices[0].message.content
    assert "70 to 80" in ask(client, extra_body={"collection": "papers"}).choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="nowhere"):
        ask(client, model="extractive@nowhere")


def test_the_answer_stops_where_it_is_told_to(client: OpenAI) -> None:
    assert "80" not in ask(client, stop=[" to "]).choices[0].message.content
    assert ask(client, max_tokens=1).choices[0].finish_reason == "length"


def test_embeddings_are_unit_vectors_in_either_encoding(client: OpenAI) -> None:
    texts = ["Green tea", "A cup of green tea", "Income tax is due in January"]
    packed = client.embeddings.create(model=EMBEDDER, input=texts)  # the client asks for base64 by itself
    plain = client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    vectors = [one.embedding for one in packed.data]
    assert [len(vector) for vector in vectors] == [384] * 3
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert math.hypot(*vectors[0]) == pytest.approx(1, abs=1e-4)

    def likeness(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))

    assert likeness(0, 1) > 0.7 > likeness(0, 2)
    assert packed.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["x"] * 257}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": "x", "dimensions": 8}, "dimensions"),
    ],
)
def test_bad_embeddings_requests_name_the_field(client: OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.embeddings.create(model=EMBEDDER, **options)
    assert (refusal.value.type, refusal.value.param) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role"),
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ],
)
def test_bad_questions_name_the_field(client: OpenAI, changes: dict[str, Any], param: str) -> None:
    asked = {"model": "extractive", "messages": [{"role": "user", "content": QUESTION}]} | changes
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**asked)
    assert (refusal.value.type, refusal.value.param) == ("invalid_request_error", param)
    assert refusal.value.body["request_id"]  # type: ignore[index]


def test_refusals_are_the_errors_that_the_client_knows(product: Product, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(client, model="gpt-4o")
    assert unknown.value.code == "model_not_found"
    with client_of(product, "zg_wrong") as stranger, pytest.raises(openai.AuthenticationError) as refusal:
        ask(stranger)
    assert refusal.value.code == "invalid_api_key"
    with client_of(product, "watcher") as watcher, pytest.raises(openai.PermissionDeniedError, match="scope query"):
        watcher.models.list()
    with client_of(product, "stranger") as elsewhere:
        assert "extractive@papers" not in {model.id for model in elsewhere.models.list()}
        with pytest.raises(openai.NotFoundError):
            ask(elsewhere, model="extractive@papers")


def test_the_errors_of_other_routes_stay_what_they_were(product: Product) -> None:
    problem = product.zenglow.call("/rag/collections")
    assert problem.body["type"] == "urn:zenglow:problem:authentication-needed"
    refused = product.zenglow.call("/v1/models")
    assert (refused.status, refused.headers["Content-Type"]) == (401, "application/json")
    assert json.loads(refused.text)["error"]["type"] == "authentication_error"
