"""The embed stage: a space's embedder, served by ONNX Runtime.

Thread counts are set explicitly: with as many threads as cores and anything else running, each call waits for a core
(measured with torch: 30 times slower). Query embedding uses ``RAG_EMBED_THREADS``, indexing ``RAG_INDEX_THREADS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ops.contracts.model_calls import model_call
from rag.pipeline.batching import Batcher, QueueTimeoutError
from rag.pipeline.types import Float32Array, Int64Array

BATCH_TOKENS = 4096
"""Padded tokens of one forward pass: keeps its memory under 100 MB with MiniLM and loses no speed against larger."""

MAX_PADDING = 0.25
"""By how much the texts of one pass may differ in length. On a CPU padding costs what it would cost to be words:
sixteen queries of mixed lengths took three times as long in one pass as one by one."""


QUEUE_TIMEOUT_S = 10.0
"""How long a query waits for the encoder before it is answered without its embedding."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """How queries at the same time share an encoder: see `rag.pipeline.batching.Batcher`."""

    passes: int = 1
    """Forward passes at once."""
    most: int = 1
    """Queries in one pass; 1 encodes each by itself."""
    wait_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Space:
    """What a vector belongs to. ``id`` is the row of `rag.models.EmbeddingSpace`, ``label`` is ``model@version``."""

    id: int
    label: str
    dimension: int
    max_tokens: int
    query_prompt: str
    document_prompt: str


class Embedder:
    """Text to unit vectors of one space. Safe to use from several threads at once."""

    def __init__(self, space: Space, encoder: Encoder) -> None:
        self.space = space
        self._encoder = encoder

    def embed_query(self, text: str) -> Float32Array:
        """float32, shape (dimension,), unit length. Callers at the same time share a pass. Raises `EmbeddingError`."""
        with model_call("embedder", self.space.label, "query", items=1) as call:
            encoded = self._encoder.encode_query(self.space.query_prompt + text)
            call.tokens, call.batch_size = encoded.tokens, encoded.batch_size
        return encoded.vector

    def embed_queries(self, texts: Sequence[str]) -> Float32Array:
        """float32, shape (len(texts), dimension), unit length, in the order of ``texts``."""
        return self._embed([self.space.query_prompt + text for text in texts], "query")

    def embed_documents(self, texts: Sequence[str]) -> Float32Array:
        """float32, shape (len(texts), dimension), unit length, in the order of ``texts``."""
        prompt = self.space.document_prompt
        return self._embed([prompt + text for text in texts], "documents")

    def _embed(self, texts: Sequence[str], operation: str) -> Float32Array:
        with model_call("embedder", self.space.label, operation, items=len(texts)) as call:
            call.batch_size = len(texts)
            encoded = self._encoder.encode(texts)
            call.tokens = sum(encoded.tokens)
        return encoded.vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The model's tokens of each text, without the special ones that frame it."""
        return self._encoder.count_tokens(texts)


def require_vectors(vectors: Float32Array, count: int, space: Space) -> Float32Array:
    """``vectors`` as they are: float32, shape (count, the space's dimension), finite. Raises `EmbeddingError`.

    The last check before vectors are stored: one that is not a number, or of another length, would spoil every search.
    """
    expected = (count, space.dimension)
    if vectors.shape != expected:
        raise EmbeddingError(f"{space.label} returned an array of shape {vectors.shape}, not {expected}.")
    if not np.isfinite(vectors).all():
        raise EmbeddingError(f"{space.label} returned values that are not numbers.")
    return vectors


class Encoded(NamedTuple):
    """vectors: float32, shape (texts, dimension), unit length; ``tokens``: what the model read of each text."""

    vectors: Float32Array
    tokens: list[int]


class EncodedQuery(NamedTuple):
    """A query's vector and tokens, and how many queries were encoded together with it, itself included."""

    vector: Float32Array
    tokens: int
    batch_size: int


class Encoder:
    """An ONNX sentence encoder: inputs ``input_ids`` and ``attention_mask``, output ``sentence_embedding``."""

    def __init__(
        self,
        model_path: Path,
        tokenizer_path: Path,
        *,
        dimension: int,
        max_tokens: int,
        threads: int,
        sharing: Sharing | None = None,
    ) -> None:
        # Tens of megabytes that processes without an embedder are spared.
        import onnxruntime
        from tokenizers import Tokenizer

        self._dimension = dimension
        self._tokenizer = Tokenizer.from_file(str(tokenizer_path))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        self._counter = Tokenizer.from_file(str(tokenizer_path))
        self._counter.no_truncation()
        self._counter.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A thread that spins while it waits takes the core from the database next to it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
        width = self._session.get_outputs()[0].shape[-1]
        if isinstance(width, int) and width != dimension:
            raise EmbeddingError(f"Its vectors have {width} numbers, but its space has {dimension}.")

        sharing = sharing or Sharing()
        self._queries: Batcher[str, EncodedQuery] = Batcher(
            self._encode_rows, slots=sharing.passes, most=sharing.most, linger_s=sharing.wait_ms / 1000
        )

    def encode_query(self, text: str) -> EncodedQuery:
        """One query, with others that wait. Raises `EmbeddingError`, also when no turn comes in time."""
        try:
            return self._queries(text, QUEUE_TIMEOUT_S)
        except QueueTimeoutError as error:
            raise EmbeddingError(f"The embedder is busy. {error}") from None

    def _encode_rows(self, texts: Sequence[str]) -> list[EncodedQuery]:
        encoded = self.encode(texts)
        return [EncodedQuery(vector, tokens, len(texts)) for vector, tokens in zip(*encoded, strict=True)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, untruncated, without the special ones."""
        return [len(encoding) for encoding in self._counter.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The vectors of ``texts``, in their order. They are batched by length, so that little is spent on padding.

        Raises `EmbeddingError`.
        """
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i]))
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        start = 0
        while start < len(order):
            end = start + 1
            longest = len(encodings[order[start]]) * (1 + MAX_PADDING)
            while (
                end < len(order)
                and len(encodings[order[end]]) <= longest
                and (end + 1 - start) * len(encodings[order[end]]) <= BATCH_TOKENS
            ):
                end += 1
            batch = order[start:end]
            width = max(len(encodings[batch[-1]]), 1)
            ids = np.zeros((len(batch), width), dtype=np.int64)
            mask = np.zeros((len(batch), width), dtype=np.int64)
            for row, position in enumerate(batch):
                tokens = encodings[position].ids
                ids[row, : len(tokens)] = tokens
                mask[row, : len(tokens)] = 1
            vectors[batch] = self._run(ids, mask)
            start = end
        if not np.isfinite(vectors).all():
            raise EmbeddingError("The embedder returned values that are not numbers.")
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Float32Array = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
        return Encoded(unit, [len(encoding) for encoding in encodings])

    def _run(self, ids: Int64Array, mask: Int64Array) -> Float32Array:
        try:
            (output,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        except Exception as error:  # ONNX Runtime raises types of its own, without a common base
            raise EmbeddingError(f"The embedder failed: {error}") from error
        vectors: Float32Array = output
        expected = (len(ids), self._dimension)
        if vectors.shape != expected:
            raise EmbeddingError(f"The embedder returned an array of shape {vectors.shape}, not {expected}.")
        return vectors


class EmbeddingError(Exception):
    """The embedder can't be loaded, or its output can't be used."""
