"""From bytes to what is stored: parse, chunk, read the terms, embed. Nothing here writes a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from django.db import connection

from ops.contracts.stage import stage
from rag.ingest import formats, originals
from rag.ingest.chunking import chunk
from rag.ingest.plan import SPECIAL_TOKENS, Recipe, parse_limits, parse_name
from rag.ingest.sandbox import parse_bytes
from rag.ingest.types import Block, BlockKind, ChunkDraft, EmptyDocumentError, ParsedDocument, ParseError
from rag.ingest.writer import PreparedDocument
from rag.lexicon import Passage, encode_passages, heading_text
from rag.models import IndexItem
from rag.pipeline.embed import Space, require_vectors
from rag.pipeline.types import Float32Array


class DocumentEmbedder(Protocol):
    """What indexing needs of an embedder."""

    @property
    def space(self) -> Space: ...

    def embed_documents(self, texts: Sequence[str]) -> Float32Array:
        """float32, shape (len(texts), dimension)."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text without the special ones."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document that was read. ``title_stands_in``: it has no text but a title, which is then its text."""

    document: ParsedDocument
    title: str
    title_stands_in: bool


@dataclass(frozen=True, slots=True)
class Chunked:
    """A document that was cut up, with the hash of what decides its chunks."""

    parsed: Parsed
    content_hash: str
    drafts: Sequence[ChunkDraft]

    def passages(self) -> Iterator[Passage]:
        """What is read as terms. A title that stands in for the text counts once."""
        for draft in self.drafts:
            heading = heading_text(self.parsed.title, headings(self.parsed.title, draft.heading_path))
            yield Passage(heading, "" if self.parsed.title_stands_in else draft.text)


def read_content(item: IndexItem) -> bytes:
    """The bytes that an item offers. Raises `OriginalError`."""
    return originals.read(item.original) if item.original else (item.text or "").encode()


def parse_item(item: IndexItem, data: bytes) -> Parsed:
    """Read a document in the sandbox. Raises any `IngestError`, or `SandboxError`."""
    given_title = " ".join(item.title.split())
    try:
        with stage("parse"):
            found = parse_bytes(data, parse_name(item), item.media_type or None, parse_limits())
    except EmptyDocumentError:
        if not given_title:
            raise
        found = [ParsedDocument(given_title, "", item.media_type or formats.PLAIN_TEXT, ())]
    if len(found) != 1:
        raise ParseError(f"{parse_name(item)} holds {len(found)} documents; send it as a JSON Lines file.")
    document = found[0]
    title = given_title or document.title or ""
    if document.text:
        return Parsed(document, title, title_stands_in=False)
    if not title:
        raise EmptyDocumentError(f"{parse_name(item)} holds no text; add text to it or leave it out.")
    block = Block(BlockKind.PARAGRAPH, 0, len(title))
    return Parsed(replace(document, text=title, blocks=(block,)), title, title_stands_in=True)


def chunk_document(parsed: Parsed, content_hash: str, recipe: Recipe, embedder: DocumentEmbedder) -> Chunked:
    """Cut a document into passages that fit the embedder."""
    with stage("chunk"):
        return Chunked(parsed, content_hash, chunk(parsed.document, recipe.chunking, embedder.count_tokens))


def prepare(documents: Sequence[Chunked], recipe: Recipe, embedder: DocumentEmbedder) -> list[PreparedDocument]:
    """Terms and vectors of several documents, all texts embedded at once. Call it outside of a transaction."""
    passages = [passage for document in documents for passage in document.passages()]
    with connection.cursor() as cursor:
        terms = encode_passages(
            cursor,
            passages,
            collection_id=recipe.collection_id,
            configuration=recipe.configuration,
            split_identifiers=recipe.split_identifiers,
        )
    passages_in_context = [
        ("" if document.parsed.title_stands_in else heading_line(document.parsed.title, draft.heading_path), draft.text)
        for document in documents
        for draft in document.drafts
    ]
    texts = embedding_texts(passages_in_context, recipe.chunking.max_tokens, embedder)
    with stage("embed_batch"):
        vectors = embedder.embed_documents(texts) if texts else np.empty((0, recipe.space.dimension), np.float32)
    require_vectors(vectors, len(texts), recipe.space)
    prepared, start = [], 0
    for document in documents:
        end = start + len(document.drafts)
        prepared.append(
            PreparedDocument(
                text=document.parsed.document.text,
                content_hash=document.content_hash,
                drafts=document.drafts,
                terms=terms[start:end],
                embeddings=vectors[start:end],
                space_id=recipe.space.id,
                chunking_version=recipe.chunking.version,
            )
        )
        start = end
    return prepared


def headings(title: str, heading_path: Sequence[str]) -> Sequence[str]:
    """The headings that a chunk stands under, without a first one that only repeats the title."""
    return heading_path[1:] if heading_path and heading_path[0] == title else heading_path


def heading_line(title: str, heading_path: Sequence[str]) -> str:
    """Title and headings on one line."""
    return " > ".join(part for part in (title, *headings(title, heading_path)) if part)


def embedding_texts(passages: Sequence[tuple[str, str]], chunk_tokens: int, embedder: DocumentEmbedder) -> list[str]:
    """What is embedded for each passage (heading line, text): the line, cut to the room beside the text, then the text.

    ``chunk_tokens``: the longest text there may be, in the embedder's tokens.
    """
    prompt_tokens = sum(embedder.count_tokens([embedder.space.document_prompt]))
    room = max(embedder.space.max_tokens - SPECIAL_TOKENS - prompt_tokens - chunk_tokens, 0)
    lines = sorted({line for line, _ in passages if line})
    fitting = dict(zip(lines, _cut(lines, room, embedder), strict=True))
    return [f"{fitting[line]}\n{text}" if line else text for line, text in passages]


def _cut(lines: Sequence[str], max_tokens: int, embedder: DocumentEmbedder) -> list[str]:
    """Each line with so many of its last words left out that it has at most ``max_tokens``."""
    fitting = list(lines)
    pending = list(range(len(fitting)))
    while pending:
        counts = embedder.count_tokens([fitting[index] for index in pending])
        too_long = []
        for index, count in zip(pending, counts, strict=True):
            if count > max_tokens:
                words = fitting[index].split(" ")
                # In proportion, and at least one word fewer each time; a single endless word goes altogether.
                fitting[index] = " ".join(words[: min(len(words) * max_tokens // count, len(words) - 1)])
                too_long.append(index)
        pending = too_long
    return fitting
