"""How often the passages that an extractive answer cites are judged relevant, beside plain top-k of the same search.

Citation precision at k: of the first k passages that an answer cites, in the order in which it cites them, the share
that is judged relevant (grade above 0); an answer that cites fewer is measured by what it cites. Plain top-k is the
precision of the first k results of the same query. Questions without a judged document are left out; abstention is off,
as each question is one that its collection was judged to answer. Then: at which confidence to abstain.

Takes the public collections from ``ZENGLOW_COLLECTIONS_DIR``, else the sample that ships with the project.
"""

from __future__ import annotations

import random
import sys
import time
import uuid
from collections.abc import Sequence

from bench.public import folders
from bench.setup import prepare

QUERIES = 100
"""Of each collection, at most."""


def main(most: int) -> None:
    prepare()
    from django.conf import settings

    settings.RAG_ANSWER_THRESHOLD = 0.0
    settings.RAG_QUERY_LOG = "off"
    slugs = [_ensure(folder) for folder in folders()]
    print(
        f"{'collection':<14}{'questions':>10}{'cited@1':>10}{'top@1':>10}{'cited@3':>10}{'top@3':>10}{'cited':>8}{'ms':>8}"
    )
    for slug in slugs:
        _measure(slug, most)
    if len(slugs) > 1:
        from rag.answers.calibration import calibrate

        found = calibrate(slugs, most, 1, lambda line: None)
        print(
            f"\nabstain below {found.threshold:.3f}: answers {found.answered:.1%} of {found.answerable} questions of "
            f"the collection, {found.wrongly_answered:.1%} of {found.unanswerable} of another; AUC {found.auc:.3f}"
        )


def _measure(slug: str, most: int) -> None:
    from ops.contracts.principal import SYSTEM
    from rag.answers import service
    from rag.answers.contracts import EXTRACTIVE, AnswerRequest
    from rag.models import JudgedQuery

    judged = JudgedQuery.objects.filter(collection__slug=slug, judgements__grade__gt=0).distinct().order_by("pk")
    sample = random.Random(1).sample(list(judged), min(most, judged.count()))
    figures: list[tuple[float, ...]] = []
    cited_counts: list[int] = []
    started = time.perf_counter()
    for query in sample:
        relevant = set(query.judgements.filter(grade__gt=0).values_list("document_id", flat=True))
        request = AnswerRequest(query=query.text, collection=slug, agent=EXTRACTIVE)
        answer = service.answer(request, SYSTEM, request_id=str(uuid.uuid4()))
        cited = list(dict.fromkeys(citation.document_id for citation in answer.citations))
        top = list(dict.fromkeys(passage.document_id for passage in answer.passages))
        figures.append(tuple(precision(ids, relevant, k) for k in (1, 3) for ids in (cited, top)))
        cited_counts.append(len(cited))
    per_answer_ms = (time.perf_counter() - started) * 1000 / max(len(sample), 1)
    means = [sum(column) / len(figures) for column in zip(*figures, strict=True)]
    cells = "".join(f"{mean:>10.3f}" for mean in means)
    print(f"{slug:<14}{len(sample):>10}{cells}{sum(cited_counts) / len(sample):>8.2f}{per_answer_ms:>8.0f}", flush=True)


def precision(ids: Sequence[str], relevant: set[str], k: int) -> float:
    """Of the first ``k`` ids, or as many as there are, the share that is relevant; 0 without any."""
    first = ids[:k]
    return sum(1 for one in first if one in relevant) / len(first) if first else 0.0


def _ensure(folder: object) -> str:
    """Index a BEIR folder with its judgements, once; its slug."""
    from pathlib import Path

    from ops.contracts.principal import SYSTEM
    from rag.collections import create_collection
    from rag.ingest.folders import BeirOffers
    from rag.ingest.service import process_batch, start_run
    from rag.models import Collection

    path = Path(str(folder))
    slug = f"answers-{path.name}"
    collection = Collection.objects.filter(slug=slug).first()
    if collection is None:
        collection = create_collection(slug, SYSTEM)
        offers = BeirOffers(path)
        offers.replace_judgements(collection)
        run = start_run(collection, offers, SYSTEM, "bench", enqueue=False)
        while process_batch(run.id):
            pass
    return slug


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else QUERIES)
