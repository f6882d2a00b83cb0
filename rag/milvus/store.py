"""Milvus: one Milvus collection for each of our collections in each embedding space, behind an alias.

A chunk's lexical vector holds for each of its terms the part of BM25 that the chunk decides; the query's holds the
rest, inverse document frequency included, so that their inner product is BM25. Milvus' own BM25 function is not used:
its document frequencies would count what the reader may not see, and it stems otherwise than PostgreSQL does.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from django.conf import settings

from rag.milvus.labels import LABEL_CHARACTERS, MAX_LABELS
from rag.pipeline.bm25 import BM25_B, BM25_K1
from rag.pipeline.types import GAP, Float32Array, Int32Array

if TYPE_CHECKING:
    from pymilvus import MilvusClient

INSTALL = "Install it: .venv/bin/pip install -r requirements/milvus.txt"

ROWS_PER_REQUEST = 500

RECONNECT = {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2000,
}
"""gRPC would wait up to two minutes before it looks again for a server that was away; the circuit breaker does that."""

_CONNECT_FAILED = 2
_MISSING_COLLECTION = 100
_NOT_LOADED = 101


@dataclass(frozen=True, slots=True)
class MilvusSettings:
    """Where Milvus is. ``uri`` is an address, or the path of a Milvus Lite file."""

    uri: str
    token: str
    prefix: str
    dense_index: str
    timeout_s: float

    @property
    def is_lite(self) -> bool:
        return "://" not in self.uri


@dataclass(frozen=True, slots=True)
class Copy:
    """A chunk as Milvus holds it. ``embedding``: float32, shape (dimension,); ``terms``: see `lexical_vector`."""

    chunk_id: int
    document_row_id: int
    labels: list[str]
    embedding: Float32Array
    terms: dict[int, float]


def configured(timeout_s: float) -> MilvusSettings:
    """What the environment says, with the longest time for one call."""
    return MilvusSettings(
        settings.MILVUS_URI or "",
        settings.MILVUS_TOKEN or "",
        settings.MILVUS_COLLECTION_PREFIX,
        settings.MILVUS_DENSE_INDEX,
        timeout_s,
    )


def is_installed() -> bool:
    return importlib.util.find_spec("pymilvus") is not None


def lexical_vector(tokens: Int32Array, average_length: float) -> dict[int, float]:
    """BM25 of each term without its inverse document frequency, by term id; as `rag.pipeline.bm25.bm25`.

    ``average_length`` is that of the collection when its copy was built: a later drift moves weights a little, until
    the next rebuild. Milvus takes no empty vector, so a chunk without terms has one that no query asks for.
    """
    term_ids, frequencies = np.unique(tokens[tokens > GAP], return_counts=True)
    saturation = BM25_K1 * (1.0 - BM25_B + BM25_B * frequencies.sum() / (average_length or 1.0))
    weights = frequencies * (BM25_K1 + 1.0) / (frequencies + saturation)
    return dict(zip(term_ids.tolist(), weights.tolist(), strict=True)) or {GAP: 1.0}


def average_length_of(name: str) -> float:
    """The length that a copy's lexical vectors were made for; its name holds it, in thousandths of a token."""
    return int(name.rpartition("_")[2]) / 1000


class MilvusStore:
    """Safe to use from several threads. It connects when it is first used; errors of its client leave as they are."""

    def __init__(self, place: MilvusSettings) -> None:
        self._settings = place
        self._lock = threading.Lock()
        self._client: MilvusClient | None = None

    @property
    def client(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                from pymilvus import MilvusClient

                # It logs each error with its traceback, to a handler of its own, and raises it as well.
                logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
                self._client = MilvusClient(
                    self._settings.uri,
                    token=self._settings.token,
                    timeout=self._settings.timeout_s,
                    grpc_options=RECONNECT,
                )
            return self._client

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    @property
    def _within(self) -> dict[str, float]:
        return {"timeout": self._settings.timeout_s}

    def ping(self) -> str:
        """The server's version."""
        return str(self.client.get_server_version(**self._within))

    def alias(self, collection_id: int, space_id: int) -> str:
        """The name under which a collection is searched."""
        return f"{self._settings.prefix}_{collection_id}_{space_id}"

    def copies(self, collection_id: int) -> dict[int, str]:
        """``{space id: name}`` of the Milvus collections that are searched for one of ours."""
        pattern = re.compile(rf"{re.escape(self._settings.prefix)}_{collection_id}_(\d+)_.+")
        found = (pattern.fullmatch(name) for name in self.client.list_collections(**self._within))
        spaces = sorted({int(match[1]) for match in found if match})
        targets = ((space_id, self._target(collection_id, space_id)) for space_id in spaces)
        return {space_id: name for space_id, name in targets if name is not None}

    def _target(self, collection_id: int, space_id: int) -> str | None:
        """The Milvus collection behind an alias; ``None`` when there is none, or when it is still being built."""
        from pymilvus import MilvusException

        try:
            described = self.client.describe_alias(self.alias(collection_id, space_id), **self._within)
        except MilvusException:
            self.ping()  # away, or only without this alias?
            return None
        return str(described["collection_name"])

    def create(self, collection_id: int, space_id: int, dimension: int, average_length: float) -> str:
        """A new, empty Milvus collection that nobody searches yet. Returns its name."""
        from pymilvus import DataType, MilvusClient

        name = f"{self.alias(collection_id, space_id)}_{uuid.uuid4().hex[:12]}_{round(average_length * 1000)}"
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("chunk_id", DataType.INT64, is_primary=True)
        schema.add_field("document_row_id", DataType.INT64)
        schema.add_field(
            "labels",
            DataType.ARRAY,
            element_type=DataType.VARCHAR,
            max_capacity=MAX_LABELS,
            max_length=LABEL_CHARACTERS,
        )
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimension)
        schema.add_field("lexical", DataType.SPARSE_FLOAT_VECTOR)
        indexes = self.client.prepare_index_params()
        indexes.add_index("dense", index_type=self._settings.dense_index, metric_type="COSINE")
        indexes.add_index("lexical", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        if not self._settings.is_lite:
            self._index_labels(indexes)
        self.client.create_collection(name, schema=schema, index_params=indexes, **self._within)
        return name

    def _index_labels(self, indexes: Any) -> None:
        """Milvus Lite has no index on arrays, also where it is reached by an address."""
        if not self.ping().startswith("milvus_lite"):
            indexes.add_index("labels", index_type="INVERTED")

    def publish(self, collection_id: int, space_id: int, name: str) -> None:
        """Search ``name`` from now on, at once and whole, and drop what was searched before or was never finished."""
        alias = self.alias(collection_id, space_id)
        if self._target(collection_id, space_id) is None:
            self.client.create_alias(name, alias, **self._within)
        else:
            self.client.alter_alias(name, alias, **self._within)
        for other in self.client.list_collections(**self._within):
            if other != name and other.startswith(f"{alias}_"):
                self.client.drop_collection(other, **self._within)

    def drop(self, collection_id: int, space_id: int) -> None:
        """Forget a collection in a space in which it has no vectors any more."""
        name = self._target(collection_id, space_id)
        if name is not None:
            self.client.drop_alias(self.alias(collection_id, space_id), **self._within)
            self.client.drop_collection(name, **self._within)

    def put(self, name: str, copies: Iterable[Copy]) -> None:
        """Insert chunks, or put them in place of what is there under their ids."""
        rows: list[dict[str, Any]] = []
        for copy in copies:
            rows.append(
                {
                    "chunk_id": copy.chunk_id,
                    "document_row_id": copy.document_row_id,
                    "labels": copy.labels,
                    "dense": copy.embedding.tolist(),
                    "lexical": copy.terms,
                }
            )
            if len(rows) == ROWS_PER_REQUEST:
                self.client.upsert(name, rows, **self._within)
                rows = []
        if rows:
            self.client.upsert(name, rows, **self._within)

    def keep_only(self, name: str, document_row_ids: Sequence[int], chunk_ids: Sequence[int]) -> None:
        """Delete the chunks of these documents, but for those in ``chunk_ids``."""
        condition = f"document_row_id in {list(document_row_ids)}"
        if chunk_ids:
            condition += f" and chunk_id not in {list(chunk_ids)}"
        self.client.delete(name, filter=condition, **self._within)

    def rows(self, name: str, chunk_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What is stored of these chunks, by id."""
        condition = f"chunk_id in {list(chunk_ids)}"
        found = self._read("query", name, condition, ["chunk_id", "document_row_id", "labels", "dense"])
        return {int(row["chunk_id"]): dict(row) for row in found}

    def count(self, name: str) -> int:
        rows = self._read("query", name, "", ["count(*)"])
        return int(rows[0]["count(*)"])

    def search(self, name: str, field: str, vector: Any, condition: str, limit: int) -> list[tuple[float, int]]:
        """``(score, chunk id)``, best first, ties by id."""
        (hits,) = self._read("search", name, condition, ["chunk_id"], data=[vector], anns_field=field, limit=limit)
        return sorted(
            ((float(hit["distance"]), int(hit["chunk_id"])) for hit in hits), key=lambda hit: (-hit[0], hit[1])
        )

    def _read(self, method: str, name: str, condition: str, fields: list[str], **given: Any) -> Any:
        """Strongly consistent: an answer that lacked what was just fed would be cached as if it had it.

        A collection that is not in memory, as after a restart of Milvus Lite, is loaded first.
        """
        from pymilvus import MilvusException

        def read() -> Any:
            return getattr(self.client, method)(
                name, filter=condition, output_fields=fields, consistency_level="Strong", **given, **self._within
            )

        try:
            return read()
        except MilvusException as error:
            if error.code != _NOT_LOADED:
                raise
            self.client.load_collection(name, **self._within)
            return read()


def is_unconnected(error: BaseException) -> bool:
    """Whether no connection came about, so that another try at once costs little."""
    return getattr(error, "code", None) == _CONNECT_FAILED


def is_missing(error: BaseException) -> bool:
    """Whether Milvus says that it has no such collection."""
    return getattr(error, "code", None) == _MISSING_COLLECTION
