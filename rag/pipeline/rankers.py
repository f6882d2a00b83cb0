"""The ltr stage: the live ranker, and what stands in for it when it can't score."""

from __future__ import annotations

from models_registry.artifacts import local_path
from models_registry.live import LiveModel
from rag.pipeline.loaded import LoadedModels
from rag.pipeline.ltr import Ranker, RankerError, SimpleRanker, load_ranker

_rankers: LoadedModels[Ranker] = LoadedModels("ranker", RankerError)


def ranker_for(live: LiveModel) -> tuple[Ranker, str | None]:
    """The ranker of a version and ``None``; or the simple ranker and why it stands in."""
    try:
        return _rankers.get(live, live.version_id, lambda: _load(live)), None
    except RankerError as error:
        return SimpleRanker(), str(error)


def forget() -> None:
    """Drop everything that is loaded: for tests, and before a process forks."""
    _rankers.forget()


def _load(live: LiveModel) -> Ranker:
    if live.provider == SimpleRanker.kind:
        return SimpleRanker()
    return load_ranker(live.provider, local_path(live.artifacts["model"]).read_bytes())
