"""How vectors were searched at a moment: the registry's past of the vector indexes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db.models import Q

from models_registry import clock
from models_registry.past import Past
from ops.contracts.principal import Principal
from rag.ann.describe import how
from rag.models import AnnConfig, AnnPeriod

SLOT = "index"


def began(config: AnnConfig, replaced: AnnConfig | None, *, by: Principal, reason: str) -> None:
    """Note that a configuration has just become live, in the transaction in which it did."""
    moment = config.activated_at
    if moment is None:
        raise AssertionError("whoever puts a configuration live notes when")
    if replaced is not None:
        AnnPeriod.objects.filter(number=replaced.pk, ended_at=None).update(ended_at=moment)
    AnnPeriod.objects.create(
        number=config.pk,
        collection=config.collection.slug,
        what=f"{config} ({how(config)})"[:300],
        facts={"space": config.space.slug, "strategy": config.strategy, "recall_at_10": config.recall_at_10},
        started_at=moment,
        by=by.name,
        reason=reason,
    )


def ended(collection_slug: str) -> None:
    """Note that a collection is deleted, and its indexes with it."""
    AnnPeriod.objects.filter(collection=collection_slug, ended_at=None).update(ended_at=clock.now())


def indexes_at(moment: datetime) -> Sequence[Past]:
    """The configurations that were live. Where none is named, vectors were compared one by one: exact search."""
    rows = AnnPeriod.objects.filter(Q(ended_at=None) | Q(ended_at__gt=moment), started_at__lte=moment)
    return [
        Past(
            scope=row.collection,
            slot=SLOT,
            role="stable",
            what=row.what,
            since=row.started_at,
            until=row.ended_at,
            by=row.by,
            reason=row.reason,
            facts=row.facts,
        )
        for row in rows
    ]
