"""What a run has to do: each offered document compared with what is indexed, before anything is parsed or written.

A document is unchanged when its bytes, its title, the settings that decide its chunks and vectors (`Recipe`), and what
its owner says of it are what they were. JSON Lines files are taken apart here: each record is a document.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings

from models_registry.live import view
from models_registry.models import Slot
from ops.contracts.problems import Unprocessable
from rag.ingest import formats, originals
from rag.ingest.chunking import ChunkingSettings
from rag.ingest.sandbox import parse_bytes
from rag.ingest.types import EmptyDocumentError, IngestError, ParsedDocument, ParseLimits
from rag.lexicon import LEXICAL_VERSION
from rag.models import Collection, Document, DocumentState, IndexItem, ItemState
from rag.pipeline.embed import Space
from rag.spaces import space_of

MAX_DOCUMENT_ID_CHARACTERS = 512

SPECIAL_TOKENS = 2
"""Tokens that frame each text for the embedder ([CLS] and [SEP])."""

MIN_HEADING_TOKENS = 16
"""Room that must be left beside a chunk for its title and headings."""

_RECIPE_VERSION = 1
_LOOK_UP_BATCH = 200
_MIN_CHUNK_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Offer:
    """One document as its owner gives it.

    ``content`` is a text as it is, the bytes of a file, or the path of a file on this machine. ``source_root`` names
    the folder it was found in: what is no longer found there is removed.
    """

    document_id: str
    content: str | bytes | Path
    title: str = ""
    source: str = ""
    source_root: str = ""
    external_url: str | None = None
    media_type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    access_groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be done with an offer. ``data`` is the file to be stored, for documents that are not plain text.

    ``state`` is what the document is expected to become; ``reason`` says why it can't be indexed.
    """

    offer: Offer
    state: ItemState
    data: bytes | None = None
    reason: str = ""
    is_duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a collection that decide what its documents become."""

    collection_id: int
    configuration: str
    split_identifiers: bool
    chunking: ChunkingSettings
    space: Space

    @classmethod
    def of(cls, collection: Collection, space: Space | None = None) -> Recipe:
        """The recipe for ``space``, by default that of the live embedder.

        Raises `Unprocessable` when the embedder takes fewer tokens than the collection's chunks have, `Unavailable`
        when none is live.
        """
        space = space or space_of(view.model(Slot.EMBEDDER, collection.slug))
        ensure_chunks_fit(collection.chunk_tokens, space)
        return cls(
            collection_id=collection.id,
            configuration=collection.text_configuration,
            split_identifiers=collection.split_identifiers,
            chunking=ChunkingSettings(
                max_tokens=collection.chunk_tokens,
                overlap_tokens=min(collection.chunk_overlap_tokens, collection.chunk_tokens // 2),
                min_tokens=min(_MIN_CHUNK_TOKENS, collection.chunk_tokens // 4),
            ),
            space=space,
        )

    def content_hash(self, offered: Offer | IndexItem, content_sha256: str) -> str:
        """Identity of everything that decides the document's chunks and terms; 64 hexadecimal digits.

        The embedding space is not part of it: another one is filled over the same chunks (`rag.reembedding`).
        """
        parts = [
            _RECIPE_VERSION,
            content_sha256,
            offered.title,
            offered.media_type,
            parse_name(offered),
            self.chunking.version,
            self.chunking.max_tokens,
            self.chunking.overlap_tokens,
            self.chunking.min_tokens,
            self.configuration,
            self.split_identifiers,
            LEXICAL_VERSION,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def ensure_chunks_fit(chunk_tokens: int, space: Space) -> None:
    """Raises `Unprocessable` unless a chunk and its headings fit the embedder."""
    most = space.max_tokens - SPECIAL_TOKENS - MIN_HEADING_TOKENS
    if chunk_tokens > most:
        raise Unprocessable(
            f"The embedder {space.label} reads {space.max_tokens} tokens, so chunk_tokens may be {most} at most, "
            f"not {chunk_tokens}.",
            errors={"chunk_tokens": f"At most {most}."},
        )


def parse_limits() -> ParseLimits:
    """What reading one document may take, as configured."""
    return ParseLimits(
        wall_s=settings.RAG_PARSE_TIMEOUT_S,
        cpu_s=settings.RAG_PARSE_TIMEOUT_S,
        memory_bytes=settings.RAG_PARSE_MEMORY_MB << 20,
        input_bytes=settings.RAG_DOCUMENT_MAX_BYTES,
    )


def parse_name(offered: Offer | IndexItem) -> str:
    """What the parser calls the document. The name of a plain text says nothing about its format."""
    if offered.media_type == formats.PLAIN_TEXT:
        return f"The document {offered.document_id!r}"
    return offered.source or offered.document_id


def as_offered(offered: Offer | IndexItem) -> dict[str, Any]:
    """What the owner said, as `Document.offer` keeps it."""
    return {
        "title": offered.title,
        "source": offered.source,
        "source_root": offered.source_root,
        "external_url": offered.external_url,
        "media_type": offered.media_type,
        "metadata": dict(offered.metadata),
        "access_groups": list(offered.access_groups),
    }


def plan(
    recipe: Recipe,
    offers: Iterable[Offer],
    *,
    roots: Sequence[str] = (),
    unread: Sequence[str] = (),
    kept: Set[str] = frozenset(),
) -> Iterator[Planned]:
    """Each offer with what is to be done; then the documents that were found in ``roots`` before and are gone.

    What came from a source in ``unread``, or from below it, is not gone, nor is a document whose id is in ``kept``.
    Both are looked at after the last offer.
    """
    offered_ids: set[str] = set()
    unread_sources: set[str] = set()
    for batch in _batches(offers):
        known = _known(recipe.collection_id, batch)
        for offer in batch:
            if not _is_json_lines(offer):
                yield _first_only(_compare(recipe, offer, known), offered_ids)
                continue
            try:
                records = _records(offer)
            except IngestError as error:
                unread_sources.add(offer.source)
                yield _first_only(Planned(offer, ItemState.FAILED, reason=str(error)), offered_ids)
                continue
            for record_batch in _batches(records):
                known_records = _known(recipe.collection_id, record_batch)
                for record in record_batch:
                    yield _first_only(_compare(recipe, record, known_records), offered_ids)
    if roots:
        yield from _vanished(recipe.collection_id, roots, offered_ids.union(kept), unread_sources.union(unread))


def _batches(offers: Iterable[Offer]) -> Iterator[list[Offer]]:
    iterator = iter(offers)
    while batch := list(islice(iterator, _LOOK_UP_BATCH)):
        yield batch


def _known(collection_id: int, offers: Sequence[Offer]) -> dict[str, tuple[str, str, Any, dict[str, Any]]]:
    rows = Document.objects.filter(
        collection_id=collection_id, document_id__in=[offer.document_id for offer in offers]
    ).values_list("document_id", "state", "content_hash", "indexed_at", "offer")
    return {row[0]: row[1:] for row in rows}


def _first_only(planned: Planned, offered_ids: set[str]) -> Planned:
    if planned.offer.document_id in offered_ids:
        return Planned(
            planned.offer,
            ItemState.FAILED,
            reason="Another document of this run has the same id; only the first was taken.",
            is_duplicate=True,
        )
    offered_ids.add(planned.offer.document_id)
    return planned


def _compare(recipe: Recipe, offer: Offer, known: Mapping[str, tuple[str, str, Any, dict[str, Any]]]) -> Planned:
    try:
        data = _read(offer)
    except IngestError as error:
        return Planned(offer, ItemState.FAILED, reason=str(error))
    content_hash = recipe.content_hash(offer, originals.digest(data))
    is_plain = isinstance(offer.content, str) and offer.media_type == formats.PLAIN_TEXT
    kept = None if is_plain else data
    state, known_hash, indexed_at, known_offer = known.get(offer.document_id, ("", "", None, {}))
    if state == DocumentState.INDEXED and known_hash == content_hash and known_offer == as_offered(offer):
        return Planned(offer, ItemState.UNCHANGED)
    return Planned(offer, ItemState.CHANGED if indexed_at else ItemState.ADDED, data=kept)


def _read(offer: Offer) -> bytes:
    """The content as bytes. Raises `IngestError` with the reason when it can't be had."""
    if len(offer.document_id) > MAX_DOCUMENT_ID_CHARACTERS:
        raise IngestError(f"The id is longer than {MAX_DOCUMENT_ID_CHARACTERS} characters; shorten the path.")
    if isinstance(offer.content, str):
        data = offer.content.encode()
        if not offer.content.strip() and not offer.title.strip():
            raise EmptyDocumentError(f"{parse_name(offer)} holds no text; add text to it or leave it out.")
    elif isinstance(offer.content, Path):
        data = _read_file(offer.content, offer.source)
    else:
        data = offer.content
    limit = settings.RAG_DOCUMENT_MAX_BYTES
    if len(data) > limit:
        raise IngestError(f"{parse_name(offer)} is larger than {limit / (1 << 20):g} MB; split it up.")
    return data


def _read_file(path: Path, name: str) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise IngestError(f"{name} is not a regular file; leave it out.")
        if found.st_size > settings.RAG_DOCUMENT_MAX_BYTES:
            raise IngestError(f"{name} is larger than {settings.RAG_DOCUMENT_MAX_BYTES / (1 << 20):g} MB; split it up.")
        return path.read_bytes()
    except OSError as error:
        raise IngestError(f"{name} can't be read: {error.strerror or error}.") from error


def _is_json_lines(offer: Offer) -> bool:
    if offer.media_type == formats.PLAIN_TEXT and isinstance(offer.content, str):
        return False
    try:
        declared = formats.format_of(offer.media_type).media_type if offer.media_type else None
    except IngestError:
        declared = None
    return (declared or formats.media_type_of_name(offer.source)) == formats.JSONL


def _records(offer: Offer) -> list[Offer]:
    """The documents of a JSON Lines file. Raises `IngestError` when it can't be read."""
    parsed = parse_bytes(_read(offer), parse_name(offer), formats.JSONL, parse_limits())
    return [_record(offer, number, document) for number, document in enumerate(parsed, start=1)]


def _record(offer: Offer, number: int, document: ParsedDocument) -> Offer:
    return replace(
        offer,
        document_id=document.identifier or f"{offer.document_id}#{number}",
        content=document.text,
        title=document.title or "",
        media_type=formats.PLAIN_TEXT,
        metadata={**document.metadata, **offer.metadata},
    )


def _vanished(
    collection_id: int, roots: Sequence[str], offered_ids: set[str], unread_sources: set[str]
) -> Iterator[Planned]:
    known = (
        Document.objects.filter(collection_id=collection_id, source_root__in=roots)
        .exclude(state=DocumentState.DELETED)
        .order_by("document_id")
        .values_list("document_id", "source", "source_root", "access_groups")
    )
    for document_id, source, source_root, access_groups in known.iterator(chunk_size=2000):
        # What a broken file held before is not gone: nobody knows what it holds now.
        above = (source, *map(str, PurePosixPath(source).parents))
        if document_id not in offered_ids and unread_sources.isdisjoint(above):
            # With its groups, so that only they see in the run's record what is gone.
            gone = Offer(document_id, "", source=source, source_root=source_root, access_groups=access_groups)
            yield Planned(gone, ItemState.REMOVED)
