"""Collections with their figures, as pickers and lists show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count, Q

from ops.contracts.principal import Principal
from rag.models import Collection, DocumentState
from rag.readable import open_collections, readable_documents


@dataclass(frozen=True, slots=True)
class CollectionSummary:
    """A collection and how many of the documents that somebody may read are in which state.

    ``searchable`` counts those with passages, a failed newer version included.
    """

    collection: Collection
    searchable: int
    indexed: int
    failed: int
    deleted: int

    @property
    def slug(self) -> str:
        return self.collection.slug

    @property
    def label(self) -> str:
        return self.collection.title or self.collection.slug

    @property
    def kept(self) -> int:
        """Documents that are not deleted."""
        return self.indexed + self.failed


def summarize_collections(principal: Principal) -> list[CollectionSummary]:
    """Every collection that the principal may touch, by slug. Two queries."""
    rows = (
        readable_documents(principal)
        .order_by()
        .values_list("collection_id")
        .annotate(
            searchable=Count("id", filter=Q(chunk_count__gt=0)),
            indexed=Count("id", filter=Q(state=DocumentState.INDEXED)),
            failed=Count("id", filter=Q(state=DocumentState.FAILED)),
            deleted=Count("id", filter=Q(state=DocumentState.DELETED)),
        )
    )
    figures = {row[0]: row[1:] for row in rows}
    return [
        CollectionSummary(collection, *figures.get(collection.pk, (0, 0, 0, 0)))
        for collection in open_collections(principal)
    ]


def choose(summaries: Iterable[CollectionSummary], slug: str) -> CollectionSummary | None:
    """The collection called ``slug``. Without a slug: the default one, or the first with documents if it is empty."""
    by_slug = {summary.slug: summary for summary in summaries}
    if slug:
        return by_slug.get(slug)
    default = by_slug.get(settings.RAG_DEFAULT_COLLECTION)
    if default is not None and default.searchable:
        return default
    filled = next((summary for summary in by_slug.values() if summary.searchable), None)
    return filled or default or next(iter(by_slug.values()), None)
