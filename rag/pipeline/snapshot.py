"""Everything that decides an answer, resolved once at the start of a request.

Both cache keys are derived from all fields of the snapshot, so that a field that is added later is in them by itself;
the feature key leaves out exactly the fusion weights, because what it caches is computed before fusion.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from django.conf import settings
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import JSONObject

from models_registry.live import LiveModel, view
from models_registry.models import Slot
from ops.contracts.principal import Principal
from ops.contracts.problems import NotFound
from rag.models import AnnConfig, AnnState, Collection, Document
from rag.pipeline.ann import EXACT, AnnPlan
from rag.pipeline.embed import Space
from rag.pipeline.features import SCHEMA_VERSION
from rag.pipeline.query import SearchRequest, fingerprint
from rag.spaces import space_of

FUSION_FIELDS = frozenset({"weights_version", "ltr_weight", "conceptual_weight"})


@dataclass(frozen=True, slots=True)
class PipelineSnapshot:
    """One resolved configuration. ``groups`` is ``None`` when the principal reads every document of the collection."""

    collection_id: int
    collection: str
    generation: int
    access_epoch: int
    remembers_judgements: bool
    text_configuration: str
    split_identifiers: bool
    groups: tuple[str, ...] | None
    space: Space
    retrieval_mode: str
    candidate_depth: int
    ranker_kind: str
    ranker_label: str
    feature_schema_version: int
    weights_version: int
    ltr_weight: float
    conceptual_weight: float
    ann: AnnPlan = EXACT

    def feature_key(self, request: SearchRequest) -> str:
        """Key of a query's candidates, features and LTR scores."""
        fields = {name: value for name, value in self.as_dict().items() if name not in FUSION_FIELDS}
        return fingerprint({"snapshot": fields, "query": request.query, "filters": dict(request.filters)})

    def response_key(self, request: SearchRequest) -> str:
        """Key of a whole answer."""
        return fingerprint({"snapshot": self.as_dict(), "request": asdict(request)})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A snapshot with the model versions that it names."""

    snapshot: PipelineSnapshot
    embedder: LiveModel
    ranker: LiveModel


def resolve(collection_slug: str, principal: Principal) -> Resolved:
    """What answers a principal's search of a collection; costs one query.

    Raises `NotFound` alike for an unknown collection and for one that the principal may not touch, so that nobody
    learns which exist.
    """
    guarded = Document.objects.filter(collection=OuterRef("pk")).exclude(access_groups=[])
    row = (
        Collection.objects.filter(slug=collection_slug)
        .annotate(withholds=~Q(default_access_groups=[]) | Exists(guarded), ann_plans=live_ann_plans())
        .values_list(
            "id",
            "generation",
            "access_epoch",
            "remembers_judgements",
            "text_configuration",
            "split_identifiers",
            "withholds",
            "ann_plans",
            named=True,
        )
    )
    found = row.first() if principal.may_touch(collection_slug) else None
    if found is None:
        raise NotFound(f"There is no collection '{collection_slug}'. GET /rag/collections lists those you can search.")
    weights = view.weights(collection_slug)
    embedder = view.model(Slot.EMBEDDER, collection_slug)
    ranker = view.model(Slot.LTR, collection_slug)
    ltr_weight, conceptual_weight = weights.normalized
    reads_everything = principal.sees_all_groups or not found.withholds
    space = space_of(embedder)
    snapshot = PipelineSnapshot(
        collection_id=found.id,
        collection=collection_slug,
        generation=found.generation,
        access_epoch=found.access_epoch,
        remembers_judgements=found.remembers_judgements,
        text_configuration=found.text_configuration,
        split_identifiers=found.split_identifiers,
        groups=None if reads_everything else tuple(sorted(principal.groups)),
        space=space,
        retrieval_mode=settings.RAG_RETRIEVAL_MODE,
        candidate_depth=settings.RAG_CANDIDATE_DEPTH,
        ranker_kind=ranker.provider,
        ranker_label=ranker.label,
        feature_schema_version=SCHEMA_VERSION,
        weights_version=weights.version,
        ltr_weight=ltr_weight,
        conceptual_weight=conceptual_weight,
        ann=ann_plan(found.ann_plans, space.id),
    )
    return Resolved(snapshot, embedder, ranker)


def live_ann_plans() -> ArraySubquery:
    """The live configurations of a collection, as an annotation: one JSON object a space, for `ann_plan`."""
    live = AnnConfig.objects.filter(collection=OuterRef("pk"), state=AnnState.LIVE).order_by("id")
    plan = JSONObject(config_id=F("id"), space_id=F("space_id"), **{name: F(name) for name in _PLAN_FIELDS})
    return ArraySubquery(live.values(plan=plan))


def ann_plan(plans: list[dict[str, Any]], space_id: int) -> AnnPlan:
    """How a space is searched, of what `live_ann_plans` read."""
    for plan in plans:
        if plan.pop("space_id") == space_id:
            return AnnPlan(**plan)
    return EXACT


def plan_of(config: AnnConfig) -> AnnPlan:
    """How one searches by a configuration."""
    return AnnPlan(config.pk, **{name: getattr(config, name) for name in _PLAN_FIELDS})


_PLAN_FIELDS = tuple(field.name for field in fields(AnnPlan) if field.name != "config_id")
