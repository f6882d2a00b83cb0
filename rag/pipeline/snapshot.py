"""Everything that decides an answer, resolved once at the start of a request.

Both cache keys are derived from all fields of the snapshot, so that a field that is added later is in them by itself;
the feature key leaves out exactly the fusion weights, because what it caches is computed before fusion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from django.conf import settings

from models_registry.live import LiveModel
from models_registry.routing import STABLE, Arm, Choice, Routing, choose
from ops.contracts.principal import Principal
from ops.contracts.problems import NotFound
from rag.models import AnnConfig
from rag.pipeline.ann import EXACT, AnnPlan
from rag.pipeline.database import brief_rows
from rag.pipeline.embed import Space
from rag.pipeline.features import SCHEMA_VERSION
from rag.pipeline.query import SearchRequest, digest, fingerprint
from rag.spaces import space_of

FUSION_FIELDS = frozenset({"weights_version", "ltr_weight", "conceptual_weight"})

# Shallow, as nothing in a request is a dataclass.
_shown = attrgetter(*(field.name for field in fields(SearchRequest) if field.name not in {"query", "filters"}))


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
        return self.keys(request)[1]

    def response_key(self, request: SearchRequest) -> str:
        """Key of a whole answer."""
        return self.keys(request)[0]

    def keys(self, request: SearchRequest) -> tuple[str, str]:
        """`response_key` and `feature_key`."""
        everything, before_fusion = _digests(self)
        asked = repr((request.query, sorted(request.filters.items())))
        shown = repr(_shown(request))
        # Neither text holds the character that parts them: both write it as an escape.
        return digest(f"{everything}{shown}\0{asked}"), digest(f"{before_fusion}{asked}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@lru_cache(maxsize=256)
def _digests(snapshot: PipelineSnapshot) -> tuple[str, str]:
    """Of all fields, and of those that decide before fusion. Few snapshots answer many requests."""
    described = snapshot.as_dict()
    before_fusion = {name: value for name, value in described.items() if name not in FUSION_FIELDS}
    return fingerprint(described), fingerprint(before_fusion)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A snapshot with the model versions that it names.

    ``arms``: the rollouts that this search takes part in. ``shadows``: the candidates that are to be computed beside
    it. The variant is in no cache key: what makes two variants answer differently (weights, ranker, space) is.
    """

    snapshot: PipelineSnapshot
    embedder: LiveModel
    ranker: LiveModel
    variant: str = STABLE
    arms: tuple[Arm, ...] = ()
    shadows: tuple[tuple[Arm, Resolved], ...] = ()


def resolve(
    collection_slug: str,
    principal: Principal,
    routing: Routing | None = None,
    ask: Callable[[Resolved], Callable[[], None]] | None = None,
) -> Resolved:
    """What answers a principal's search of a collection; costs one query.

    Without ``routing`` no rollout takes part: the stable versions answer. ``ask`` begins to ask somebody else, by what
    the database will say unless the collection has changed since this process last asked; if it has, another object is
    returned than that. What it gives is called when the database has answered, or failed to.

    Raises `NotFound` alike for an unknown collection and for one that the principal may not touch, so that nobody
    learns which exist.
    """
    before = _last_read.get(collection_slug)
    if ask is None or before is None or not principal.may_touch(collection_slug):
        return resolve_choice(collection_slug, principal, lambda: choose(collection_slug, routing))
    choice = choose(collection_slug, routing)
    expected = _expected(before, collection_slug, principal, choice)
    wait = ask(expected)
    try:
        standing = brief_rows(_STANDING, {"slug": collection_slug})
    finally:
        wait()
    if standing == [before[0].standing]:
        return expected
    return resolve_choice(collection_slug, principal, lambda: choice)


def resolve_choice(collection_slug: str, principal: Principal, choice: Callable[[], Choice]) -> Resolved:
    """As `resolve`, by what the caller chooses: to measure what is not live."""
    rows = _read(collection_slug) if principal.may_touch(collection_slug) else []
    if not rows:
        raise NotFound(f"There is no collection '{collection_slug}'. GET /rag/collections lists those you can search.")
    return _resolved(rows, collection_slug, principal, choice())


def _expected(rows: list[_Row], collection_slug: str, principal: Principal, choice: Choice) -> Resolved:
    """As `_resolved`; the same object as last time when all that it is made of is the same."""
    made_of = (
        principal.sees_all_groups,
        principal.groups,
        choice,
        settings.RAG_RETRIEVAL_MODE,
        settings.RAG_CANDIDATE_DEPTH,
    )
    known = _last_resolved.get(collection_slug)
    if known is not None and known.rows is rows and known.made_of == made_of:
        return known.resolved
    resolved = _resolved(rows, collection_slug, principal, choice)
    if len(_last_resolved) >= _REMEMBERED:
        _last_resolved.clear()
    _last_resolved[collection_slug] = _LastResolved(rows, made_of, resolved)
    return resolved


def _resolved(rows: list[_Row], collection_slug: str, principal: Principal, choice: Choice) -> Resolved:
    found = rows[0]
    ltr_weight, conceptual_weight = choice.weights.normalized
    reads_everything = principal.sees_all_groups or not found.withholds
    space = space_of(choice.embedder)
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
        ranker_kind=choice.ranker.provider,
        ranker_label=choice.ranker.label,
        feature_schema_version=SCHEMA_VERSION,
        weights_version=choice.weights.version,
        ltr_weight=ltr_weight,
        conceptual_weight=conceptual_weight,
        ann=next((row.ann for row in rows if row.space_id == space.id), EXACT),
    )
    shadows = tuple((arm, _resolved(rows, collection_slug, principal, one)) for arm, one in choice.shadows)
    return Resolved(snapshot, choice.embedder, choice.ranker, choice.variant, choice.arms, shadows)


def plan_of(config: AnnConfig) -> AnnPlan:
    """How one searches by a configuration."""
    return AnnPlan(config.pk, **{name: getattr(config, name) for name in _PLAN_FIELDS})


_PLAN_FIELDS = tuple(field.name for field in fields(AnnPlan) if field.name != "config_id")

_STANDING_COLUMNS = """
    collection.id, collection.generation, collection.access_epoch, collection.index_epoch,
    collection.remembers_judgements, collection.text_configuration, collection.split_identifiers,
    collection.default_access_groups
"""

_STANDING = f"SELECT {_STANDING_COLUMNS} FROM rag_collection AS collection WHERE collection.slug = %(slug)s"  # noqa: S608
"""A row of one table, by which one sees whether all that `_READ` gives is as it was: in a third less time."""

_READ = f"""
    SELECT {_STANDING_COLUMNS},
           cardinality(collection.default_access_groups) > 0 OR EXISTS (
               SELECT FROM rag_document AS document
               WHERE document.collection_id = collection.id AND document.access_groups <> '{{}}'
           ),
           config.space_id, config.id, config.strategy, config.precision, config.marker, config.vectors,
           config.ef_search, config.probes, config.iterative_scan, config.rerank
    FROM rag_collection AS collection
    LEFT JOIN rag_annconfig AS config
        ON config.collection_id = collection.id AND config.state = 'live'
    WHERE collection.slug = %(slug)s
    ORDER BY config.id
"""  # noqa: S608  (made of the constant above)
"""The configuration's columns from ``id`` on are in the order of `AnnPlan`."""


class _Row(NamedTuple):
    """A collection with one of its live configurations; ``space_id`` is ``None`` where it has none."""

    id: int
    generation: int
    access_epoch: int
    index_epoch: int
    remembers_judgements: bool
    text_configuration: str
    split_identifiers: bool
    default_access_groups: list[str]
    withholds: bool
    space_id: int | None
    ann: AnnPlan

    @property
    def standing(self) -> tuple[Any, ...]:
        """What `_STANDING` says of it."""
        return self[:_STANDING_COUNT]


_STANDING_COUNT = _Row._fields.index("withholds")


def _read(slug: str) -> list[_Row]:
    """A row for each live configuration of the collection, at least one; none when there is no such collection."""
    rows = _rows(brief_rows(_READ, {"slug": slug}))
    if len(_last_read) >= _REMEMBERED:
        _last_read.clear()
    if rows:
        _last_read[slug] = rows
    return rows


def _rows(read: list[tuple[Any, ...]]) -> list[_Row]:
    plan = len(_Row._fields) - 1
    return [_Row._make((*row[:plan], EXACT if row[plan - 1] is None else AnnPlan(*row[plan:]))) for row in read]


_REMEMBERED = 1000
_last_read: dict[str, list[_Row]] = {}
"""What this process last read of each collection: a guess, never an answer."""


class _LastResolved(NamedTuple):
    """``rows`` are one of `_last_read`'s, known by being the same object."""

    rows: list[_Row]
    made_of: tuple[object, ...]
    resolved: Resolved


_last_resolved: dict[str, _LastResolved] = {}
