"""``/registry/space-builds``: another embedder's way from its first vector to the last one of its forerunner."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import space_builds
from models_registry.api.lists import RowsView
from models_registry.api.queries import principal_of
from models_registry.api.serializers import ReasonField
from models_registry.models import BuildState, SpaceBuild
from models_registry.scopes import readable_scope, visible_scopes
from models_registry.versions import find_version
from ops.api.fields import StrictBooleanField, StrictCharField, StrictIntegerField, StrictSerializer
from ops.api.pagination import Pages
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import NotFound

TAGS = ["space builds"]


class SpaceBuildPages(Pages):
    ordering = "-id"


class SpaceBuildsQuerySerializer(StrictSerializer):
    state = serializers.ChoiceField(choices=BuildState.choices, required=False)
    scope = serializers.CharField(required=False, max_length=64, help_text="`global`, or a collection's slug.")
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class NewSpaceBuildSerializer(StrictSerializer):
    embedder = StrictCharField(max_length=200, help_text="`name@number`, or the newest of `name`.")
    collection = StrictCharField(required=False, max_length=64, help_text="Slug; without it everywhere.")
    chunks_per_minute = StrictIntegerField(
        required=False, allow_null=True, default=None, help_text="Without it as fast as the workers go."
    )
    switches = StrictBooleanField(
        required=False, default=False, help_text="Goes over to the space by itself once its check has passed."
    )
    keep_hours = StrictIntegerField(
        required=False,
        allow_null=True,
        default=None,
        help_text="How long after the switch the space before it is kept for a rollback, then dropped by itself; "
        "0: until it is dropped by somebody. Without it `REGISTRY_SPACE_KEEP_HOURS`.",
    )
    reason = ReasonField()


class SpaceBuildChangeSerializer(StrictSerializer):
    reason = ReasonField()


class SpaceBuildSwitchSerializer(SpaceBuildChangeSerializer):
    force = StrictBooleanField(required=False, default=False, help_text="Although its check speaks against it.")


class SpaceBuildDropSerializer(StrictSerializer):
    dry_run = StrictBooleanField(required=False, default=False, help_text="Only say how many vectors there are.")


class SpaceBuildSerializer(serializers.Serializer[SpaceBuild]):
    id = serializers.IntegerField()
    scope = serializers.CharField(help_text="`global`, or a collection's slug.")
    embedder = serializers.CharField(source="version", help_text="Whose space is built.")
    before = serializers.SerializerMethodField(help_text="The embedder that it replaces.")
    state = serializers.ChoiceField(choices=BuildState.choices)
    done = serializers.IntegerField(help_text="Passages that have a vector.")
    total = serializers.IntegerField(help_text="All passages of the scope.")
    chunks_per_minute = serializers.IntegerField(allow_null=True)
    switches = serializers.BooleanField()
    check_result = serializers.DictField(
        child=serializers.DictField(child=serializers.DictField(child=serializers.FloatField())),
        help_text="By collection with judged queries: the measures of `stable` and `candidate`.",
    )
    losses = serializers.SerializerMethodField(help_text="What the check speaks against, a sentence each.")
    keep_hours = serializers.IntegerField()
    left_behind = serializers.SerializerMethodField(help_text="Whose vectors answer nothing and can be dropped.")
    drops_at = serializers.DateTimeField(allow_null=True, help_text="When they are dropped by themselves.")
    failure = serializers.CharField(help_text="Why it failed or was cancelled.")
    by = serializers.CharField()
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()
    progressed_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_before(self, build: SpaceBuild) -> str | None:
        return None if build.before is None else str(build.before)

    def get_losses(self, build: SpaceBuild) -> list[str]:
        return space_builds.losses(build.check_result)

    def get_left_behind(self, build: SpaceBuild) -> str | None:
        return None if build.left_behind is None else str(build.left_behind)


class DropSerializer(serializers.Serializer[Any]):
    vectors = serializers.IntegerField(help_text="How many are, or with `dry_run` would be, dropped.")
    build = SpaceBuildSerializer()


class SpaceBuildsView(RowsView[SpaceBuild]):
    required_scopes = {"GET": Scope.REGISTRY_READ, "POST": Scope.REGISTRY_WRITE}
    query_serializer_class = SpaceBuildsQuerySerializer
    serializer_class = SpaceBuildSerializer
    pagination_class = SpaceBuildPages
    queryset = SpaceBuild.objects.none()
    is_scoped = True

    def rows(self, query: dict[str, Any]) -> QuerySet[SpaceBuild]:
        return space_builds.everything().filter(**query)

    @extend_schema(operation_id="list_space_builds", tags=TAGS, parameters=[SpaceBuildsQuerySerializer])
    def get(self, request: Request, *args: object, **kwargs: object) -> Response:
        """Every build of an embedding space, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="start_space_build",
        tags=TAGS,
        request=NewSpaceBuildSerializer,
        responses={202: SpaceBuildSerializer},
    )
    def post(self, request: Request) -> Response:
        """Have the workers fill another embedder's space beside the live one, and check it on judged queries."""
        principal = principal_of(request)
        body = NewSpaceBuildSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        scope = readable_scope(given.pop("collection", None), principal)
        build = space_builds.start(find_version(given.pop("embedder")), scope, by=principal, **given)
        return Response(SpaceBuildSerializer(build).data, status=202)


class SpaceBuildView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(operation_id="get_space_build", tags=TAGS, responses=SpaceBuildSerializer)
    def get(self, request: Request, number: int) -> Response:
        """How far a build is, and what its check found."""
        return Response(SpaceBuildSerializer(_visible(number, principal_of(request))).data)


class _ChangeView(APIView):
    required_scopes = {"POST": Scope.REGISTRY_WRITE}

    def change(self, request: Request, number: int, body_class: type[StrictSerializer], change: Any) -> Response:
        principal = principal_of(request)
        body = body_class(data=request.data)
        body.is_valid(raise_exception=True)
        _visible(number, principal)
        build = change(number, by=principal, **body.validated_data)
        return Response(SpaceBuildSerializer(build).data)


class SpaceBuildCheckView(_ChangeView):
    @extend_schema(operation_id="check_space_build", tags=TAGS, request=None, responses=SpaceBuildSerializer)
    def post(self, request: Request, number: int) -> Response:
        """Check a build that is ready once more, as when more queries were judged."""
        return self.change(request, number, StrictSerializer, space_builds.check)


class SpaceBuildSwitchView(_ChangeView):
    @extend_schema(
        operation_id="switch_space_build",
        tags=TAGS,
        request=SpaceBuildSwitchSerializer,
        responses=SpaceBuildSerializer,
    )
    def post(self, request: Request, number: int) -> Response:
        """Answer by the new space: every query that begins after it. 422 when the check speaks against it."""
        return self.change(request, number, SpaceBuildSwitchSerializer, space_builds.switch)


class SpaceBuildRollbackView(_ChangeView):
    @extend_schema(
        operation_id="roll_back_space_build",
        tags=TAGS,
        request=SpaceBuildChangeSerializer,
        responses=SpaceBuildSerializer,
    )
    def post(self, request: Request, number: int) -> Response:
        """Answer by the space of before the switch again."""
        return self.change(request, number, SpaceBuildChangeSerializer, space_builds.roll_back)


class SpaceBuildCancelView(_ChangeView):
    @extend_schema(
        operation_id="cancel_space_build",
        tags=TAGS,
        request=SpaceBuildChangeSerializer,
        responses=SpaceBuildSerializer,
    )
    def post(self, request: Request, number: int) -> Response:
        """Give a build up. Its vectors stay until they are dropped, so that another build goes on from there."""
        return self.change(request, number, SpaceBuildChangeSerializer, space_builds.cancel)


class SpaceBuildDropView(APIView):
    required_scopes = {"POST": Scope.REGISTRY_WRITE}

    @extend_schema(
        operation_id="drop_space_build",
        tags=TAGS,
        request=SpaceBuildDropSerializer,
        responses={200: DropSerializer, 202: DropSerializer},
    )
    def post(self, request: Request, number: int) -> Response:
        """Have the workers delete the vectors that a build left behind. 409 while something answers with them."""
        principal = principal_of(request)
        body = SpaceBuildDropSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        build = _visible(number, principal)
        vectors = space_builds.drop(number, by=principal, dry_run=True)
        is_dry = body.validated_data["dry_run"]
        if not is_dry:
            build = space_builds.drop_soon(number, by=principal)
        return Response(DropSerializer({"vectors": vectors, "build": build}).data, status=200 if is_dry else 202)


def _visible(number: int, principal: Principal) -> SpaceBuild:
    build = space_builds.find(number)
    scopes = visible_scopes(principal)
    if scopes is not None and build.scope not in scopes:
        raise NotFound(f"There is no space build {number}.")
    return build
