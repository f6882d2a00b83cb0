"""The collection that the benchmarks of serving ask: all documents of the public test collections together.

They are taken from ``ZENGLOW_COLLECTIONS_DIR``, else from the sample that ships with the project, which is small.
Indexed once per data folder; ``python -m bench.public`` does that alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.setup import prepare

if TYPE_CHECKING:
    from rag.ingest.plan import Offer

SLUG = "bench-public"
SAMPLE = Path(__file__).resolve().parent.parent / "rag" / "evaluation" / "sample"


@dataclass(frozen=True, slots=True)
class Passage:
    """A document, under an id that says which collection it is from."""

    id: str
    title: str
    text: str


def folders() -> list[Path]:
    """The BEIR folders that are used, by name. Django must be set up."""
    from django.conf import settings

    given: Path | None = settings.ZENGLOW_COLLECTIONS_DIR
    found = sorted(path.parent for path in given.glob("*/corpus.jsonl")) if given is not None else []
    return found or [SAMPLE]


def passages() -> Iterator[Passage]:
    """Every document that has a text."""
    from rag.ingest.beir import BeirFolder

    for folder in folders():
        for document in BeirFolder(folder).documents():
            if document.text:
                yield Passage(f"{folder.name}/{document.identifier}", document.title or "", document.text)


@dataclass(frozen=True, slots=True)
class JudgedText:
    """A query with the grades of its judged documents, by their `Passage.id`, and the folder that it is from."""

    text: str
    grades: dict[str, int]
    folder: str


def judged_texts() -> dict[str, JudgedText]:
    """Every query that has a relevant document, by an id that says which collection it is from."""
    from rag.ingest.beir import BeirFolder

    found: dict[str, JudgedText] = {}
    for folder in folders():
        collection = BeirFolder(folder)
        grades: dict[str, dict[str, int]] = {}
        for judgement in collection.judgements():
            grades.setdefault(judgement.query_id, {})[f"{folder.name}/{judgement.document_id}"] = judgement.grade
        for query in collection.queries():
            of_query = grades.get(query.identifier, {})
            if any(of_query.values()):
                found[f"{folder.name}/{query.identifier}"] = JudgedText(query.text, of_query, folder.name)
    return found


def judged_queries() -> list[str]:
    """The text of every query that has a relevant document."""
    return [judged.text for judged in judged_texts().values()]


def ensure_indexed() -> int:
    """Index what is not indexed yet; how many chunks the collection has."""
    prepare()
    from ops.contracts.principal import SYSTEM
    from rag.collections import create_collection
    from rag.ingest.service import process_batch, start_run
    from rag.models import Chunk, Collection

    collection = Collection.objects.filter(slug=SLUG).first() or create_collection(SLUG, SYSTEM)
    run = start_run(collection, _offers(), SYSTEM, "bench", enqueue=False)
    while process_batch(run.id):
        pass
    return Chunk.objects.filter(collection=collection).count()


def _offers() -> Iterator[Offer]:
    from rag.ingest import formats
    from rag.ingest.plan import Offer

    for passage in passages():
        yield Offer(passage.id, passage.text, title=passage.title, media_type=formats.PLAIN_TEXT)


if __name__ == "__main__":
    print(f"{ensure_indexed()} chunks")
