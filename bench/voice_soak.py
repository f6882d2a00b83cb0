"""Voice sessions that come and go, most of them rudely: memory, file descriptors, threads and sessions must stay flat.

python -m bench.voice_soak MINUTES        (5 by default)

Some ask and hear the answer, some interrupt it, some break off wherever they are, some flood, some read nothing. One
speaks for three minutes without a pause. An answer that never comes is a failure, and so is an error that is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from typing import Any

import psutil

from bench.serving import Client, web_server
from bench.setup import prepare
from bench.voice import FRAME_BYTES, FRAME_S, PATIENCE_S, Talker, _fill, one_talker, recording

AT_ONCE = 3
SAMPLES = 30
MONOLOGUE_S = 180
SETTLES_S = 4.0
"""Within that what was left behind is given back: ``VOICE_RESUME_S`` is one second."""
ALLOWED_GROWTH_MB = 8.0
ALLOWED_CODES = frozenset({"audio-dropped"})
SEED = 7
FAILED = "failed"

Reading = tuple[float, float, int, int, int, int]
"""Minutes, megabytes of the web process, descriptors, threads, children, sessions."""


async def one_person(port: int, number: int, pcm: bytes, speech_ends_at: int) -> str:
    """Begins a session, does something in it, and leaves in one of several ways; how it left."""
    talker, refusal = await one_talker(port)
    if refusal:
        return "refused"
    try:
        way = await _behave(talker, number, pcm, speech_ends_at)
    except (TimeoutError, ConnectionError) as error:
        print(f"person {number}, after {' '.join(talker.story)}: {error or 'waited in vain'}", flush=True)
        talker.transport.abort()
        return FAILED
    wrong = [code for code in talker.errors if code not in ALLOWED_CODES]
    if wrong:
        print(f"person {number} was told {', '.join(wrong)}", flush=True)
    return FAILED if wrong else way


async def _behave(talker: Talker, number: int, pcm: bytes, speech_ends_at: int) -> str:
    transport: Any = talker.transport
    match number % 8:
        case 0:
            talker.tell("input.text", text="What about slow queries?")
            await asyncio.wait_for(talker.ended, PATIENCE_S)
            talker.tell("session.end")
            await asyncio.wait_for(talker.gone, PATIENCE_S)
            return "answered"
        case 1:
            talker.tell("input.text", text="How do I restart the server?")
            await asyncio.sleep(random.uniform(0, 0.4))
            transport.abort()
            return "gone while it thinks or speaks"
        case 2:
            talker.send_sound(pcm[: 60 * FRAME_BYTES])
            transport.abort()
            return "gone while it listens"
        case 3:
            for sequence in range(1, 400):
                talker.send_frame(sequence % 50, random.randbytes(FRAME_BYTES))
            await asyncio.sleep(0.3)
            transport.abort()
            return "flood of noise out of order"
        case 4:
            await talker.ask(pcm, speech_ends_at)
            talker.tell("session.end")
            await asyncio.wait_for(talker.gone, PATIENCE_S)
            return "asked aloud"
        case 5:
            transport.pause_reading()
            for _ in range(20):
                talker.tell("input.text", text="What about slow queries?")
                await asyncio.sleep(0.1)
            transport.abort()
            return "asked and read nothing"
        case 6:
            talker.plays = False
            talker.tell("input.text", text="How do I restart the server?")
            await asyncio.wait_for(talker.first_sound, PATIENCE_S)
            talker.send_sound(pcm[: speech_ends_at + 12 * FRAME_BYTES])  # less than what may wait to be heard
            # Where all ears are taken nobody hears what it was, and the answer ends.
            first = (talker.interrupted, talker.ended)
            await asyncio.wait(first, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            transport.abort()
            return "interrupted, and gone" if talker.interrupted.done() else "not heard over the answer"
    transport.abort()
    return "gone at once"


async def monologue(port: int) -> str:
    """Three minutes of speech, as they are spoken."""
    talker, refusal = await one_talker(port)
    if refusal:
        return "refused"
    pcm = b"".join(recording(name)[0][16_000:-96_000] for name in ("slow-queries", "restart-server"))
    began = time.perf_counter()
    for number in range(round(MONOLOGUE_S / FRAME_S)):
        start = number * FRAME_BYTES % (len(pcm) - FRAME_BYTES)
        await asyncio.sleep(max(began + number * FRAME_S - time.perf_counter(), 0))
        talker.send_sound(pcm[start : start + FRAME_BYTES])
    talker.tell("session.end")
    await asyncio.wait_for(talker.gone, PATIENCE_S)
    return f"spoke for {MONOLOGUE_S} s without a pause"


async def soak(port: int, process: psutil.Process, minutes: float) -> tuple[list[Reading], int]:
    """The readings, and how many people were failed."""
    readings: list[Reading] = []
    left: dict[str, int] = {}
    pcm, speech_ends_at = recording("slow-queries")
    began = time.monotonic()
    pause_s = minutes * 60 / SAMPLES
    number = 0
    due = began + pause_s
    speaker = asyncio.create_task(monologue(port)) if minutes * 60 > MONOLOGUE_S + 30 else None
    while time.monotonic() < began + minutes * 60:
        people = (one_person(port, number + offset, pcm, speech_ends_at) for offset in range(AT_ONCE))
        for way in await asyncio.gather(*people):
            left[way] = left.get(way, 0) + 1
        number += AT_ONCE
        if speaker is not None and speaker.done():
            left[speaker.result()], speaker = 1, None
        if time.monotonic() >= due and speaker is None:
            due = time.monotonic() + pause_s
            await asyncio.sleep(SETTLES_S)
            readings.append(await asyncio.to_thread(_read, port, process, began))
            print(_line(readings[-1], number), flush=True)
    await asyncio.sleep(SETTLES_S)
    readings.append(await asyncio.to_thread(_read, port, process, began))
    print(_line(readings[-1], number), flush=True)
    print(", ".join(f"{count} {way}" for way, count in sorted(left.items())))
    return readings, left.get(FAILED, 0)


def _read(port: int, process: psutil.Process, began: float) -> Reading:
    with Client(port) as client:
        sessions = json.loads(client.post("/leonardo/status", b"", method="GET"))["sessions"]
    with process.oneshot():
        megabytes = process.memory_info().rss / 1e6
        minutes = (time.monotonic() - began) / 60
        return minutes, megabytes, process.num_fds(), process.num_threads(), len(process.children()), sessions


def _line(reading: Reading, number: int) -> str:
    minutes, megabytes, descriptors, threads, children, sessions = reading
    return (
        f"{minutes:>5.1f} min {number:>6} sessions so far: {megabytes:>7.1f} MB, {descriptors:>4} descriptors, "
        f"{threads:>3} threads, {children} children, {sessions} open"
    )


def main(minutes: float) -> int:
    os.environ |= {"VOICE_RESUME_S": "1", "OPS_RATE_LIMITS": "false", "VOICE_MAX_SESSIONS": "16"}
    random.seed(SEED)
    prepare()
    _fill()
    with web_server() as (server, port):
        readings, failed = asyncio.run(soak(port, psutil.Process(server.pid), minutes))
    # The first third is warm-up: caches fill, threads start.
    early, last = readings[len(readings) // 3], readings[-1]
    growth_mb = last[1] - early[1]
    flat = (
        failed == 0
        and growth_mb < ALLOWED_GROWTH_MB
        and last[5] == 0
        and last[2] <= early[2] + 10
        and last[3] <= early[3] + 4
    )
    print(f"since a third of the time: {growth_mb:+.1f} MB, {last[2] - early[2]:+d} descriptors, "
          f"{last[3] - early[3]:+d} threads; {last[5]} sessions left: {'flat' if flat else 'NOT flat'}")  # fmt: skip
    return 0 if flat else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.voice_soak")
    parser.add_argument("minutes", type=float, nargs="?", default=5.0)
    sys.exit(main(parser.parse_args().minutes))
