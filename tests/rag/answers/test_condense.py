"""Follow-ups are searched with what they leave out; questions that stand by themselves stay as they are."""

import pytest

from rag.answers.condense import standalone
from rag.answers.contracts import Turn


def history(*questions: str) -> list[Turn]:
    return [turn for question in questions for turn in (Turn("user", question), Turn("assistant", "Something."))]


@pytest.mark.parametrize(
    "query",
    ["Why?", "And in winter?", "What about queens?", "How long do they live?", "Tell me more", "How is it treated?"],
)
def test_a_follow_up_carries_the_words_of_what_it_follows(query: str) -> None:
    found = standalone(query, history("How are varroa mites treated?"))
    assert found.startswith(query)
    assert "varroa mites" in found


@pytest.mark.parametrize(
    "query",
    ["How do bees show each other flowers?", "When is income tax due for the self-employed?", "anchor chain length"],
)
def test_a_question_of_its_own_stays_as_it_is(query: str) -> None:
    assert standalone(query, history("How are varroa mites treated?")) == query


def test_a_chain_of_follow_ups_reaches_back_to_what_it_is_about() -> None:
    found = standalone("And why?", history("How long does a queen bee live?", "And a worker?"))
    assert {"queen", "bee", "worker"} <= set(found.split())


def test_nothing_is_carried_over_a_change_of_subject() -> None:
    found = standalone("And in winter?", history("When is income tax due?", "How are varroa mites treated?"))
    assert "tax" not in found


def test_without_a_history_it_stays_as_it_is() -> None:
    assert standalone("And in winter?", []) == "And in winter?"
