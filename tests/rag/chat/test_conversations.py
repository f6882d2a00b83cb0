"""Conversations are their owner's; who reads a shared one sees what they may read of its sources."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from ops.contracts.principal import Principal, PrincipalKind, Scope
from ops.contracts.problems import InvalidRequest, NotFound
from ops.models import ApiKey
from rag.answers import service
from rag.answers.contracts import AnswerRequest, Turn
from rag.chat import conversations
from rag.models import Conversation, Feedback, Message, Preference
from tests.rag.api.conftest import assert_problem, client_of, post, send  # noqa: F401
from tests.rag.pipeline.support import person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache", "bees")]

ADA, EVE = person("ada"), person("eve")
KEEPER = person("keeper", "keepers")
BOTH = {"left": "extractive", "right": "extractive"}


def asked_and_answered(
    principal: Principal, question: str, panes: dict[str, str] | None = None, **more: Any
) -> conversations.Asked:
    asked = conversations.ask(principal, question, panes or {"left": "extractive"}, collection="bees", **more)
    for request_id in asked.answers.values():
        request = AnswerRequest(query=question, collection="bees", agent="extractive")
        conversations.note_answer(request_id, service.answer(request, principal, request_id=request_id), "")
    return asked


def test_a_question_begins_a_conversation_and_further_ones_continue_it() -> None:
    first = asked_and_answered(ADA, "What kills mites in winter?")
    second = asked_and_answered(ADA, "And in summer?", conversation_id=str(first.conversation.pk))
    assert (first.turn, second.turn) == (1, 2)
    assert first.conversation.title == "What kills mites in winter?"
    assert second.history["left"][0] == Turn("user", "What kills mites in winter?")
    assert second.history["left"][1].content.startswith("Oxalic acid")


def test_asking_a_turn_again_replaces_it_and_what_came_after() -> None:
    first = asked_and_answered(ADA, "What kills mites in winter?")
    identifier = str(first.conversation.pk)
    asked_and_answered(ADA, "And in summer?", conversation_id=identifier)
    again = asked_and_answered(ADA, "How do bees dance?", conversation_id=identifier, turn=1)
    assert again.turn == 1
    assert again.history["left"] == ()
    (turn,) = conversations.turns_of(again.conversation)
    assert turn["question"] == "How do bees dance?"


def test_nobody_finds_or_reads_the_conversations_of_others() -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?")
    assert list(conversations.conversations_of(EVE)) == []
    with pytest.raises(NotFound):
        conversations.own(asked.conversation.pk, EVE)
    with pytest.raises(NotFound):
        conversations.ask(EVE, "And?", {"left": ""}, collection="bees", conversation_id=str(asked.conversation.pk))


def test_conversations_are_found_by_what_was_said() -> None:
    asked_and_answered(ADA, "What kills mites in winter?")
    dance = asked_and_answered(ADA, "How do bees show the way?").conversation
    assert list(conversations.conversations_of(ADA, "figures eight")) == [dance]
    assert conversations.conversations_of(ADA).count() == 2


def test_a_shared_conversation_withholds_answers_from_whoever_may_not_read_their_sources() -> None:
    asked = asked_and_answered(KEEPER, "What does the apiary's safe open with?")
    shared = conversations.share(asked.conversation, KEEPER, shared=True)
    assert shared.share_id is not None
    _, of_keeper = conversations.shared_turns(shared.share_id, KEEPER)
    _, of_eve = conversations.shared_turns(shared.share_id, EVE)
    assert "seventeen" in of_keeper[0]["answers"]["left"]["answer"]["text"]
    assert of_eve[0]["answers"]["left"]["answer"] is None
    assert of_eve[0]["answers"]["left"]["failure"] == conversations.WITHHELD


def test_a_link_that_is_no_longer_shared_opens_nothing() -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?")
    link = conversations.share(asked.conversation, ADA, shared=True).share_id
    assert link is not None
    conversations.share(asked.conversation, ADA, shared=False)
    with pytest.raises(NotFound):
        conversations.shared_turns(link, ADA)


def test_a_verdict_keeps_what_was_compared_and_is_exported_for_training() -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?", BOTH)
    conversations.vote(asked.conversation, 1, "tie", ADA)
    conversations.vote(asked.conversation, 1, "right", ADA)
    (line,) = conversations.preference_lines()
    assert (line["prompt"], line["verdict"]) == ("What kills mites in winter?", "right")
    assert line["chosen"]["text"].startswith("Oxalic acid")
    assert Preference.objects.count() == 1


@pytest.mark.parametrize(
    ("verdict", "votes"),
    [
        ("left", {"left": 1}),
        ("right", {"right": 1}),
        ("tie", {"left": 1, "right": 1}),
        ("both_bad", {"left": -1, "right": -1}),
    ],
)
def test_a_verdict_rates_the_passages_that_the_answers_cite(verdict: str, votes: dict[str, int]) -> None:
    ada = replace(ADA, scopes=frozenset({Scope.QUERY, Scope.FEEDBACK}))
    asked = asked_and_answered(ada, "What kills mites in winter?", BOTH)
    conversations.vote(asked.conversation, 1, "tie", ada)  # which is taken back
    conversations.vote(asked.conversation, 1, verdict, ada)
    panes = {request_id: pane for pane, request_id in asked.answers.items()}
    found = Feedback.objects.filter(kind="vote")
    assert {panes[str(row.request_id)]: row.value for row in found} == votes
    assert {(row.document_id, row.query) for row in found} == {("mites", "What kills mites in winter?")}


def test_who_may_not_give_feedback_still_compares() -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?", BOTH)
    assert (
        conversations.vote(asked.conversation, 1, "left", replace(ADA, scopes=frozenset({Scope.QUERY}))).verdict
        == "left"
    )
    assert not Feedback.objects.exists()


def test_there_is_no_verdict_on_a_single_answer() -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?")
    with pytest.raises(NotFound):
        conversations.vote(asked.conversation, 1, "left", ADA)
    with pytest.raises(InvalidRequest):
        conversations.vote(asked.conversation, 1, "best", ADA)


@pytest.mark.parametrize(
    ("question", "panes"),
    [(" ", {"left": ""}), ("Bees?", {}), ("Bees?", {"middle": ""}), ("Bees?", {"left": "", "right": "x" * 65})],
)
def test_what_can_not_be_asked_leaves_nothing_behind(question: str, panes: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        conversations.ask(ADA, question, panes, collection="bees")
    with pytest.raises(InvalidRequest):
        conversations.ask(ADA, "Bees?", {"left": ""}, collection="b" * 65)
    assert not Conversation.objects.exists()


def test_old_conversations_go_with_all_they_hold(settings: Any) -> None:
    settings.RAG_CONVERSATION_RETENTION_DAYS = 30
    old = asked_and_answered(ADA, "What kills mites in winter?").conversation
    kept = asked_and_answered(ADA, "How do bees dance?").conversation
    Conversation.objects.filter(pk=old.pk).update(updated_at=timezone.now() - timedelta(days=31))
    assert conversations.purge(timezone.now()) == 1
    assert list(Conversation.objects.all()) == [kept]
    assert set(Message.objects.values_list("conversation", flat=True)) == {kept.pk}


def test_the_api_lists_exports_shares_judges_and_deletes(client_of: Any) -> None:  # noqa: F811
    client = client_of(Scope.QUERY, Scope.FEEDBACK)
    other = client_of(Scope.QUERY, Scope.FEEDBACK)
    assert client.get("/rag/conversations").json() == {"conversations": []}
    key = ApiKey.objects.order_by("id")[0]
    owner = replace(person("x"), kind=PrincipalKind.API_KEY, name=key.prefix)
    asked = asked_and_answered(owner, "What kills mites in winter?", BOTH)
    path = f"/rag/conversations/{asked.conversation.pk}"
    assert [one["title"] for one in client.get("/rag/conversations?q=oxalic").json()["conversations"]] == [
        "What kills mites in winter?"
    ]
    exported = client.get(path).json()
    assert exported["turns"][0]["answers"]["left"]["answer"]["citations"]
    assert send(client, "PATCH", path, {"shared": True}).json()["share_id"]
    assert post(client, f"{path}/verdicts", {"turn": 1, "verdict": "both_bad"}).json() == {
        "turn": 1,
        "verdict": "both_bad",
    }
    assert_problem(other.get(path), 404, "not-found")
    assert_problem(send(other, "DELETE", path), 404, "not-found")
    assert send(client, "DELETE", path).status_code == 204
    assert_problem(client.get(path), 404, "not-found")
    assert_problem(client.get(f"/rag/conversations/{uuid.uuid4()}"), 404, "not-found")
