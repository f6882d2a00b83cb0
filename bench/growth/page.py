"""The page ``docs/performance/growth.md`` and its picture."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.corpus import documentation
from bench.corpus.svg import chart
from bench.growth.curves import EF_CURVE
from bench.growth.figures import FILTERS, FIRST_BM25, UNFILTERED, Size

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "performance" / "growth.md"
RECALL_PAGE = PAGE.with_name("growth-recall.md")
PLOT = PAGE.with_suffix(".svg")

TIMED = ("retrieval", "dense", "BM25", FIRST_BM25, "terms", "candidates", "dense, exact")


def report(sizes: Sequence[Size], curves: dict[str, Any], embedded: int, queries: int, command: str) -> str:
    """The page in Markdown. ``embedded``: really, of the chunks; ``command``: what it was measured with."""
    first, last = sizes[0], sizes[-1]
    recall = last.search("dense").recall or 0.0
    slower = [
        after["retrieval"].p50_ms / before["retrieval"].p50_ms
        for before, after in zip(first.searches, last.searches, strict=True)
    ]
    written = [after / before for before, after in zip(first.written_per_s, last.written_per_s, strict=True)]
    per_chunk = (last.built["vectors_bytes"] - last.built["index_bytes"]) / last.chunks
    index_per_chunk = last.built["index_bytes"] / last.chunks
    postings_per_chunk = last.built["postings_bytes"] / last.chunks

    asked, held = last.built["postings_of_query"], last.built["held_at_most"]

    def row(name: str, cell: Callable[[Size], str], growth: str = "") -> str:
        return f"| {name} | " + " | ".join(map(cell, sizes)) + f" | {growth} |"

    def timed(name: str) -> str:
        growth = last.search(name).p50_ms / first.search(name).p50_ms
        return row(
            f"{name}, p50 / p95 ms",
            lambda one: f"{one.search(name).p50_ms:.1f} / {one.search(name).p95_ms:.1f}",
            f"{growth:.2f}",
        )

    lines = [
        "# Growth",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {_processors()}. Other work "
        "ran beside it: read ratios, not milliseconds.",
        "",
        f"{embedded:,} chunks of package documentation ({', '.join(documentation.ARCHIVES)}) are really "
        f"embedded; the rest is made by `bench/corpus/generator.py`. {queries} section headings are "
        "asked. Exact means all vectors, computed with numpy.",
        "",
        f"Each size is an installation of its own. They took turns in {len(slower)} rounds of searching, and of "
        "writing in pieces of half a second: figures are medians of the rounds, and a ratio compares what was measured "
        "one after the other.",
        "",
        "| measured | " + " | ".join(f"{one.chunks:,}" for one in sizes) + " | last / first |",
        "| --- |" + " ---: |" * (len(sizes) + 1),
        *(timed(name) for name in TIMED),
        row("recall@10, dense", lambda one: f"{one.search('dense').recall:.3f}"),
        row("chunks written a second", lambda one: f"{one.written:.0f}", f"{last.written / first.written:.2f}"),
        row("index, MiB", lambda one: _mib(one.built["index_bytes"])),
        row("vectors with index, MiB", lambda one: _mib(one.built["vectors_bytes"])),
        row("postings, MiB", lambda one: _mib(one.built["postings_bytes"])),
        row("memory of the database server, MiB", lambda one: _mib(one.server_memory_bytes)),
        row(f"index ({last.built['index']}), build s", lambda one: f"{one.built['build_s']:.0f}"),
        "",
        "| from first to last | median | rounds | target | |",
        "| --- | ---: | --- | --- | --- |",
        _ratio("retrieval p50", slower, "below 2", float(np.median(slower)) < 2),
        _ratio("write rate", written, "at least 0.8", float(np.median(written)) >= 0.8),
        f"| recall@10 at the last | {recall:.3f} | | at least 0.95 | {_met(recall >= 0.95)} |",
        "",
        "BM25 is exact at every size.",
        "",
        "![Growth](growth.svg)",
        "",
        "## Filters",
        "",
        "A filter on metadata that matches a share of the documents; recall@10 against exact search among those, and "
        "p95 against the unfiltered search of the same size just before (target at 1 %: 0.98, and 3).",
        "",
        "| filter | " + " | ".join(f"{one.chunks:,}: recall, p50 / p95 ms, p95 ratio" for one in sizes) + " |",
        "| --- |" + " --- |" * len(sizes),
    ]
    for name in FILTERS:
        cells = []
        for one in sizes:
            timing = one.filters[name]
            times = timing.p95_ms / one.filters[UNFILTERED].p95_ms
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
        gibibytes = (count * size / 2**30 for size in (per_chunk, index_per_chunk, postings_per_chunk))
        lines.append(f"| {count:,} | " + " | ".join(f"{size:,.0f}" for size in gibibytes) + " |")
    dense_ms = last.search("dense").p50_ms
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
        f"{asked:,.0f} in the median of these queries at {last.chunks:,}. Those that are held in "
        f"memory are ranked in {last.search('BM25').p50_ms:.1f} ms, others are read first "
        f"({last.search(FIRST_BM25).p50_ms:.1f} ms). A query whose postings take more than half of "
        f"`RAG_RESIDENT_POSTINGS_MB` ({held:,} postings here) is left to PostgreSQL, which the median "
        f"reaches at {held / asked * last.chunks:,.0f} chunks. "
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


def _ratio(name: str, rounds: Sequence[float], target: str, met: bool) -> str:
    each = ", ".join(f"{one:.2f}" for one in rounds)
    return f"| {name} | {np.median(rounds):.2f} | {each} | {target} | {_met(met)} |"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f}"


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _processors() -> str:
    import psutil

    return f"{psutil.cpu_count()} processors, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def plot(sizes: Sequence[Size]) -> str:
    """The page's picture: p50 by size."""
    lines = {name: [one.search(name).p50_ms for one in sizes] for name in TIMED}
    return chart("Retrieval by size", "chunks", "p50, ms", [one.chunks for one in sizes], lines)
