"""How embedding spaces are filled, checked and dropped: retrieval's `models_registry.space_builds.SpaceBuilder`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.db.models import QuerySet

from models_registry import deployments
from models_registry.live import LiveModel, not_deployed
from models_registry.models import GLOBAL_SCOPE, ModelVersion, Role, Slot
from models_registry.routing import Choice, choose
from models_registry.space_builds import Progress
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import NotFound, Unavailable
from rag import reembedding
from rag.evaluation.measures import means, per_query
from rag.evaluation.rows import documents_in_order
from rag.evaluation.run import JudgedSet, judged_set
from rag.models import Collection, Document
from rag.pipeline.query import normalize_query
from rag.pipeline.search import Progress as SearchProgress
from rag.pipeline.search import fuse_scores, score
from rag.pipeline.snapshot import resolve_choice

QUERIES_PER_CHECK = 300
"""Judged queries of a collection that a check ranks by either embedder: the first ones by their id."""


class RetrievalSpaces:
    """The spaces over a scope's chunks. The global scope leaves out collections with an embedder of their own."""

    def progress(self, version: ModelVersion, scope: str) -> Progress:
        slugs = {collection.slug for collection in _collections(scope)}
        found = [one for one in reembedding.coverage(version) if one.collection in slugs]
        return Progress(sum(one.vectors for one in found), sum(one.chunks for one in found))

    def fill(self, version: ModelVersion, scope: str) -> Iterator[int]:
        for collection in _collections(scope):
            after: int | None = 0
            while after is not None:
                added, after = reembedding.fill_step(collection, version, after)
                if after is not None:
                    yield added

    def check(self, version: ModelVersion, scope: str) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        found: dict[str, dict[str, dict[str, float]]] = {}
        for collection in _collections(scope):
            try:
                judged = judged_set(collection.slug)
            except NotFound:
                continue
            stable = choose(collection.slug)
            candidate = not_deployed(Slot.EMBEDDER, version)
            found[collection.slug] = {
                "stable": _measured(collection, stable.embedder, judged),
                "candidate": _measured(collection, candidate, judged),
            }
        return found

    def drop(self, version: ModelVersion, scope: str, by: Principal, *, dry_run: bool = False) -> int:
        collections = list(_collections(scope))
        count = sum(reembedding.drop(collection, version, by, dry_run=True) for collection in collections)
        # All or none: nothing is deleted in one collection while another is still searched by it.
        return count if dry_run else sum(reembedding.drop(collection, version, by) for collection in collections)


def _measured(collection: Collection, embedder: LiveModel, judged: JudgedSet) -> dict[str, float]:
    """What the whole pipeline reaches with an embedder, all else being what is live. Raises `Unavailable`."""

    def choice() -> Choice:
        live = choose(collection.slug)
        return Choice(live.weights, live.ranker, embedder)

    resolved = resolve_choice(collection.slug, SYSTEM, choice)
    names = dict(Document.objects.filter(collection=collection).values_list("id", "document_id"))
    chosen = dict(sorted(judged.queries.items())[:QUERIES_PER_CHECK])
    rankings: dict[str, list[str]] = {}
    for query_id, text in chosen.items():
        progress = SearchProgress(query_id)
        scored, _, candidates = score(normalize_query(text), {}, resolved, progress, judged_as=query_id)
        for fault in progress.degraded.values():
            raise Unavailable(fault)
        order = fuse_scores(resolved.snapshot, scored).order
        rankings[query_id] = documents_in_order(order, candidates, names)
    return means(per_query(rankings, {query_id: judged.judgements[query_id] for query_id in chosen}))


def _collections(scope: str) -> QuerySet[Collection]:
    everything = Collection.objects.order_by("id")
    if scope != GLOBAL_SCOPE:
        return everything.filter(slug=scope)
    stable = deployments.live().filter(slot=Slot.EMBEDDER, role=Role.STABLE)
    return everything.exclude(slug__in=stable.exclude(scope=GLOBAL_SCOPE).values("scope"))
