"""The protocol of ``/ws/voice``: every message, written down once.

The AsyncAPI file and the reference page are made of it (`manage.py voice protocol`), incoming messages are checked by
it, and a test checks every outgoing one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ops.contracts.problems import InvalidRequest

VERSIONS = (1,)
INPUT_RATE_HZ = 16_000

FRAME = struct.Struct("<BBHI")
"""Before each binary message: kind, flags, sentence, sequence number."""
AUDIO_IN, AUDIO_OUT = 1, 2
LAST_OF_SENTENCE = 1

Direction = Literal["in", "out"]
Format = Literal["pcm16", "opus"]
Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "maxLength": 100}
FORMAT: Schema = {"enum": ["pcm16", "opus"]}


@dataclass(frozen=True, slots=True)
class Field:
    schema: Schema
    about: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """A JSON message. Beside its fields it has ``type``; outgoing ones have ``seq`` too, counting from 1."""

    name: str
    direction: Direction
    about: str
    fields: Mapping[str, Field]

    def schema(self) -> dict[str, Any]:
        properties: dict[str, Any] = {"type": {"const": self.name}}
        if self.direction == "out":
            properties["seq"] = {"type": "integer", "minimum": 1}
        properties |= {name: dict(field.schema) | {"description": field.about} for name, field in self.fields.items()}
        required = ["type", *(["seq"] if self.direction == "out" else [])]
        required += [name for name, field in self.fields.items() if field.required]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _options(required: bool) -> dict[str, Field]:
    return {
        "collection": Field(NAME, "Slug of the collection that answers.", False),
        "agent": Field(NAME, "Slug of the agent that answers.", False),
        "voice": Field(NAME, "One of those that `session.started` lists; empty or left out: the agent's own.", False),
        "style": Field(
            {"enum": ["analytical", "teaching", "explaining", "encouraging"]}, "Manner in which it is spoken.", False
        ),
        "hands_free": Field(
            BOOLEAN, "Whether silence ends a turn; otherwise `input.commit` does, when a button is let go.", False
        ),
        "wake_word": Field(
            BOOLEAN, "Whether only what follows the wake word is for the agent, when it has been silent a while.", False
        ),
        "keep_transcript": Field(
            BOOLEAN, "Whether what is said from now on is kept as a conversation. It is unless this says no.", False
        ),
    }


MESSAGES: tuple[Message, ...] = (
    Message(
        "session.start",
        "in",
        "The first message. It begins a session, or with `resume` goes on with one whose connection was lost.",
        {
            "versions": Field(
                {"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 16}, "Versions it speaks."
            ),
            "sample_rate": Field(INTEGER, f"Of what it will send; only {INPUT_RATE_HZ} is taken.", False),
            "input_format": Field(FORMAT, "Of the sound that it will send; PCM16 unless it says otherwise.", False),
            "output_format": Field(FORMAT, "Of the sound that it wants.", False),
            "acknowledges": Field(BOOLEAN, "Whether it sends `audio.ack`; otherwise it plays in real time.", False),
            "resume": Field(NAME, "The `token` of the session to go on with.", False),
            **_options(False),
        },
    ),
    Message("session.update", "in", "Change options in the middle.", _options(False)),
    Message("session.end", "in", "That was all; the socket is closed.", {}),
    Message("input.commit", "in", "The turn is over: the button was let go.", {}),
    Message(
        "input.text",
        "in",
        "A question that was typed.",
        {"text": Field({"type": "string", "minLength": 1, "maxLength": 2000}, "The question.")},
    ),
    Message("stop", "in", "Be silent, and forget the answer.", {}),
    Message(
        "audio.ack",
        "in",
        "How far it has played, every 100 ms or so while it plays.",
        {"position": Field(INTEGER, "Samples since the session began.")},
    ),
    Message(
        "session.started",
        "out",
        "The session is there.",
        {
            "version": Field(INTEGER, "The version that both will speak."),
            "session": Field(STRING, "Its id, as in logs."),
            "token": Field(STRING, "For `resume`. Keep it to yourself."),
            "resumed": Field(BOOLEAN, "Whether it goes on with an earlier one."),
            "resume_s": Field(NUMBER, "How long it waits for a lost connection."),
            "input_rate": Field(INTEGER, "Of the PCM16 that is to be sent."),
            "output_rate": Field(INTEGER, "Of what will be sent, and in which positions count."),
            "input_format": Field(
                FORMAT, "What is to be sent: PCM16 where Opus was offered and can't be decoded here."
            ),
            "output_format": Field(FORMAT, "What will be sent."),
            "collection": Field(STRING, "The collection that answers."),
            "voices": Field({"type": "array", "items": STRING}, "Voices, the one that speaks first."),
            "engines": Field({"type": "object"}, "`name@version` of what hears, speaks and judges."),
            "position": Field(INTEGER, "From where samples are counted."),
        },
    ),
    Message(
        "vad.started",
        "out",
        "Somebody speaks.",
        {"over_voice": Field(BOOLEAN, "Whether it was over the agent's voice.")},
    ),
    Message("vad.ended", "out", "They pause.", {"silent_ms": Field(NUMBER, "How long already.")}),
    Message(
        "wake",
        "out",
        "With `wake_word`: the wake word was heard, or is needed again.",
        {"awake": Field(BOOLEAN, "Whether what is said now is for the agent.")},
    ),
    Message(
        "transcript.partial",
        "out",
        "What was heard of this turn so far. The next may say it otherwise.",
        {"text": Field(STRING, "All of the turn.")},
    ),
    Message(
        "transcript.final",
        "out",
        "What was heard of this turn, when it is over.",
        {
            "text": Field(STRING, "All of the turn."),
            "confidence": Field(NUMBER, "The engine's own, in [0, 1]."),
            "language": Field(STRING, "ISO 639-1."),
        },
    ),
    Message(
        "turn.state",
        "out",
        "Whose turn it is.",
        {
            "state": Field(
                {"enum": ["listening", "endpointing", "thinking", "speaking", "interrupted", "resuming"]},
                "See the guide.",
            )
        },
    ),
    Message(
        "turn.started", "out", "An answer is being looked for.", {"turn": Field(INTEGER, ""), "text": Field(STRING, "")}
    ),
    Message(
        "turn.ended",
        "out",
        "The turn is over.",
        {
            "turn": Field(INTEGER, "Its number."),
            "outcome": Field({"enum": ["heard", "interrupted", "stopped", "cancelled", "failed"]}, "How it ended."),
            "heard": Field(STRING, "What of the answer was really heard: that is what the conversation remembers."),
        },
    ),
    Message(
        "turn.ignored",
        "out",
        "Something was heard that is no turn.",
        {"reason": Field(STRING, "`backchannel`, `noise`, `nothing`, `stop`, …")},
    ),
    Message(
        "retrieval",
        "out",
        "What was found.",
        {
            "turn": Field(INTEGER, "Its number."),
            "passages": Field(
                {"type": "array", "items": {"type": "object"}}, "Number, title, source, page, text, address."
            ),
            "degraded": Field({"type": "array", "items": STRING}, "What could not be used."),
        },
    ),
    Message(
        "answer.delta",
        "out",
        "The next piece of the answer's text.",
        {"turn": Field(INTEGER, "Its number."), "text": Field(STRING, "With citations as `[1]`.")},
    ),
    Message(
        "citation",
        "out",
        "The text so far ends with this citation.",
        {
            "turn": Field(INTEGER, "Its number."),
            "number": Field(INTEGER, "As in the text and in `retrieval`."),
            "quote": Field(STRING, "The text that is cited."),
        },
    ),
    Message(
        "audio.sentence",
        "out",
        "The sound of a sentence begins, in the binary messages that follow.",
        {
            "turn": Field(INTEGER, "Its number."),
            "sentence": Field(INTEGER, "Its place in the answer, from 0; as in the binary messages."),
            "text": Field(STRING, "As it is written."),
            "position": Field(INTEGER, "The sample at which it begins."),
        },
    ),
    Message("audio.duck", "out", "Play softly: somebody may be interrupting.", {"on": Field(BOOLEAN, "Or as before.")}),
    Message(
        "interrupted",
        "out",
        "Drop what was not played yet, and count on from `position`.",
        {
            "position": Field(INTEGER, "The sample at which the next sound will begin."),
            "kind": Field({"type": ["string", "null"]}, "What it was interrupted by."),
        },
    ),
    Message(
        "resumed", "out", "It goes on from the sentence that was interrupted.", {"sentence": Field(INTEGER, "Which.")}
    ),
    Message(
        "transcript.kept",
        "out",
        "What is said is kept as a conversation, to be read, searched, exported and deleted like those that are typed.",
        {"conversation": Field(STRING, "Its id, as in `/rag/conversations/{id}`.")},
    ),
    Message(
        "metrics",
        "out",
        "Where the time of a turn went, in milliseconds since the end of the speech.",
        {
            "turn": Field(INTEGER, "Its number."),
            "endpoint_ms": Field(NUMBER, "Until the silence was long enough."),
            "transcript_ms": Field(
                {"type": ["number", "null"]}, "Until the final transcript; null for a typed question."
            ),
            "retrieval_ms": Field({"type": ["number", "null"]}, "Until the passages were found."),
            "first_token_ms": Field({"type": ["number", "null"]}, "Until the first word of the answer."),
            "first_audio_ms": Field(NUMBER, "Until the first sound was sent."),
            "speculative": Field(BOOLEAN, "Whether it was looked up before the turn was over."),
        },
    ),
    Message(
        "error",
        "out",
        "Something failed; the session goes on unless `fatal`.",
        {
            "code": Field(
                STRING,
                "Short and fixed: `stt-failed`, `tts-failed`, `answer-failed`, `audio-dropped`, `audio-clipped`, …",
            ),
            "detail": Field(STRING, "What to do."),
            "fatal": Field(BOOLEAN, "Whether the socket is closed."),
        },
    ),
)

INCOMING = {message.name: message for message in MESSAGES if message.direction == "in"}
OUTGOING = {message.name: message for message in MESSAGES if message.direction == "out"}


def check_incoming(content: Mapping[str, Any]) -> Message:
    """The declaration of a message that came in. Raises `InvalidRequest`, naming the first fault."""
    name = content.get("type")
    message = INCOMING.get(name) if isinstance(name, str) else None
    if message is None:
        raise InvalidRequest(f"'type' must be one of {', '.join(INCOMING)}.", errors={"type": "unknown"})
    for field_name, value in content.items():
        if field_name == "type":
            continue
        field = message.fields.get(field_name)
        if field is None:
            raise InvalidRequest(
                f"{message.name} has no field '{field_name[:50]}'.", errors={field_name[:50]: "unknown"}
            )
        fault = _fault(value, field.schema)
        if fault:
            raise InvalidRequest(f"{message.name}: '{field_name}' {fault}.", errors={field_name: fault})
    missing = [key for key, field in message.fields.items() if field.required and key not in content]
    if missing:
        raise InvalidRequest(f"{message.name} needs '{missing[0]}'.", errors={missing[0]: "missing"})
    return message


def _fault(value: object, schema: Schema) -> str | None:
    """What is wrong with a value, for the few keywords that incoming fields use."""
    if "enum" in schema:
        return None if value in schema["enum"] else f"must be one of {', '.join(schema['enum'])}"
    match schema["type"]:
        case "string":
            if not isinstance(value, str):
                return "must be text"
            if "\x00" in value:
                return "must not hold the character U+0000"
            longest, shortest = schema.get("maxLength", 10_000), schema.get("minLength", 0)
            return (
                None
                if shortest <= len(value.strip()) and len(value) <= longest
                else (f"must have {max(shortest, 1)} to {longest} characters")
            )
        case "integer":
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            return None if is_whole and 0 <= value < 2**53 else "must be a whole number from 0"  # type: ignore[operator]
        case "boolean":
            return None if isinstance(value, bool) else "must be true or false"
        case "array":
            if not isinstance(value, list) or not schema["minItems"] <= len(value) <= schema["maxItems"]:
                return f"must be a list of {schema['minItems']} to {schema['maxItems']}"
            return next((fault for one in value if (fault := _fault(one, schema["items"]))), None)
    raise AssertionError(f"no check for {schema}")


def check_sound(data: bytes, sound_format: Format = "pcm16") -> tuple[int, bytes]:
    """Sequence number and sound of a binary message. Raises `InvalidRequest`."""
    if len(data) < FRAME.size + (1 if sound_format == "opus" else 2):
        raise InvalidRequest(f"A binary message has a header of {FRAME.size} bytes and sound behind it.")
    kind, _, _, sequence = FRAME.unpack_from(data)
    if kind != AUDIO_IN:
        raise InvalidRequest(f"Binary messages to the server are of kind {AUDIO_IN}, not {kind}.")
    if sound_format == "pcm16" and (len(data) - FRAME.size) % 2:
        raise InvalidRequest("PCM16 has an even number of bytes.")
    return sequence, data[FRAME.size :]


def sound_frame(sentence: int, sequence: int, sound: bytes, *, is_last: bool) -> bytes:
    flags = LAST_OF_SENTENCE if is_last else 0
    return FRAME.pack(AUDIO_OUT, flags, sentence & 0xFFFF, sequence & 0xFFFFFFFF) + sound


def asyncapi() -> dict[str, Any]:
    """The protocol as an AsyncAPI 3.0 document."""
    binary = {
        "audio.in": "Client to server: `<BBHI` (kind 1, flags 0, sentence 0, sequence number), then PCM16, mono, at "
        "`input_rate`, or one Opus packet, mono.",
        "audio.out": "Server to client: `<BBHI` (kind 2, flags, sentence, sequence number), then PCM16, mono, at "
        "`output_rate`, or one Opus packet of 20 ms, mono. Flag 1: the last of its sentence.",
    }
    messages: dict[str, Any] = {
        _key(message.name): {
            "name": message.name,
            "summary": message.about,
            "contentType": "application/json",
            "payload": message.schema(),
        }
        for message in MESSAGES
    }
    for name, about in binary.items():
        messages[_key(name)] = {
            "name": name,
            "summary": about,
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "format": "binary"},
        }

    def operation(action: str, names: list[str]) -> dict[str, Any]:
        references = [{"$ref": f"#/channels/voice/messages/{_key(name)}"} for name in names]
        return {"action": action, "channel": {"$ref": "#/channels/voice"}, "messages": references}

    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ZenGlow voice",
            "version": str(VERSIONS[-1]),
            "description": "A spoken conversation over one websocket. The server is the one that is described.",
        },
        "channels": {
            "voice": {
                "address": "/ws/voice",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in sorted(messages)},
            }
        },
        "operations": {
            "hear": operation("receive", [*INCOMING, "audio.in"]),
            "answer": operation("send", [*OUTGOING, "audio.out"]),
        },
        "components": {"messages": {name: messages[name] for name in sorted(messages)}},
    }


def reference_page() -> str:
    """The Markdown of ``docs/reference/voice-protocol.md``."""
    lines = [
        "# The protocol of `/ws/voice`",
        "",
        "<!-- Generated by `manage.py voice protocol`. Change voice/protocol.py. -->",
        "",
        f"Version {VERSIONS[-1]}. The same as a schema: [voice.asyncapi.json](voice.asyncapi.json). Text messages are",
        "JSON objects with a `type`; those of the server count up in `seq`. A message that is refused is answered by",
        '`{"type": "problem", "problem": {…}}` as on every websocket here, and the socket stays open.',
        "",
        "Binary messages begin with eight bytes, little endian: kind (1 byte: 1 from the client, 2 from the server),",
        "flags (1 byte; 1: the last of its sentence), sentence (2 bytes), sequence number (4 bytes). PCM of 16 bits,",
        "mono, follows, or where both sides agreed on it in `session.start` and `session.started` one Opus packet. A",
        "frame that is not newer than the last one is dropped.",
    ]
    for direction, title in (("in", "To the server"), ("out", "From the server")):
        lines += ["", f"## {title}"]
        for message in MESSAGES:
            if message.direction == direction:
                lines += ["", f"### `{message.name}`", "", message.about]
                if message.fields:
                    lines += ["", "| field | type | what |", "| --- | --- | --- |"]
                    for name, field in message.fields.items():
                        marks = "" if field.required else " (optional)"
                        lines.append(f"| `{name}` | {_type_name(field.schema)}{marks} | {field.about} |")
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _type_name(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    kind = schema["type"]
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
