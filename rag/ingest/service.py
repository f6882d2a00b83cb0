"""What indexing does, for commands, API, pages and tasks alike; nothing here knows HTTP.

    run = start_run(collection, offers, principal, origin="api")     # compared, recorded, handed to the workers
    while process_batch(run.id): ...                                 # what a worker does

Each document is written in its own transaction together with its item and the run's counts, so a worker may die
anywhere: what is written is counted, what is not is taken again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from uuid import UUID

from django.conf import settings
from django.db import DataError, Error, IntegrityError, transaction
from kombu.exceptions import OperationalError as BrokerError

from ops import audit
from ops.contracts.audit import AuditAction, declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, NotFound, Problem, Unavailable
from ops.contracts.stage import stage
from rag.ingest import formats, originals, runs, writer
from rag.ingest.originals import OriginalError
from rag.ingest.plan import Offer, Planned, Recipe, as_offered, plan
from rag.ingest.prepare import Chunked, DocumentEmbedder, Parsed, chunk_document, parse_item, prepare, read_content
from rag.ingest.sandbox import SandboxError
from rag.ingest.types import IngestError
from rag.ingest.writer import DocumentFields, changing
from rag.models import Collection, Document, DocumentState, IndexItem, IndexRun, ItemState, RunState
from rag.pipeline.embed import EmbeddingError
from rag.spaces import embedder_for

logger = logging.getLogger(__name__)

INDEX = declare_action("documents.index", "Documents were offered; an index run is to bring them in.")
DELETE = declare_action("document.delete", "A document is no longer found; for a time it can be restored.")
RESTORE = declare_action("document.restore", "A deleted document is to be indexed again.")
REINDEX = declare_action("document.reindex", "A document is to be read and indexed again.")

_CHUNKS_PER_EMBEDDING = 1024
"""Documents are embedded and written when so many chunks have come together, which bounds memory."""

_ITEMS_PER_SLICE = 200
_WORKER_DIED = "The worker died {attempts} times over this document; it may need more memory than there is."
_BUG = "Something went wrong here ({error}); the log has the details."


@dataclass(frozen=True, slots=True)
class Diff:
    """What a run would do: counts by state, and every document that is not unchanged as (state, id, reason)."""

    counts: Counter[ItemState] = field(default_factory=Counter)
    changes: list[tuple[ItemState, str, str]] = field(default_factory=list)


def diff(
    collection: Collection,
    offers: Iterable[Offer],
    *,
    roots: Sequence[str] = (),
    unread: Sequence[str] = (),
    kept: Set[str] = frozenset(),
) -> Diff:
    """What `start_run` would do. Nothing is written and nothing but JSON Lines is parsed."""
    found = Diff()
    for planned in plan(Recipe.of(collection), offers, roots=roots, unread=unread, kept=kept):
        found.counts[planned.state] += 1
        if planned.state != ItemState.UNCHANGED:
            found.changes.append((planned.state, planned.offer.document_id, planned.reason))
    return found


def start_run(
    collection: Collection,
    offers: Iterable[Offer],
    principal: Principal,
    origin: str,
    *,
    roots: Sequence[str] = (),
    unread: Sequence[str] = (),
    kept: Set[str] = frozenset(),
    enqueue: bool = True,
) -> IndexRun:
    """Record what is to be indexed and hand it to the workers; what is unchanged is finished already.

    Documents found in ``roots`` before that are not offered now are removed, unless they came from below a source in
    ``unread`` or are in ``kept`` (see `plan`). Without ``enqueue`` the caller works the
    run off with `process_batch`. Raises `Unprocessable` and `Unavailable` for a collection that can't be indexed now,
    such as when the disk is full; then nothing is left of the run.
    """
    recipe = Recipe.of(collection)
    run = runs.create_run(collection, principal.name, origin)
    try:
        _collect(run, plan(recipe, offers, roots=roots, unread=unread, kept=kept))
        with transaction.atomic():
            runs.open_run(run)
            audit.record(
                principal,
                INDEX,
                collection.slug,
                {"run": str(run.id), "origin": origin, "documents": run.total},
            )
    except BaseException as error:
        run.delete()
        if isinstance(error, OriginalError):
            raise Unavailable(str(error)) from error
        raise
    if enqueue and run.state == RunState.RUNNING:
        enqueue_run(run.id)
    return run


def enqueue_run(run_id: UUID) -> None:
    """Ask the workers to go on with a run: whoever takes a batch asks for the next at once, as long as there is one.

    So as many workers share a run as are free, and no run waits behind all of a longer one. Without a broker nothing
    is lost: the run is recorded, and a periodic task queues it once the broker is back.
    """
    from rag.tasks import index_batch  # which imports this module

    def send() -> None:
        try:
            index_batch.delay(str(run_id))
        except BrokerError as error:
            logger.warning("The task queue can't be reached; run %s waits for it (%s)", run_id, error)

    transaction.on_commit(send)


def process_batch(
    run_id: UUID, embedder: DocumentEmbedder | None = None, *, on_taken: Callable[[], None] = lambda: None
) -> int:
    """Work off the next items of a run. Returns how many were taken; 0 when there is nothing to take.

    ``on_taken`` is called between taking items and working on them.

    Safe to call in any number of processes at once, and again after any of them died.
    """
    try:
        with runs.claimed(run_id, settings.RAG_INDEX_BATCH_DOCUMENTS) as items:
            if items:
                on_taken()
                _Batch(items, embedder).work()
    except (IntegrityError, Collection.DoesNotExist):
        if IndexRun.objects.filter(id=run_id).exists():
            raise
        return 0  # the collection was deleted meanwhile, and the run with it
    runs.finish_if_done(run_id)
    return len(items)


def remove_document(collection: Collection, document_id: str, principal: Principal) -> None:
    """Take a document out of the search at once; it can be restored until it is purged. Raises `NotFound`."""
    with changing(collection.id) as change:
        if not writer.remove_document(change, document_id, writer.next_revision()):
            raise NotFound(f"There is no document '{document_id}' in '{collection.slug}'.")
        audit.record(principal, DELETE, f"{collection.slug}/{document_id}")


def restore_document(collection: Collection, document_id: str, principal: Principal) -> IndexRun:
    """Index a deleted document again. Raises `NotFound`, or `Conflict` when it is not deleted."""
    document = _existing(collection, document_id)
    if document.state != DocumentState.DELETED:
        raise Conflict(f"The document '{document_id}' is not deleted.")
    return _index_again(collection, document, principal, RESTORE)


def reindex_document(collection: Collection, document_id: str, principal: Principal) -> IndexRun:
    """Read and index a document again, although nothing may have changed. Raises `NotFound`."""
    document = _existing(collection, document_id)
    if document.state == DocumentState.DELETED:
        raise NotFound(f"The document '{document_id}' is deleted; restore it first.")
    return _index_again(collection, document, principal, REINDEX)


def reindex_collection(collection: Collection, principal: Principal) -> IndexRun:
    """Bring every document of a collection up to its present settings; those that are up to date cost nothing."""
    return start_run(collection, _stored_offers(collection), principal, "settings")


def _collect(run: IndexRun, planned: Iterable[Planned]) -> None:
    items: list[IndexItem] = []
    unchanged = 0
    for one in planned:
        if one.state == ItemState.UNCHANGED:
            unchanged += 1
        else:
            items.append(_item(one))
        if len(items) + unchanged >= _ITEMS_PER_SLICE:
            runs.add_items(run, items, unchanged)
            items, unchanged = [], 0
    runs.add_items(run, items, unchanged)


def _existing(collection: Collection, document_id: str) -> Document:
    document = Document.objects.filter(collection=collection, document_id=document_id).first()
    if document is None:
        raise NotFound(f"There is no document '{document_id}' in '{collection.slug}'.")
    return document


def _index_again(collection: Collection, document: Document, principal: Principal, action: AuditAction) -> IndexRun:
    try:
        offer = _stored_offer(document)
    except OriginalError as error:
        raise Conflict(str(error)) from error
    # Without its hash the document counts as changed.
    Document.objects.filter(id=document.id).update(content_hash="")
    audit.record(principal, action, f"{collection.slug}/{document.document_id}")
    return start_run(collection, [offer], principal, action)


def _stored_offers(collection: Collection) -> Iterator[Offer]:
    documents = Document.objects.filter(collection=collection).exclude(state=DocumentState.DELETED).order_by("id")
    for document in documents.iterator(chunk_size=100):
        try:
            yield _stored_offer(document)
        except OriginalError as error:
            logger.warning("Document %s can't be indexed again: %s", document.id, error)


def _stored_offer(document: Document) -> Offer:
    """A document as it was offered, from what is kept of it. Raises `OriginalError`."""
    content: str | bytes
    if document.original:
        content = originals.read(document.original)
    elif document.text:
        # A title that stood in for the text is no text.
        content = "" if document.text == document.offer.get("title") else document.text
    else:
        raise OriginalError("Nothing is kept of this document; add it again.")
    return Offer(document.document_id, content, **document.offer)


def _item(planned: Planned) -> IndexItem:
    offer = planned.offer
    item = IndexItem(
        document_id=offer.document_id[:512],
        title=offer.title,
        source=offer.source,
        source_root=offer.source_root,
        external_url=offer.external_url,
        media_type=offer.media_type,
        metadata=dict(offer.metadata),
        access_groups=list(offer.access_groups),
        reason=planned.reason,
    )
    if planned.is_duplicate:
        # Not a failure of the document, which the first one is.
        item.state = ItemState.FAILED
    elif planned.state == ItemState.REMOVED:
        item.remove = True
    elif planned.data is not None:
        item.original = originals.put(planned.data)
    elif planned.state != ItemState.FAILED and isinstance(offer.content, str):
        item.text = offer.content
    return item


class _Batch:
    """The claimed items of one run on their way into the tables."""

    def __init__(self, items: Sequence[IndexItem], embedder: DocumentEmbedder | None) -> None:
        self.items = items
        self.collection = Collection.objects.get(id=items[0].run.collection_id)
        self._embedder = embedder
        self._recipe: Recipe | None = None
        self._waiting: list[tuple[IndexItem, Chunked, int]] = []
        self._indexed_hashes = dict(
            Document.objects.filter(
                collection=self.collection,
                document_id__in=[item.document_id for item in items],
                indexed_at__isnull=False,
            ).values_list("document_id", "content_hash")
        )

    @property
    def embedder(self) -> DocumentEmbedder:
        if self._embedder is None:
            self._embedder = embedder_for(self.collection.slug, indexing=True)
        return self._embedder

    @property
    def recipe(self) -> Recipe:
        if self._recipe is None:
            self._recipe = Recipe.of(self.collection, self.embedder.space)
        return self._recipe

    def work(self) -> None:
        for item in self.items:
            if item.remove:
                self._remove(item)
            elif item.text is None and not item.original:
                self._fail(item, item.reason)
            elif item.attempts > runs.MAX_ATTEMPTS:
                self._fail(item, _WORKER_DIED.format(attempts=runs.MAX_ATTEMPTS))
            else:
                self._read(item)
            if sum(len(chunked.drafts) for _, chunked, _ in self._waiting) >= _CHUNKS_PER_EMBEDDING:
                self._write()
        self._write()

    def _read(self, item: IndexItem) -> None:
        """Parse and chunk one item; it waits for the others to be embedded together with them."""
        try:
            data = read_content(item)
            content_hash = self.recipe.content_hash(item, originals.digest(data))
            parsed = parse_item(item, data)
            is_indexed = self._indexed_hashes.get(item.document_id) == content_hash
            if is_indexed and self._update(item, parsed, content_hash, len(data)):
                return
            chunked = chunk_document(parsed, content_hash, self.recipe, self.embedder)
        except (IngestError, OriginalError, SandboxError, EmbeddingError, Problem) as error:
            self._fail(item, str(error))
        except Error:
            raise  # the database's fault, not the document's
        except Exception as error:
            logger.exception("Item %s could not be prepared", item.id)
            self._fail(item, _BUG.format(error=type(error).__name__))
        else:
            self._waiting.append((item, chunked, len(data)))

    def _write(self) -> None:
        """Embed what waits, all at once, and write each document in a transaction of its own."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            prepared = prepare([chunked for _, chunked, _ in waiting], self.recipe, self.embedder)
        except Error:
            raise
        except Exception as error:
            if not isinstance(error, EmbeddingError):
                logger.exception("A batch could not be embedded")
            reason = str(error) if isinstance(error, EmbeddingError) else _BUG.format(error=type(error).__name__)
            for item, _, _ in waiting:
                self._fail(item, reason)
            return
        for (item, chunked, size_bytes), document in zip(waiting, prepared, strict=True):
            fields = _fields(item, chunked.parsed, size_bytes)
            try:
                with stage("write"), changing(self.collection.id) as change:
                    runs.settle(item, writer.write_document(change, fields, document, item.id))
            except DataError as error:
                logger.exception("Item %s could not be stored", item.id)
                self._fail(item, _BUG.format(error=type(error).__name__))

    def _update(self, item: IndexItem, parsed: Parsed, content_hash: str, size_bytes: int) -> bool:
        """Whether the document's content is still indexed, so that its fields were all there was to do."""
        with stage("write"), changing(self.collection.id) as change:
            state = writer.update_fields(change, _fields(item, parsed, size_bytes), content_hash, item.id)
            if state is not None:
                runs.settle(item, state)
        return state is not None

    def _remove(self, item: IndexItem) -> None:
        with stage("write"), changing(self.collection.id) as change:
            removed = writer.remove_document(change, item.document_id, item.id)
            runs.settle(item, ItemState.REMOVED if removed else ItemState.UNCHANGED)

    def _fail(self, item: IndexItem, reason: str) -> None:
        fields = _fields(item, None, 0)
        with changing(self.collection.id) as change:
            writer.record_failure(change, fields, reason, item.id)
            runs.settle(item, ItemState.FAILED, reason)


def _fields(item: IndexItem, parsed: Parsed | None, size_bytes: int) -> DocumentFields:
    document = parsed.document if parsed else None
    return DocumentFields(
        document_id=item.document_id,
        title=parsed.title if parsed else item.title,
        source=item.source,
        source_root=item.source_root,
        external_url=item.external_url,
        media_type=document.media_type if document else item.media_type or formats.PLAIN_TEXT,
        metadata={**(document.metadata if document else {}), **item.metadata},
        access_groups=item.access_groups,
        original=item.original,
        size_bytes=size_bytes,
        offer=as_offered(item),
    )
