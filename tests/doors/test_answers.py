"""Answers over HTTP, from a model's server that is well or not, to callers that stay or not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.doors.conftest import Product
from tests.patience import PATIENCE_S, eventually
from tests.rag.answers.model_server import ModelServer

QUESTION = "How warm should green tea be?"
WORDS = ["Brew ", "green ", "tea ", "at ", "70 ", "degrees ", "[1", "]."]
Event = tuple[int, str, dict[str, Any]]


@pytest.fixture
def http(product: Product, models: ModelServer) -> Iterator[httpx.Client]:
    models.words = WORDS
    headers = {"Authorization": f"Bearer {product.keys['reader']}"}
    with httpx.Client(base_url=product.url, headers=headers, timeout=PATIENCE_S) as client:
        yield client


@contextmanager
def asked(http: httpx.Client, **more: Any) -> Iterator[Iterator[Event]]:
    """The events of an answer of Leonardo's, as they come; leaving closes the connection."""
    body = {"query": QUESTION, "agent": "leonardo", "stream": True} | more
    with http.stream("POST", "/rag/query", json=body) as response:
        assert response.status_code == 200, response.read()
        yield events_of(response)


def events_of(response: httpx.Response) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])


def answer_of(http: httpx.Client, **more: Any) -> dict[str, Any]:
    with asked(http, **more) as events:
        *_, (_, name, data) = events
    assert name == "done"
    return data


def resumed(http: httpx.Client, request_id: str, after: int) -> list[Event]:
    headers = {"Last-Event-ID": str(after)} if after else {}
    with http.stream("GET", f"/rag/answers/{request_id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        return list(events_of(response))


def test_an_answer_that_was_broken_off_is_resumed_with_exactly_the_rest(
    http: httpx.Client, models: ModelServer, product: Product
) -> None:
    models.fault = "pause"
    with asked(http) as events:
        heard = [next(events) for _ in range(3)]
    models.went_on.set()
    request_id = heard[0][2]["request_id"]
    rest = resumed(http, request_id, after=3)
    assert [number for number, _, _ in heard + rest] == list(range(1, len(heard + rest) + 1))
    told = "".join(data["text"] for _, name, data in heard + rest if name == "token")
    assert (rest[-1][1], rest[-1][2]["text"], rest[-1][2]["finish_reason"]) == ("done", told, "stop")
    assert told.startswith("Brew green tea at 70 degrees [1]")
    assert resumed(http, request_id, after=0) == heard + rest
    assert len(models.asked) == 1, "the model wrote it once"

    stranger = {"Authorization": f"Bearer {product.keys['writer']}"}
    refused = http.get(f"/rag/answers/{request_id}/events", headers=stranger)
    assert (refused.status_code, refused.json()["type"]) == (404, "urn:zenglow:problem:not-found")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 20])
def test_a_last_event_that_is_no_number_is_told(http: httpx.Client, last: str) -> None:
    answer = http.get("/rag/answers/00000000-0000-4000-8000-000000000000/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["Last-Event-ID"])


def test_an_answer_is_stopped_in_the_middle_and_so_is_its_model(http: httpx.Client, models: ModelServer) -> None:
    models.fault = "endless"
    with asked(http) as events:
        heard = [next(events) for _ in range(4)]
        assert http.delete(f"/rag/answers/{heard[0][2]['request_id']}").status_code == 202
        heard += events
    assert (heard[-1][1], heard[-1][2]["finish_reason"]) == ("done", "stopped")
    assert heard[-1][2]["text"].startswith("Brew green ")
    assert models.was_left.wait(PATIENCE_S)


def test_a_caller_who_is_gone_for_good_stops_the_model(http: httpx.Client, models: ModelServer) -> None:
    models.fault = "drip"
    with asked(http) as events:
        request_id = next(events)[2]["request_id"]
        next(events)
    assert models.was_left.wait(PATIENCE_S)
    kept = resumed(http, request_id, after=0)
    assert (kept[-1][1], kept[-1][2]["finish_reason"]) == ("done", "stopped")


@pytest.mark.parametrize(
    ("fault", "said"),
    [("cut", "connection|middle"), ("garbage", "no JSON"), ("error", "out of memory")],
)
def test_an_answer_that_breaks_off_is_kept_and_says_what_to_do(
    http: httpx.Client, models: ModelServer, fault: str, said: str
) -> None:
    models.fault = fault
    with asked(http) as events:
        *_, (_, name, data) = events
    assert name == "error"
    problem, kept = data["problem"], data["answer"]
    assert (problem["status"], problem["model"]) == (503, "ollama/mistral:7b")
    assert problem["detail"].startswith("The answer stopped in the middle: ")
    assert re.search(said, problem["detail"])
    assert problem["detail"].endswith("Try again, or choose another agent.")
    assert (kept["text"], kept["finish_reason"]) == ("Brew green", "error")


@pytest.mark.parametrize("fault", ["500", "429", "404", "401", "drop"])
def test_a_model_that_can_not_answer_gives_way_to_the_next(http: httpx.Client, models: ModelServer, fault: str) -> None:
    models.fault = fault
    answer = answer_of(http)
    assert (answer["model"], answer["finish_reason"]) == ("extractive", "stop")
    assert "70 to 80 degrees" in answer["text"]
    assert answer["fallbacks"][0].startswith("ollama/mistral:7b: ")


def test_what_is_written_is_counted_while_it_is_written_and_nothing_is_left(
    http: httpx.Client, models: ModelServer, product: Product
) -> None:
    models.fault = "pause"
    operator = {"Authorization": f"Bearer {product.keys['watcher']}"}

    def writing() -> float:
        lines = http.get("/metrics", headers=operator).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("zenglow_answers_writing"))

    eventually(lambda: writing() == 0)
    with asked(http) as events:
        next(events)
        assert models.has_begun.wait(PATIENCE_S)
        assert writing() == 1
        models.went_on.set()
        list(events)
    eventually(lambda: writing() == 0)
