"""Below which confidence an answer should rather be that the passages don't say.

Questions that a collection was judged to answer are asked of it, and of other collections, which can't answer them.
The threshold is where the share of the former that is answered, less the share of the latter that is, is largest
(Youden, "Index for rating diagnostic tests", Cancer 3, 1950).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ops.contracts.principal import SYSTEM
from rag.answers import service
from rag.answers.contracts import EXTRACTIVE, AnswerRequest
from rag.models import JudgedQuery
from rag.pipeline.types import Float64Array


@dataclass(frozen=True, slots=True)
class Calibration:
    """``answered`` and ``wrongly_answered``: shares at the threshold. ``auc``: the chance that a question that is
    answered in the collection has the higher confidence of two.
    """

    threshold: float
    answered: float
    wrongly_answered: float
    auc: float
    answerable: int
    unanswerable: int


def calibrate(collections: Sequence[str], most_queries: int, seed: int, report: Callable[[str], None]) -> Calibration:
    """Ask ``most_queries`` judged questions of each collection, of it and of the next one. Takes a while."""
    chooser = random.Random(seed)  # noqa: S311  (a sample, not a secret)
    inside: list[float] = []
    outside: list[float] = []
    for position, slug in enumerate(collections):
        judged = JudgedQuery.objects.filter(collection__slug=slug, judgements__grade__gt=0).distinct().order_by("pk")
        texts = list(judged.values_list("text", flat=True))
        sample = chooser.sample(texts, min(most_queries, len(texts)))
        other = collections[(position + 1) % len(collections)]
        inside += [confidence(text, slug) for text in sample]
        outside += [confidence(text, other) for text in sample]
        report(f"{slug}: {len(sample)} questions, asked of it and of {other}")
    return threshold_of(np.array(inside), np.array(outside))


def threshold_of(inside: Float64Array, outside: Float64Array) -> Calibration:
    """The best threshold for confidences of answerable and unanswerable questions; both arrays hold at least one."""
    candidates = np.unique(np.concatenate([inside, outside]))
    gains = [(inside >= one).mean() - (outside >= one).mean() for one in candidates]
    best = float(candidates[int(np.argmax(gains))])
    pairs = inside[:, None] - outside[None, :]
    return Calibration(
        threshold=best,
        answered=float((inside >= best).mean()),
        wrongly_answered=float((outside >= best).mean()),
        auc=float((pairs > 0).mean() + (pairs == 0).mean() / 2),
        answerable=len(inside),
        unanswerable=len(outside),
    )


def confidence(question: str, collection: str) -> float:
    """How sure the evidence of a collection makes us that it answers a question."""
    request = AnswerRequest(query=question, collection=collection, agent=EXTRACTIVE)
    return service.prepare(request, SYSTEM, request_id=str(uuid.uuid4())).selected.confidence
