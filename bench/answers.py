"""How often the passages that an extractive answer cites are judged relevant, beside plain top-k of the same search.

Citation precision at k: of the first k passages that an answer cites, in the order in which it cites them, the share
that is judged relevant (grade above 0); an answer that cites fewer is measured by what it cites. Plain top-k is the
precision of the first k results of the same query. Questions without a judged document are left out; abstention is off,
as each question is one that its collection was judged to answer. Then: at which confidence to abstain.

``--shares`` measures instead which shares of a sentence's relevance cite best (`rag.answers.selection.Shares`): chosen
on every other question, shown on the rest.

Takes the public collections from ``ZENGLOW_COLLECTIONS_DIR``, else the sample that ships with the project.
"""

from __future__ import annotations

import argparse
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bench.public import folders
from bench.setup import prepare

if TYPE_CHECKING:
    from rag.answers.evidence import Evidence
    from rag.answers.selection import Shares
    from rag.pipeline.embed import Embedder

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


def shares(most: int) -> None:
    """Precision of what is cited, by the shares."""
    prepare()
    from django.conf import settings

    from rag.answers.calibration import threshold_of
    from rag.answers.selection import SHARES, Shares

    settings.RAG_QUERY_LOG = "off"
    slugs = [_ensure(folder) for folder in folders()]
    asked = [one for slug in slugs for one in _gathered(slug, slugs[(slugs.index(slug) + 1) % len(slugs)], most)]
    steps = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
    tried = {Shares(*(part / sum(parts) for part in parts)) for parts in product(steps, steps, steps) if sum(parts)}
    chosen_on, shown_on = asked[::2], asked[1::2]

    def measured(which: Shares, questions: list[Gathered]) -> tuple[float, float, float]:
        found = [one.cited(which) for one in questions]
        at_1, at_3 = (
            sum(precision(ids, one.relevant, k) for ids, one in zip(found, questions, strict=True)) for k in (1, 3)
        )
        inside, outside = (np.array([one.confidence(which, where) for one in questions]) for where in (0, 1))
        return at_1 / len(questions), at_3 / len(questions), threshold_of(inside, outside).auc

    ranked = sorted(tried, key=lambda one: -sum(measured(one, chosen_on)))
    print(
        f"{'meaning':>8}{'words':>8}{'rank':>8}{'cited@1':>10}{'cited@3':>10}{'AUC':>8}   of {len(shown_on)} questions"
    )
    for which in [*ranked[:8], SHARES]:
        at_1, at_3, auc = measured(which, shown_on)
        print(f"{which.meaning:>8.2f}{which.words:>8.2f}{which.rank:>8.2f}{at_1:>10.3f}{at_3:>10.3f}{auc:>8.3f}")


@dataclass(frozen=True, slots=True)
class Gathered:
    """A question with what was found for it in its own collection, and in another."""

    relevant: set[str]
    evidence: tuple[Evidence, Evidence]

    def cited(self, which: Shares) -> list[str]:
        from rag.answers.backends.extractive import in_order
        from rag.answers.selection import select

        quoted = in_order(select(self.evidence[0], shares=which).sentences)
        return list(dict.fromkeys(sentence.passage.document_id for sentence in quoted))

    def confidence(self, which: Shares, where: int) -> float:
        from rag.answers.selection import select

        return select(self.evidence[where], shares=which).confidence


class Remembering:
    """An embedder that embeds the same once."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        work = getattr(self._embedder, name)

        def once(texts: Sequence[str]) -> Any:
            key = "\x00".join((name, *texts))
            if key not in self._known:
                self._known[key] = work(texts)
            return self._known[key]

        return once


def _gathered(slug: str, other: str, most: int) -> list[Gathered]:
    from ops.contracts.principal import SYSTEM
    from rag.answers import service
    from rag.answers.contracts import EXTRACTIVE, AnswerRequest

    found = []
    for query, relevant in _judged(slug, most):
        evidence = []
        for place in (slug, other):
            asks = AnswerRequest(query=query, collection=place, agent=EXTRACTIVE)
            one = service.prepare(asks, SYSTEM, request_id=str(uuid.uuid4())).evidence
            assert one.embedder is not None
            evidence.append(replace(one, embedder=cast("Embedder", Remembering(one.embedder))))
        found.append(Gathered(relevant, (evidence[0], evidence[1])))
    return found


def _judged(slug: str, most: int) -> Iterator[tuple[str, set[str]]]:
    """Questions of a collection with the documents that were judged relevant: the same ones each time."""
    from rag.models import JudgedQuery

    judged = JudgedQuery.objects.filter(collection__slug=slug, judgements__grade__gt=0).distinct().order_by("pk")
    for query in random.Random(1).sample(list(judged), min(most, judged.count())):
        yield query.text, set(query.judgements.filter(grade__gt=0).values_list("document_id", flat=True))


def _measure(slug: str, most: int) -> None:
    from ops.contracts.principal import SYSTEM
    from rag.answers import service
    from rag.answers.contracts import EXTRACTIVE, AnswerRequest

    sample = list(_judged(slug, most))
    figures: list[tuple[float, ...]] = []
    cited_counts: list[int] = []
    started = time.perf_counter()
    for query, relevant in sample:
        request = AnswerRequest(query=query, collection=slug, agent=EXTRACTIVE)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queries", type=int, nargs="?", default=QUERIES, help="of each collection, at most")
    parser.add_argument("--shares", action="store_true", help="measure the shares of a sentence's relevance")
    given = parser.parse_args()
    (shares if given.shares else main)(given.queries)
