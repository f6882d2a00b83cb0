"""Models in this process's memory: each is loaded at its first use, once, and shared by all threads."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from models_registry.live import LiveModel
from models_registry.loading import loading, unloaded
from ops.alerts import raise_alert, resolve_alert
from ops.models import AlertEvent, AlertSeverity

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
"""How long a model that can't be loaded is left alone: each try may read and hash its whole file."""

Made = TypeVar("Made")


class LoadedModels(Generic[Made]):
    """What was loaded of one kind of model. While one can't be, the alert ``<kind>-broken-<name>`` is open."""

    def __init__(self, kind: str, error: type[Exception]) -> None:
        self._kind = kind
        self._error = error
        self._lock = threading.Lock()
        self._made: dict[Hashable, Made] = {}
        self._failures: dict[Hashable, tuple[float, str]] = {}

    def get(self, model: LiveModel, key: Hashable, load: Callable[[], Made]) -> Made:
        """What ``load`` returns, or returned before for this key.

        Whatever it raises becomes the error of this kind, which is then raised without another try for
        `RETRY_AFTER_S`: somebody may put a damaged file right.
        """
        if key in self._made:
            return self._made[key]
        with self._lock:
            if key in self._made:
                return self._made[key]
            failed_at, fault = self._failures.get(key, (float("-inf"), ""))
            if time.monotonic() - failed_at < RETRY_AFTER_S:
                raise self._error(fault)
            alert = f"{self._kind}-broken-{model.name}"[: AlertEvent._meta.get_field("name").max_length]
            try:
                with loading(model.label):
                    made = load()
            except Exception as error:
                fault = f"The {self._kind} {model.label} can't be used: {error}"
                self._failures[key] = time.monotonic(), fault
                logger.error("%s", fault, exc_info=True)
                raise_alert(alert, AlertSeverity.CRITICAL, fault)
                raise self._error(fault) from error
            self._made[key] = made
            self._failures.pop(key, None)
            resolve_alert(alert)
            return made

    def has(self, key: Hashable) -> bool:
        """Whether it is loaded."""
        return key in self._made

    def drop(self, model: LiveModel, key: Hashable) -> None:
        """Let go of what was loaded. Its memory is given back, and its report ends, when the last user has."""
        with self._lock:
            made = self._made.pop(key, None)
        if made is None:
            return
        try:
            weakref.finalize(made, unloaded, model.label)
        except TypeError:  # so small that it can't be watched
            unloaded(model.label)

    def forget(self) -> None:
        """Drop everything: for tests, and before a process forks."""
        with self._lock:
            self._made.clear()
            self._failures.clear()
