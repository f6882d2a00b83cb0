"""The caches' Redis: stopped, stuck, full, or holding what somebody else wrote."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from ops import tracing
from rag.pipeline import cache
from rag.pipeline.answer_memory import memory as answer_memory
from rag.pipeline.cache import CacheUnavailableError, Entry
from tests.embedded.support import temporary_place
from tests.rag.pipeline.support import lookups
from zenglow_site.embedded.redis import EmbeddedRedis

pytestmark = pytest.mark.faults


@pytest.fixture
def server(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedRedis]:
    """A Redis of the test's own, which the caches use."""
    monkeypatch.setattr(cache, "RETRY_AFTER_S", 0.0)
    monkeypatch.setattr(cache, "_skip_until", 0.0)
    with temporary_place() as place:
        own = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
        own.ensure()
        settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": own.url(0)}}
        yield own
        own.stop()


def test_it_keeps_bytes_for_a_while(server: EmbeddedRedis) -> None:
    before = lookups("feature")
    assert cache.get("feature", "a") is None
    cache.put(Entry("feature", "a", b"\x00\xff123", 60))
    assert cache.get("feature", "a") == b"\x00\xff123"
    assert cache.get("full", "a") is None
    with redis.Redis.from_url(server.url(0)) as client:
        (key,) = client.keys()
        assert 0 < client.ttl(key) <= 60
    assert lookups("feature") - before == {"stored": 1, "cold": 1}


def test_entries_of_another_format_are_not_read(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(Entry("feature", "a", b"old", 60))
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert cache.get("feature", "a") is None


def test_a_stopped_redis_is_said_to_be_unavailable_and_used_again_when_it_is_back(server: EmbeddedRedis) -> None:
    cache.put(Entry("feature", "a", b"kept", 60))
    server.stop()
    before = lookups("feature")
    with pytest.raises(CacheUnavailableError):
        cache.get("feature", "a")
    with pytest.raises(CacheUnavailableError):
        cache.put(Entry("feature", "a", b"new", 60))
    assert lookups("feature") - before == {"unavailable": 1}
    server.ensure()
    assert cache.get("feature", "a") == b"kept"


def test_a_stuck_redis_costs_one_timeout_and_is_then_left_alone(
    server: EmbeddedRedis, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "RETRY_AFTER_S", 3600.0)
    patient = settings.CACHES["default"]
    settings.CACHES = {"default": {**patient, "OPTIONS": {**patient["OPTIONS"], "SOCKET_TIMEOUT": 0.5}}}
    process_id = server.process_id()
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)
    try:
        with pytest.raises(CacheUnavailableError):
            cache.get("feature", "a")
    finally:
        os.kill(process_id, signal.SIGCONT)
    # Redis answers again, but nobody asks it yet.
    with pytest.raises(CacheUnavailableError):
        cache.get("feature", "a")
    settings.CACHES = {"default": patient}
    monkeypatch.setattr(cache, "_skip_until", 0.0)
    assert cache.get("feature", "a") is None


def test_a_redis_that_refuses_to_write_is_unavailable_for_writing(server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(server.url(0)) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    with pytest.raises(CacheUnavailableError):
        cache.put(Entry("feature", "a", b"value", 60))
    assert cache.get("feature", "a") is None


def test_what_somebody_else_wrote_never_runs_as_code(server: EmbeddedRedis, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    cache.put(Entry("feature", "a", b"value", 60))
    with redis.Redis.from_url(server.url(0)) as client:
        (key,) = client.keys()
        client.set(key, pickle.dumps(Bomb()))
    before = lookups("feature")
    assert cache.get("feature", "a") is None
    assert lookups("feature") - before == {"damaged": 1}
    assert not (tmp_path / "exploded").exists()


def test_a_redis_that_does_not_know_the_script_yet_is_told(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.ask("a", "a", 60)().claimed
    for is_traced in (True, False):
        monkeypatch.setattr(tracing, "is_recorded", lambda is_traced=is_traced: is_traced)
        with redis.Redis.from_url(server.url(0)) as client:
            client.script_flush()
        assert cache.ask("a", "a", 60)().claimed is False


def test_what_was_asked_is_heard_although_another_found_redis_silent(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cache.ask("a", "a", 60)
    monkeypatch.setattr(cache, "_skip_until", float("inf"))
    assert found().claimed
    with pytest.raises(CacheUnavailableError):
        cache.ask("a", "a", 60)


class TestMemory:
    """What this process had lately comes from its own memory, for as long as Redis would keep it."""

    def test_what_was_kept_is_found_without_redis(self, server: EmbeddedRedis) -> None:
        cache.put(Entry("full", "a", b"answer", 60))
        server.stop()
        assert cache.ask("a", "a", 60)().full == b"answer"
        with pytest.raises(CacheUnavailableError):
            cache.ask("b", "b", 60)()

    def test_what_another_process_kept_is_asked_for_once(self, server: EmbeddedRedis) -> None:
        cache.put(Entry("full", "a", b"answer", 60))
        answer_memory.forget()
        assert cache.ask("a", "a", 60)().full == b"answer"
        server.stop()
        assert cache.ask("a", "a", 60)().full == b"answer"

    def test_it_is_held_no_longer_than_in_redis(self, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
        cache.put(Entry("full", "a", b"answer", 60))
        answer_memory.forget()
        assert cache.ask("a", "a", 60)().full == b"answer"
        in_a_minute = time.monotonic() + 60.5
        monkeypatch.setattr(time, "monotonic", lambda: in_a_minute)
        assert answer_memory.recall("a") is None

    def test_what_could_not_be_kept_in_redis_is_not_held_either(self, server: EmbeddedRedis) -> None:
        server.stop()
        with pytest.raises(CacheUnavailableError):
            cache.put(Entry("full", "a", b"answer", 60))
        assert answer_memory.recall("a") is None

    def test_it_can_be_turned_off(self, server: EmbeddedRedis, settings: Any) -> None:
        settings.RAG_RESPONSE_MEMORY_MB = 0
        cache.put(Entry("full", "a", b"answer", 60))
        assert cache.ask("a", "a", 60)().full == b"answer"
        assert len(answer_memory) == 0

    def test_what_is_damaged_in_redis_is_not_held(self, server: EmbeddedRedis) -> None:
        cache.put(Entry("full", "a", b"answer", 60))
        answer_memory.forget()
        with redis.Redis.from_url(server.url(0)) as client:
            (key,) = client.keys()
            client.set(key, b"something else", ex=60)
        assert cache.ask("a", "a", 60)().full == cache.DAMAGED
        assert len(answer_memory) == 0


def test_one_at_a_time_has_the_claim_to_a_key(server: EmbeddedRedis) -> None:
    assert cache.claim("a", 60)
    assert not cache.claim("a", 60)
    assert cache.claim("b", 60)
    cache.disclaim("a")
    assert cache.claim("a", 60)
    with redis.Redis.from_url(server.url(0)) as client:
        assert all(0 < client.ttl(key) <= 60 for key in client.scan_iter())
