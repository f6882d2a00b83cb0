"""How retrieval and writing change as a collection grows; the results go to ``docs/performance/growth.md``.

    python -m bench.growth --chunks 10000,100000,300000 --sample 20000

Each size is an installation of its own, filled with documentation (see `bench.corpus`): a really embedded sample, and
what the generator makes of it. All are built first; then they take turns at being measured, over real section headings
as queries: both legs of retrieval and the whole of it as the pipeline runs it, recall@10 against exact search, searches
under filters, the write rate with everything but the encoder, and sizes. Shared machines are noisy: read ratios within
one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.corpus import documentation
from bench.corpus.generator import Generator
from bench.growth.curves import compare
from bench.growth.figures import Size, Timing
from bench.growth.installation import SLUG
from bench.growth.page import PAGE, PLOT, RECALL_PAGE, plot, report
from bench.setup import DATA_DIR, prepare

ROOT = Path(__file__).resolve().parent.parent.parent
SWEEP = (100, 200, 400, 800)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default="10000,50000", help="sizes to measure at, rising, separated by commas")
    parser.add_argument("--sample", type=int, default=2000, help="really embedded chunks; kept between runs")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="how often each size is searched and written to")
    parser.add_argument("--strategy", choices=("hnsw", "ivfflat"), default="hnsw")
    parser.add_argument("--precision", choices=("full", "half"), default="half")
    parser.add_argument("--ef-search", type=int, default=200, help="HNSW: nodes kept while searching")
    parser.add_argument("--probes", type=int, default=20, help="IVFFlat: cells looked into")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="only measure recall by ef_search with `ann measure`, on the largest of the collections that a run left",
    )
    parser.add_argument(
        "--priority",
        type=int,
        help="nice value of the measured processes and their database sessions, so that other work disturbs less",
    )
    parser.add_argument("--write", action="store_true", help=f"write the results to {PAGE.name} and its plot")
    arguments = parser.parse_args()
    sizes = sorted({int(size) for size in arguments.chunks.split(",")})
    if arguments.sweep:
        os.environ["ZENGLOW_DATA_DIR"] = str(_folder(sizes[-1]))
        text = sweep(arguments.queries, arguments.chunks)
        print(text)
        if arguments.write:
            RECALL_PAGE.write_text(text, encoding="utf-8")
        return
    prepare()
    sample = documentation.embed(arguments.sample)
    print(f"{len(sample.passages):,} passages of documentation are embedded", flush=True)
    curves = compare(sample.vectors, Generator(sample.vectors))
    text, picture = _publish(measure(sizes, arguments), curves, len(sample.passages), arguments)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
        PLOT.write_text(picture, encoding="utf-8")
    print(text)


def measure(chunks: list[int], arguments: argparse.Namespace) -> list[Size]:
    """Build one installation of each size, then have them take turns."""
    with ExitStack() as stack:
        installations = [stack.enter_context(_installation(count, arguments)) for count in chunks]
        sizes = []
        for count, installation in zip(chunks, installations, strict=True):
            sizes.append(Size(count, installation.ask("build")))
            print(f"{count:,} chunks are there", flush=True)
        for one, installation in zip(sizes, installations, strict=True):
            one.filters = _timings(installation.ask("filters"))
        pairs = list(zip(sizes, installations, strict=True))
        for number in range(arguments.rounds):
            turns = pairs[number % len(pairs) :] + pairs[: number % len(pairs)]
            for one, installation in turns:
                one.searches.append(_timings(installation.ask("search")))
            _write_in_turns(turns)
            print(
                f"round {number + 1}: "
                + ", ".join(
                    f"{one.chunks:,}: {one.searches[-1]['retrieval'].p50_ms:.1f} ms, {one.written_per_s[-1]:.0f}/s"
                    for one in sizes
                ),
                flush=True,
            )
        for one, installation in pairs:
            one.server_memory_bytes = installation.ask("memory")
    return sizes


def _write_in_turns(turns: list[tuple[Size, Installation]]) -> None:
    """A round of writing, piece by piece."""
    pieces = min(installation.ask("begin writing") for _, installation in turns)
    chunks, seconds = [0.0] * len(turns), [0.0] * len(turns)
    for _ in range(pieces):
        for number, (_, installation) in enumerate(turns):
            wrote = installation.ask("write")
            chunks[number] += wrote["chunks"]
            seconds[number] += wrote["seconds"]
    for number, (one, installation) in enumerate(turns):
        one.written_per_s.append(chunks[number] / seconds[number])
        installation.ask("end writing")


class Installation:
    """A process that measures one size, and does nothing until it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, step: str) -> Any:
        """What the step of `bench.growth.installation` measured. Without an answer the benchmark ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(step, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"An installation ended at {step}; what it said is above.")
        return json.loads(answer)


@contextmanager
def _installation(chunks: int, arguments: argparse.Namespace) -> Iterator[Installation]:
    options = vars(arguments) | {"chunks": chunks, "folder": str(documentation.FOLDER)}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.growth.installation", json.dumps(options)],
        cwd=ROOT,
        env=os.environ | {"ZENGLOW_DATA_DIR": str(_folder(chunks))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Installation(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(120)


def _folder(chunks: int) -> Path:
    """The data folder of a size, beside that of the other benchmarks."""
    beside = Path(os.environ.get("ZENGLOW_DATA_DIR", DATA_DIR))
    return beside.with_name(f"{beside.name}-{chunks}")


def _timings(answer: dict[str, dict[str, Any]]) -> dict[str, Timing]:
    return {name: Timing(**timing) for name, timing in answer.items()}


def _publish(
    sizes: list[Size], curves: dict[str, Any], embedded: int, arguments: argparse.Namespace
) -> tuple[str, str]:
    command = (
        f"python -m bench.growth --chunks {arguments.chunks} --sample {arguments.sample} "
        f"--ef-search {arguments.ef_search} --write"
    )
    return report(sizes, curves, embedded, arguments.queries, command), plot(sizes)


def sweep(queries: int, chunks: str) -> str:
    """Recall and time by ef_search at the largest size, as `manage.py ann measure` measures them."""
    prepare()
    from ops.contracts.principal import SYSTEM
    from rag.ann import configs
    from rag.ann.measure import measure as measured
    from rag.models import AnnConfig, Collection

    collection = Collection.objects.get(slug=SLUG)
    space = configs.live_space(collection)
    live = AnnConfig.objects.filter(collection=collection, state="live").exclude(strategy="exact").get()
    given = {name: getattr(live, name) for name in ("strategy", "precision", "m", "ef_construction")}
    rows = []
    for ef_search in SWEEP:
        config = configs.propose(collection, space, given | {"ef_search": ef_search}, by=SYSTEM, reason="bench")
        rows.append(measured(config, by=SYSTEM, queries=queries))
    lines = [
        "# Recall by ef_search",
        "",
        f"Written by `python -m bench.growth --chunks {chunks} --sweep --write` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{live.vectors:,} chunks, {live.strategy} {live.precision}, m {live.m}, ef_construction "
        f"{live.ef_construction}; queries: {rows[0].recall_source}, a hundred candidates each. "
        "All rows share one index.",
        "",
        "| ef_search | recall@10 | p50 ms | p95 ms |",
        "| ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.ef_search} | {row.recall_at_10:.3f} | {row.search_p50_ms:.1f} | {row.search_p95_ms:.1f} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
