"""What a principal may read, as querysets: the rule of `rag.pipeline.eligible` for everything that is not a search."""

from __future__ import annotations

from django.db.models import Count, Q, QuerySet

from ops.contracts.principal import Principal
from rag.models import Collection, Document, DocumentState, IndexItem, IndexRun


def open_collections(principal: Principal) -> QuerySet[Collection]:
    """The collections that the principal may touch."""
    collections = Collection.objects.all()
    if principal.collections is not None:
        collections = collections.filter(slug__in=principal.collections)
    return collections


def readable_documents(principal: Principal) -> QuerySet[Document]:
    """The documents, deleted ones included, whose access list (or their collection's) names a group of the principal.

    An empty list is open to everybody who may touch the collection.
    """
    documents = Document.objects.all()
    if principal.collections is not None:
        documents = documents.filter(collection__slug__in=principal.collections)
    if principal.sees_all_groups:
        return documents
    own = Q(access_groups__overlap=sorted(principal.groups))
    return documents.filter(own | Q(access_groups=[]) & _open_by_default(principal))


def visible_runs(principal: Principal) -> QuerySet[IndexRun]:
    """The runs of open collections that the principal started, or whose collection's default groups include them."""
    runs = IndexRun.objects.filter(collection__in=open_collections(principal)).select_related("collection")
    if principal.sees_all_groups:
        return runs
    return runs.filter(Q(started_by=principal.name) | _open_by_default(principal))


def visible_items(run: IndexRun, principal: Principal) -> QuerySet[IndexItem]:
    """The documents of a visible run, without those of others whose access list names no group of the principal."""
    if principal.sees_all_groups or run.started_by == principal.name:
        return run.items.all()
    return run.items.filter(Q(access_groups=[]) | Q(access_groups__overlap=sorted(principal.groups)))


def with_counts(listed: list[Collection], principal: Principal) -> list[Collection]:
    """The collections with ``documents``: how many the principal may read, by state."""
    counted = (
        readable_documents(principal)
        .filter(collection__in=listed)
        .order_by()
        .values_list("collection_id", "state")
        .annotate(count=Count("id"))
    )
    by_collection: dict[int, dict[str, int]] = {}
    for collection_id, state, count in counted:
        by_collection.setdefault(collection_id, {})[state] = count
    for collection in listed:
        found = by_collection.get(collection.id, {})
        collection.documents_by_state = {state: found.get(state, 0) for state in DocumentState.values}  # type: ignore[attr-defined]
    return listed


def _open_by_default(principal: Principal) -> Q:
    """Of rows with a collection: whether its documents without a list of their own are the principal's to read."""
    groups = sorted(principal.groups)
    return Q(collection__default_access_groups=[]) | Q(collection__default_access_groups__overlap=groups)
