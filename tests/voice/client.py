"""A client of ``/ws/voice`` through the real application, which hears and acknowledges as a page would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jsonschema_rs
from channels.testing import WebsocketCommunicator

from tests.patience import PATIENCE_S
from tests.voice.sounds import frames, pcm_of, silence
from voice.opus import PACKET_SAMPLES
from voice.protocol import AUDIO_IN, AUDIO_OUT, FRAME, OUTGOING

_checkers = {name: jsonschema_rs.validator_for(message.schema()) for name, message in OUTGOING.items()}


class Talker:
    """One opened socket. Every message that comes is held against the protocol."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self.communicator = communicator
        self.sequence = 0
        self.messages: list[dict[str, Any]] = []
        self.sound = bytearray()
        self.packets: list[bytes] = []
        """The same, a frame each."""
        self.is_opus = False
        self.plays = True
        self.token = ""
        self._last_seq = 0

    async def tell(self, name: str, **fields: Any) -> None:
        await self.communicator.send_input({"type": "websocket.receive", "text": json.dumps({"type": name} | fields)})

    async def send(self, pcm: bytes) -> None:
        for frame in frames(pcm):
            self.sequence += 1
            await self.send_frame(FRAME.pack(AUDIO_IN, 0, 0, self.sequence) + frame)

    async def send_frame(self, data: bytes) -> None:
        await self.communicator.send_input({"type": "websocket.receive", "bytes": data})

    async def say(self, pcm: bytes) -> None:
        """An utterance, and the silence that ends it."""
        await self.send(silence(320) + pcm + silence(640))

    async def start(self, **options: Any) -> dict[str, Any]:
        await self.tell("session.start", versions=[1], acknowledges=True, **options)
        started = await self.next_of("session.started")
        self.token, self.is_opus = started["token"], started["output_format"] == "opus"
        return started

    async def next(self) -> dict[str, Any]:
        """The next message; sound is kept, and acknowledged as if it were played at once."""
        while True:
            output = await self.communicator.receive_output(PATIENCE_S)
            if output["type"] == "websocket.close":
                return {"type": "closed", "code": output.get("code")}
            if output.get("bytes") is not None:
                kind, _, _, _ = FRAME.unpack_from(output["bytes"])
                assert kind == AUDIO_OUT
                sound = output["bytes"][FRAME.size :]
                self.sound += sound
                self.packets.append(sound)
                if self.plays:
                    self.position += PACKET_SAMPLES if self.is_opus else len(sound) // 2
                    await self.tell("audio.ack", position=self.position)
                continue
            message: dict[str, Any] = json.loads(output["text"])
            if message["type"] != "problem":
                _checkers[message["type"]].validate(message)
                if message["type"] in {"session.started", "interrupted"}:
                    self.position = message["position"]
            self.messages.append(message)
            return message

    async def next_of(self, *names: str) -> dict[str, Any]:
        while True:
            message = await self.next()
            if message["type"] in names:
                return message
            assert message["type"] != "closed", message

    async def state(self, name: str) -> None:
        while (await self.next_of("turn.state"))["state"] != name:
            pass

    async def ask_by_voice(self) -> None:
        await self.say(pcm_of("slow-queries"))
        await self.state("speaking")

    async def end_of_turn(self) -> dict[str, Any]:
        """How the turn ended. On a slow machine one may begin before all was heard, and is taken back then."""
        while (ended := await self.next_of("turn.ended"))["outcome"] == "cancelled":
            pass
        return ended

    async def closed(self) -> int:
        """The code with which the server closes."""
        while (message := await self.next())["type"] != "closed":
            pass
        return int(message["code"])

    def seen(self, name: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == name]

    position = 0


@asynccontextmanager
async def talking(
    headers: dict[str, str] | None = None,
    client: str = "127.0.0.1",
    around: Callable[[Any], Any] = lambda application: application,
) -> AsyncIterator[Talker]:
    """``around`` wraps the application."""
    from zenglow_site.asgi import application

    fields = {"host": "127.0.0.1:8000"} | (headers or {})
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    communicator = WebsocketCommunicator(around(application), "/ws/voice", pairs)
    communicator.scope["client"] = [client, 40_000]
    accepted, _ = await communicator.connect(PATIENCE_S)
    assert accepted
    try:
        yield Talker(communicator)
    finally:
        await communicator.disconnect(timeout=PATIENCE_S)
        await asyncio.sleep(0)
