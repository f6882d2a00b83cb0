"""Candidates in the shadow: after an answer has been given, the same query is ranked by the candidate and compared.

One thread of the process does it, from a short queue: what comes while the queue is full is not compared, so that the
shadow never slows what is served by more than one core's share.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection

from models_registry.routing import Arm, observe_comparison
from ops.contracts.metrics import declare_counter
from ops.contracts.stage import recording
from rag.pipeline.query import SearchRequest
from rag.pipeline.snapshot import Resolved

logger = logging.getLogger(__name__)

DEPTH = 10
PERSISTENCE = 0.9
"""Of a reader who goes on to the next rank: 86 % of the weight lies on the first ten."""

QUEUE_SIZE = 64

COMPARED = declare_counter("zenglow_shadow_comparisons", "Rankings in the shadow by their outcome.", ("outcome",))


@dataclass(frozen=True, slots=True)
class _Job:
    request: SearchRequest
    arm: Arm
    candidate: Resolved
    served: Sequence[int]
    served_ms: float | None


_jobs: queue.Queue[_Job] = queue.Queue(QUEUE_SIZE)
_thread: threading.Thread | None = None
_lock = threading.Lock()


def offer(request: SearchRequest, resolved: Resolved, served: Sequence[int], served_ms: float | None) -> None:
    """Have each shadow of an answer compared with it. Never waits.

    ``served``: chunk ids as they were shown; ``served_ms``: how long the answer took, ``None`` when a cache helped.
    """
    for arm, candidate in resolved.shadows:
        try:
            _jobs.put_nowait(_Job(request, arm, candidate, served, served_ms))
        except queue.Full:
            COMPARED.labels("skipped").inc()
            return
    _ensure_thread()


def wait() -> None:
    """Until everything that was offered has been compared: for tests, and for an orderly end."""
    _jobs.join()


def rank_biased_overlap(first: Sequence[int], second: Sequence[int], persistence: float = PERSISTENCE) -> float:
    """How far two rankings without ties agree, in [0, 1], extrapolated beyond their last rank.

    RBO_ext of Webber, Moffat and Zobel, "A similarity measure for indefinite rankings" (ACM TOIS 2010), equation 32,
    for rankings that may differ in length. Two empty rankings agree.
    """
    short, long = sorted((list(first), list(second)), key=len)
    s, depth = len(short), len(long)
    if not s:
        return 1.0 if not depth else 0.0
    seen_short: set[int] = set()
    seen_long: set[int] = set()
    overlap = 0
    total = 0.0
    overlaps = [0]
    for rank in range(1, depth + 1):
        seen_long.add(long[rank - 1])
        overlap += long[rank - 1] in seen_short
        if rank <= s:
            seen_short.add(short[rank - 1])
            overlap += short[rank - 1] in seen_long
        overlaps.append(overlap)
        total += overlap / rank * persistence**rank
    at_short = overlaps[s]
    total += sum(at_short * (rank - s) / (s * rank) * persistence**rank for rank in range(s + 1, depth + 1))
    beyond = ((overlap - at_short) / depth + at_short / s) * persistence**depth
    return min((1 - persistence) / persistence * total + beyond, 1.0)


def _ensure_thread() -> None:
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_run, name="shadow", daemon=True)
            _thread.start()


def _run() -> None:
    while True:
        job = _jobs.get()
        try:
            _compare(job)
            COMPARED.labels("compared").inc()
        except Exception:
            COMPARED.labels("failed").inc()
            logger.exception("A candidate could not rank in the shadow")
            observe_comparison(
                job.arm, overlap=0.0, changes=0, duration_ms=0.0, served_ms=None, empty=False, failed=True
            )
        finally:
            connection.close()
            _jobs.task_done()


def _compare(job: _Job) -> None:
    from rag.pipeline.results import page_of
    from rag.pipeline.search import Progress, fuse_scores, score  # which imports this module

    progress = Progress("shadow")
    with recording() as timings:
        scored, _, _ = score(job.request.query, dict(job.request.filters), job.candidate, progress)
        fused = fuse_scores(job.candidate.snapshot, scored)
        ranked = scored.chunk_ids[page_of(fused, scored, job.request)].tolist()
    ours, theirs = ranked[:DEPTH], list(job.served[:DEPTH])
    observe_comparison(
        job.arm,
        overlap=rank_biased_overlap(ours, theirs),
        changes=len(set(ours) - set(theirs)),
        duration_ms=sum(timings.durations_ms.values()),
        served_ms=job.served_ms,
        empty=not ranked and not job.request.offset,
        failed=bool(progress.degraded),
    )


def _forget() -> None:
    """In a forked child, whose parent still has the thread."""
    global _jobs, _thread, _lock
    _jobs, _thread, _lock = queue.Queue(QUEUE_SIZE), None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
