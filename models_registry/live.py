"""This process's view of what is live, so that a request asks memory and not the database."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseFault
from django.db import connection

from models_registry import deployments
from models_registry.models import GLOBAL_SCOPE, Deployment, FusionWeights, ModelVersion, Role, Rollout, Slot
from models_registry.notices import Listener
from ops.contracts.problems import Unavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A model version that is live. ``artifacts`` maps a role to a sha256."""

    deployment_id: int
    scope: str
    slot: Slot
    version_id: int
    name: str
    number: int
    provider: str
    artifacts: Mapping[str, str] = field(hash=False)
    parameters: Mapping[str, Any] = field(hash=False)

    @property
    def label(self) -> str:
        """``name@number``."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class LiveWeights:
    """Fusion weights that are live, as entered; `normalized` sums to 1."""

    deployment_id: int
    scope: str
    version: int
    ltr: float
    conceptual: float

    @property
    def normalized(self) -> tuple[float, float]:
        """``(ltr, conceptual)``, scaled to sum to 1."""
        total = self.ltr + self.conceptual
        return self.ltr / total, self.conceptual / total


Live = LiveModel | LiveWeights


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a rollout gives a share of the traffic, beside the stable version. See `models_registry.routing`."""

    live: Live
    rollout_id: int
    role: str
    percent: float
    key: str
    key_name: str
    salt: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the table. ``ids`` of the live rows identify it: rows never change, they only end."""

    ids: tuple[int, ...]
    by_place: Mapping[tuple[Slot, str], Live]
    by_rollout: Mapping[tuple[Slot, str], tuple[Candidate, ...]]

    def model(self, slot: Slot, collection: str) -> LiveModel:
        """The model version that answers for a collection. Raises `Unavailable` when there is none."""
        found = self._find(slot, collection)
        if not isinstance(found, LiveModel):
            raise Unavailable(f"No {slot.label} is live. `manage.py seed` provides one.")
        return found

    def weights(self, collection: str) -> LiveWeights:
        """The fusion weights that answer for a collection. Raises `Unavailable` when there are none."""
        found = self._find(Slot.WEIGHTS, collection)
        if not isinstance(found, LiveWeights):
            raise Unavailable("No fusion weights are live. `manage.py seed` provides the first.")
        return found

    def candidates(self, slot: Slot, collection: str) -> tuple[Candidate, ...]:
        """What rollouts give a share of a collection's queries: its own, and where it has no choice of its own the
        global ones.
        """
        if not self.by_rollout:
            return ()
        own = self.by_rollout.get((slot, collection), ())
        if own or (slot, collection) in self.by_place:
            return own
        return self.by_rollout.get((slot, GLOBAL_SCOPE), ())

    def all(self) -> tuple[Live, ...]:
        """Everything that is live, in every scope, sorted by slot and scope."""
        return tuple(self.by_place[place] for place in sorted(self.by_place))

    def _find(self, slot: Slot, collection: str) -> Live | None:
        return self.by_place.get((slot, collection)) or self.by_place.get((slot, GLOBAL_SCOPE))


class LiveView:
    """What is live, at most ``REGISTRY_REFRESH_INTERVAL_MS`` old while the database answers.

    Between looks nothing is asked of the database. A look is one query for the ids of the live rows; only when they
    differ are the rows read. One thread looks, the others go on with what is known. While the database is away the
    last known view serves. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._loaded: Reading | None = None
        self._looked_at = float("-inf")
        self._listener: Listener | None = None

    def now(self) -> Reading:
        """What is live now: one reading for all that somebody asks of it, as each look at the clock costs."""
        loaded = self._loaded
        if loaded is not None and not self._is_due():
            return loaded
        # Whoever has a view goes on with it while another thread looks; without one, there is nothing but to wait.
        if self._looking.acquire(blocking=loaded is None):
            try:
                if self._loaded is None or self._is_due():
                    self._look()
            finally:
                self._looking.release()
        if self._loaded is None:
            raise AssertionError("the first look either loads or raises")
        return self._loaded

    def model(self, slot: Slot, collection: str) -> LiveModel:
        """`Reading.model`, now."""
        return self.now().model(slot, collection)

    def weights(self, collection: str) -> LiveWeights:
        """`Reading.weights`, now."""
        return self.now().weights(collection)

    def all(self) -> tuple[Live, ...]:
        """`Reading.all`, now."""
        return self.now().all()

    def follow(self) -> None:
        """Also hear of changes at once, from a background thread of this process. For long-lived processes."""
        with self._looking:
            if self._listener is None:
                self._listener = Listener(self.expire)
                self._listener.start()

    def expire(self) -> None:
        """Look again at the next use."""
        self._looked_at = float("-inf")

    def reset(self) -> None:
        """Forget everything and stop following."""
        with self._looking:
            if self._listener is not None:
                self._listener.stop()
                self._listener = None
            self._loaded = None
            self.expire()

    def _is_due(self) -> bool:
        interval_ms: int = settings.REGISTRY_REFRESH_INTERVAL_MS
        return (time.monotonic() - self._looked_at) * 1000 >= interval_ms

    def _look(self) -> None:
        # Noted before the query: a notice that comes while it runs must lead to another look.
        self._looked_at = time.monotonic()
        try:
            ids = _live_ids()
            if self._loaded is None or ids != self._loaded.ids:
                self._loaded = _load()
        except DatabaseFault as error:
            if self._loaded is None:
                raise
            self._looked_at = time.monotonic()
            logger.warning("The live deployments can't be read (%s); the last known serve", type(error).__name__)


_LIVE_IDS = f"SELECT id FROM {Deployment._meta.db_table} WHERE ended_at IS NULL ORDER BY id"  # noqa: S608  (a constant)


def _live_ids() -> tuple[int, ...]:
    """Asked for twice a second, within somebody's request: without the ORM it takes a third of the time."""
    with connection.cursor() as cursor:
        cursor.execute(_LIVE_IDS)
        return tuple(number for (number,) in cursor.fetchall())


def _load() -> Reading:
    rows = deployments.live().order_by("id")
    candidates: dict[tuple[Slot, str], tuple[Candidate, ...]] = {}
    for row in rows:
        if row.rollout is not None:
            place = Slot(row.slot), row.scope
            candidates[place] = (*candidates.get(place, ()), _candidate(row, row.rollout))
    return Reading(
        ids=tuple(row.id for row in rows),
        by_place=MappingProxyType(
            {(Slot(row.slot), row.scope): _frozen(row) for row in rows if row.role == Role.STABLE}
        ),
        by_rollout=MappingProxyType(candidates),
    )


def _candidate(row: Deployment, rollout: Rollout) -> Candidate:
    return Candidate(
        live=_frozen(row),
        rollout_id=rollout.pk,
        role=row.role,
        percent=row.percent or 0.0,
        key=rollout.key,
        key_name=rollout.key_name,
        salt=rollout.salt,
    )


def _frozen(row: Deployment) -> Live:
    if row.weights is not None:
        return _frozen_weights(row, row.weights)
    if row.model_version is not None:
        return _frozen_model(row, row.model_version)
    raise AssertionError("a constraint of the table says that a deployment names one thing")


def _frozen_weights(row: Deployment, weights: FusionWeights) -> LiveWeights:
    return LiveWeights(
        deployment_id=row.id,
        scope=row.scope,
        version=weights.version,
        ltr=weights.ltr,
        conceptual=weights.conceptual,
    )


def not_deployed(slot: Slot, version: ModelVersion) -> LiveModel:
    """A version as it would be if it were live, for those who use it before; it has no deployment and no scope."""
    return _as_live(version, deployment_id=0, scope="", slot=slot)


def _frozen_model(row: Deployment, version: ModelVersion) -> LiveModel:
    return _as_live(version, deployment_id=row.id, scope=row.scope, slot=Slot(row.slot))


def _as_live(version: ModelVersion, *, deployment_id: int, scope: str, slot: Slot) -> LiveModel:
    return LiveModel(
        deployment_id=deployment_id,
        scope=scope,
        slot=slot,
        version_id=version.id,
        name=version.model.name,
        number=version.number,
        provider=version.model.provider,
        artifacts=MappingProxyType(version.artifacts),
        parameters=MappingProxyType(version.parameters),
    )


view = LiveView()
"""The view of this process."""
