"""The query pipeline, read from top to bottom: it composes, times and records, and computes nothing itself."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from django.conf import settings

from models_registry.routing import STABLE, Routing, observe_answer
from ops.api.problems import as_problem
from ops.contracts.model_calls import model_call, note_failed_call
from ops.contracts.principal import Principal
from ops.contracts.stage import PIPELINE_STAGES, Recording, recording, stage
from rag.pipeline import cache, shadow, single_flight
from rag.pipeline.body import Body, encode
from rag.pipeline.cache import CacheName, Found
from rag.pipeline.candidates import read_candidates
from rag.pipeline.database import give_back_connection, hot_cursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.embed import Embedder, EmbeddingError
from rag.pipeline.features import extract
from rag.pipeline.fusion import fuse
from rag.pipeline.judged import read_memory
from rag.pipeline.lexical import read_words
from rag.pipeline.ltr import Ranker, RankerError, SimpleRanker
from rag.pipeline.misses import Misses
from rag.pipeline.processors import turn
from rag.pipeline.query import SearchRequest, validate
from rag.pipeline.rankers import ranker_for
from rag.pipeline.results import page_of, read_results
from rag.pipeline.retrieval import retrieve
from rag.pipeline.safeguard import score_guarded
from rag.pipeline.scored import ScoredCandidates
from rag.pipeline.snapshot import PipelineSnapshot, Resolved, resolve
from rag.pipeline.types import (
    Candidates,
    FeatureMatrix,
    Float32Array,
    Float64Array,
    FusedScores,
    FusionWeights,
    QueryTerms,
)
from rag.query_log import record_failure, record_search
from rag.spaces import load_embedder

__all__ = ["SearchRequest", "search", "search_json"]

logger = logging.getLogger(__name__)

CACHE_FAULT = "Redis does not answer."

_misses = Misses()


@dataclass(slots=True)
class Progress:
    """What one search has found out about itself so far."""

    request_id: str
    cache: str = "none"
    degraded: dict[str, str] = field(default_factory=dict)
    """What could not be used, in the order it was missed, and why."""
    found: Found | None = None
    """What the caches were found to hold, where both were asked at once."""
    to_keep: list[tuple[CacheName, bytes]] = field(default_factory=list)
    """What is still to be put into the caches."""

    def degrade(self, part: str, reason: str) -> None:
        self.degraded.setdefault(part, reason)


def search(
    request: SearchRequest,
    principal: Principal,
    *,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The answer of ``POST /rag/query2``. A rollout may go by the caller's ``headers`` or ``cookies``.

    Raises `ops.contracts.problems.Problem`: `InvalidRequest`, `NotFound`, or `Unavailable` when nothing is live.
    """
    encoded = search_json(request, principal, request_id=request_id, headers=headers, cookies=cookies)
    answer: dict[str, Any] = json.loads(encoded)
    return answer


def search_json(
    request: SearchRequest,
    principal: Principal,
    *,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
) -> bytes:
    """As `search`, in JSON: what comes from the response cache is sent as it is kept."""
    request = validate(request)
    progress = Progress(request_id or str(uuid.uuid4()))
    routing = Routing(progress.request_id, principal, headers or {}, cookies or {})
    resolved: Resolved | None = None
    with recording() as timings:
        try:
            with stage("pipeline"):
                resolved = _resolve(request, principal, routing, progress)
                body = _cached_answer(request, resolved.snapshot, progress) or _shared_answer(
                    request, resolved, progress
                )
        except Exception as error:
            status = as_problem(error).status
            variant = STABLE if resolved is None else resolved.variant
            record_failure(request, progress.request_id, timings.durations_ms, principal, status, variant)
            if resolved is not None and status >= 500:
                observe_answer(resolved.arms, duration_ms=None, failed=True)
            raise
        envelope = _envelope(request, resolved, progress, body, timings)
    record_search(envelope, body, resolved, principal)
    _tell_rollouts(request, resolved, envelope, body)
    return body.within(envelope)


def _resolve(request: SearchRequest, principal: Principal, routing: Routing, progress: Progress) -> Resolved:
    """What answers; the caches are asked in the meantime, on the guess that nothing has changed since the last time."""
    guessed: list[Resolved] = []

    def ask(expected: Resolved) -> Callable[[], None]:
        guessed.append(expected)
        return _ask(request, expected.snapshot, progress)

    resolved: Resolved | None = None
    try:
        resolved = resolve(request.collection or "", principal, routing, ask)
    finally:
        if guessed and guessed[0] is not resolved and progress.found is not None:
            if progress.found.claimed:
                with suppress(cache.CacheUnavailableError):
                    cache.disclaim(guessed[0].snapshot.response_key(request))
            progress.found = None
    return resolved


def _tell_rollouts(request: SearchRequest, resolved: Resolved, answer: Mapping[str, Any], body: Body) -> None:
    """Count the answer for the variants that made it, and have what stands in the shadow computed after it."""
    duration_ms = answer["timings"]["pipeline_ms"] if answer["cache"] == "none" else None
    observe_answer(
        resolved.arms,
        duration_ms=duration_ms,
        empty=not body.shown and not request.offset,
        degraded=answer["degraded"],
    )
    if resolved.shadows and not answer["degraded"]:
        shadow.offer(request, resolved, [one.chunk_id for one in body.shown], duration_ms)


def score(
    query: str, filters: dict[str, Any], resolved: Resolved, progress: Progress, judged_as: str | None = None
) -> tuple[ScoredCandidates, QueryTerms, Candidates]:
    """Everything before fusion, uncached: embed → retrieve → features → ltr; words are looked up while it embeds.

    ``judged_as``: id of the judged query that this is, whose own judgements are then left out of account.
    Without its embedder a query is answered by words alone, without its ranker by the simple one; ``progress`` says so.
    """
    snapshot = resolved.snapshot
    eligibility = Eligibility(snapshot.groups, filters)
    embedder = _embedder(resolved, progress)
    with hot_cursor() as cursor, read_words(cursor, snapshot, eligibility, query) as words:
        with stage("embed"):
            query_embedding = _embed(query, embedder, resolved, progress)
        with stage("retrieval"):
            terms, dense, lexical = retrieve(cursor, snapshot, eligibility, query_embedding, words, progress.degrade)
            candidates = read_candidates(cursor, snapshot, dense, lexical, query_embedding)
            memory = read_memory(cursor, snapshot, query_embedding, judged_as)
    with turn(), stage("feature"):
        features = extract(terms, candidates, memory)
    with stage("ltr"):
        ranker, fault = _ranker(resolved, progress)
        called = ranker.kind if "embed" in progress.degraded else snapshot.ranker_label
        with model_call("ltr", called, "rank", items=len(candidates)) as call:
            call.batch_size = len(candidates)
            if "ltr" in progress.degraded:
                call.error = RankerError.__name__
            ltr_scores, kind, objection = score_guarded(ranker, features)
    scored = ScoredCandidates(
        chunk_ids=candidates.chunk_ids,
        document_ids=candidates.document_ids,
        distances=candidates.distances,
        dense_ranks=candidates.dense_ranks,
        lexical_ranks=candidates.lexical_ranks,
        features=features.values,
        ltr_scores=ltr_scores,
        ranker=kind,
        safeguard=fault or objection,
    )
    return scored, terms, candidates


def fuse_scores(snapshot: PipelineSnapshot, scored: ScoredCandidates) -> FusedScores:
    """The fusion stage, with the snapshot's weights."""
    with stage("fusion"):
        return fuse(
            scored.chunk_ids,
            scored.ltr_scores,
            1.0 - scored.distances,
            FusionWeights(snapshot.ltr_weight, snapshot.conceptual_weight),
        )


def _embedder(resolved: Resolved, progress: Progress) -> Embedder | None:
    """The live embedder, loaded; ``None`` when it can't be used."""
    try:
        return load_embedder(resolved.embedder)
    except EmbeddingError as error:
        note_failed_call("embedder", resolved.snapshot.space.label, "query", error)
        _without_embedding(progress, error)
        return None


def _embed(query: str, embedder: Embedder | None, resolved: Resolved, progress: Progress) -> Float32Array:
    """The query's embedding: zeros, to which nothing is near, when the embedder can't be used."""
    try:
        if embedder is not None:
            return embedder.embed_query(query)
    except EmbeddingError as error:
        _without_embedding(progress, error)
    return np.zeros(resolved.snapshot.space.dimension, dtype=np.float32)


def _without_embedding(progress: Progress, error: EmbeddingError) -> None:
    logger.warning("A query is answered by its words alone: %s", error)
    progress.degrade("embed", str(error))


def _ranker(resolved: Resolved, progress: Progress) -> tuple[Ranker, str | None]:
    """The live ranker, or the simple one and why it stands in."""
    if "embed" in progress.degraded:
        return SimpleRanker(), "Without the query's embedding only its words can be ranked by."
    ranker, fault = ranker_for(resolved.ranker)
    if fault is not None:
        progress.degrade("ltr", fault)
    return ranker, fault


def _shared_answer(request: SearchRequest, resolved: Resolved, progress: Progress) -> Body:
    """The answer, computed once for all who ask the same at the same time."""
    snapshot = resolved.snapshot
    computed: list[Body] = []

    def compute() -> bytes | None:
        body = _answer(request, resolved, progress)
        computed.append(body)
        if progress.degraded:
            _keep(request, snapshot, progress)
            _misses.not_kept(_question("full", request, snapshot))
            return None
        encoded = body.to_bytes()
        if settings.RAG_RESPONSE_CACHE_TTL_S:
            progress.to_keep.append(("full", encoded))
        _keep(request, snapshot, progress)
        # Without Redis nobody else finds it: then each says so itself.
        return None if progress.degraded else encoded

    if settings.RAG_RESPONSE_CACHE_TTL_S and not progress.degraded:
        claimed = progress.found.claimed if progress.found is not None else None
        shared = single_flight.share(snapshot.response_key(request), compute, give_back_connection, claimed)
        if shared is not None and not computed:
            cache.count("full", "hit", "shared")
            progress.cache = "full"
            return Body.from_bytes(shared)
    if not computed:
        compute()
    return computed[0]


def scored_candidates(request: SearchRequest, resolved: Resolved, progress: Progress) -> ScoredCandidates:
    """Everything before fusion, from the feature cache or computed and kept there. ``request`` is a `validate`d one."""
    scored = _scored(request, resolved, progress)
    _keep(request, resolved.snapshot, progress)
    return scored


def _scored(request: SearchRequest, resolved: Resolved, progress: Progress) -> ScoredCandidates:
    """As `scored_candidates`, but what is to be kept of it waits in ``progress``."""
    snapshot = resolved.snapshot
    scored = _cached_scores(request, snapshot, progress)
    if scored is None:
        scored, _, _ = score(request.query, dict(request.filters), resolved, progress)
        if progress.degraded:
            _misses.not_kept(_question("feature", request, snapshot))
        elif settings.RAG_FEATURE_CACHE_TTL_S:
            progress.to_keep.append(("feature", scored.to_bytes()))
    return scored


def _answer(request: SearchRequest, resolved: Resolved, progress: Progress) -> Body:
    """The part of an answer that the response cache keeps."""
    snapshot = resolved.snapshot
    scored = _scored(request, resolved, progress)
    fused = fuse_scores(snapshot, scored)
    contributions = _explain(scored, resolved, progress) if request.explain else None
    with hot_cursor() as cursor:
        page = page_of(fused, scored, request)
        results, shown = read_results(cursor, page, scored, fused, request, contributions)
    return Body.of(encode(results), shown, scored.ranker, scored.safeguard)


def _explain(scored: ScoredCandidates, resolved: Resolved, progress: Progress) -> Float64Array | None:
    """What made each LTR score, as `Ranker.explain`; ``None`` when the ranker that scored can't be used here."""
    features = FeatureMatrix(resolved.snapshot.feature_schema_version, scored.features)
    with stage("ltr"):
        if scored.ranker == SimpleRanker.kind:
            return SimpleRanker().explain(features)
        ranker, fault = ranker_for(resolved.ranker)
        if fault is None:
            return ranker.explain(features)
    progress.degrade("ltr", fault)
    return None


def _cached_answer(request: SearchRequest, snapshot: PipelineSnapshot, progress: Progress) -> Body | None:
    if not settings.RAG_RESPONSE_CACHE_TTL_S:
        cache.count("full", "miss", "disabled")
        return None
    if progress.found is None and not progress.degraded:
        _ask(request, snapshot, progress)()
    if progress.found is None:
        cache.count("full", "miss", "unavailable")
        return None
    found = cache.counted(
        "full",
        progress.found.full,
        lambda: _why_missed("full", request, snapshot),
        in_memory=progress.found.in_memory,
    )
    if found is None:
        return None
    progress.cache = "full"
    return Body.from_bytes(found)


def _ask(request: SearchRequest, snapshot: PipelineSnapshot, progress: Progress) -> Callable[[], None]:
    """Ask both caches at once, and for the claim to compute the answer if there is none. What is given waits for them
    and notes in ``progress`` what they hold.
    """
    if not settings.RAG_RESPONSE_CACHE_TTL_S:
        return _nothing
    response_key, feature_key = snapshot.keys(request)
    try:
        found = cache.ask(
            response_key, feature_key if settings.RAG_FEATURE_CACHE_TTL_S else None, single_flight.CLAIM_S
        )
    except cache.CacheUnavailableError:
        progress.degrade("cache", CACHE_FAULT)
        return _nothing

    def wait() -> None:
        try:
            progress.found = found()
        except cache.CacheUnavailableError:
            progress.degrade("cache", CACHE_FAULT)

    return wait


def _nothing() -> None:
    """There is nothing to wait for."""


def _cached_scores(request: SearchRequest, snapshot: PipelineSnapshot, progress: Progress) -> ScoredCandidates | None:
    if not settings.RAG_FEATURE_CACHE_TTL_S:
        cache.count("feature", "miss", "disabled")
        return None

    def why_missed() -> str:
        return _why_missed("feature", request, snapshot)

    if progress.found is not None and progress.found.claimed is not None:
        found = cache.counted("feature", progress.found.feature, why_missed)
    else:
        try:
            found = cache.get("feature", snapshot.feature_key(request), why_missed)
        except cache.CacheUnavailableError:
            progress.degrade("cache", CACHE_FAULT)
            return None
    if found is None:
        return None
    progress.cache = "feature"
    return ScoredCandidates.from_bytes(found)


def _keep(request: SearchRequest, snapshot: PipelineSnapshot, progress: Progress) -> None:
    """Put what is to be kept into the caches."""
    if not progress.to_keep:
        return
    ttl_s: dict[CacheName, int] = {
        "full": settings.RAG_RESPONSE_CACHE_TTL_S,
        "feature": settings.RAG_FEATURE_CACHE_TTL_S,
    }
    entries = [cache.Entry(name, _key(name, request, snapshot), value, ttl_s[name]) for name, value in progress.to_keep]
    progress.to_keep.clear()
    try:
        cache.put(*entries)
    except cache.CacheUnavailableError:
        progress.degrade("cache", CACHE_FAULT)
    else:
        for entry in entries:
            _misses.kept(_question(entry.name, request, snapshot), snapshot, entry.ttl_s)


def _why_missed(name: CacheName, request: SearchRequest, snapshot: PipelineSnapshot) -> str:
    return _misses.reason(_question(name, request, snapshot), snapshot)


def _key(name: CacheName, request: SearchRequest, snapshot: PipelineSnapshot) -> str:
    return snapshot.response_key(request) if name == "full" else snapshot.feature_key(request)


def _question(name: CacheName, request: SearchRequest, snapshot: PipelineSnapshot) -> Hashable:
    """What stays the same when documents, access, models, weights or settings change."""
    asked = snapshot.collection, snapshot.groups, request.query, repr(sorted(request.filters.items()))
    if name == "feature":
        return name, asked
    return name, asked, request.top_k, request.offset, request.group_by, request.explain


def _envelope(
    request: SearchRequest, resolved: Resolved, progress: Progress, body: Body, timings: Recording
) -> dict[str, Any]:
    """What surrounds the results: who asked what, and what decided the answer."""
    snapshot = resolved.snapshot
    return {
        "request_id": progress.request_id,
        "query": request.query,
        "top_k": request.top_k,
        "collection": snapshot.collection,
        "results": [],
        "fusion_weights": {"ltr": snapshot.ltr_weight, "conceptual": snapshot.conceptual_weight},
        "fusion_weights_version": snapshot.weights_version,
        "feature_schema_version": snapshot.feature_schema_version,
        "models": {"embedder": snapshot.space.label, "ltr": snapshot.ranker_label},
        "ranker": body.ranker,
        "safeguard": body.safeguard,
        "variant": resolved.variant,
        "retrieval_mode": snapshot.retrieval_mode,
        "cache": progress.cache,
        "degraded": list(progress.degraded),
        "timings": {f"{name}_ms": round(timings.durations_ms.get(name, 0.0), 3) for name in PIPELINE_STAGES},
    }
