"""How much of an answer was heard, and which voice an agent has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.answers.contracts import Answer, Citation, Sentence, Usage
from voice.sentences import Sentences
from voice.session import voice_named
from voice.transcripts import heard_of

TEXT = "Slow queries are listed on the dashboard. [1] The cache may be empty\nafter a restart [2]."


def citation(number: int) -> Citation:
    at = TEXT.index(f"[{number}]")
    return Citation(number, at, number, number, "runbook", "Runbook", None, 0, 9, "Slow")


def answered(text: str = TEXT) -> Answer:
    return Answer(
        *("id", "what is slow", "what is slow", "default", "extractive", "extractive", text),
        sentences=(Sentence(0, 45, (1,), 0.9, True), Sentence(46, len(text), (2,), 0.9, True)),
        citations=(citation(1), citation(2)),
        passages=(),
        finish_reason="stop",
        confidence=0.9,
        removed_citations=0,
        usage=Usage(0, 0),
        timings_ms={},
    )


def lines_of(text: str) -> list[str]:
    """As a session speaks them."""
    sentences = Sentences()
    return [line.strip() for line in [*sentences.take(text), *sentences.finish()] if line.strip()]


def test_what_was_heard_to_its_end_is_the_whole_answer() -> None:
    assert heard_of(answered(), lines_of(TEXT)) == answered()


def test_of_an_interrupted_answer_the_rest_is_not_kept_nor_its_citations() -> None:
    answer = heard_of(answered(), ["Slow queries are listed on the dashboard. [1]", "The cache may be empty after"])
    assert answer is not None
    assert answer.text == "Slow queries are listed on the dashboard. [1] The cache may be empty\nafter"
    assert [one.number for one in answer.citations] == [1]
    assert [one.end for one in answer.sentences] == [45, len(answer.text)]
    assert answer.finish_reason == "stopped"


def test_nothing_heard_is_no_answer() -> None:
    assert heard_of(answered(), []) is None
    assert heard_of(answered(), ["something else"]) is None


@given(st.text(alphabet="ab. \n[]1", min_size=1, max_size=60), st.data())
def test_any_beginning_is_found_again(text: str, data: st.DataObject) -> None:
    spoken = lines_of(text)
    heard = spoken[: data.draw(st.integers(0, len(spoken)))]
    answer = heard_of(answered(text), heard)
    assert " ".join(answer.text.split() if answer else []) == " ".join(" ".join(heard).split())


@pytest.mark.parametrize(
    ("name", "voice"),
    [
        ("en-gb-woman", "en-gb-woman"),
        ("en-GB", "en-gb-rp"),
        ("en_GB", "en-gb-rp"),
        ("en-gb", "en-gb"),
        ("", ""),
        ("fr", ""),
    ],
)
def test_an_agents_voice_is_one_of_that_name_or_else_of_that_language(name: str, voice: str) -> None:
    assert voice_named(name, ["en-gb-rp", "en-gb", "en-gb-woman"]) == voice
