"""A database filled with made documents by COPY: millions of rows, laid out by numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cursor_of() -> Any:
    """A cursor of the installation that `bench.setup.prepare` started."""
    from django.db import connection

    return connection.cursor()


POSTINGS_INDEX = (
    "CREATE UNIQUE INDEX IF NOT EXISTS rag_posting_term_chunk ON rag_posting (term_id, chunk_id) "
    "INCLUDE (frequency, chunk_length)"
)


def next_ids(cursor: Any, table: str, count: int) -> NDArray[np.int64]:
    cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)", [table, count])
    return np.array([row[0] for row in cursor.fetchall()], dtype=np.int64)


def copy_rows(cursor: Any, statement: str, rows: Iterator[Sequence[Any]]) -> None:
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END = b"\xff\xff"


def _copy_arrays(cursor: Any, statement: str, columns: Sequence[tuple[str, NDArray[Any]]]) -> None:
    """COPY in binary from arrays: rows are laid out by numpy. ``columns``: big-endian type and values each."""
    layout: list[Any] = [("fields", ">i2")]
    for number, (kind, values) in enumerate(columns):
        layout += [(f"length{number}", ">i4"), (f"value{number}", kind, values.shape[1:])]
    rows = np.empty(len(columns[0][1]), dtype=layout)
    rows["fields"] = len(columns)
    for number, (_, values) in enumerate(columns):
        rows[f"length{number}"] = rows.dtype[f"value{number}"].itemsize
        rows[f"value{number}"] = values
    with cursor.copy(f"{statement} FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.write(_COPY_HEADER)
        data = memoryview(rows.tobytes())
        for start in range(0, len(data), 1 << 20):
            copy.write(data[start : start + (1 << 20)])
        copy.write(_COPY_END)


def copy_vectors(
    cursor: Any, chunk_ids: NDArray[np.int64], space_id: int, collection_id: int, vectors: NDArray[np.float32]
) -> None:
    count, dimension = vectors.shape
    binary = np.empty(count, dtype=[("dimension", ">i2"), ("unused", ">i2"), ("values", ">f4", (dimension,))])
    binary["dimension"], binary["unused"], binary["values"] = dimension, 0, vectors
    as_bytes = binary.view(np.uint8).reshape(count, -1)
    _copy_arrays(
        cursor,
        "COPY doc_embeddings (chunk_id, space_id, collection_id, embedding)",
        [
            (">i8", chunk_ids),
            (">i8", np.full(count, space_id)),
            (">i8", np.full(count, collection_id)),
            ("u1", as_bytes),
        ],
    )


def copy_postings(cursor: Any, chunk_ids: NDArray[np.int64], terms: Sequence[NDArray[np.int32]]) -> int:
    counted = [np.unique(row[row > 0], return_counts=True) for row in terms]
    sizes = [len(unique) for unique, _ in counted]
    lengths = np.array([int(counts.sum()) for _, counts in counted])
    _copy_arrays(
        cursor,
        "COPY rag_posting (term_id, chunk_id, frequency, chunk_length)",
        [
            (">i4", np.concatenate([unique for unique, _ in counted])),
            (">i8", np.repeat(chunk_ids, sizes)),
            (">i2", np.concatenate([counts for _, counts in counted])),
            (">i4", np.repeat(lengths, sizes)),
        ],
    )
    return int(lengths.sum())


def size_of(table: str) -> int:
    with cursor_of() as cursor:
        cursor.execute("SELECT pg_total_relation_size(%s::regclass)", [table])
        return int(cursor.fetchone()[0])


def server_memory() -> int:
    """Proportional memory of all of the server's processes, shared buffers included; 0 where it can't be read."""
    import psutil

    with cursor_of() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = psutil.Process(cursor.fetchone()[0])
    try:
        postmaster = backend.parent()
        processes = [postmaster, *postmaster.children()] if postmaster else [backend]
        return sum(int(process.memory_full_info().pss) for process in processes)
    except (psutil.Error, AttributeError):
        return 0
