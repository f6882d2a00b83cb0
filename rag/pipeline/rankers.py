"""The ltr stage: the live ranker, and what stands in for it when it can't score."""

from __future__ import annotations

import numpy as np

from models_registry.artifacts import local_path
from models_registry.live import LiveModel, not_deployed
from models_registry.models import ModelVersion, Slot
from ops.contracts.problems import Unprocessable
from rag.pipeline.features import FEATURES, SCHEMA_VERSION
from rag.pipeline.loaded import LoadedModels
from rag.pipeline.ltr import Ranker, RankerError, SimpleRanker, load_ranker
from rag.pipeline.types import FeatureMatrix

_rankers: LoadedModels[Ranker] = LoadedModels("ranker", RankerError)


def ranker_for(live: LiveModel) -> tuple[Ranker, str | None]:
    """The ranker of a version and ``None``; or the simple ranker and why it stands in."""
    try:
        return _rankers.get(live, live.version_id, lambda: _load(live)), None
    except RankerError as error:
        return SimpleRanker(), str(error)


class RankerLoader:
    """How the registry has rankers loaded before they answer."""

    def is_loaded(self, model: LiveModel) -> bool:
        return _rankers.has(model.version_id)

    def load(self, model: LiveModel) -> None:
        ranker = _rankers.get(model, model.version_id, lambda: _load(model))
        ranker.score(FeatureMatrix(SCHEMA_VERSION, np.zeros((2, len(FEATURES)), dtype=np.float32)))

    def unload(self, model: LiveModel) -> None:
        _rankers.drop(model, model.version_id)


def try_out(version: ModelVersion) -> None:
    """Load a ranker to see that it works, and let go of it. Raises `Unprocessable`: the trial of its slot."""
    try:
        _load(not_deployed(Slot.LTR, version))
    except (RankerError, KeyError) as error:
        raise Unprocessable(f"{version} can't be used: {error}") from error


def forget() -> None:
    """Drop everything that is loaded: for tests, and before a process forks."""
    _rankers.forget()


def _load(live: LiveModel) -> Ranker:
    if live.provider == SimpleRanker.kind:
        return SimpleRanker()
    return load_ranker(live.provider, local_path(live.artifacts["model"]).read_bytes())
