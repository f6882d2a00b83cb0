"""``/ws/voice``: the edge of a `voice.session.VoiceSession`. It decodes, hands over, and sends."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from django.conf import settings

from ops.access import Requirement
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Conflict, InvalidRequest, NotFound, Problem, TooManyRequests, UnsupportedMedia
from ops.sockets.consumer import SocketConsumer
from ops.sockets.handshake import charge_socket
from ops.sockets.threads import in_thread
from rag.api.answers import ANSWER_COST
from rag.models import Collection
from voice import opus, protocol, sessions
from voice.engines.contracts import Style
from voice.session import Options, VoiceSession
from voice.turns.manager import Asked, Committed, Stopped

START_TIMEOUT_S = 30.0
GRACE_MESSAGES = 400
"""JSON messages that a client may send at once; then `MESSAGES_PER_S`. Acknowledgements come ten times a second."""
MESSAGES_PER_S = 40.0
REVOKED = frozenset({4401, 4403})
_closing: set[asyncio.Task[None]] = set()


class VoiceConsumer(SocketConsumer):
    name = "voice"
    required_scope: ClassVar[Requirement | None] = Scope.VOICE
    # Acknowledgements and sound come many times a second; a turn is what costs, see `_charge`.
    message_cost = 0.0
    bytes_cost = 0.0

    async def opened(self) -> None:
        self._session: VoiceSession | None = None
        self._starting = False
        self._allowance, self._refilled_at = float(GRACE_MESSAGES), asyncio.get_running_loop().time()
        self.start(self._expect_start())

    async def received_json(self, content: dict[str, Any]) -> None:
        self._pay()
        message = protocol.check_incoming(content)
        if message.name == "session.start":
            await self._start(content)
            return
        session = self._running()
        match message.name:
            case "audio.ack":
                session.acknowledge(content["position"])
            case "input.commit":
                session.tell(Committed())
            case "input.text":
                session.tell(Asked(content["text"].strip()))
            case "stop":
                session.tell(Stopped())
            case "session.update":
                options = {name: value for name, value in content.items() if name != "type"}
                if "collection" in options:
                    await in_thread(_require_collection)(options["collection"], self.principal)
                session.update(options)
            case "session.end":
                session.end()
                await self.close(1000)

    async def received_bytes(self, data: bytes) -> None:
        session = self._running()
        session.take_sound(*protocol.check_sound(data, session.options.input_format))

    async def closed(self, code: int) -> None:
        session = getattr(self, "_session", None)
        if session is None or session.is_over:
            return
        session.on_over = None
        if code in REVOKED:
            session.end()
            return
        session.detach(self)

    def _running(self) -> VoiceSession:
        if self._session is None or self._session.is_over:
            raise Conflict("Send session.start first.")
        return self._session

    async def _start(self, content: dict[str, Any]) -> None:
        if self._session is not None or self._starting:
            raise Conflict("This socket has its session already.")
        if not set(content["versions"]) & set(protocol.VERSIONS):
            spoken = ", ".join(map(str, protocol.VERSIONS))
            await self.end(InvalidRequest(f"No version in common: this server speaks {spoken}.", versions=spoken))
            return
        if content.get("sample_rate", protocol.INPUT_RATE_HZ) != protocol.INPUT_RATE_HZ:
            raise UnsupportedMedia(f"Send PCM16 at {protocol.INPUT_RATE_HZ} Hz, mono.")
        self._starting = True
        try:
            session, is_resumed = await self._find_or_begin(content)
        except Problem as problem:
            if problem.status == 503:
                await self.end(problem)
                return
            raise
        finally:
            self._starting = False
        self._session = session
        session.on_over = lambda: _close_soon(self)
        session.attach(self, is_resumed=is_resumed)

    async def _find_or_begin(self, content: dict[str, Any]) -> tuple[VoiceSession, bool]:
        if "resume" in content:
            session = sessions.find(content["resume"], self.principal)
            previous = session.attached_to
            if previous is not None and isinstance(previous, VoiceConsumer):
                # The old connection may not have noticed yet that it is gone.
                previous._session = None
                await previous.close(4409)
            return session, True
        slug = content.get("collection") or settings.RAG_DEFAULT_COLLECTION
        if "collection" in content:
            await in_thread(_require_collection)(slug, self.principal)
        options = Options(
            collection=slug,
            agent=content.get("agent"),
            voice=content.get("voice", ""),
            style=Style(content.get("style", settings.VOICE_STYLE)),
            hands_free=content.get("hands_free", True),
            acknowledges=content.get("acknowledges", False),
            wake_word=content.get("wake_word", False),
            keep_transcript=content.get("keep_transcript", True),
            input_format=_format(content.get("input_format")),
            output_format=_format(content.get("output_format")),
        )
        return await sessions.begin(self.principal, options, in_thread, self._charge), False

    def _charge(self) -> None:
        """What an answer costs, however it is asked for. Blocks. Raises `TooManyRequests`."""
        if settings.RATE_LIMITS:
            charge_socket(self.principal, cast(Any, self.scope), ANSWER_COST)

    def _pay(self) -> None:
        """Keep a flood of small messages from this socket: no look at Redis for each of them."""
        now = asyncio.get_running_loop().time()
        self._allowance = min(self._allowance + (now - self._refilled_at) * MESSAGES_PER_S, float(GRACE_MESSAGES))
        self._refilled_at = now
        if self._allowance < 1:
            raise TooManyRequests(f"Send at most {MESSAGES_PER_S:g} messages a second.", retry_after_s=1)
        self._allowance -= 1

    async def _expect_start(self) -> None:
        await asyncio.sleep(START_TIMEOUT_S)
        if self._session is None and not self._starting:
            await self.end(InvalidRequest(f"Send session.start within {START_TIMEOUT_S:g} s."))


def _close_soon(consumer: VoiceConsumer) -> None:
    task = asyncio.ensure_future(consumer.close(1000))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _format(asked: str | None) -> protocol.Format:
    return "opus" if asked == "opus" and opus.is_installed() else "pcm16"


def _require_collection(slug: str, principal: Principal) -> None:
    """Blocks. Raises `NotFound`, also for a collection that is not theirs to see."""
    if not principal.may_touch(slug) or not Collection.objects.filter(slug=slug).exists():
        raise NotFound(f"There is no collection '{slug}'.")
