"""``/ws/chat``: questions in, answers out as they are written, to one agent or two at once.

From the browser: ``ask``, ``stop``, ``follow`` (again, after a connection broke). To it: ``asked`` with the ids of the
answers to come, then ``event`` with the answer's id, a number, a name and data as on SSE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from django.conf import settings

from ops.contracts.principal import Scope
from ops.contracts.problems import InvalidRequest, Problem, TooManyRequests
from ops.sockets.consumer import SocketConsumer
from ops.sockets.handshake import charge_socket
from ops.sockets.threads import in_thread
from rag.answers import relay
from rag.answers.contracts import Answer, AnswerRequest
from rag.api.answers import ANSWER_COST
from rag.chat import conversations

INCOMING: Mapping[str, tuple[str, ...]] = {
    "ask": ("panes", "question", "collection", "conversation", "turn", "reference"),
    "stop": ("answer",),
    "follow": ("answer", "after"),
    "ping": (),
}
"""What a client may send: each type with its fields."""

MOST_FOLLOWED = 8
"""Answers that one socket is told of at once."""


class ChatConsumer(SocketConsumer):
    name: ClassVar[str] = "chat"
    required_scope = Scope.QUERY
    longest_message: ClassVar[int] = 512 * 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._followed: set[str] = set()

    async def received_json(self, content: dict[str, Any]) -> None:
        match content.get("type"):
            case "ask":
                await self._ask(content)
            case "stop":
                await relay.stop(_text(content, "answer"), self.principal)
            case "follow":
                self._follow(_text(content, "answer"), _number(content, "after"))
            case "ping":
                await self.send_json({"type": "pong"})
            case _:
                *others, last = map(repr, INCOMING)
                raise InvalidRequest(f"type: {', '.join(others)} or {last}.")

    async def _ask(self, content: dict[str, Any]) -> None:
        panes = content.get("panes")
        if not isinstance(panes, dict) or not all(isinstance(one, str) for one in panes.values()):
            raise InvalidRequest("panes: an object of pane to agent.", errors={"panes": "An object of pane to agent."})
        if settings.RATE_LIMITS:
            # The message itself has paid its part.
            cost = ANSWER_COST * max(len(panes), 1) - self.message_cost
            await in_thread(charge_socket)(self.principal, self._facts, cost)
        if len(self._followed) + len(panes) > MOST_FOLLOWED:
            raise TooManyRequests("Wait for the answers that are being written.", retry_after_s=5)
        relay.ensure_room()
        collection = _text(content, "collection") or settings.RAG_DEFAULT_COLLECTION
        question = _text(content, "question")
        turn = content.get("turn")
        asked = await in_thread(conversations.ask)(
            self.principal,
            question,
            panes,
            collection=collection,
            conversation_id=content.get("conversation") or None,
            turn=turn if isinstance(turn, int) and turn > 0 else None,
        )
        for pane, request_id in asked.answers.items():
            request = AnswerRequest(
                query=question, collection=collection, agent=panes[pane] or None, history=asked.history[pane]
            )
            relay.start(request, self.principal, request_id=request_id, on_end=_note(request_id))
        await self.send_json(
            {
                "type": "asked",
                "reference": content.get("reference"),
                "conversation": str(asked.conversation.pk),
                "title": asked.conversation.title,
                "turn": asked.turn,
                "answers": dict(asked.answers),
            }
        )
        for request_id in asked.answers.values():
            self._follow(request_id, 0)

    def _follow(self, request_id: str, after: int) -> None:
        if request_id in self._followed:
            return
        if len(self._followed) >= MOST_FOLLOWED:
            raise TooManyRequests("Wait for the answers that are being written.", retry_after_s=5)
        self._followed.add(request_id)
        self.start(self._tell(request_id, after))

    async def _tell(self, request_id: str, after: int) -> None:
        try:
            async with aclosing(relay.follow(request_id, self.principal, after)) as events:
                async for number, name, data in events:
                    await self.send_json(
                        {"type": "event", "answer": request_id, "number": number, "event": name, "data": data}
                    )
                    await asyncio.sleep(0)  # a long answer lets others have their turn
        except Problem as problem:
            said = problem.as_dict(request_id=request_id, instance="/ws/chat")
            await self.send_json({"type": "gone", "answer": request_id, "problem": said})
        finally:
            self._followed.discard(request_id)


def _note(request_id: str) -> relay.OnEnd:
    async def note(answer: Answer | None, problem: Problem | None) -> None:
        failure = "" if problem is None else problem.detail or problem.title
        await in_thread(conversations.note_answer)(request_id, answer, failure)

    return note


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name, "")
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: a text.", errors={name: "A text."})
    return value


def _number(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest(f"{name}: a number from 0 on.", errors={name: "A number from 0 on."})
    return value
