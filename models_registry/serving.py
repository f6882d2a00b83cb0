"""Which version answers in this process while another is loaded: nobody waits for a model that has just gone live.

    in_service(live, collection)    the live version once it is loaded and warm; until then the one before it

The new version is loaded behind, on a thread of its own. When it is warm it answers, and the one before drains: what
has begun with it ends with it, then its memory is given back. A version that can't be loaded never answers; the one
before goes on, and `/health/models` shows both. The first version of a process is loaded by `warm_up`, or else by
whoever asks first: there is nothing else to answer with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from typing import Protocol

from django.db import Error as DatabaseFault
from django.db import connections

from models_registry import loading
from models_registry.live import LiveModel, view
from models_registry.models import Slot

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
"""How long a version that can't be loaded is left alone."""


class Loader(Protocol):
    """How the versions of one slot are held in memory. Called from any thread."""

    def is_loaded(self, model: LiveModel) -> bool:
        """Whether it could answer now, without loading anything. Called for each query."""

    def load(self, model: LiveModel) -> None:
        """Load it and use it once, so that its first query is as fast as the others. May raise anything."""

    def unload(self, model: LiveModel) -> None:
        """Let go of it, once those who use it have ended."""


_loaders: dict[Slot, Loader] = {}
_on_demand: dict[Slot, frozenset[str]] = {}
_lock = threading.Lock()
_in_service: dict[tuple[Slot, str], LiveModel] = {}
_behind: dict[int, threading.Thread] = {}
_retry_at: dict[int, float] = {}


def register_loader(slot: Slot, loader: Loader, *, on_demand: Collection[str] = ()) -> None:
    """Say how a slot's versions are loaded. Called by the app that uses them.

    Versions of the providers ``on_demand`` are not loaded before somebody needs them: an installation may never.
    """
    _loaders[slot] = loader
    _on_demand[slot] = frozenset(on_demand)


def starts_on_demand(slot: Slot, provider: str) -> bool:
    """Whether a provider's versions wait for somebody who needs them."""
    return provider in _on_demand.get(slot, ())


def in_service(live: LiveModel, collection: str) -> LiveModel:
    """The version that answers a collection's queries in this process, now that ``live`` is live there."""
    loader = _loaders.get(live.slot)
    if loader is None:
        return live
    place = live.slot, collection
    before = _in_service.get(place)
    if before is not None and before.version_id == live.version_id:
        return live
    if loader.is_loaded(live):
        _in_service[place] = live
        if before is not None:
            _drain(before, loader)
        return live
    if before is None or not loader.is_loaded(before):
        _in_service[place] = live
        return live
    _load_behind(live, loader)
    return before


def is_ready(live: LiveModel) -> bool:
    """Whether a version can answer at once; one that can't is loaded behind. For candidates beside the live one."""
    loader = _loaders.get(live.slot)
    if loader is None or loader.is_loaded(live):
        return True
    _load_behind(live, loader)
    return False


def warm_up() -> None:
    """Load everything that is live, before the first query asks for it, but what starts on demand.

    What can't be loaded is told by its report.
    """
    try:
        models = view.all()
    except DatabaseFault as error:
        logger.warning("What is live can't be read, so it is loaded when it is asked for (%s)", type(error).__name__)
        return
    for live in models:
        if not isinstance(live, LiveModel) or starts_on_demand(live.slot, live.provider):
            continue
        if (loader := _loaders.get(live.slot)) is not None:
            _load(live, loader)


def settle() -> None:
    """Wait until nothing is being loaded behind."""
    while threads := list(_behind.values()):
        for thread in threads:
            thread.join()


def forget() -> None:
    """As a process that has answered nothing yet: for tests."""
    settle()
    with _lock:
        _in_service.clear()
        _retry_at.clear()


def _load_behind(live: LiveModel, loader: Loader) -> None:
    with _lock:
        if live.version_id in _behind or time.monotonic() < _retry_at.get(live.version_id, 0.0):
            return
        thread = threading.Thread(target=_load_and_close, args=(live, loader), name=f"load-{live.label}", daemon=True)
        _behind[live.version_id] = thread
        thread.start()


def _load_and_close(live: LiveModel, loader: Loader) -> None:
    try:
        _load(live, loader)
    finally:
        connections.close_all()
        with _lock:
            del _behind[live.version_id]


def _load(live: LiveModel, loader: Loader) -> None:
    try:
        loader.load(live)
    except Exception:
        logger.exception("%s can't be loaded", live.label)
        _retry_at[live.version_id] = time.monotonic() + RETRY_AFTER_S


def _drain(before: LiveModel, loader: Loader) -> None:
    """Let go of a version, unless something still needs it."""
    needed = {model.version_id for model in _in_service.values()}
    needed |= {model.version_id for model in view.all() if isinstance(model, LiveModel)}
    if before.version_id not in needed:
        loading.draining(before.label)
        loader.unload(before)
