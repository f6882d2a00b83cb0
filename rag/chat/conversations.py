"""What is kept of conversations: whose they are, who may read them, and how they end."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, Max, OuterRef, Q, QuerySet
from django.utils import timezone

from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import InvalidRequest, NotFound
from rag.answers.contracts import Answer, Turn
from rag.answers.wire import answer_json
from rag.chat.verdicts import rate_passages
from rag.models import Conversation, Document, Message, MessageState, Pane, Preference, Verdict
from rag.readable import open_collections, readable_documents

SHARE = declare_action("conversation.share", "A conversation can be read by others under its address.")
UNSHARE = declare_action("conversation.unshare", "A conversation can't be read by others any more.")
DELETE = declare_action("conversation.delete", "A conversation is gone.")

TITLE_CHARACTERS = 80
NAME_CHARACTERS = 64
"""How long the name of a collection or an agent may be, which a conversation keeps whether or not there is one."""
HISTORY_TURNS = 6
PAGE = 100
WITHHELD = "This answer rests on documents that you may not read."


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was noted, with the request id of each pane's answer to come."""

    conversation: Conversation
    turn: int
    answers: Mapping[str, str]
    history: Mapping[str, tuple[Turn, ...]]


def conversations_of(principal: Principal, words: str = "") -> QuerySet[Conversation]:
    """A principal's own, the latest first; with ``words`` those in which all of them are said."""
    found = Conversation.objects.filter(owner=principal.log_name)
    for word in words.split()[:10]:
        said = Message.objects.filter(conversation=OuterRef("pk"), text__icontains=word)
        found = found.filter(Q(title__icontains=word) | Exists(said))
    return found


def own(conversation_id: uuid.UUID | str, principal: Principal) -> Conversation:
    """Raises `NotFound`, alike for what is somebody else's and for what there is not."""
    try:
        identifier = uuid.UUID(str(conversation_id))
    except ValueError:
        raise _unknown() from None
    found = Conversation.objects.filter(pk=identifier, owner=principal.log_name).first()
    if found is None:
        raise _unknown()
    return found


def ask(
    principal: Principal,
    question: str,
    agents: Mapping[str, str],
    *,
    collection: str,
    conversation_id: str | None = None,
    turn: int | None = None,
) -> Asked:
    """Note a question. ``agents``: pane to agent. With ``turn`` it takes the place of that turn and all after it.

    Raises `InvalidRequest`, `NotFound`.
    """
    if not agents or not set(agents) <= set(Pane.values):
        raise InvalidRequest("panes: 'left', 'right', or both.", errors={"panes": "'left', 'right', or both."})
    if not question.strip() or len(question) > settings.RAG_QUERY_MAX_CHARACTERS or "\x00" in question:
        fault = f"From 1 to {settings.RAG_QUERY_MAX_CHARACTERS} characters."
        raise InvalidRequest(f"question: {fault}", errors={"question": fault})
    for name, value in (("collection", collection), *(("panes", agent) for agent in agents.values())):
        if len(value) > NAME_CHARACTERS or "\x00" in value:
            fault = f"Names of at most {NAME_CHARACTERS} characters."
            raise InvalidRequest(f"{name}: {fault}", errors={name: fault})
    with transaction.atomic():
        if conversation_id is None:
            conversation = Conversation.objects.create(
                owner=principal.log_name,
                user_id=principal.user_id,
                title=" ".join(question.split())[:TITLE_CHARACTERS],
                collection=collection,
            )
            number = 1
        else:
            conversation = own(conversation_id, principal)
            Conversation.objects.select_for_update(no_key=True).get(pk=conversation.pk)
            if turn is not None:
                conversation.messages.filter(turn__gte=turn).delete()
                conversation.preferences.filter(turn__gte=turn).delete()
            number = (conversation.messages.aggregate(last=Max("turn"))["last"] or 0) + 1
            conversation.collection = collection
            conversation.updated_at = timezone.now()
            if number == 1:
                conversation.title = " ".join(question.split())[:TITLE_CHARACTERS]
            conversation.save(update_fields=["collection", "updated_at", "title"])
        history = {pane: history_of(conversation, pane) for pane in agents}
        Message.objects.create(conversation=conversation, turn=number, text=question)
        answers = {pane: str(uuid.uuid4()) for pane in sorted(agents)}
        Message.objects.bulk_create(
            Message(
                conversation=conversation,
                turn=number,
                pane=pane,
                agent=agents[pane],
                request_id=answers[pane],
                state=MessageState.WRITING,
            )
            for pane in answers
        )
    return Asked(conversation, number, answers, history)


def history_of(conversation: Conversation, pane: str) -> tuple[Turn, ...]:
    """What was said before, as the agent of a pane has heard it; an answer of the other pane where it gave none."""
    turns: dict[int, dict[str, str]] = {}
    for message in conversation.messages.filter(~Q(state=MessageState.FAILED)).order_by("-turn")[: 3 * HISTORY_TURNS]:
        turns.setdefault(message.turn, {})[message.pane] = message.text
    history: list[Turn] = []
    for number in sorted(turns)[-HISTORY_TURNS:]:
        said = turns[number]
        history.append(Turn("user", said.get("", "")))
        answered = said.get(pane) or said.get(Pane.LEFT) or said.get(Pane.RIGHT)
        if answered:
            history.append(Turn("assistant", answered))
    return tuple(history)


def note_answer(request_id: str, answer: Answer | None, failure: str) -> None:
    """Keep how an answer ended. One whose conversation is gone is dropped."""
    state = MessageState.FAILED if failure else MessageState.DONE
    if answer is not None and answer.finish_reason == "stopped":
        state = MessageState.STOPPED
    Message.objects.filter(request_id=request_id).update(
        text="" if answer is None else answer.text,
        model="" if answer is None else answer.model,
        state=state,
        failure=failure,
        answer=None if answer is None else answer_json(answer),
    )


def turns_of(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation for its page: each turn with its question and answers."""
    verdicts = dict(conversation.preferences.values_list("turn", "verdict"))
    turns: dict[int, dict[str, Any]] = {}
    for message in conversation.messages.all():
        turn = turns.setdefault(message.turn, {"turn": message.turn, "question": "", "answers": {}})
        if not message.pane:
            turn["question"] = message.text
            continue
        turn["answers"][message.pane] = {
            "request_id": str(message.request_id),
            "agent": message.agent,
            "state": message.state,
            "failure": message.failure,
            "answer": message.answer,
        }
    for number, turn in turns.items():
        turn["verdict"] = verdicts.get(number)
    return [turns[number] for number in sorted(turns)]


def share(conversation: Conversation, principal: Principal, *, shared: bool) -> Conversation:
    """Open or close the address under which others may read it; a closed one is never opened again."""
    if shared == (conversation.share_id is not None):
        return conversation
    conversation.share_id = uuid.uuid4() if shared else None
    with transaction.atomic():
        conversation.save(update_fields=["share_id"])
        action = SHARE if shared else UNSHARE
        audit.record(principal, action, str(conversation.pk))
    return conversation


def shared_turns(share_id: uuid.UUID, reader: Principal) -> tuple[Conversation, list[dict[str, Any]]]:
    """A shared conversation as ``reader`` may see it: answers that rest on what the reader may not read are withheld.

    Raises `NotFound` for what isn't shared, and for a collection that the reader may not touch.
    """
    found = Conversation.objects.filter(share_id=share_id).first()
    if found is None or not open_collections(reader).filter(slug=found.collection).exists():
        raise NotFound("There is no such conversation, or it is no longer shared with you.")
    turns = turns_of(found)
    answers = [one for turn in turns for one in turn["answers"].values() if one["answer"] is not None]
    needed = {passage["pk"] for one in answers for passage in one["answer"]["passages"]}
    readable = set(_readable(reader, needed))
    for one in answers:
        sources = {passage["pk"] for passage in one["answer"]["passages"]}
        if not sources <= readable:
            one["answer"], one["state"], one["failure"] = None, MessageState.FAILED, WITHHELD
    return found, turns


def _readable(reader: Principal, pks: set[int]) -> Sequence[int]:
    documents: QuerySet[Document] = readable_documents(reader)
    return list(documents.filter(pk__in=pks).values_list("pk", flat=True))


def vote(conversation: Conversation, turn: int, verdict: str, principal: Principal) -> Preference:
    """Which answer of a turn was better, which rates the passages that they cite, too. The same again changes it.

    Raises `InvalidRequest`, `NotFound`.
    """
    if verdict not in Verdict.values:
        fault = f"One of {', '.join(Verdict.values)}."
        raise InvalidRequest(f"verdict: {fault}", errors={"verdict": fault})
    said = {message.pane: message for message in conversation.messages.filter(turn=turn)}
    if not {"", Pane.LEFT, Pane.RIGHT} <= set(said):
        raise NotFound("There are no two answers to compare in this turn.")
    left, right = (
        {"agent": one.agent, "model": one.model, "text": one.text} for one in (said[Pane.LEFT], said[Pane.RIGHT])
    )
    with transaction.atomic():
        row, _ = Preference.objects.update_or_create(
            conversation=conversation,
            turn=turn,
            by=principal.log_name,
            defaults={"verdict": verdict, "question": said[""].text, "left": left, "right": right},
        )
        rate_passages(verdict, {pane: said[pane] for pane in (Pane.LEFT, Pane.RIGHT)}, principal)
    return row


def export(conversation: Conversation) -> dict[str, Any]:
    """Everything that is kept of a conversation, as JSON."""
    return {
        "id": str(conversation.pk),
        "title": conversation.title,
        "collection": conversation.collection,
        "created_at": conversation.created_at.isoformat(),
        "updated_at": conversation.updated_at.isoformat(),
        "turns": turns_of(conversation),
    }


def preference_lines() -> Iterator[dict[str, Any]]:
    """Every verdict in the form in which preference optimisation takes them; ties and both bad say so."""
    for row in Preference.objects.order_by("id").iterator():
        better, worse = (row.right, row.left) if row.verdict == Verdict.RIGHT else (row.left, row.right)
        yield {
            "prompt": row.question,
            "verdict": row.verdict,
            "chosen": better if row.verdict in {Verdict.LEFT, Verdict.RIGHT} else None,
            "rejected": worse if row.verdict in {Verdict.LEFT, Verdict.RIGHT} else None,
            "left": row.left,
            "right": row.right,
            "judged_at": row.created_at.isoformat(),
        }


def delete(conversation: Conversation, principal: Principal) -> None:
    with transaction.atomic():
        audit.record(principal, DELETE, str(conversation.pk))
        conversation.delete()


def old(now: datetime) -> QuerySet[Conversation]:
    """Those that nobody has added to for ``RAG_CONVERSATION_RETENTION_DAYS``."""
    return Conversation.objects.filter(updated_at__lt=now - timedelta(days=settings.RAG_CONVERSATION_RETENTION_DAYS))


def purge(now: datetime) -> int:
    """Delete the old ones; how many there were."""
    found = list(old(now).values_list("pk", flat=True))
    Conversation.objects.filter(pk__in=found).delete()
    return len(found)


def _unknown() -> NotFound:
    return NotFound("There is no such conversation of yours. It may have been deleted.")
