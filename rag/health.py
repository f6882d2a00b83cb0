"""What retrieval depends on, for ``/health/ready``."""

from __future__ import annotations

from django.conf import settings

from models_registry.live import view
from models_registry.models import Slot
from ops.contracts.health import Report, State
from ops.contracts.problems import Problem
from rag.pipeline.embed import EmbeddingError
from rag.pipeline.rankers import ranker_for
from rag.spaces import load_embedder


def check_live_models() -> Report:
    """Without an embedder words alone are compared, without its ranker the simple one ranks: answers, but worse."""
    collection = settings.RAG_DEFAULT_COLLECTION
    try:
        embedder, ranker = (view.model(slot, collection) for slot in (Slot.EMBEDDER, Slot.LTR))
        view.weights(collection)
    except Problem as problem:
        return Report(State.FAILED, str(problem))
    try:
        load_embedder(embedder)
    except EmbeddingError as error:
        return Report(State.DEGRADED, str(error))
    _, fault = ranker_for(ranker)
    return Report(State.DEGRADED, fault) if fault else Report(State.OK)
