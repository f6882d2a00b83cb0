"""Tools through ``/v1``: from OpenAI's own client to the model's server and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.doors.conftest import Product
from tests.rag.answers.model_server import ModelServer

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look into the hive.",
            "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
        },
    }
]
QUESTION = "How warm should green tea be?"


@pytest.fixture
def client(product: Product, models: ModelServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{product.url}/v1", api_key=product.keys["reader"], max_retries=0) as made:
        yield made


def ask(client: OpenAI, messages: list[Any], **more: Any) -> Any:
    return client.chat.completions.create(model="leonardo", messages=messages, tools=TOOLS, **more)


def test_a_tool_that_the_model_calls_reaches_the_caller_and_its_result_the_model(
    client: OpenAI, models: ModelServer
) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    (choice,) = ask(client, messages).choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "look")
    assert json.loads(call.function.arguments) == {"where": "hive"}
    assert models.asked[-1]["tools"] == TOOLS

    result = {"role": "tool", "tool_call_id": call.id, "content": "Seventeen bees."}
    ask(client, [*messages, choice.message.model_dump(exclude_none=True), result])
    assert "Seventeen bees." in json.dumps(models.asked[-1]["messages"])


def test_a_streamed_call_arrives_as_the_client_expects(client: OpenAI) -> None:
    chunks = [chunk.choices[0] for chunk in ask(client, [{"role": "user", "content": QUESTION}], stream=True)]
    calls = [call for choice in chunks for call in choice.delta.tool_calls or ()]
    assert "".join(call.function.name or "" for call in calls) == "look"
    assert json.loads("".join(call.function.arguments or "" for call in calls)) == {"where": "hive"}
    assert {call.index for call in calls} == {0}
    assert chunks[-1].finish_reason == "tool_calls"


def test_the_model_writes_as_it_is_told_and_its_answer_is_cited(client: OpenAI, models: ModelServer) -> None:
    models.words = ["Brew ", "at ", "70 ", "degrees ", "[1", "]."]
    answer = client.chat.completions.create(
        model="leonardo",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0.7,
        max_tokens=33,
        stop=["never"],
    )
    sent = models.asked[-1]["options"]
    assert (sent["temperature"], sent["num_predict"], sent["stop"]) == (0.7, 33, ["never"])
    assert answer.choices[0].message.content == "Brew at 70 degrees [1]."
    (cited,) = answer.choices[0].message.annotations
    assert cited.url_citation.title
    assert answer.zenglow["model"] == "ollama/mistral:7b"
    assert answer.usage.prompt_tokens == 200
