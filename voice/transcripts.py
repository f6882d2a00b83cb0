"""What is kept of a spoken conversation: its questions, and of each answer what was heard, as typed ones are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.conf import settings

from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import NotFound
from rag.answers.contracts import Answer
from rag.chat import conversations
from rag.models import Message, Pane

UNHEARD = "It was interrupted before anything of the answer was heard."


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a turn is kept. ``message``: the request id of its answer's message."""

    conversation: str
    title: str
    message: str


def is_kept(principal: Principal, wish: bool) -> bool:
    """Whether it is kept: where the installation keeps them, and whoever talks may read them and wants to."""
    return wish and settings.VOICE_KEEP_TRANSCRIPTS and principal.has_scope(Scope.QUERY)


def keep(
    principal: Principal,
    question: str,
    answer: Answer | None,
    *,
    agent: str,
    collection: str,
    conversation: str | None,
    message: str | None,
    failure: str = "",
) -> Kept:
    """Note a turn; with ``message`` more was heard of one that was noted before. Blocks.

    A conversation that was deleted meanwhile stays so, and a new one begins.
    """
    if message is not None and conversation is not None and Message.objects.filter(request_id=message).exists():
        conversations.note_answer(message, answer, failure)
        return Kept(conversation, "", message)
    try:
        asked = _ask(principal, question, agent, collection, conversation)
    except NotFound:
        asked = _ask(principal, question, agent, collection, None)
    message = asked.answers[Pane.LEFT]
    conversations.note_answer(message, answer, failure or ("" if answer else UNHEARD))
    return Kept(str(asked.conversation.pk), asked.conversation.title, message)


def heard_of(answer: Answer, heard: Sequence[str]) -> Answer | None:
    """An answer as far as it was heard: sentences, or their beginnings, in order. ``None``: nothing of it."""
    end = 0
    for piece in heard:
        words = re.compile(r"\s+".join(map(re.escape, piece.split())))
        found = words.search(answer.text, end)
        end = found.end() if found is not None else end
    if not end:
        return None
    if not answer.text[end:].strip():
        return answer
    return replace(
        answer,
        text=answer.text[:end],
        sentences=tuple(replace(one, end=min(one.end, end)) for one in answer.sentences if one.start < end),
        citations=tuple(one for one in answer.citations if one.at + len(f"[{one.number}]") <= end),
        finish_reason="stopped",
    )


def _ask(
    principal: Principal, question: str, agent: str, collection: str, conversation: str | None
) -> conversations.Asked:
    return conversations.ask(
        principal, question, {Pane.LEFT: agent}, collection=collection, conversation_id=conversation
    )
