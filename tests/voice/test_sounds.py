"""Sound files: every format that is taken, and what can be wrong with one."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.contracts.problems import Problem, TooLarge, Unprocessable, UnsupportedMedia
from tests.voice.sounds import SPOKEN, pcm_of, tone
from voice import sounds


@pytest.fixture(autouse=True, scope="module")
def _closed_afterwards() -> Iterator[None]:
    yield
    sounds.pool.close()


def encoded(container_format: str, codec: str, pcm: bytes, rate: int = 16_000) -> bytes:
    target = io.BytesIO()
    with av.open(target, mode="w", format=container_format) as container:
        stream = container.add_stream(codec, rate=48_000 if codec == "libopus" else rate, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[np.newaxis], format="s16", layout="mono")
        sound.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate)
        for one in [*resampler.resample(sound), *resampler.resample(None)]:
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return target.getvalue()


def decode(data: bytes) -> bytes:
    return sounds.decode(data, longest_bytes=1 << 20, longest_s=10)


@pytest.mark.parametrize(
    ("container_format", "codec", "kind"),
    [
        ("wav", "pcm_s16le", "wav"),
        ("wav", "pcm_f32le", "wav"),
        ("ogg", "libopus", "ogg"),
        ("webm", "libopus", "webm"),
        ("mp3", "libmp3lame", "mp3"),
        ("flac", "flac", "flac"),
    ],
)
def test_it_reads(container_format: str, codec: str, kind: str) -> None:
    pcm = pcm_of("stop")
    data = encoded(container_format, codec, pcm)
    assert sounds.format_of(data) == kind
    read = decode(data)
    assert abs(len(read) - len(pcm)) < 16_000 * 2 * 0.15
    loudness = [float(np.abs(np.frombuffer(one, "<i2").astype(float)).mean()) for one in (pcm, read)]
    assert loudness[1] == pytest.approx(loudness[0], rel=0.25)


def test_another_rate_and_two_channels_become_one_of_16_khz() -> None:
    target = io.BytesIO()
    with av.open(target, mode="w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=44_100, layout="stereo")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 44_100), "<i2"), format="s16", layout="stereo")
        sound.sample_rate = 44_100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert len(decode(target.getvalue())) == pytest.approx(32_000, abs=200)


def test_what_is_spoken_can_be_had_as_wav_and_opus() -> None:
    pcm = tone(500)
    assert decode(sounds.wav_of(pcm, 16_000)) == pcm
    opus = sounds.opus_of(pcm, 16_000)
    assert sounds.format_of(opus) == "ogg"
    assert len(opus) < len(pcm) / 4
    assert len(decode(opus)) == pytest.approx(len(pcm), abs=3000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"%PDF-1.7" + bytes(100),
    ],
)
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="WAV"):
        decode(data)


def test_a_file_that_is_cut_off_or_empty_is_refused() -> None:
    whole = (SPOKEN / "stop.wav").read_bytes()
    for data in (whole[:20], whole[:44], b"OggS" + bytes(60), b"fLaC" + bytes(60), b"\x1a\x45\xdf\xa3" + bytes(60)):
        with pytest.raises(Unprocessable):
            decode(data)


KINDS = {"wav": "pcm_s16le", "ogg": "libopus", "webm": "libopus", "mp3": "libmp3lame", "flac": "flac"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_that_lacks_its_end_is_refused_whatever_its_format(kind: str, share: float) -> None:
    data = encoded(kind, KINDS[kind], pcm_of("slow-queries"))
    assert decode(data)
    with pytest.raises(Unprocessable, match="cut off"):
        decode(data[: int(share * len(data))])


def test_a_file_that_was_streamed_announces_nothing_and_is_taken() -> None:
    wav = bytearray((SPOKEN / "stop.wav").read_bytes())
    wav[4:8] = wav[40:44] = b"\xff\xff\xff\xff"
    assert decode(bytes(wav))
    webm = bytearray(encoded("webm", "libopus", pcm_of("stop")))
    at = webm.find(b"\x18\x53\x80\x67") + 4
    webm[at : at + 8] = b"\x01" + b"\xff" * 7
    assert decode(bytes(webm))


def test_too_much_is_refused_before_or_while_it_is_read() -> None:
    with pytest.raises(TooLarge):
        sounds.decode(sounds.wav_of(tone(200), 16_000), longest_bytes=1000, longest_s=10)
    # A minute of silence fits into a few hundred bytes.
    bomb = encoded("flac", "flac", bytes(16_000 * 2 * 60))
    assert len(bomb) < 100_000
    with pytest.raises(Unprocessable, match="longer than 10 s"):
        decode(bomb)


@settings(max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_damaged_files_are_read_or_refused_and_never_a_fault(kind: str, data: st.DataObject) -> None:
    codec = KINDS[kind]
    if kind not in _whole:
        _whole[kind] = encoded(kind, codec, tone(300))
    broken = bytearray(_whole[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(4, len(broken) - 1))] = data.draw(st.integers(0, 255))
    offered = bytes(broken[: data.draw(st.integers(10, len(broken)))])
    assert 200 <= status_of(offered) < 500


_whole: dict[str, bytes] = {}


def status_of(data: bytes) -> int:
    try:
        return 200 if decode(data) else 500
    except Problem as problem:
        return problem.status
