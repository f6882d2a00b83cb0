"""Which variant answers a query: a stable hash of the rollout's key decides, so that a key always gets the same one.

A key's place in [0, 100) is fixed per rollout; the candidate answers those below its share. So a share that rises only
adds keys to the candidate's, and nobody goes back and forth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models_registry.guardrails import OVERLAP_SCALE
from models_registry.live import Candidate, Live, LiveModel, LiveView, LiveWeights, view
from models_registry.models import Role, RolloutKey, Slot
from models_registry.serving import in_service, is_ready
from models_registry.statistics import Observation, observe
from ops.contracts.principal import Principal, PrincipalKind

STABLE, CANARY, SHADOW = Role.STABLE.value, Role.CANARY.value, Role.SHADOW.value


@dataclass(frozen=True, slots=True)
class Routing:
    """What a query can be told apart by. Header names are looked up as given: pass a mapping that ignores case."""

    request_id: str
    principal: Principal
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arm:
    """A query's part in a rollout: its answer, and what people make of it, counts for this variant."""

    rollout_id: int
    deployment_id: int
    variant: str
    slot: str

    @property
    def subject(self) -> str:
        return arm_subject(self.rollout_id, self.deployment_id, self.variant)

    def as_json(self) -> list[int | str]:
        return [self.rollout_id, self.deployment_id, self.variant, self.slot]


@dataclass(frozen=True, slots=True)
class Choice:
    """What answers a query. ``shadows`` are the candidates that are to be computed beside it, each alone."""

    weights: LiveWeights
    ranker: LiveModel
    embedder: LiveModel
    arms: tuple[Arm, ...] = ()
    shadows: tuple[tuple[Arm, Choice], ...] = ()

    @property
    def variant(self) -> str:
        """``canary`` when any part of the answer is a rollout's candidate."""
        return CANARY if any(arm.variant == CANARY for arm in self.arms) else STABLE


def arm_subject(rollout_id: int, deployment_id: int, variant: str) -> str:
    """What the statistics of a variant are kept under: anew for each share, so that shares are not mixed."""
    return f"rollout:{rollout_id}:{deployment_id}:{variant}"


def choose(collection: str, routing: Routing | None = None, live: LiveView = view) -> Choice:
    """What answers a query of a collection. Without ``routing`` that is the stable version of everything.

    Raises `Unavailable` when nothing is live in a slot.
    """
    now = live.now()
    parts: dict[Slot, Live] = {
        Slot.WEIGHTS: now.weights(collection),
        Slot.LTR: in_service(now.model(Slot.LTR, collection), collection),
        Slot.EMBEDDER: in_service(now.model(Slot.EMBEDDER, collection), collection),
    }
    if routing is None or not now.by_rollout:
        return _choice(parts)
    arms, beside = [], []
    for slot in tuple(parts):
        for candidate in now.candidates(slot, collection):
            is_chosen = gets_candidate(candidate, routing)
            if is_chosen and isinstance(candidate.live, LiveModel) and not is_ready(candidate.live):
                continue  # it is being loaded: the stable version answers, and counts for neither
            if candidate.role == Role.CANARY:
                variant = CANARY if is_chosen else STABLE
                arms.append(Arm(candidate.rollout_id, candidate.live.deployment_id, variant, slot))
                if is_chosen:
                    parts[slot] = candidate.live
            elif is_chosen:
                beside.append((slot, candidate))
    choice = _choice(parts, tuple(arms))
    if not beside:
        return choice
    shadows = tuple(
        (
            Arm(candidate.rollout_id, candidate.live.deployment_id, SHADOW, slot),
            _choice(parts | {slot: candidate.live}),
        )
        for slot, candidate in beside
    )
    return Choice(choice.weights, choice.ranker, choice.embedder, choice.arms, shadows)


def gets_candidate(candidate: Candidate, routing: Routing) -> bool:
    """Whether the candidate answers (or shadows) this query.

    A header or cookie of exactly ``canary`` or ``stable`` decides by itself; a query without the key goes by its
    request id.
    """
    key = _key(candidate, routing)
    if candidate.key in {RolloutKey.HEADER, RolloutKey.COOKIE} and key in {CANARY, STABLE}:
        return key == CANARY
    return place_of(candidate.salt, key or routing.request_id) < candidate.percent


def place_of(salt: str, key: str) -> float:
    """The key's place in [0, 100), spread evenly, the same in every process and for ever."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def observe_answer(
    arms: Sequence[Arm],
    *,
    duration_ms: float | None,
    failed: bool = False,
    empty: bool = False,
    degraded: Sequence[str] = (),
) -> None:
    """Count an answer for the variants that made it.

    ``duration_ms``: of the whole pipeline; ``None`` when a cache helped, which says nothing of the variant. A degraded
    answer counts as a failed one where the rollout's own part is what was missing.
    """
    for arm in arms:
        is_broken = failed or _PART_OF_SLOT.get(arm.slot) in degraded
        observe(
            Observation(
                arm.subject,
                {"answers": 1, "errors": int(is_broken), "empty": int(empty and not failed)},
                None if failed else duration_ms,
                forever=True,
            )
        )


def observe_comparison(
    arm: Arm, *, overlap: float, changes: int, duration_ms: float, served_ms: float | None, empty: bool, failed: bool
) -> None:
    """Count a candidate's ranking in the shadow: how far it agrees with what was served, and how long each took."""
    counts = {"answers": 1, "errors": int(failed), "empty": int(empty and not failed)}
    if not failed:
        counts |= {"compared": 1, "overlap": round(overlap * OVERLAP_SCALE), "changes": changes}
    observe(Observation(arm.subject, counts, None if failed else duration_ms, forever=True))
    served = arm_subject(arm.rollout_id, arm.deployment_id, STABLE)
    observe(Observation(served, {"answers": 1, "empty": 0}, served_ms, forever=True))


def observe_feedback(arms: Sequence[Arm], counts: Mapping[str, int]) -> None:
    """Count what somebody made of an answer: ``clicked`` once for an answer, ``votes``, ``down``."""
    for arm in arms:
        observe(Observation(arm.subject, counts, forever=True))


def arms_from_json(stored: Sequence[Sequence[int | str]]) -> list[Arm]:
    """What `Arm.as_json` wrote."""
    return [Arm(int(one[0]), int(one[1]), str(one[2]), str(one[3])) for one in stored]


_PART_OF_SLOT = {Slot.EMBEDDER.value: "embed", Slot.LTR.value: "ltr"}
"""The name under which an answer lists a slot as degraded."""


def _key(candidate: Candidate, routing: Routing) -> str:
    principal = routing.principal
    if candidate.key == RolloutKey.USER:
        return "" if principal.user_id is None else f"user:{principal.user_id}"
    if candidate.key == RolloutKey.API_KEY:
        return f"key:{principal.name}" if principal.kind is PrincipalKind.API_KEY else ""
    if candidate.key == RolloutKey.HEADER:
        return routing.headers.get(candidate.key_name, "")
    if candidate.key == RolloutKey.COOKIE:
        return routing.cookies.get(candidate.key_name, "")
    return routing.request_id


def _choice(parts: Mapping[Slot, Live], arms: tuple[Arm, ...] = ()) -> Choice:
    weights, ranker, embedder = parts[Slot.WEIGHTS], parts[Slot.LTR], parts[Slot.EMBEDDER]
    if not (isinstance(weights, LiveWeights) and isinstance(ranker, LiveModel) and isinstance(embedder, LiveModel)):
        raise AssertionError("each slot holds what belongs into it: the view looked it up by its slot")
    return Choice(weights, ranker, embedder, arms)
