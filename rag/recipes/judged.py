"""Training data from this installation: the judged queries of its collections, with their candidates."""

from __future__ import annotations

from collections.abc import Callable

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Unavailable
from rag.evaluation.run import judged_set
from rag.models import Document
from rag.pipeline.query import normalize_query
from rag.pipeline.search import Progress, score
from rag.pipeline.snapshot import resolve
from rag.recipes.ltr import JudgedCollection, JudgedQuery


def read_collection(slug: str, on_query: Callable[[int, int], None]) -> JudgedCollection:
    """A collection's judged queries as training sees them; ``on_query(done, total)`` after each.

    Raises `NotFound` when the collection or its judgements are missing, `Unavailable` when the embedder can't be used.
    Candidates come from the same stages that serve queries.
    """
    judged = judged_set(slug)
    resolved = resolve(slug, SYSTEM)
    keys = dict(Document.objects.filter(collection__slug=slug).values_list("document_id", "id"))
    queries = []
    for done, (query_id, text) in enumerate(sorted(judged.queries.items()), start=1):
        progress = Progress(query_id)
        _, terms, candidates = score(normalize_query(text), {}, resolved, progress)
        if "embed" in progress.degraded:
            raise Unavailable(progress.degraded["embed"])
        grades, weights = {}, {}
        for place, (document_id, grade) in enumerate(sorted(judged.judgements[query_id].items()), start=1):
            if grade > 0:
                # A judged document that isn't indexed still counts for the ideal ranking: it gets an id that none has.
                key = keys.get(document_id, -place)
                grades[key] = grade
                weights[key] = judged.weights.get((query_id, document_id), 1.0)
        queries.append(JudgedQuery(query_id, terms, candidates, grades, weights))
        on_query(done, len(judged.queries))
    return JudgedCollection(slug, judged.sha256, queries)
