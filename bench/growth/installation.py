"""One size of the collection, in an installation of its own. `bench.growth` has several of them take turns.

Run with its options as JSON in its only argument. Each line of its standard input names a step of `STEPS`; what was
measured comes back as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus import documentation
from bench.corpus.generator import Generator, nearest
from bench.growth.figures import FILTERS, FIRST_BM25, UNFILTERED, Timing
from bench.growth.rows import (
    POSTINGS_INDEX,
    copy_postings,
    copy_rows,
    copy_vectors,
    cursor_of,
    next_ids,
    server_memory,
    size_of,
)
from bench.setup import prepare

SLUG = "bench-growth"
BLOCK = 10_000
CHUNKS_PER_DOCUMENT = 10
TABLES = ("rag_posting", "doc_embeddings", "rag_chunk", "rag_document")
WRITTEN_DOCUMENTS = 200
"""In a round, after as many that are not measured."""
PIECE_DOCUMENTS = 20
"""Of a turn, which takes about half a second."""
PARTS = {"hundredth": 100, "twentieth": 20, "fifth": 5, "half": 2}


def main() -> None:
    # Whatever else prints goes where the progress goes.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    options = json.loads(sys.argv[1])
    prepare()
    from django.conf import settings

    from zenglow_site.embedded.stack import EmbeddedStack

    # Logs and caches are not what is measured here.
    settings.RAG_QUERY_LOG = "off"
    installation = Installation(options)
    steps = {
        "build": installation.build,
        "search": installation.search,
        "filters": installation.filtered,
        "begin writing": installation.begin_writing,
        "write": installation.write,
        "end writing": installation.end_writing,
        "memory": server_memory,
    }
    for line in sys.stdin:
        with _priority(options["priority"]):
            print(json.dumps(steps[line.strip()]()), file=answers)
    if settings.ZENGLOW_EMBEDDED:
        EmbeddedStack(settings.ZENGLOW_DATA_DIR).stop()


class Installation:
    """A collection that is filled from a sample and its generator, in blocks that a seed decides."""

    def __init__(self, options: dict[str, Any]) -> None:
        from ops.contracts.principal import SYSTEM
        from rag.collections import create_collection, delete_collection
        from rag.lexicon import Passage, encode_passages
        from rag.models import Collection
        from rag.pipeline.snapshot import resolve
        from rag.spaces import embedder_for

        self.options = options
        self.sample = sample = documentation.load(Path(options["folder"]), options["sample"])
        self.generator = Generator(sample.vectors)
        with cursor_of() as cursor:
            cursor.execute(POSTINGS_INDEX)  # an earlier run may have ended without it
        if (old := Collection.objects.filter(slug=SLUG).first()) is not None:
            delete_collection(old, SYSTEM)
            with cursor_of() as cursor:
                # Else the tables keep the room of what was deleted, and are measured with it.
                for table in TABLES:
                    cursor.execute(f"VACUUM FULL {table}")
        self.collection = create_collection(SLUG, SYSTEM)
        self.filled = 0
        with cursor_of() as cursor:
            self.terms = [
                terms.term_ids
                for start in range(0, len(sample.passages), 500)
                for terms in encode_passages(
                    cursor,
                    [Passage(passage.heading, passage.text) for passage in sample.passages[start : start + 500]],
                    collection_id=self.collection.id,
                    configuration="english",
                    split_identifiers=False,
                )
            ]
        self.embedder = embedder_for(SLUG)
        self.base = replace(resolve(SLUG, SYSTEM).snapshot, groups=None)
        headings = sorted({passage.heading.split(" > ")[-1] for passage in sample.passages if passage.heading})
        chosen = np.random.default_rng(3).permutation(len(headings))[: options["queries"]]
        self.queries = [headings[number] for number in chosen]
        self.query_vectors = np.array([self.embedder.embed_query(query) for query in self.queries], dtype=np.float32)
        self.vectors: list[NDArray[np.float32]] = []
        self.chunk_ids: list[NDArray[np.int64]] = []

    # --- the steps -----------------------------------------------------------------------------------------------

    def build(self) -> dict[str, Any]:
        """Fill it, build the vector index, and find the exact neighbours of the queries."""
        from ops.contracts.principal import SYSTEM
        from rag.ann import configs
        from rag.pipeline.ann import EXACT
        from rag.pipeline.snapshot import plan_of

        self._without_index()
        self._fill(self.options["chunks"])
        given = {name: self.options[name] for name in ("strategy", "precision", "ef_search", "probes")}
        config = configs.build(
            configs.propose(self.collection, self._space(), given, by=SYSTEM, rebuild=True, reason="bench")
        )
        configs.activate(config, by=SYSTEM, force=True)
        self.by_index = replace(self.base, ann=plan_of(config))
        self.by_all = replace(self.base, ann=EXACT)
        self.exact = self._exact()
        return {
            "index": f"{config.strategy}, {config.precision}",
            "build_s": (config.build_ms or 0) / 1000,
            "index_bytes": config.size_bytes or 0,
            "vectors_bytes": size_of("doc_embeddings"),
            "postings_bytes": size_of("rag_posting"),
            "postings_of_query": self._postings_of_query(),
            "held_at_most": _held_at_most(),
        }

    def search(self) -> dict[str, Any]:
        """The retrieval stage, its parts, and dense search by the index and without."""
        from rag.pipeline.lexical import counted

        counted.forget()  # rows that are copied in raise no generation
        timings = {"dense": self._dense(self.by_index, self.exact, {})}
        timings |= self._pipeline()
        timings["dense, exact"] = self._dense(self.by_all, self.exact, {}, queries=10)
        return {name: asdict(timing) for name, timing in timings.items()}

    def filtered(self) -> dict[str, Any]:
        """Dense search under filters, and under none."""
        timings = {UNFILTERED: self._dense(self.by_index, self.exact, {})}
        for name, (key, value) in FILTERS.items():
            timings[name] = self._dense(self.by_index, self._exact(key, value), {key: value})
        return {name: asdict(timing) for name, timing in timings.items()}

    def begin_writing(self) -> int:
        """Make what a round writes, and write half of it unmeasured; how many pieces are left.

        As of an import that goes on: the first change of a page after a checkpoint writes all of it to the log.
        """
        self.made = self.generator.make(2 * WRITTEN_DOCUMENTS * CHUNKS_PER_DOCUMENT, seed=999_999_999)
        self.written = 0
        self._write(WRITTEN_DOCUMENTS)
        return WRITTEN_DOCUMENTS // PIECE_DOCUMENTS

    def write(self) -> dict[str, float]:
        """A piece through the product's writer, vectors given: its chunks and its seconds."""
        started = time.perf_counter()
        self._write(PIECE_DOCUMENTS)
        return {"chunks": PIECE_DOCUMENTS * CHUNKS_PER_DOCUMENT, "seconds": time.perf_counter() - started}

    def end_writing(self) -> None:
        """Remove what the round wrote."""
        from rag.ingest import writer
        from rag.ingest.writer import changing

        for document in range(self.written):
            with changing(self.collection.id) as change:
                writer.remove_document(change, f"written-{document}", writer.next_revision())
        self._settle()

    def _write(self, count: int) -> None:
        from rag.ingest import writer
        from rag.ingest.types import ChunkDraft
        from rag.ingest.writer import DocumentFields, PreparedDocument, changing
        from rag.lexicon import Passage, encode_passages

        for document in range(self.written, self.written + count):
            rows = range(document * CHUNKS_PER_DOCUMENT, (document + 1) * CHUNKS_PER_DOCUMENT)
            texts = [self._text(int(self.made.first[row]), int(self.made.second[row])) for row in rows]
            with cursor_of() as cursor:
                terms = encode_passages(
                    cursor,
                    [Passage("", text) for text in texts],
                    collection_id=self.collection.id,
                    configuration="english",
                    split_identifiers=False,
                )
            prepared = PreparedDocument(
                text="\n".join(texts),
                content_hash=f"{document:064d}",
                drafts=[ChunkDraft(i, text, (), None, 0, len(text)) for i, text in enumerate(texts)],
                terms=terms,
                embeddings=self.made.vectors[rows.start : rows.stop],
                space_id=self.base.space.id,
                chunking_version=1,
            )
            with changing(self.collection.id) as change:
                writer.write_document(
                    change, DocumentFields(document_id=f"written-{document}"), prepared, writer.next_revision()
                )
        self.written += count

    # --- filling -------------------------------------------------------------------------------------------------

    def _without_index(self) -> None:
        """Search exactly and drop the vector index: filling goes faster without it."""
        from ops.contracts.principal import SYSTEM
        from rag.ann import configs

        before = configs.live(self.collection.id, self.base.space.id)
        if before is not None:
            exact = configs.propose(self.collection, self._space(), {"strategy": "exact"}, by=SYSTEM, reason="bench")
            configs.activate(exact, by=SYSTEM)
            configs.drop(before, by=SYSTEM)

    def _fill(self, size: int) -> None:
        started = time.perf_counter()
        with cursor_of() as cursor:
            cursor.execute("DROP INDEX IF EXISTS rag_posting_term_chunk")
            while self.filled < size:
                self._add_block(cursor, min(BLOCK, size - self.filled))
            cursor.execute("SET maintenance_work_mem = '1GB'")
            cursor.execute(POSTINGS_INDEX)
            cursor.execute("RESET maintenance_work_mem")
        self._settle()
        print(f"filled {size:,} in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    def _settle(self) -> None:
        """What autovacuum would do later would fall into what another installation measures."""
        with cursor_of() as cursor:
            for table in TABLES:
                cursor.execute(f"VACUUM ANALYZE {table}")

    def _add_block(self, cursor: Any, count: int) -> None:
        real = max(0, min(count, len(self.sample.passages) - self.filled))
        made = self.generator.make(count - real, seed=self.filled)
        own = np.arange(self.filled, self.filled + real)
        first, second = np.concatenate([own, made.first]), np.concatenate([own, made.second])
        vectors = np.concatenate([self.sample.vectors[own], made.vectors]).astype(np.float32)
        chunk_ids = next_ids(cursor, "rag_chunk", count)
        documents = next_ids(cursor, "rag_document", -(-count // CHUNKS_PER_DOCUMENT))
        numbers = self.filled // CHUNKS_PER_DOCUMENT + np.arange(len(documents))
        terms = [self._terms(int(a), int(b)) for a, b in zip(first, second, strict=True)]
        texts = [self._text(int(a), int(b)) for a, b in zip(first, second, strict=True)]
        copy_rows(
            cursor,
            "COPY rag_document (id, collection_id, document_id, title, source, source_root, media_type, metadata, "
            "access_groups, text, original, offer, revision, size_bytes, content_hash, state, failure, chunk_count, "
            "created_at, updated_at, indexed_at) FROM STDIN",
            (
                (
                    *(int(row), self.collection.id, f"d{number}", "", "", "", "text/plain", metadata_of(int(number))),
                    *("{}", "", "", "{}", 0, 0, f"{number:064d}", "indexed", "", CHUNKS_PER_DOCUMENT),
                    *("now", "now", "now"),
                )
                for row, number in zip(documents, numbers, strict=True)
            ),
        )
        copy_rows(
            cursor,
            'COPY rag_chunk (id, collection_id, document_id, ordinal, text, heading_path, start, "end", '
            "chunking_version, tokens, title_length, token_count) FROM STDIN",
            (
                (
                    *(int(chunk), self.collection.id, int(documents[i // CHUNKS_PER_DOCUMENT])),
                    *(i % CHUNKS_PER_DOCUMENT, texts[i], "{}", 0, len(texts[i]), 1),
                    *("\\x" + terms[i].astype("<i4").tobytes().hex(), 0, int(np.count_nonzero(terms[i]))),
                )
                for i, chunk in enumerate(chunk_ids)
            ),
        )
        copy_vectors(cursor, chunk_ids, self.base.space.id, self.collection.id, vectors)
        tokens = copy_postings(cursor, chunk_ids, terms)
        cursor.execute(
            "INSERT INTO rag_lexicaltotals (collection_id, chunks, tokens) VALUES (%s, %s, %s)",
            [self.collection.id, count, tokens],
        )
        self.vectors.append(vectors)
        self.chunk_ids.append(chunk_ids)
        self.filled += count

    def _terms(self, first: int, second: int) -> NDArray[np.int32]:
        one, other = self.terms[first], self.terms[second]
        return one if first == second else np.concatenate([one[: len(one) // 2], other[len(other) // 2 :]])

    def _text(self, first: int, second: int) -> str:
        one, other = self.sample.passages[first].text, self.sample.passages[second].text
        return one if first == second else one[: len(one) // 2] + other[len(other) // 2 :]

    # --- searching -----------------------------------------------------------------------------------------------

    def _exact(self, key: str = "", value: int = 0) -> list[set[int]]:
        """The ten nearest chunks of each query, of those that a filter lets through."""
        best: list[list[tuple[float, int]]] = [[] for _ in self.queries]
        offset = 0
        for vectors, chunk_ids in zip(self.vectors, self.chunk_ids, strict=True):
            numbers = (offset + np.arange(len(chunk_ids))) // CHUNKS_PER_DOCUMENT
            offset += len(chunk_ids)
            kept = numbers % PARTS.get(key, 1) == value
            positions, similarities = nearest(self.query_vectors, vectors[kept], 10)
            near = chunk_ids[kept][positions]
            for query, rows in enumerate(best):
                rows.extend(zip(similarities[query].tolist(), near[query].tolist(), strict=True))
        return [{chunk for _, chunk in sorted(rows, reverse=True)[:10]} for rows in best]

    def _dense(self, snapshot: Any, exact: list[set[int]], filters: dict[str, int], queries: int = 0) -> Timing:
        from rag.pipeline.database import hot_cursor
        from rag.pipeline.dense import retrieve_dense
        from rag.pipeline.eligible import Eligibility

        eligibility = Eligibility(None, filters)
        vectors = self.query_vectors[: queries or len(self.query_vectors)]
        with hot_cursor() as cursor:
            found = [retrieve_dense(cursor, snapshot, eligibility, vector) for vector in vectors]
            durations = []
            for vector in vectors:
                started = time.perf_counter()
                retrieve_dense(cursor, snapshot, eligibility, vector)
                durations.append((time.perf_counter() - started) * 1000)
        recalls = [len(exact[i] & set(ids[:10].tolist())) / 10 for i, ids in enumerate(found)]
        return Timing.of(durations, recalls)

    def _pipeline(self) -> dict[str, Timing]:
        """The retrieval stage as the pipeline runs it, and its parts."""
        from rag.pipeline.candidates import read_candidates
        from rag.pipeline.database import hot_cursor
        from rag.pipeline.dense import retrieve_dense
        from rag.pipeline.eligible import Eligibility
        from rag.pipeline.lexical import read_query, retrieve_lexical
        from rag.pipeline.postings import held_postings

        snapshot, everything = self.by_index, Eligibility(None, {})
        parts: dict[str, list[float]] = {name: [] for name in ("terms", "BM25", FIRST_BM25, "candidates", "retrieval")}
        held_postings.forget()
        for number, (query, vector) in enumerate(zip(self.queries * 2, [*self.query_vectors] * 2, strict=True)):
            with hot_cursor() as cursor:
                marks = [time.perf_counter()]
                terms = read_query(cursor, snapshot, query)
                marks.append(time.perf_counter())
                dense = retrieve_dense(cursor, snapshot, everything, vector)
                marks.append(time.perf_counter())
                lexical = retrieve_lexical(cursor, snapshot, everything, terms)
                marks.append(time.perf_counter())
                read_candidates(cursor, snapshot, dense, lexical, vector)
                marks.append(time.perf_counter())
            took = np.diff(marks) * 1000
            if number < len(self.queries):  # the first round warms up
                parts[FIRST_BM25].append(float(took[2]))
            else:
                for name, part in (("terms", took[0]), ("BM25", took[2]), ("candidates", took[3])):
                    parts[name].append(float(part))
                parts["retrieval"].append(float(took.sum()))
        return {name: Timing.of(durations) for name, durations in parts.items()}

    def _postings_of_query(self) -> float:
        from rag.pipeline.database import hot_cursor
        from rag.pipeline.lexical import read_query

        with hot_cursor() as cursor:
            held = [read_query(cursor, self.by_index, query).document_frequencies.sum() for query in self.queries]
        return float(np.median(held))

    def _space(self) -> Any:
        from rag.models import EmbeddingSpace

        return EmbeddingSpace.objects.get(id=self.base.space.id)


def metadata_of(number: int) -> str:
    """A document's metadata: of several parts of the collection, which it is in."""
    return json.dumps({name: number % parts for name, parts in PARTS.items()})


def _held_at_most() -> int:
    """Postings of one query that are ranked in memory, with as much of it as there is here."""
    from django.conf import settings

    from rag.pipeline.postings import BYTES_PER_POSTING, MOST_OF_THE_ROOM

    return int((settings.RAG_RESIDENT_POSTINGS_MB << 20) * MOST_OF_THE_ROOM) // BYTES_PER_POSTING


@contextmanager
def _priority(value: int | None) -> Iterator[None]:
    """This process and its database session at a nice value, and back; nothing without one."""
    if value is None:
        yield
        return
    with cursor_of() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        before = {pid: os.getpriority(os.PRIO_PROCESS, pid) for pid in (os.getpid(), cursor.fetchone()[0])}
    for pid in before:
        os.setpriority(os.PRIO_PROCESS, pid, value)
    try:
        yield
    finally:
        for pid, old in before.items():
            os.setpriority(os.PRIO_PROCESS, pid, old)


if __name__ == "__main__":
    main()
