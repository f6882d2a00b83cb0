"""Documentation of Python packages, cut and embedded as the product does it: the real sample of the growth benchmark.

The source archives come from the package index by ``pip download`` and hold the documentation as text. What is embedded
is kept in a folder, in parts, so that an interrupted run goes on where it stopped.

    python -m bench.corpus.documentation --chunks 20000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.setup import DATA_DIR, prepare

ARCHIVES = (
    "Django==5.2.8",
    "Sphinx==8.2.3",
    "setuptools==80.9.0",
    "celery==5.7.0",
    "docutils==0.23",
    "networkx==3.6.1",
    "pytest==9.2.0",
    "Scrapy==2.19.0",
    "Twisted==26.10.0",
)
"""Together some 20 MB of text, which is cut into more than 20,000 passages."""
FOLDER = Path(os.environ.get("ZENGLOW_DATA_DIR", DATA_DIR)) / "documentation"
SUFFIXES = {".txt", ".rst", ".md"}
PART = 256
MIN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk of a page: its page's name, its headings and its text."""

    source: str
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """passages[i] has the vector vectors[i]; float32, shape (passages, dimension), unit length."""

    passages: list[Passage]
    vectors: NDArray[np.float32]


def download(folder: Path = FOLDER) -> None:
    """Fetch the source archives that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in ARCHIVES:
        name, _, version = archive.partition("==")
        if not (folder / f"{name.lower()}-{version}.tar.gz").exists():
            print(f"fetching {archive}", file=sys.stderr)
            subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"),
                    *("-d", str(folder), archive),
                ],
                check=True,
            )


def pages(folder: Path = FOLDER) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each page of documentation, archive by archive, sorted by name."""
    for path in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile() and Path(member.name).suffix in SUFFIXES]
            for member in sorted(members, key=lambda member: member.name):
                parts = Path(member.name).parts
                if not {"docs", "doc"}.isdisjoint(parts) and (content := archive.extractfile(member)) is not None:
                    yield member.name, content.read()


def passages(folder: Path = FOLDER) -> Iterator[Passage]:
    """Every passage, in a fixed order that takes from all archives from the start."""
    from django.conf import settings

    from rag.ingest.chunking import ChunkingSettings, chunk
    from rag.ingest.plan import parse_limits
    from rag.ingest.sandbox import parse_bytes
    from rag.ingest.types import IngestError
    from rag.spaces import embedder_for

    embedder = embedder_for(settings.RAG_DEFAULT_COLLECTION, indexing=True)
    found = list(pages(folder))
    np.random.default_rng(5).shuffle(found)
    for name, content in found:
        # Pages of Sphinx carry ".txt" in some projects.
        as_name = str(Path(name).with_suffix(".rst")) if name.endswith(".txt") else name
        try:
            documents = parse_bytes(content, as_name, None, parse_limits())
        except IngestError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        for document in documents:
            for draft in chunk(document, ChunkingSettings(), embedder.count_tokens):
                if len(draft.text) >= MIN_CHARACTERS:
                    yield Passage(name, " > ".join(draft.heading_path), draft.text)


def load(folder: Path = FOLDER, limit: int | None = None) -> Sample:
    """What is embedded so far, at most ``limit`` passages."""
    found: list[Passage] = []
    vectors: list[NDArray[np.float32]] = []
    for path in sorted(folder.glob("part-*.npz")):
        part = np.load(path)
        found += [Passage(*row) for row in part["passages"].tolist()]
        vectors.append(part["vectors"].astype(np.float32))
        if limit is not None and len(found) >= limit:
            break
    if not found:
        return Sample([], np.empty((0, 0), np.float32))
    return Sample(found[:limit], np.concatenate(vectors)[:limit])


def embed(limit: int, folder: Path = FOLDER) -> Sample:
    """The first ``limit`` passages embedded; those of an earlier run are kept. Call it after `bench.setup.prepare`."""
    from django.conf import settings

    from rag.spaces import embedder_for

    if len(list(folder.glob("part-*.npz"))) * PART < limit:
        download(folder)
        embedder = embedder_for(settings.RAG_DEFAULT_COLLECTION, indexing=True)
        stream = islice(passages(folder), limit)
        number = 0
        while batch := list(islice(stream, PART)):
            path = folder / f"part-{number:05d}.npz"
            if not path.exists():
                vectors = embedder.embed_documents(
                    [f"{passage.heading}\n{passage.text}" if passage.heading else passage.text for passage in batch]
                )
                rows = np.array([(passage.source, passage.heading, passage.text) for passage in batch])
                unfinished = folder / "unfinished.npz"
                np.savez_compressed(unfinished, passages=rows, vectors=vectors)
                unfinished.rename(path)
                print(f"{number * PART + len(batch)} passages are embedded", file=sys.stderr)
            number += 1
    return load(folder, limit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fetch, cut and embed the documentation sample.")
    parser.add_argument("--chunks", type=int, default=20_000)
    arguments = parser.parse_args()
    prepare()
    print(f"{len(embed(arguments.chunks).passages)} passages are embedded.")
