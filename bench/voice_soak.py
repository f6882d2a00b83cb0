"""Voice sessions that come and go, most of them rudely: memory, file descriptors, threads and sessions must stay flat.

python -m bench.voice_soak MINUTES        (5 by default)
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time

import psutil
from autobahn.asyncio.websocket import WebSocketClientFactory

from bench.serving import Client, web_server
from bench.setup import prepare
from bench.voice import FRAME_BYTES, PATIENCE_S, Talker, _fill, recording

AT_ONCE = 3
SAMPLES = 10
ALLOWED_GROWTH_MB = 60


async def one_person(port: int, number: int) -> str:
    """Begins a session, does something in it, and leaves in one of several ways; how it left."""
    loop = asyncio.get_running_loop()
    factory = WebSocketClientFactory(f"ws://127.0.0.1:{port}/ws/voice")
    factory.protocol = Talker
    transport, talker = await loop.create_connection(factory, "127.0.0.1", port)
    if await asyncio.wait_for(talker.started, PATIENCE_S):
        transport.close()
        return "refused"
    pcm, _ = recording("slow-queries")
    match number % 5:
        case 0:
            talker.tell("input.text", text="What about slow queries?")
            await asyncio.wait_for(talker.ended, PATIENCE_S)
            talker.tell("session.end")
            await asyncio.sleep(0.2)
            return "answered"
        case 1:
            talker.tell("input.text", text="How do I restart the server?")
            await asyncio.sleep(random.uniform(0, 0.4))
            transport.abort()
            return "gone while it thinks or speaks"
        case 2:
            for sequence, start in enumerate(range(0, 60 * FRAME_BYTES, FRAME_BYTES), 1):
                header = bytes([1, 0, 0, 0]) + sequence.to_bytes(4, "little")
                talker.sendMessage(header + pcm[start : start + FRAME_BYTES], isBinary=True)
            transport.abort()
            return "gone while it listens"
        case 3:
            for sequence in range(1, 400):
                header = bytes([1, 0, 0, 0]) + (sequence % 50).to_bytes(4, "little")
                talker.sendMessage(header + random.randbytes(FRAME_BYTES), isBinary=True)
            await asyncio.sleep(0.3)
            transport.abort()
            return "flood of noise out of order"
    transport.abort()
    return "gone at once"


async def soak(port: int, process: psutil.Process, minutes: float) -> list[tuple[float, int, int, int, int]]:
    """Samples of (megabytes of the web process, descriptors, threads, children, sessions)."""
    readings = []
    left: dict[str, int] = {}
    ends = time.monotonic() + minutes * 60
    pause_s = minutes * 60 / SAMPLES
    next_reading = time.monotonic() + 10
    number = 0
    while time.monotonic() < ends:
        done = await asyncio.gather(*(one_person(port, number + offset) for offset in range(AT_ONCE)))
        number += AT_ONCE
        for way in done:
            left[way] = left.get(way, 0) + 1
        if time.monotonic() >= next_reading:
            next_reading += pause_s
            await asyncio.sleep(3)  # what was left behind is given back after VOICE_RESUME_S
            readings.append(await asyncio.to_thread(_read, port, process))
            print(_line(readings[-1], number), flush=True)
    await asyncio.sleep(5)
    readings.append(await asyncio.to_thread(_read, port, process))
    print(_line(readings[-1], number), flush=True)
    print(", ".join(f"{count} {way}" for way, count in sorted(left.items())))
    return readings


def _read(port: int, process: psutil.Process) -> tuple[float, int, int, int, int]:
    with Client(port) as client:
        sessions = json.loads(client.post("/leonardo/status", b"", method="GET"))["sessions"]
    with process.oneshot():
        megabytes = process.memory_info().rss / 1e6
        return megabytes, process.num_fds(), process.num_threads(), len(process.children()), sessions


def _line(reading: tuple[float, int, int, int, int], number: int) -> str:
    megabytes, descriptors, threads, children, sessions = reading
    return (
        f"{number:>6} sessions so far: {megabytes:>7.1f} MB, {descriptors:>4} descriptors, {threads:>3} threads, "
        f"{children} children, {sessions} open"
    )


def main(minutes: float) -> int:
    os.environ |= {"VOICE_RESUME_S": "1", "OPS_RATE_LIMITS": "false", "VOICE_MAX_SESSIONS": "16"}
    prepare()
    _fill()
    with web_server() as (server, port):
        readings = asyncio.run(soak(port, psutil.Process(server.pid), minutes))
    # The first third is warm-up: caches fill, threads start.
    early, last = readings[len(readings) // 3], readings[-1]
    growth_mb = last[0] - early[0]
    flat = growth_mb < ALLOWED_GROWTH_MB and last[4] == 0 and last[1] <= early[1] + 10 and last[2] <= early[2] + 4
    print(f"since a third of the time: {growth_mb:+.1f} MB, {last[1] - early[1]:+d} descriptors, "
          f"{last[2] - early[2]:+d} threads; {last[4]} sessions left: {'flat' if flat else 'NOT flat'}")  # fmt: skip
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if sys.argv[1:] else 5))
