"""A look at a source: what is new, changed, the same and gone there, handed to indexing as one run.

What can't be read this time has not vanished, and neither has what was not seen because the look ended early. A place
that suddenly holds nothing at all is taken for one that is broken (a mount that is not mounted) until somebody says
that it is meant.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from ops.contracts.principal import Principal
from ops.contracts.problems import Problem
from rag.ingest import service
from rag.ingest.plan import MAX_DOCUMENT_ID_CHARACTERS, Offer
from rag.models import Document, DocumentState, IndexRun, ItemState, Source, SourceItem
from rag.sources.connectors import CONNECTORS
from rag.sources.permitted import read_secret
from rag.sources.types import Found, Incomplete, Known, LeftOut, Place, Same, SourceError, Tally, Unreadable

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
CHANGES_SHOWN = 200
_ROWS = 1000

Alive = Callable[[], bool]
"""Told now and then that the look goes on; whether it may."""


@dataclass(slots=True)
class Looked:
    """What a look came to. ``changes`` (state, id, reason) only of a dry run, the first `CHANGES_SHOWN`."""

    tally: Tally
    run: IndexRun | None = None
    changes: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def trouble(self) -> str:
        """Why it is not the whole truth; "" when it is."""
        if self.tally.incomplete:
            return self.tally.incomplete
        if self.tally.unreadable:
            return f"{self.tally.unreadable} could not be read this time, and stay as they were."
        return ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self.tally) | {"changes": self.changes}


def look(
    source: Source,
    principal: Principal,
    *,
    dry_run: bool = False,
    may_be_empty: bool = False,
    alive: Alive = lambda: True,
    enqueue: bool = True,
) -> Looked:
    """Look at a source and start a run of what has changed; a dry run changes nothing. Raises `SourceError`, `Problem`.

    ``may_be_empty``: that nothing is left there is meant, and all its documents are to be removed.
    """
    walk = _Walk(source, alive)
    offers = walk.offers()
    first = next(offers, None)
    offered = offers if first is None else chain([first], offers)
    if first is None:
        walk.ensure_not_suddenly_empty(may_be_empty)
    looked = Looked(walk.tally)
    if dry_run:
        diff = service.diff(source.collection, offered, roots=[source.root], kept=walk.kept)
        looked.changes = [(state.value, name, reason) for state, name, reason in diff.changes[:CHANGES_SHOWN]]
        looked.tally.gone = diff.counts[ItemState.REMOVED]
        return looked
    gone = walk.gone() if first is None else None
    if gone is None or gone:
        looked.run = service.start_run(
            source.collection,
            offered,
            principal,
            f"source: {source.name}",
            roots=[source.root],
            kept=walk.kept,
            enqueue=enqueue,
        )
    looked.tally.gone = len(walk.gone())
    walk.remember()
    return looked


class _Walk:
    """One pass over a place. ``kept`` are the ids of documents that are there and need not be read."""

    def __init__(self, source: Source, alive: Alive) -> None:
        self._source = source
        self._alive = alive
        self._rows = {item.path: item for item in SourceItem.objects.filter(source=source)}
        self._known = self._what_is_known()
        self._found: dict[str, Found] = {}
        self._same: dict[str, str | None] = {}
        self._faults: dict[str, str] = {}
        self._left_out: Counter[str] = Counter()
        self.kept: set[str] = set()
        self.tally = Tally()

    def offers(self) -> Iterator[Offer]:
        """What is new or may have changed. Raises `SourceError`."""
        source = self._source
        connector = CONNECTORS[source.kind]
        folder = Path(settings.ZENGLOW_DATA_DIR) / "sources" / str(source.pk)
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(source.name, source.location, source.options, folder, read_secret(source.secret))
        deadline = time.monotonic() + settings.RAG_SOURCE_TIMEOUT_S
        beat = time.monotonic() + HEARTBEAT_S
        try:
            for event in connector.events(place, self._known):
                match event:
                    case Found():
                        if self._is_taken(event):
                            yield self._offer(event)
                    case Same(path, revision):
                        self._same[path] = revision
                        self._keep(path)
                    case Unreadable(path, reason):
                        self._could_not_read(path, reason)
                    case LeftOut(reason):
                        self._left_out[reason] += 1
                    case Incomplete(reason):
                        self.tally.incomplete = reason
                now = time.monotonic()
                if now > beat:
                    beat = now + HEARTBEAT_S
                    if not self._alive():
                        raise SourceError("It was paused, changed or deleted meanwhile.")
                if now > deadline:
                    self.tally.incomplete = "It takes longer than RAG_SOURCE_TIMEOUT_S; the next look goes on."
                if self.tally.incomplete:
                    break
        except Problem as problem:  # such as an address that may not be called any more
            raise SourceError(str(problem)) from problem
        if self.tally.incomplete:
            for path in self._rows:
                self._keep(path)
        self._count()

    def gone(self) -> list[str]:
        """The paths that were there the last time and are not any more."""
        return [path for path in self._rows if path not in self._found and self._document_id(path) not in self.kept]

    def ensure_not_suddenly_empty(self, may_be_empty: bool) -> None:
        """Raises `SourceError` when all that was known is gone and that was not announced."""
        is_empty = bool(self._rows) and not self._found and not self.kept
        if is_empty and not may_be_empty:
            raise SourceError(
                f"Nothing is there any more, where {len(self._rows)} documents were. If that is meant, sync it by hand "
                "and say that it may be empty; until then they stay."
            )

    def remember(self) -> None:
        """Keep what tells the next time whether something has changed."""
        now = timezone.now()
        rows: list[SourceItem] = []
        for path, found in self._found.items():
            rows.append(SourceItem(path=path, revision=found.revision, links=list(found.links), seen_at=now))
        for path, revision in self._same.items():
            row = self._rows.get(path)
            if row is not None and (row.fault or revision not in {None, row.revision}):
                rows.append(SourceItem(path=path, revision=revision or row.revision, links=row.links, seen_at=now))
        for path, fault in self._faults.items():
            row = self._rows.get(path)
            kept = {"revision": row.revision, "links": row.links} if row is not None else {}
            rows.append(SourceItem(path=path, fault=fault, seen_at=now, **kept))
        for row in rows:
            row.source = self._source
        with transaction.atomic():
            gone = self.gone()
            for start in range(0, len(gone), _ROWS):
                SourceItem.objects.filter(source=self._source, path__in=gone[start : start + _ROWS]).delete()
            SourceItem.objects.bulk_create(
                rows,
                batch_size=_ROWS,
                update_conflicts=True,
                unique_fields=("source", "path"),
                update_fields=("revision", "links", "fault", "seen_at"),
            )

    def _what_is_known(self) -> dict[str, Known]:
        """By path. What is not indexed as it was found counts as new, unless somebody deleted it: that is respected."""
        states = dict(
            Document.objects.filter(collection=self._source.collection, source_root=self._source.root).values_list(
                "document_id", "state"
            )
        )
        return {
            path: Known(row.revision, tuple(row.links))
            for path, row in self._rows.items()
            if row.revision and states.get(self._document_id(path)) in {DocumentState.INDEXED, DocumentState.DELETED}
        }

    def _is_taken(self, found: Found) -> bool:
        if len(self._document_id(found.path)) > MAX_DOCUMENT_ID_CHARACTERS:
            self._left_out[f"has a path of more than {MAX_DOCUMENT_ID_CHARACTERS} characters"] += 1
            return False
        if len(self._found) + len(self._same) >= settings.RAG_SOURCE_MAX_ITEMS:
            self.tally.incomplete = "It holds more documents than RAG_SOURCE_MAX_ITEMS."
            return False
        return True

    def _offer(self, found: Found) -> Offer:
        # Without the content: what was offered is kept until the end.
        self._found[found.path] = Found(found.path, b"", found.revision, found.address, links=found.links)
        return Offer(
            self._document_id(found.path),
            found.content,
            source=found.address,
            source_root=self._source.root,
            external_url=found.external_url,
            media_type=found.media_type,
            metadata=self._source.metadata,
            access_groups=self._source.access_groups,
        )

    def _keep(self, path: str) -> None:
        self.kept.add(self._document_id(path))

    def _could_not_read(self, path: str, reason: str) -> None:
        if not path.endswith("/"):
            self._keep(path)
            if path.isprintable() and len(path) <= MAX_DOCUMENT_ID_CHARACTERS:
                self._faults[path] = reason
            else:
                self._left_out[reason] += 1  # what is no text has no row
            return
        for known in self._rows:
            if known.startswith(path):
                self._keep(known)

    def _count(self) -> None:
        self.tally.found = len(self._found)
        self.tally.same = len(self._same)
        self.tally.unreadable = len(self._faults)
        self.tally.left_out = dict(self._left_out.most_common(20))

    def _document_id(self, path: str) -> str:
        return f"{self._source.name}/{path}"
