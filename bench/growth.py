"""How retrieval and writing change as a collection grows; the results go to ``docs/performance/growth.md``.

    python -m bench.growth --chunks 10000,100000,300000 --sample 20000

A collection is filled in steps with documentation (see `bench.corpus`): a really embedded sample, and what the
generator makes of it. After each step the vector index is built, and then measured, over real section headings as
queries: both legs of retrieval and the whole of it as the pipeline runs it, recall@10 against exact search, searches
under filters, the write rate with everything but the encoder, and sizes. Shared machines are noisy: read ratios within
one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus import documentation
from bench.corpus.generator import Generator, intrinsic_dimension, nearest
from bench.corpus.svg import chart
from bench.setup import prepare

if TYPE_CHECKING:
    from rag.models import AnnConfig

SLUG = "bench-growth"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance" / "growth.md"
RECALL_PAGE = PAGE.with_name("growth-recall.md")
PLOT = PAGE.with_suffix(".svg")
BLOCK = 10_000
CHUNKS_PER_DOCUMENT = 10
TABLES = ("rag_posting", "doc_embeddings", "rag_chunk", "rag_document")
WRITTEN_DOCUMENTS = 200
FIRST_BM25 = "BM25, words not held yet"
FILTERS = {"1 %": ("hundredth", 7), "5 %": ("twentieth", 7), "20 %": ("fifth", 2), "50 %": ("half", 1)}
SWEEP = (100, 200, 400, 800)
EF_CURVE = (10, 20, 40, 80, 160)


@dataclass
class Timing:
    """Milliseconds of one kind of search, and its recall@10 against exact search where it has one."""

    p50_ms: float
    p95_ms: float
    recall: float | None = None

    @classmethod
    def of(cls, durations_ms: Sequence[float], recalls: Sequence[float] | None = None) -> Timing:
        p50_ms, p95_ms = np.percentile(durations_ms, (50, 95))
        return cls(float(p50_ms), float(p95_ms), None if recalls is None else float(np.mean(recalls)))


@dataclass
class Step:
    """What was measured at one size."""

    chunks: int
    index: str = ""
    build_s: float = 0.0
    index_bytes: int = 0
    vectors_bytes: int = 0
    postings_bytes: int = 0
    server_memory_bytes: int = 0
    written_per_s: float = 0.0
    searching_pace_ms: float = 0.0
    writing_pace_ms: float = 0.0
    """What a fixed piece of work took around the searches and around the writing, as sizes can't take turns."""
    postings_of_query: float = 0.0
    """Of all words of a query together, in the median."""
    timings: dict[str, Timing] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default="10000,50000", help="sizes to measure at, rising, separated by commas")
    parser.add_argument("--sample", type=int, default=2000, help="really embedded chunks; kept between runs")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--strategy", choices=("hnsw", "ivfflat"), default="hnsw")
    parser.add_argument("--precision", choices=("full", "half"), default="half")
    parser.add_argument("--ef-search", type=int, default=200, help="HNSW: nodes kept while searching")
    parser.add_argument("--probes", type=int, default=20, help="IVFFlat: cells looked into")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="only measure recall by ef_search, on the collection that the last run left, with `ann measure`",
    )
    parser.add_argument(
        "--priority",
        type=int,
        help="nice value of this process and its database session while measuring, so that other work disturbs less",
    )
    parser.add_argument("--write", action="store_true", help=f"write the results to {PAGE.name} and its plot")
    arguments = parser.parse_args()
    sizes = sorted({int(size) for size in arguments.chunks.split(",")})
    prepare()
    if arguments.sweep:
        text = sweep(arguments)
        print(text)
        if arguments.write:
            RECALL_PAGE.write_text(text, encoding="utf-8")
        return
    from django.conf import settings

    # Logs and caches are not what is measured here.
    settings.RAG_QUERY_LOG = "off"
    sample = documentation.embed(arguments.sample)
    print(f"{len(sample.passages)} passages of documentation are embedded", flush=True)
    generator = Generator(sample.vectors)
    curves = compare(sample.vectors, generator)
    growth = Growth(sample, generator, arguments)
    steps = []
    for size in sizes:
        steps.append(growth.measure(size))
        print(json.dumps(asdict(steps[-1])), flush=True)
        text = report(steps, curves, sample, arguments)
        if arguments.write:
            PAGE.parent.mkdir(parents=True, exist_ok=True)
            PAGE.write_text(text, encoding="utf-8")
            PLOT.write_text(plot(steps), encoding="utf-8")
    print(text)


def sweep(arguments: argparse.Namespace) -> str:
    """Recall and time by ef_search at the size that is there, as `manage.py ann measure` measures them."""
    from ops.contracts.principal import SYSTEM
    from rag.ann import configs
    from rag.ann.measure import measure
    from rag.models import AnnConfig, Collection

    collection = Collection.objects.get(slug=SLUG)
    space = configs.live_space(collection)
    live = AnnConfig.objects.filter(collection=collection, state="live").exclude(strategy="exact").get()
    given = {name: getattr(live, name) for name in ("strategy", "precision", "m", "ef_construction")}
    rows = []
    with _priority(arguments.priority):
        for ef_search in SWEEP:
            config = configs.propose(collection, space, given | {"ef_search": ef_search}, by=SYSTEM, reason="bench")
            rows.append(measure(config, by=SYSTEM, queries=arguments.queries))
    lines = [
        "# Recall by ef_search",
        "",
        f"Written by `python -m bench.growth --sweep --write` on {datetime.now(UTC):%Y-%m-%d}: {live.vectors:,} "
        f"chunks, {live.strategy} {live.precision}, m {live.m}, ef_construction {live.ef_construction}; queries: "
        f"{rows[0].recall_source}, a hundred candidates each. All rows share one index.",
        "",
        "| ef_search | recall@10 | p50 ms | p95 ms |",
        "| ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.ef_search} | {row.recall_at_10:.3f} | {row.search_p50_ms:.1f} | {row.search_p95_ms:.1f} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


class Growth:
    """A collection that is filled from a sample and its generator, in blocks that a seed decides."""

    def __init__(self, sample: documentation.Sample, generator: Generator, arguments: argparse.Namespace) -> None:
        from ops.contracts.principal import SYSTEM
        from rag.collections import create_collection, delete_collection
        from rag.lexicon import Passage, encode_passages
        from rag.models import Collection
        from rag.pipeline.snapshot import resolve
        from rag.spaces import embedder_for

        self.sample, self.generator, self.arguments = sample, generator, arguments
        with _cursor() as cursor:
            cursor.execute(_POSTINGS_INDEX)  # an earlier run may have ended without it
        if (old := Collection.objects.filter(slug=SLUG).first()) is not None:
            delete_collection(old, SYSTEM)
            with _cursor() as cursor:
                # Else the tables keep the room of what was deleted, and are measured with it.
                for table in TABLES:
                    cursor.execute(f"VACUUM FULL {table}")
        self.collection = create_collection(SLUG, SYSTEM)
        self.filled = 0
        with _cursor() as cursor:
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
        chosen = np.random.default_rng(3).permutation(len(headings))[: arguments.queries]
        self.queries = [headings[number] for number in chosen]
        self.query_vectors = np.array([self.embedder.embed_query(query) for query in self.queries], dtype=np.float32)
        self.vectors: list[NDArray[np.float32]] = []
        self.chunk_ids: list[NDArray[np.int64]] = []

    def measure(self, size: int) -> Step:
        """Fill up to ``size`` chunks, build the index, measure."""
        from ops.contracts.principal import SYSTEM
        from rag.ann import configs

        self._without_index()
        self._fill(size)
        step = Step(size)
        given = {name: getattr(self.arguments, name) for name in ("strategy", "precision", "ef_search", "probes")}
        config = configs.build(
            configs.propose(self.collection, self._space(), given, by=SYSTEM, rebuild=True, reason="bench")
        )
        configs.activate(config, by=SYSTEM, force=True)
        step.index = f"{config.strategy}, {config.precision}"
        step.build_s, step.index_bytes = (config.build_ms or 0) / 1000, config.size_bytes or 0
        exact, within = self._exact(), {name: self._exact(*part) for name, part in FILTERS.items()}
        with _priority(self.arguments.priority):
            self._measure(step, config, exact, within)
        step.vectors_bytes, step.postings_bytes = _size("doc_embeddings"), _size("rag_posting")
        step.server_memory_bytes = _server_memory()
        return step

    def _measure(self, step: Step, config: AnnConfig, exact: list[set[int]], within: dict[str, list[set[int]]]) -> None:
        from rag.pipeline.ann import EXACT
        from rag.pipeline.lexical import counted
        from rag.pipeline.snapshot import plan_of

        counted.forget()  # rows that are copied in raise no generation
        by_index, by_all = replace(self.base, ann=plan_of(config)), replace(self.base, ann=EXACT)
        pace = [_pace_ms()]
        step.timings["dense, exact"] = self._dense(by_all, exact, {}, queries=10)
        step.timings["dense"] = self._dense(by_index, exact, {})
        for name, (key, value) in FILTERS.items():
            step.timings[f"dense, filter {name}"] = self._dense(by_index, within[name], {key: value})
        step.timings |= self._pipeline(by_index)
        pace.append(_pace_ms())
        step.postings_of_query = self._postings_of_query(by_index)
        step.written_per_s = self._write()
        pace.append(_pace_ms())
        step.searching_pace_ms, step.writing_pace_ms = float(np.mean(pace[:2])), float(np.mean(pace[1:]))

    def _without_index(self) -> None:
        """Search exactly and drop the vector index: filling goes faster without it."""
        from ops.contracts.principal import SYSTEM
        from rag.ann import configs

        before = configs.live(self.collection.id, self.base.space.id)
        if before is not None:
            exact = configs.propose(self.collection, self._space(), {"strategy": "exact"}, by=SYSTEM, reason="bench")
            configs.activate(exact, by=SYSTEM)
            configs.drop(before, by=SYSTEM)

    # --- filling -------------------------------------------------------------------------------------------------

    def _fill(self, size: int) -> None:
        started, first = time.perf_counter(), self.filled
        with _cursor() as cursor:
            cursor.execute("DROP INDEX IF EXISTS rag_posting_term_chunk")
            while self.filled < size:
                self._add_block(cursor, min(BLOCK, size - self.filled))
                print(f"{self.filled:,} chunks, {time.perf_counter() - started:.0f} s", flush=True)
            cursor.execute("SET maintenance_work_mem = '1GB'")
            cursor.execute(_POSTINGS_INDEX)
            cursor.execute("RESET maintenance_work_mem")
            for table in TABLES:
                cursor.execute(f"VACUUM ANALYZE {table}")
        print(f"filled {size - first:,} in {time.perf_counter() - started:.0f} s", flush=True)

    def _add_block(self, cursor: Any, count: int) -> None:
        real = max(0, min(count, len(self.sample.passages) - self.filled))
        made = self.generator.make(count - real, seed=self.filled)
        own = np.arange(self.filled, self.filled + real)
        first, second = np.concatenate([own, made.first]), np.concatenate([own, made.second])
        vectors = np.concatenate([self.sample.vectors[own], made.vectors]).astype(np.float32)
        chunk_ids = _next_ids(cursor, "rag_chunk", count)
        documents = _next_ids(cursor, "rag_document", -(-count // CHUNKS_PER_DOCUMENT))
        numbers = self.filled // CHUNKS_PER_DOCUMENT + np.arange(len(documents))
        terms = [self._terms(int(a), int(b)) for a, b in zip(first, second, strict=True)]
        texts = [self._text(int(a), int(b)) for a, b in zip(first, second, strict=True)]
        _copy_rows(
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
        _copy_rows(
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
        _copy_vectors(cursor, chunk_ids, self.base.space.id, self.collection.id, vectors)
        tokens = _copy_postings(cursor, chunk_ids, terms)
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

    # --- measuring -----------------------------------------------------------------------------------------------

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

    def _pipeline(self, snapshot: Any) -> dict[str, Timing]:
        """The retrieval stage as the pipeline runs it, and its parts."""
        from rag.pipeline.candidates import read_candidates
        from rag.pipeline.database import hot_cursor
        from rag.pipeline.dense import retrieve_dense
        from rag.pipeline.eligible import Eligibility
        from rag.pipeline.lexical import read_query, retrieve_lexical
        from rag.pipeline.postings import held_postings

        everything = Eligibility(None, {})
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

    def _postings_of_query(self, snapshot: Any) -> float:
        from rag.pipeline.database import hot_cursor
        from rag.pipeline.lexical import read_query

        with hot_cursor() as cursor:
            held = [read_query(cursor, snapshot, query).document_frequencies.sum() for query in self.queries]
        return float(np.median(held))

    def _write(self) -> float:
        """Chunks a second through the product's writer, vectors given; what was written is removed again.

        As of an import that goes on: the first change of a page after a checkpoint writes all of it to the log, and
        the index was only just built. So as many are written before as are measured.
        """
        from rag.ingest import writer
        from rag.ingest.types import ChunkDraft
        from rag.ingest.writer import DocumentFields, PreparedDocument, changing
        from rag.lexicon import Passage, encode_passages

        made = self.generator.make(2 * WRITTEN_DOCUMENTS * CHUNKS_PER_DOCUMENT, seed=999_999_999)
        started = 0.0
        for document in range(2 * WRITTEN_DOCUMENTS):
            if document == WRITTEN_DOCUMENTS:
                started = time.perf_counter()
            rows = range(document * CHUNKS_PER_DOCUMENT, (document + 1) * CHUNKS_PER_DOCUMENT)
            texts = [self._text(int(made.first[row]), int(made.second[row])) for row in rows]
            with _cursor() as cursor:
                terms = encode_passages(
                    cursor,
                    [Passage("", text) for text in texts],
                    collection_id=self.collection.id,
                    configuration="english",
                    split_identifiers=False,
                )
            drafts = [ChunkDraft(i, text, (), None, 0, len(text)) for i, text in enumerate(texts)]
            prepared = PreparedDocument(
                text="\n".join(texts),
                content_hash=f"{document:064d}",
                drafts=drafts,
                terms=terms,
                embeddings=made.vectors[rows.start : rows.stop],
                space_id=self.base.space.id,
                chunking_version=1,
            )
            with changing(self.collection.id) as change:
                writer.write_document(
                    change, DocumentFields(document_id=f"written-{document}"), prepared, writer.next_revision()
                )
        rate = WRITTEN_DOCUMENTS * CHUNKS_PER_DOCUMENT / (time.perf_counter() - started)
        for document in range(2 * WRITTEN_DOCUMENTS):
            with changing(self.collection.id) as change:
                writer.remove_document(change, f"written-{document}", writer.next_revision())
        return rate

    def _space(self) -> Any:
        from rag.models import EmbeddingSpace

        return EmbeddingSpace.objects.get(id=self.base.space.id)


PARTS = {"hundredth": 100, "twentieth": 20, "fifth": 5, "half": 2}


def metadata_of(number: int) -> str:
    """A document's metadata: of several parts of the collection, which it is in."""
    return json.dumps({name: number % parts for name, parts in PARTS.items()})


def compare(real: NDArray[np.float32], generator: Generator) -> dict[str, Any]:
    """Whether the generated vectors are as hard to search as the real ones: dimension, and recall@10 by ef_search.

    Both are as many as half of the sample; the queries are the other half's first hundred, the same for both.
    """
    half = len(real) // 2
    queries, kept = real[half : half + 100], real[:half]
    made = Generator(kept, generator.step).make(half, seed=11).vectors
    return {
        "vectors": half,
        "step": generator.step,
        "dimension": (intrinsic_dimension(kept), intrinsic_dimension(made)),
        "real": _ef_curve(kept, queries),
        "generated": _ef_curve(made, queries),
    }


def _ef_curve(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> list[float]:
    exact, _ = nearest(queries, vectors, 10)
    with _cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE curve (id integer, embedding vector({vectors.shape[1]}))")
        with cursor.copy("COPY curve (id, embedding) FROM STDIN") as copy:
            for number, vector in enumerate(vectors):
                copy.write_row((number, "[" + ",".join(map(str, vector.tolist())) + "]"))
        cursor.execute("CREATE INDEX ON curve USING hnsw (embedding vector_cosine_ops)")
        cursor.execute("ANALYZE curve")
        cursor.execute("SET enable_seqscan = off; SET hnsw.iterative_scan = off")
        curve = []
        for ef_search in EF_CURVE:
            cursor.execute(f"SET hnsw.ef_search = {ef_search}")
            found = 0
            for query, wanted in zip(queries, exact, strict=True):
                text = "[" + ",".join(map(str, query.tolist())) + "]"
                cursor.execute("SELECT id FROM curve ORDER BY embedding <=> %s::vector LIMIT 10", [text])
                found += len({row[0] for row in cursor.fetchall()} & set(wanted.tolist()))
            curve.append(found / wanted.size / len(queries))
        cursor.execute("DROP TABLE curve; RESET enable_seqscan; RESET hnsw.ef_search; RESET hnsw.iterative_scan")
    return curve


def _pace_ms(times: int = 21) -> float:
    """How long a fixed piece of work takes the machine just now: memory read in no order, and the interpreter."""
    values = np.arange(1 << 22, dtype=np.float32)
    order = np.random.default_rng(5).permutation(len(values))
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        values[order].sum()
        sum(number * number for number in range(100_000))
        durations.append((time.perf_counter() - started) * 1000)
    return float(np.median(durations))


# --- the database ------------------------------------------------------------------------------------------------


def _cursor() -> Any:
    from django.db import connection

    return connection.cursor()


_POSTINGS_INDEX = (
    "CREATE UNIQUE INDEX IF NOT EXISTS rag_posting_term_chunk ON rag_posting (term_id, chunk_id) "
    "INCLUDE (frequency, chunk_length)"
)


def _next_ids(cursor: Any, table: str, count: int) -> NDArray[np.int64]:
    cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)", [table, count])
    return np.array([row[0] for row in cursor.fetchall()], dtype=np.int64)


def _copy_rows(cursor: Any, statement: str, rows: Iterator[Sequence[Any]]) -> None:
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


def _copy_vectors(
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


def _copy_postings(cursor: Any, chunk_ids: NDArray[np.int64], terms: Sequence[NDArray[np.int32]]) -> int:
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


@contextmanager
def _priority(value: int | None) -> Iterator[None]:
    """This process and its database session at a nice value, and back; nothing without one."""
    if value is None:
        yield
        return
    with _cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        before = {pid: os.getpriority(os.PRIO_PROCESS, pid) for pid in (os.getpid(), cursor.fetchone()[0])}
    for pid in before:
        os.setpriority(os.PRIO_PROCESS, pid, value)
    try:
        yield
    finally:
        for pid, old in before.items():
            os.setpriority(os.PRIO_PROCESS, pid, old)


def _size(table: str) -> int:
    with _cursor() as cursor:
        cursor.execute("SELECT pg_total_relation_size(%s::regclass)", [table])
        return int(cursor.fetchone()[0])


def _server_memory() -> int:
    """Proportional memory of all of the server's processes, shared buffers included; 0 where it can't be read."""
    import psutil

    with _cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = psutil.Process(cursor.fetchone()[0])
    try:
        postmaster = backend.parent()
        processes = [postmaster, *postmaster.children()] if postmaster else [backend]
        return sum(int(process.memory_full_info().pss) for process in processes)
    except (psutil.Error, AttributeError):
        return 0


# --- the page ----------------------------------------------------------------------------------------------------

TIMED = ("retrieval", "dense", "BM25", FIRST_BM25, "terms", "candidates", "dense, exact")
MEBIBYTE = 1 << 20


def report(
    steps: Sequence[Step],
    curves: dict[str, Any],
    sample: documentation.Sample,
    arguments: argparse.Namespace,
) -> str:
    """The page in Markdown."""
    first, last = steps[0], steps[-1]
    ratio = last.timings["retrieval"].p50_ms / first.timings["retrieval"].p50_ms
    written = last.written_per_s / first.written_per_s
    slower = last.searching_pace_ms / first.searching_pace_ms, last.writing_pace_ms / first.writing_pace_ms
    per_chunk = (last.vectors_bytes - last.index_bytes) / last.chunks
    index_per_chunk, postings_per_chunk = last.index_bytes / last.chunks, last.postings_bytes / last.chunks
    lines = [
        "# Growth",
        "",
        f"Written by `python -m bench.growth --chunks {arguments.chunks} --sample {arguments.sample} "
        f"--ef-search {arguments.ef_search} --write` on {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, "
        f"{_processors()}. Other work ran beside it: read ratios, not milliseconds.",
        "",
        f"{len(sample.passages):,} chunks of package documentation ({', '.join(documentation.ARCHIVES)}) are really "
        f"embedded; the rest is made by `bench/corpus/generator.py`. {arguments.queries} section headings are "
        "asked. Exact means all vectors, computed with numpy.",
        "",
        "| measured | " + " | ".join(f"{step.chunks:,}" for step in steps) + " | last / first |",
        "| --- |" + " ---: |" * (len(steps) + 1),
    ]
    for name in TIMED:
        shown = [step.timings[name] for step in steps]
        growth = shown[-1].p50_ms / shown[0].p50_ms
        cells = [f"{timing.p50_ms:.1f} / {timing.p95_ms:.1f}" for timing in shown]
        lines.append(f"| {name}, p50 / p95 ms | " + " | ".join(cells) + f" | {growth:.2f} |")
    lines.append("| recall@10, dense | " + " | ".join(f"{step.timings['dense'].recall:.3f}" for step in steps) + " | |")
    lines.append(
        "| chunks written a second | "
        + " | ".join(f"{step.written_per_s:.0f}" for step in steps)
        + f" | {written:.2f} |"
    )
    for name, value, growth in (
        ("searches", "searching_pace_ms", slower[0]),
        ("the writing", "writing_pace_ms", slower[1]),
    ):
        cells = [f"{getattr(step, value):.1f}" for step in steps]
        lines.append(f"| a fixed piece of work around {name}, ms | " + " | ".join(cells) + f" | {growth:.2f} |")
    for name, value in (
        ("index", "index_bytes"),
        ("vectors with index", "vectors_bytes"),
        ("postings", "postings_bytes"),
        ("memory of the database server", "server_memory_bytes"),
    ):
        cells = [f"{getattr(step, value) / MEBIBYTE:,.0f}" for step in steps]
        lines.append(f"| {name}, MiB | " + " | ".join(cells) + " | |")
    lines.append(f"| index ({last.index}), build s | " + " | ".join(f"{step.build_s:.0f}" for step in steps) + " | |")
    lines += [
        "",
        f"Retrieval grows {ratio:.2f} times from first to last (target: below 2) at recall@10 "
        f"{last.timings['dense'].recall:.3f} (target: 0.95), and the write rate is {written:.2f} of the first (target: "
        "0.8). BM25 is exact at every size. Sizes can't take turns, and a shared machine changes its pace: by what a "
        f"fixed piece of work took at each, retrieval grows {ratio / slower[0]:.2f} times, and the write rate is "
        f"{written * slower[1]:.2f}.",
        "",
        "![Growth](growth.svg)",
        "",
        "## Filters",
        "",
        "A filter on metadata that matches a share of the documents; recall@10 against exact search among those, and "
        "p95 against the unfiltered search of the same size (target at 1 %: 0.98, and 3).",
        "",
        "| filter | " + " | ".join(f"{step.chunks:,}: recall, p50 / p95 ms, p95 ratio" for step in steps) + " |",
        "| --- |" + " --- |" * len(steps),
    ]
    for name in FILTERS:
        cells = []
        for step in steps:
            timing = step.timings[f"dense, filter {name}"]
            times = timing.p95_ms / step.timings["dense"].p95_ms
            cells.append(f"{timing.recall:.3f}, {timing.p50_ms:.1f} / {timing.p95_ms:.1f}, {times:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    real, made = curves["dimension"]
    lines += [
        "",
        "## Are generated vectors as hard to search as real ones?",
        "",
        f"{curves['vectors']:,} real vectors and as many generated from them, each in an HNSW index of its own, asked "
        f"the same real queries. Local intrinsic dimension: {real:.1f} real, {made:.1f} generated (step "
        f"{curves['step']:.2f}).",
        "",
        "| recall@10 at ef_search | " + " | ".join(map(str, EF_CURVE)) + " |",
        "| --- |" + " ---: |" * len(EF_CURVE),
        "| real | " + " | ".join(f"{value:.3f}" for value in curves["real"]) + " |",
        "| generated | " + " | ".join(f"{value:.3f}" for value in curves["generated"]) + " |",
        "",
        "## On paper: 10 million and a billion chunks",
        "",
        f"At {last.chunks:,} a chunk takes {per_chunk:,.0f} bytes of vector with its row and other indexes, "
        f"{index_per_chunk:,.0f} of vector index, and {postings_per_chunk:,.0f} of postings.",
        "",
        "| chunks | vectors GiB | vector index GiB | postings GiB |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for count in (10**7, 10**9):
        sizes = (f"{count * size / 2**30:,.0f}" for size in (per_chunk, index_per_chunk, postings_per_chunk))
        lines.append(f"| {count:,} | " + " | ".join(sizes) + " |")
    dense_ms = last.timings["dense"].p50_ms
    lines += [
        "",
        "A search by HNSW visits nodes all over its index, so the index has to be in memory: that decides the machine. "
        f"How many it visits grows with log N; carried on from {dense_ms:.1f} ms, that gives at p50:",
        "",
        "| chunks | dense ms |",
        "| ---: | ---: |",
        *(f"| {count:,} | {dense_ms * np.log(count) / np.log(last.chunks):,.0f} |" for count in (10**7, 10**9)),
        "",
        "BM25 takes as long as the words of a query have postings, and those grow with N: "
        f"{last.postings_of_query:,.0f} in the median of these queries at {last.chunks:,}. Those that are held in "
        f"memory are ranked in {last.timings['BM25'].p50_ms:.1f} ms, others are read first "
        f"({last.timings[FIRST_BM25].p50_ms:.1f} ms). A query whose postings take more than half of "
        f"`RAG_RESIDENT_POSTINGS_MB` ({_held_at_most():,} postings here) is left to PostgreSQL, which the median "
        f"reaches at {_held_at_most() / last.postings_of_query * last.chunks:,.0f} chunks. "
        "Give it more memory by then, or Milvus.",
    ]
    fits = int(48 * 2**30 / index_per_chunk)
    lines += [
        "",
        f"On a server of 64 GiB, of which three quarters hold the vector index, PostgreSQL carries about {fits:,} "
        "chunks of this dimension in half precision, about three times as many with binary quantisation and "
        "re-ranking. Move to a Milvus cluster before that: when the index no longer fits into memory, when a rebuild "
        "takes longer than "
        "you can wait (it grows somewhat faster than N), or when BM25 at p95 is more than you can spend. A billion "
        "chunks are beyond one PostgreSQL in every respect.",
        "",
    ]
    return "\n".join(lines)


def _held_at_most() -> int:
    """Postings of one query that are ranked in memory, with as much of it as there is here."""
    from django.conf import settings

    from rag.pipeline.postings import BYTES_PER_POSTING, MOST_OF_THE_ROOM

    return int((settings.RAG_RESIDENT_POSTINGS_MB << 20) * MOST_OF_THE_ROOM) // BYTES_PER_POSTING


def _processors() -> str:
    import psutil

    return f"{psutil.cpu_count()} processors, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def plot(steps: Sequence[Step]) -> str:
    """The page's picture: p50 by size."""
    lines = {name: [step.timings[name].p50_ms for step in steps] for name in TIMED}
    return chart("Retrieval by size", "chunks", "p50, ms", [step.chunks for step in steps], lines)


if __name__ == "__main__":
    main()
