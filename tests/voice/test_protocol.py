"""The protocol is written down once, and its references are current."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.contracts.problems import InvalidRequest
from voice.management.commands.voice import references
from voice.protocol import AUDIO_IN, FRAME, INCOMING, MESSAGES, asyncapi, check_incoming, check_sound, sound_frame

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_the_references_are_current() -> None:
    for name, text in references().items():
        assert (REFERENCE / name).read_text("utf-8") == text, "run `manage.py voice protocol`"


def test_every_message_and_field_says_what_it_is() -> None:
    assert len({message.name for message in MESSAGES}) == len(MESSAGES)
    for message in MESSAGES:
        assert message.about
    document = asyncapi()
    for operation in document["operations"].values():
        for reference in operation["messages"]:
            assert reference["$ref"].rsplit("/", 1)[1] in document["components"]["messages"]
    json.dumps(document)


def test_what_comes_in_is_checked_by_it() -> None:
    assert check_incoming({"type": "audio.ack", "position": 7}).name == "audio.ack"
    for wrong in (
        {},
        {"type": 3},
        {"type": ["stop"]},
        {"type": "stop", "more": 1},
        {"type": "audio.ack"},
        {"type": "audio.ack", "position": True},
        {"type": "audio.ack", "position": 1.5},
        {"type": "input.text", "text": "\x00"},
        {"type": "session.start", "versions": []},
        {"type": "session.start", "versions": ["1"]},
        {"type": "session.start", "versions": [1], "hands_free": "yes"},
    ):
        with pytest.raises(InvalidRequest):
            check_incoming(wrong)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = sorted({name for message in INCOMING.values() for name in message.fields})


@given(
    st.sampled_from([*sorted(INCOMING), "", "nonsense"]),
    st.dictionaries(st.sampled_from([*names, "other"]), values, max_size=4),
)
def test_anything_is_taken_or_refused(name: str, fields: dict[str, object]) -> None:
    with suppress(InvalidRequest):
        assert check_incoming({"type": name} | fields).name == name


@given(st.binary(max_size=40))
def test_any_bytes_are_sound_or_refused(data: bytes) -> None:
    try:
        sequence, pcm = check_sound(data)
    except InvalidRequest:
        return
    assert data == FRAME.pack(AUDIO_IN, data[1], int.from_bytes(data[2:4], "little"), sequence) + pcm


def test_sound_goes_out_behind_its_header() -> None:
    frame = sound_frame(70_000, 2**32 + 5, b"ab", is_last=True)
    assert FRAME.unpack_from(frame) == (2, 1, 70_000 & 0xFFFF, 5)
    assert frame[FRAME.size :] == b"ab"
