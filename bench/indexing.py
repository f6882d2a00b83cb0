"""Indexing throughput against bare ``SentenceTransformer.encode`` of the same chunks.

The product's side is everything: comparing, parsing in the child process, chunking, tokenising, embedding, and the
transactions that write chunks, vectors and postings. Both sides run in this process, in turn, with the same number
of threads.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from bench.setup import prepare

ROUNDS = 3
SAMPLE = Path(__file__).resolve().parent.parent / "rag" / "evaluation" / "sample" / "corpus.jsonl"
COPIES = 3
"""The sample is joined into longer documents, so that most chunks are full."""


def main() -> None:
    prepare()
    import torch
    from django.conf import settings
    from sentence_transformers import SentenceTransformer

    from ops.contracts.principal import SYSTEM
    from rag.collections import create_collection, delete_collection
    from rag.ingest.plan import Offer
    from rag.ingest.service import process_batch, start_run
    from rag.models import Chunk, Collection
    from rag.seeding import packaged_embedder_folder
    from rag.spaces import embedder_for

    torch.set_num_threads(settings.RAG_INDEX_THREADS)
    model = SentenceTransformer(str(packaged_embedder_folder()), device="cpu")
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    texts = ["\n\n".join(row["text"] for row in rows[start : start + COPIES]) for start in range(0, len(rows), COPIES)]
    embedder_for(settings.RAG_DEFAULT_COLLECTION, indexing=True).embed_documents(["warm up"])
    model.encode(["warm up"])

    print(f"{'round':>5} {'chunks':>7} {'index /s':>9} {'encode /s':>10} {'ratio':>6}")
    ratios = []
    for number in range(1, ROUNDS + 1):
        slug = "bench-indexing"
        if (old := Collection.objects.filter(slug=slug).first()) is not None:
            delete_collection(old, SYSTEM)
        collection = create_collection(slug, SYSTEM)
        offers = [Offer(document_id=f"{i}.md", content=text) for i, text in enumerate(texts)]
        started = time.perf_counter()
        run = start_run(collection, offers, SYSTEM, "bench", enqueue=False)
        while process_batch(run.id):
            pass
        indexing_s = time.perf_counter() - started
        chunks = list(Chunk.objects.filter(collection=collection).values_list("text", flat=True))
        started = time.perf_counter()
        model.encode(chunks, batch_size=32, show_progress_bar=False)
        encoding_s = time.perf_counter() - started
        ratios.append(encoding_s / indexing_s)
        print(
            f"{number:>5} {len(chunks):>7} {len(chunks) / indexing_s:>9.1f} {len(chunks) / encoding_s:>10.1f} "
            f"{ratios[-1]:>6.2f}"
        )
    print(f"indexing / bare encoding, median of {ROUNDS}: {statistics.median(ratios):.2f} (target: at least 0.85)")


if __name__ == "__main__":
    main()
