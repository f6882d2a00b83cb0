"""What lies in folders and in test collections, as offers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from django.conf import settings
from django.db import transaction

from rag.ingest import formats
from rag.ingest.beir import BeirFolder
from rag.ingest.discover import FoundFile, SkippedFile, discover
from rag.ingest.plan import Offer
from rag.models import Collection, JudgedQuery, Judgement

_ROWS_PER_INSERT = 2000
_UNREADABLE = "cannot be read"


class FolderOffers:
    """The documents of files and folders. Iterate once, then read what was left out.

    ``roots`` are the folders, for whose vanished documents a run looks. ``unread`` are the sources of files and folders
    that could not be read: what was indexed from there has not vanished. ``skipped`` counts by reason.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises `DiscoverError` for a path that doesn't exist, and for two folders of one name."""
        self._found = discover(paths, max_bytes=settings.RAG_DOCUMENT_MAX_BYTES)
        # As `discover` does: the name of a symbolic link is kept.
        self._given = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
        self.roots = [str(path) for path in self._given if path.is_dir()]
        self.unread: list[str] = []
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Offer]:
        for entry in self._found:
            if isinstance(entry, FoundFile):
                yield Offer(
                    entry.document_id,
                    entry.path,
                    source=entry.document_id,
                    source_root=str(entry.root) if entry.root != entry.path else "",
                )
            else:
                self._note(entry)

    def _note(self, entry: SkippedFile) -> None:
        self.skipped[entry.reason] += 1
        if entry.reason.startswith(_UNREADABLE):
            root = next(root for root in self._given if entry.path.is_relative_to(root))
            self.unread.append(entry.path.relative_to(root.parent).as_posix())


class BeirOffers:
    """The documents of a test collection in BEIR layout; those without title and text are counted and left out."""

    def __init__(self, folder: Path) -> None:
        """Raises `BeirError` at the first fault in any of the files."""
        self._beir = BeirFolder(folder)
        self.summary = self._beir.validate()
        self.roots = [f"beir:{folder.resolve()}"]

    def __iter__(self) -> Iterator[Offer]:
        for document in self._beir.documents():
            if document.text or document.title:
                yield Offer(
                    document.identifier or "",
                    document.text,
                    title=document.title or "",
                    source_root=self.roots[0],
                    media_type=formats.PLAIN_TEXT,
                    metadata=document.metadata,
                )

    def replace_judgements(self, collection: Collection) -> None:
        """Put the folder's queries and judgements in place of the collection's own, all or nothing."""
        with transaction.atomic():
            collection.judged_queries.all().delete()
            queries = [
                JudgedQuery(collection=collection, query_id=query.identifier, text=query.text)
                for query in self._beir.queries()
            ]
            JudgedQuery.objects.bulk_create(queries, batch_size=_ROWS_PER_INSERT)
            by_id = {query.query_id: query for query in queries}
            Judgement.objects.bulk_create(
                (
                    Judgement(
                        query=by_id[found.query_id],
                        document_id=found.document_id,
                        grade=found.grade,
                        weight=found.weight,
                    )
                    for found in self._beir.judgements()
                ),
                batch_size=_ROWS_PER_INSERT,
            )
