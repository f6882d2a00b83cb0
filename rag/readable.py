"""What a principal may read, as querysets: the rule of `rag.pipeline.eligible` for everything that is not a search."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from ops.contracts.principal import Principal
from rag.models import Collection, Document


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
    groups = sorted(principal.groups)
    by_collection = Q(collection__default_access_groups=[]) | Q(collection__default_access_groups__overlap=groups)
    return documents.filter(Q(access_groups__overlap=groups) | Q(access_groups=[]) & by_collection)
