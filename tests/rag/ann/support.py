"""A small collection with real vectors, and the command."""

from __future__ import annotations

import io
from typing import Any

from django.core.management import call_command
from django.db import connection

from rag.models import Collection, EmbeddingSpace
from rag.spaces import embedder_for
from tests.rag.pipeline.support import Text, fill

Subject = tuple[Collection, EmbeddingSpace]

COUNT = 24
WORDS = ["bees", "honey", "hive", "queen", "pollen", "nectar", "wax", "swarm", "drone", "sting", "clover", "mites"]


def subject(slug: str, count: int) -> Subject:
    """Short passages, embedded by the live model."""
    collection = Collection.objects.create(slug=slug)
    texts = [f"The {WORDS[i % 12]} and the {WORDS[(i * 5 + 3) % 12]} number {i}" for i in range(count)]
    fill(collection, {f"d{number}": Text(text) for number, text in enumerate(texts)})
    with connection.cursor() as cursor:
        # An index can't be made while checks of foreign keys are pending.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
    return collection, EmbeddingSpace.objects.get(id=embedder_for(slug).space.id)


def run(*arguments: Any) -> str:
    out = io.StringIO()
    call_command("ann", *map(str, arguments), stdout=out, stderr=io.StringIO())
    return out.getvalue()
