"""``/registry/rollouts``: a candidate's way from its first share to everything, or to nothing."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import rollouts, weights
from models_registry.api.lists import RowsView
from models_registry.api.queries import principal_of
from models_registry.api.serializers import ReasonField
from models_registry.figures import figures_of
from models_registry.guardrails import ALPHA, GUARDRAILS, MIN_SAMPLES
from models_registry.models import Rollout, RolloutKey, RolloutMode, RolloutState, Slot
from models_registry.rollouts import DEFAULT_STEPS, Plan
from models_registry.scopes import readable_scope, visible_scopes
from models_registry.versions import find_version
from ops.api.fields import StrictBooleanField, StrictCharField, StrictFloatField, StrictIntegerField, StrictSerializer
from ops.api.pagination import Pages
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import InvalidRequest, NotFound

TAGS = ["rollouts"]


class RolloutPages(Pages):
    ordering = "-id"


class RolloutsQuerySerializer(StrictSerializer):
    state = serializers.ChoiceField(choices=RolloutState.choices, required=False)
    slot = serializers.ChoiceField(choices=Slot.choices, required=False)
    scope = serializers.CharField(required=False, max_length=64, help_text="`global`, or a collection's slug.")
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class CandidateWeightsSerializer(StrictSerializer):
    ltr = StrictFloatField()
    conceptual = StrictFloatField()


class NewRolloutSerializer(StrictSerializer):
    """Exactly one of `model_version`, `weights_version` and `weights` names the candidate."""

    model_version = StrictCharField(required=False, help_text="`name@number` of a ranker or an embedder.")
    weights_version = StrictIntegerField(required=False)
    weights = CandidateWeightsSerializer(required=False, help_text="A new version of the fusion weights.")
    collection = StrictCharField(required=False, max_length=64, help_text="Slug; without it everywhere.")
    mode = serializers.ChoiceField(choices=RolloutMode.choices, required=False, default=RolloutMode.CANARY)
    key = serializers.ChoiceField(
        choices=RolloutKey.choices, required=False, default=RolloutKey.REQUEST, help_text="What stays with a variant."
    )
    key_name = StrictCharField(
        required=False, default="", allow_blank=True, max_length=100, help_text="Of the header or cookie."
    )
    steps = serializers.ListField(
        child=StrictFloatField(), required=False, default=lambda: list(DEFAULT_STEPS), help_text="Rising shares in %."
    )
    automatic = StrictBooleanField(
        required=False, default=False, help_text="Takes its steps, and is promoted, by itself."
    )
    step_minutes = StrictFloatField(required=False, default=60.0, help_text="Least time of an automatic step.")
    guardrails = serializers.DictField(
        child=StrictFloatField(allow_null=True),
        required=False,
        default=dict,
        help_text="Limits by name, null to leave one out: "
        + "; ".join(f"`{one.name}`: {one.help}" for one in GUARDRAILS.values()),
    )
    min_samples = StrictIntegerField(required=False, default=MIN_SAMPLES)
    alpha = StrictFloatField(required=False, default=ALPHA, help_text="Largest rate of false alarms.")
    reason = ReasonField()


class StepSerializer(StrictSerializer):
    percent = StrictFloatField(required=False, help_text="This share in place of the next one of the plan.")
    reason = ReasonField()


class RolloutChangeSerializer(StrictSerializer):
    reason = ReasonField()


class VariantFiguresSerializer(serializers.Serializer[Any]):
    """What a variant did since the last step. Shares are between 0 and 1; null without a sample."""

    answers = serializers.IntegerField()
    error_rate = serializers.FloatField(allow_null=True, help_text="Failed, or degraded by the candidate's own part.")
    empty_rate = serializers.FloatField(allow_null=True)
    click_rate = serializers.FloatField(allow_null=True, help_text="Share of answers with a click.")
    votes = serializers.IntegerField()
    downvote_rate = serializers.FloatField(allow_null=True)
    p50_ms = serializers.FloatField(allow_null=True, help_text="Of answers that no cache helped.")
    p95_ms = serializers.FloatField(allow_null=True)
    p99_ms = serializers.FloatField(allow_null=True)
    compared = serializers.IntegerField(help_text="Rankings in the shadow.")
    overlap = serializers.FloatField(allow_null=True, help_text="Their mean rank-biased overlap with what was served.")
    top10_changes = serializers.FloatField(allow_null=True, help_text="Passages of the first ten that were others.")


class ReadingSerializer(serializers.Serializer[Any]):
    guardrail = serializers.CharField()
    canary = serializers.FloatField(allow_null=True)
    stable = serializers.FloatField(allow_null=True)
    limit = serializers.FloatField()
    samples = serializers.IntegerField()
    breached = serializers.BooleanField()
    sentence = serializers.CharField()


class LiveFiguresSerializer(serializers.Serializer[Any]):
    candidate = VariantFiguresSerializer()
    stable = VariantFiguresSerializer()
    readings = ReadingSerializer(many=True)


class RolloutSerializer(serializers.Serializer[Rollout]):
    id = serializers.IntegerField()
    scope = serializers.CharField(help_text="`global`, or a collection's slug.")
    slot = serializers.ChoiceField(choices=Slot.choices)
    mode = serializers.ChoiceField(choices=RolloutMode.choices)
    state = serializers.ChoiceField(choices=RolloutState.choices)
    candidate = serializers.CharField()
    stable = serializers.SerializerMethodField(help_text="What it is compared with.")
    percent = serializers.FloatField()
    steps = serializers.ListField(child=serializers.FloatField())
    key = serializers.ChoiceField(choices=RolloutKey.choices)
    key_name = serializers.CharField()
    automatic = serializers.BooleanField()
    step_minutes = serializers.FloatField()
    guardrails = serializers.DictField(child=serializers.FloatField())
    min_samples = serializers.IntegerField()
    alpha = serializers.FloatField()
    by = serializers.CharField()
    reason = serializers.CharField()
    started_at = serializers.DateTimeField()
    stepped_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    outcome = serializers.CharField(help_text="Why it ended, or pauses.")

    def get_stable(self, rollout: Rollout) -> str:
        return str(rollout.baseline.model_version or rollout.baseline.weights)


class RolloutDetailSerializer(RolloutSerializer):
    figures = LiveFiguresSerializer(allow_null=True, help_text="Live; null once it ended, and while Redis is away.")


class RolloutsView(RowsView[Rollout]):
    required_scopes = {"GET": Scope.REGISTRY_READ, "POST": Scope.REGISTRY_WRITE}
    query_serializer_class = RolloutsQuerySerializer
    serializer_class = RolloutSerializer
    pagination_class = RolloutPages
    queryset = Rollout.objects.none()
    is_scoped = True

    def rows(self, query: dict[str, Any]) -> QuerySet[Rollout]:
        return rollouts.everything().filter(**query)

    @extend_schema(operation_id="list_rollouts", tags=TAGS, parameters=[RolloutsQuerySerializer])
    def get(self, request: Request, *args: object, **kwargs: object) -> Response:
        """Every rollout, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="start_rollout", tags=TAGS, request=NewRolloutSerializer, responses={201: RolloutDetailSerializer}
    )
    def post(self, request: Request) -> Response:
        """Give a candidate its first share of the traffic, or have it computed in the shadow."""
        principal = principal_of(request)
        body = NewRolloutSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        scope = readable_scope(given.pop("collection", None), principal)
        reason = given.pop("reason")
        candidates = {
            name: given.pop(name) for name in ("model_version", "weights_version", "weights") if name in given
        }
        if len(candidates) != 1:
            raise InvalidRequest("Name one candidate: model_version, weights_version or weights.")
        plan = Plan(**given)
        rollouts.require_usable(plan)  # before weights are made for it that nobody would use
        rollout = rollouts.start(_candidate(candidates, principal), scope, plan, by=principal, reason=reason)
        return _answer(rollout.pk, principal, status=201)


class RolloutView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(operation_id="get_rollout", tags=TAGS, responses=RolloutDetailSerializer)
    def get(self, request: Request, number: int) -> Response:
        """One rollout with the live figures of both variants and what its guardrails read."""
        return _answer(number, principal_of(request))


class _ChangeView(APIView):
    required_scopes = {"POST": Scope.REGISTRY_WRITE}

    def change(self, request: Request, number: int, body_class: type[StrictSerializer]) -> Response:
        principal = principal_of(request)
        body = body_class(data=request.data)
        body.is_valid(raise_exception=True)
        _visible(number, principal)
        getattr(rollouts, self.action)(number, by=principal, **body.validated_data)
        return _answer(number, principal)

    action: str


class RolloutStepView(_ChangeView):
    action = "step"

    @extend_schema(operation_id="step_rollout", tags=TAGS, request=StepSerializer, responses=RolloutDetailSerializer)
    def post(self, request: Request, number: int) -> Response:
        """Give the candidate its next share, or the one that is named."""
        return self.change(request, number, StepSerializer)


class RolloutPauseView(_ChangeView):
    action = "pause"

    @extend_schema(
        operation_id="pause_rollout", tags=TAGS, request=RolloutChangeSerializer, responses=RolloutDetailSerializer
    )
    def post(self, request: Request, number: int) -> Response:
        """Take the candidate's share away for now."""
        return self.change(request, number, RolloutChangeSerializer)


class RolloutResumeView(_ChangeView):
    action = "resume"

    @extend_schema(
        operation_id="resume_rollout", tags=TAGS, request=RolloutChangeSerializer, responses=RolloutDetailSerializer
    )
    def post(self, request: Request, number: int) -> Response:
        """Give the candidate its share back."""
        return self.change(request, number, RolloutChangeSerializer)


class RolloutPromoteView(_ChangeView):
    action = "promote"

    @extend_schema(
        operation_id="promote_rollout", tags=TAGS, request=RolloutChangeSerializer, responses=RolloutDetailSerializer
    )
    def post(self, request: Request, number: int) -> Response:
        """Make the candidate the stable version."""
        return self.change(request, number, RolloutChangeSerializer)


class RolloutAbortView(_ChangeView):
    action = "abort"

    @extend_schema(
        operation_id="abort_rollout", tags=TAGS, request=RolloutChangeSerializer, responses=RolloutDetailSerializer
    )
    def post(self, request: Request, number: int) -> Response:
        """Give the candidate up; the stable version answers everything."""
        return self.change(request, number, RolloutChangeSerializer)


def _candidate(named: dict[str, Any], principal: Principal) -> Any:
    if "model_version" in named:
        return find_version(named["model_version"])
    if "weights_version" in named:
        return weights.find_version(named["weights_version"])
    proposed = weights.propose(named["weights"]["ltr"], named["weights"]["conceptual"])
    return weights.create_version(proposed, by=principal)


def _visible(number: int, principal: Principal) -> Rollout:
    rollout = rollouts.find(number)
    scopes = visible_scopes(principal)
    if scopes is not None and rollout.scope not in scopes:
        raise NotFound(f"There is no rollout {number}.")
    return rollout


def _answer(number: int, principal: Principal, *, status: int = 200) -> Response:
    rollout = _visible(number, principal)
    rollout.figures = figures_of(rollout) if rollout.is_open else None  # type: ignore[attr-defined]
    return Response(RolloutDetailSerializer(rollout).data, status=status)
