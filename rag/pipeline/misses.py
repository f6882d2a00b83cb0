"""Why a cache lookup missed, as far as this process has seen."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields

from rag.pipeline.snapshot import FUSION_FIELDS, PipelineSnapshot

CAPACITY = 4096
"""Questions whose last answer is remembered: about 1 MB."""

DEGRADED = "degraded"

_REASONS = {
    "access_epoch": "access",
    "generation": "documents",
    "text_configuration": "documents",
    "split_identifiers": "documents",
    "space": "model",
    "ranker_kind": "model",
    "ranker_label": "model",
    "feature_schema_version": "model",
} | dict.fromkeys(FUSION_FIELDS, "weights")


class Misses:
    """The snapshot under which each question was last kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[PipelineSnapshot | None, float]] = OrderedDict()
        self._lock = threading.Lock()

    def kept(self, question: Hashable, snapshot: PipelineSnapshot, ttl_s: float) -> None:
        """Note that an answer was stored for ``ttl_s`` seconds."""
        self._note(question, snapshot, time.monotonic() + ttl_s)

    def not_kept(self, question: Hashable) -> None:
        """Note that an answer was too degraded to be stored."""
        self._note(question, None, 0.0)

    def reason(self, question: Hashable, snapshot: PipelineSnapshot) -> str:
        """``cold`` (not asked here lately), ``degraded`` (not stored), what has changed since (``access``,
        ``documents``, ``model``, ``weights``, ``settings``), else ``expired`` or, before its time, ``evicted``.
        """
        with self._lock:
            found = self._kept.get(question)
        if found is None:
            return "cold"
        before, expires_at = found
        if before is None:
            return DEGRADED
        changed = {
            _REASONS.get(field.name, "settings")
            for field in fields(snapshot)
            if getattr(before, field.name) != getattr(snapshot, field.name)
        }
        if changed:
            return min(changed)
        return "expired" if time.monotonic() >= expires_at else "evicted"

    def _note(self, question: Hashable, snapshot: PipelineSnapshot | None, expires_at: float) -> None:
        with self._lock:
            self._kept[question] = snapshot, expires_at
            self._kept.move_to_end(question)
            while len(self._kept) > CAPACITY:
                self._kept.popitem(last=False)
