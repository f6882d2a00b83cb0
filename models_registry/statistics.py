"""Rolling statistics, added up over all processes and hosts in Redis: of model versions, and of a rollout's variants.

A subject's statistics are a hash of counters per slot of time. Every process adds what it has seen once a second, off
the request path, by atomic increments; slots expire by themselves. Redis's own clock says which slot it is, so that
hosts whose clocks differ count alike. While Redis is away nothing is counted and nothing else suffers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, cast

import redis
from django.conf import settings
from django_redis import get_redis_connection

from models_registry import sketch
from ops.contracts.metrics import declare_counter
from ops.contracts.model_calls import ModelCall
from ops.instrumentation.batch import BatchWriter

logger = logging.getLogger(__name__)

FLUSH_INTERVAL_MS = 1000
BUFFER_ROWS = 50_000
RETRY_AFTER_S = 2.0
"""How long a Redis that failed is left alone."""

FAULTS = (redis.RedisError, OSError)

LOST = declare_counter("zenglow_statistics_lost", "Observations that were not counted because Redis was away.")


@dataclass(frozen=True, slots=True)
class Resolution:
    """Slots of ``slot_s`` seconds that are kept for ``kept_s``."""

    slot_s: int
    kept_s: int


FINE, MEDIUM, COARSE = Resolution(10, 420), Resolution(60, 3900), Resolution(900, 26 * 3600)
RESOLUTIONS = (FINE, MEDIUM, COARSE)

WINDOWS: Mapping[str, tuple[int, Resolution]] = {
    "1m": (60, FINE),
    "5m": (300, FINE),
    "1h": (3600, MEDIUM),
    "24h": (86_400, COARSE),
}
"""By name: seconds, and the slots that a window is put together from. It reaches back to the start of a slot."""

TOTAL_KEPT_S = 30 * 86_400

Tally = Counter[str]
"""What was counted of a subject: any counter by name, and ``b<bucket>`` of `models_registry.sketch`."""


class StatisticsUnavailableError(Exception):
    """Redis does not answer."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that happened to a subject. ``forever``: it also counts in a total that no window bounds."""

    subject: str
    counts: Mapping[str, int]
    duration_ms: float | None = None
    forever: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """What a window says of a subject. Rates are per second of the window; ``batch_size`` is a mean.

    ``tokens_per_s``: tokens that the model read and wrote, together.
    """

    window_s: float
    calls: int
    errors: int
    calls_per_s: float
    items_per_s: float
    tokens_per_s: float
    batch_size: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


def model_subject(kind: str, label: str) -> str:
    """What the statistics of a model version are kept under."""
    return f"model:{kind}:{label}"


def observe(observation: Observation) -> None:
    """Count something. Never waits and never raises."""
    recorder().add(observation)


def observe_model_call(call: ModelCall) -> None:
    """A sink of `ops.contracts.model_calls`. The duration of a call that failed is not counted: it says nothing."""
    counts = {"calls": 1, "items": call.items, "tokens": call.tokens + call.output_tokens}
    if call.batch_size:
        counts |= {"batches": 1, "batched": call.batch_size}
    if call.error:
        counts["errors"] = 1
    duration_ms = None if call.error else call.duration_ms
    observe(Observation(model_subject(call.kind, call.model), counts, duration_ms))


@cache
def recorder() -> BatchWriter[Observation]:
    """This process's own."""
    return BatchWriter("statistics", _Writer(), interval_ms=FLUSH_INTERVAL_MS, capacity=BUFFER_ROWS)


def subjects(prefix: str = "") -> list[str]:
    """Every subject of the last day that begins with ``prefix``, sorted. Raises `StatisticsUnavailableError`."""
    try:
        client = _client()
        since = _now(client) - COARSE.kept_s
        found = cast(list[bytes], client.zrangebyscore(_key("subjects"), since, "+inf"))
    except FAULTS as error:
        raise StatisticsUnavailableError from error
    return sorted(name for one in found if (name := one.decode()).startswith(prefix))


def tallies(names: Sequence[str], window: str) -> tuple[dict[str, Tally], float]:
    """What each subject counted in a window, and how many seconds it covers. Raises `StatisticsUnavailableError`."""
    seconds, resolution = WINDOWS[window]
    try:
        client = _client()
        now = _now(client)
        first, last = int((now - seconds) // resolution.slot_s), int(now // resolution.slot_s)
        slots = range(first, last + 1)
        pipeline = client.pipeline(transaction=False)
        for name in names:
            for slot in slots:
                pipeline.hgetall(_slot_key(resolution, slot, name))
        replies = iter(pipeline.execute())
    except FAULTS as error:
        raise StatisticsUnavailableError from error
    found = {name: _added(next(replies) for _ in slots) for name in names}
    return found, now - first * resolution.slot_s


def totals(names: Sequence[str]) -> dict[str, Tally]:
    """What each subject counted ``forever``. Raises `StatisticsUnavailableError`."""
    try:
        pipeline = _client().pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(_key("total", name))
        replies = pipeline.execute()
    except FAULTS as error:
        raise StatisticsUnavailableError from error
    return {name: _added([reply]) for name, reply in zip(names, replies, strict=True)}


def slot_tallies(names: Sequence[str], resolution: Resolution) -> dict[str, dict[int, Tally]]:
    """By subject, the tallies of all slots that have ended and are still kept, by the second since the epoch in which
    the slot began. Raises `StatisticsUnavailableError`.
    """
    try:
        client = _client()
        now = _now(client)
        slots = range(int((now - resolution.kept_s) // resolution.slot_s) + 1, int(now // resolution.slot_s))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            for slot in slots:
                pipeline.hgetall(_slot_key(resolution, slot, name))
        replies = iter(pipeline.execute())
    except FAULTS as error:
        raise StatisticsUnavailableError from error
    found: dict[str, dict[int, Tally]] = {}
    for name in names:
        of_name = {slot * resolution.slot_s: _added([next(replies)]) for slot in slots}
        found[name] = {start: tally for start, tally in of_name.items() if tally}
    return found


def buckets_of(tally: Mapping[str, int]) -> Counter[int]:
    """The sketch in a tally."""
    return Counter({int(name[1:]): count for name, count in tally.items() if name[:1] == "b" and _is_bucket(name)})


def figures(tally: Tally, window_s: float) -> Figures:
    """What a tally of so many seconds says."""
    buckets = buckets_of(tally)
    rate = 1 / window_s if window_s > 0 else 0.0
    return Figures(
        window_s=round(window_s, 3),  # as finely as the rates: who divides by it gets them
        calls=tally["calls"],
        errors=tally["errors"],
        calls_per_s=round(tally["calls"] * rate, 3),
        items_per_s=round(tally["items"] * rate, 3),
        tokens_per_s=round(tally["tokens"] * rate, 3),
        batch_size=round(tally["batched"] / tally["batches"], 2) if tally["batches"] else None,
        p50_ms=_rounded(sketch.quantile(buckets, 0.5)),
        p95_ms=_rounded(sketch.quantile(buckets, 0.95)),
        p99_ms=_rounded(sketch.quantile(buckets, 0.99)),
    )


def figures_by_window(names: Sequence[str]) -> dict[str, dict[str, Figures]]:
    """By subject, then by name of the window. Raises `StatisticsUnavailableError`."""
    found: dict[str, dict[str, Figures]] = {name: {} for name in names}
    for window in WINDOWS:
        by_name, seconds = tallies(names, window)
        for name, tally in by_name.items():
            found[name][window] = figures(tally, seconds)
    return found


def model_figures(kinds_and_labels: Iterable[tuple[str, str]]) -> dict[str, dict[str, dict[str, Any]]] | None:
    """By ``name@number``, then by window, as JSON for people and programs; ``None`` while Redis is away."""
    names = {model_subject(kind, label): label for kind, label in kinds_and_labels}
    try:
        found = figures_by_window(sorted(names))
    except StatisticsUnavailableError:
        return None
    return {
        names[name]: {window: asdict(of_window) for window, of_window in windows.items()}
        for name, windows in found.items()
    }


def forget() -> None:
    """Delete everything that was counted: for tests."""
    client = _client()
    keys = list(client.scan_iter(match=f"{_key()}*", count=1000))
    if keys:
        client.delete(*keys)


class _Writer:
    """Adds observations to Redis; what can't be added is counted as lost, and said once."""

    def __init__(self) -> None:
        self._skip_until = float("-inf")
        self._failing = False

    def __call__(self, observations: Sequence[Observation]) -> None:
        if time.monotonic() < self._skip_until:
            LOST.inc(len(observations))
            return
        try:
            _add(observations)
            self._failing = False
        except FAULTS as error:
            LOST.inc(len(observations))
            self._skip_until = time.monotonic() + RETRY_AFTER_S
            if not self._failing:
                logger.warning("Statistics pause while Redis does not answer: %s", type(error).__name__)
            self._failing = True


def _add(observations: Sequence[Observation]) -> None:
    recent: defaultdict[str, Tally] = defaultdict(Counter)
    lasting: defaultdict[str, Tally] = defaultdict(Counter)
    for one in observations:
        for tally in [recent[one.subject], *([lasting[one.subject]] if one.forever else [])]:
            tally.update(one.counts)
            if one.duration_ms is not None:
                tally[f"b{sketch.bucket_of(one.duration_ms)}"] += 1
    client = _client()
    now = _now(client)
    pipeline = client.pipeline(transaction=False)
    for subject, tally in recent.items():
        pipeline.zadd(_key("subjects"), {subject: now})
        for resolution in RESOLUTIONS:
            slot = int(now // resolution.slot_s)
            _increment(pipeline, _slot_key(resolution, slot, subject), tally, resolution.kept_s)
    for subject, tally in lasting.items():
        _increment(pipeline, _key("total", subject), tally, TOTAL_KEPT_S)
    pipeline.zremrangebyscore(_key("subjects"), "-inf", now - COARSE.kept_s)
    pipeline.execute()


def _increment(pipeline: Any, key: str, tally: Tally, kept_s: int) -> None:
    for name, count in tally.items():
        if count:
            pipeline.hincrby(key, name, count)
    pipeline.expire(key, kept_s)


def _added(hashes: Iterable[Mapping[bytes, bytes]]) -> Tally:
    tally: Tally = Counter()
    for one in hashes:
        for name, count in one.items():
            tally[name.decode()] += int(count)
    return tally


def _client() -> redis.Redis:
    return cast(redis.Redis, get_redis_connection("default"))


def _now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def _key(*parts: object) -> str:
    return ":".join(map(str, (settings.CACHES["default"]["KEY_PREFIX"], "statistics", *parts)))


def _slot_key(resolution: Resolution, slot: int, subject: str) -> str:
    return _key(resolution.slot_s, slot, subject)


def _is_bucket(name: str) -> bool:
    return name[1:].removeprefix("-").isdecimal()


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)
