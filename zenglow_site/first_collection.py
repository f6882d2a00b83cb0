"""A new installation's first collection: there before the server is, so that nobody is told that it is missing."""

from __future__ import annotations

from django.conf import settings

from ops.contracts.principal import SYSTEM
from rag.collections import create_collection
from rag.models import Collection, IndexRun, RunState


def is_new() -> bool:
    """Whether nothing was ever indexed: a run that is still pending was cut off before it knew what to do."""
    others = Collection.objects.exclude(slug=settings.RAG_DEFAULT_COLLECTION)
    return not (IndexRun.objects.exclude(state=RunState.PENDING).exists() or others.exists())


def first_collection() -> Collection:
    """The collection that is meant where none is named, made if there is none yet."""
    slug = settings.RAG_DEFAULT_COLLECTION
    return Collection.objects.filter(slug=slug).first() or create_collection(
        slug, SYSTEM, title="ZenGlow's documentation and code", split_identifiers=True
    )
