"""``/rag/sources``: places that documents are fetched from again and again."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api.queries import checked, principal_of
from ops.api.fields import StrictBooleanField, StrictCharField, StrictIntegerField, StrictSerializer
from ops.api.pagination import Pages
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import InvalidRequest, NotFound
from rag.api.documents.serializers import (
    AccessGroupsField,
    IndexRunSerializer,
    MetadataField,
    PageQuerySerializer,
    PageSerializer,
)
from rag.models import Source, SourceItem, SourceKind, SourceOutcome
from rag.readable import open_collections
from rag.sources import service

TAGS = ["sources"]
FAULTS_SHOWN = 50
LOCATION_CHARACTERS = 2048


class SourceSettingsSerializer(StrictSerializer):
    """What each kind of source takes as ``options`` is checked by its connector, for every way in alike."""

    location = StrictCharField(
        max_length=LOCATION_CHARACTERS, help_text="A folder's path, an address, or s3://bucket/prefix."
    )
    options = MetadataField(required=False, help_text="What the kind takes; see docs/guides/operators.md.")
    secret = StrictCharField(
        required=False, allow_blank=True, max_length=64, help_text="Name of a file in RAG_SOURCE_SECRETS_DIR."
    )
    access_groups = AccessGroupsField(help_text="Groups that may read its documents; else the collection's default.")
    metadata = MetadataField(required=False, help_text="Given to each of its documents.")
    interval_minutes = StrictIntegerField(
        required=False, min_value=0, max_value=525_600, help_text="How often it is looked at; 0: only when asked."
    )
    is_paused = StrictBooleanField(required=False)


class NewSourceSerializer(SourceSettingsSerializer):
    name = StrictCharField(max_length=64, help_text="What its documents' ids begin with.")
    collection = StrictCharField(max_length=64, help_text="Slug of a collection that is there.")
    kind = serializers.ChoiceField(choices=SourceKind.choices)


class ChangedSourceSerializer(SourceSettingsSerializer):
    location = StrictCharField(required=False, max_length=LOCATION_CHARACTERS)


class SyncSerializer(StrictSerializer):
    dry_run = StrictBooleanField(required=False, default=False, help_text="Change nothing; `preview` will say what.")
    may_be_empty = StrictBooleanField(
        required=False, default=False, help_text="That nothing is left there is meant: remove all its documents."
    )


class DeleteSourceQuerySerializer(StrictSerializer):
    confirm = serializers.CharField(required=False, max_length=64, help_text="The name, to show that you mean it.")
    keep_documents = serializers.BooleanField(required=False, default=False)


class ChangeSerializer(serializers.Serializer[Any]):
    state = serializers.CharField()
    document_id = serializers.CharField()
    reason = serializers.CharField()


class TallySerializer(serializers.Serializer[Any]):
    """What a look came to, in documents."""

    found = serializers.IntegerField(help_text="New, or changed for all that could be told.")
    same = serializers.IntegerField()
    gone = serializers.IntegerField()
    unreadable = serializers.IntegerField(help_text="They stay as they were.")
    left_out = serializers.DictField(child=serializers.IntegerField(), help_text="By reason.")
    incomplete = serializers.CharField(help_text="Why the look ended early; nothing is removed then.")


class PreviewSerializer(serializers.Serializer[Any]):
    """What the last dry run found."""

    at = serializers.DateTimeField()
    error = serializers.CharField()
    tally = TallySerializer(allow_null=True)
    changes = ChangeSerializer(many=True, help_text="The first 200.")


class FaultSerializer(serializers.ModelSerializer[SourceItem]):
    class Meta:
        model = SourceItem
        fields: tuple[str, ...] = ("path", "fault", "seen_at")


class SourceSerializer(serializers.ModelSerializer[Source]):
    collection = serializers.CharField(source="collection.slug")
    kind = serializers.ChoiceField(choices=SourceKind.choices)
    outcome = serializers.ChoiceField(choices=SourceOutcome.choices)
    options = serializers.DictField()
    metadata = serializers.DictField()
    is_running = serializers.BooleanField()
    tally = serializers.SerializerMethodField()
    last_run_id = serializers.UUIDField(allow_null=True, help_text="The run of the last look that changed something.")

    class Meta:
        model = Source
        fields: tuple[str, ...] = (
            *("name", "collection", "kind", *service.SETTINGS),
            *("outcome", "error", "failures_in_a_row", "tally", "last_run_id"),
            *("is_running", "started_at", "finished_at", "next_run_at", "created_by", "created_at"),
        )

    @extend_schema_field(TallySerializer(allow_null=True))
    def get_tally(self, source: Source) -> Any:
        return TallySerializer(source.tally).data if source.tally else None


class SourceDetailSerializer(SourceSerializer):
    """With what could not be read the last time, and what the last dry run found."""

    faults = serializers.SerializerMethodField()
    preview = serializers.SerializerMethodField()

    class Meta(SourceSerializer.Meta):
        fields: tuple[str, ...] = (*SourceSerializer.Meta.fields, "faults", "preview")

    @extend_schema_field(FaultSerializer(many=True))
    def get_faults(self, source: Source) -> Any:
        return FaultSerializer(source.items.exclude(fault="").order_by("path")[:FAULTS_SHOWN], many=True).data

    @extend_schema_field(PreviewSerializer(allow_null=True))
    def get_preview(self, source: Source) -> Any:
        kept = source.preview
        if kept is None:
            return None
        names = ("state", "document_id", "reason")
        changes = [dict(zip(names, change, strict=True)) for change in kept.get("changes", ())]
        tally = TallySerializer(kept).data if "found" in kept else None
        return {"at": kept["at"], "error": kept["error"], "tally": tally, "changes": changes}


class SourcePageSerializer(PageSerializer):
    results = SourceSerializer(many=True)


class DeletedSourceSerializer(serializers.Serializer[Any]):
    index_run = IndexRunSerializer(allow_null=True, help_text="Removes its documents, unless they were to be kept.")


class SourcePages(Pages):
    ordering = "name"


class SourcesView(APIView):
    required_scopes = {"GET": Scope.INGEST, "POST": Scope.ADMIN}

    @extend_schema(
        operation_id="list_sources", tags=TAGS, parameters=[PageQuerySerializer], responses=SourcePageSerializer
    )
    def get(self, request: Request) -> Response:
        """The sources of the collections that you may touch, by name."""
        checked(PageQuerySerializer, request)
        pages = SourcePages()
        page = pages.paginate_queryset(service.visible(principal_of(request)), request, self) or []
        return pages.get_paginated_response(SourceSerializer(page, many=True).data)

    @extend_schema(
        operation_id="create_source", tags=TAGS, request=NewSourceSerializer, responses={201: SourceDetailSerializer}
    )
    def post(self, request: Request) -> Response:
        """Make a source. It is looked at as soon as a worker is free, unless its interval is 0."""
        given = _validated(NewSourceSerializer, request)
        principal = principal_of(request)
        slug = given.pop("collection")
        collection = open_collections(principal).filter(slug=slug).first()
        if collection is None:
            raise NotFound(f"There is no collection {slug!r}. POST /rag/collections makes one.")
        made = service.create(given.pop("name"), collection, given.pop("kind"), principal, **given)
        body = SourceDetailSerializer(made).data
        return Response(body, status=201, headers={"Location": f"/rag/sources/{made.name}"})


class SourceView(APIView):
    required_scopes = {"GET": Scope.INGEST, "PATCH": Scope.ADMIN, "DELETE": Scope.ADMIN}

    @extend_schema(operation_id="get_source", tags=TAGS, responses=SourceDetailSerializer)
    def get(self, request: Request, name: str) -> Response:
        """A source: how it stands, what could not be read, what the last dry run found."""
        return Response(SourceDetailSerializer(_source(principal_of(request), name)).data)

    @extend_schema(
        operation_id="update_source", tags=TAGS, request=ChangedSourceSerializer, responses=SourceDetailSerializer
    )
    def patch(self, request: Request, name: str) -> Response:
        """Change settings, pause or resume it."""
        principal = principal_of(request)
        given = _validated(ChangedSourceSerializer, request)
        changed = service.update(_source(principal, name), principal, **given)
        return Response(SourceDetailSerializer(changed).data)

    @extend_schema(
        operation_id="delete_source",
        tags=TAGS,
        parameters=[DeleteSourceQuerySerializer],
        responses=DeletedSourceSerializer,
    )
    def delete(self, request: Request, name: str) -> Response:
        """Forget a source. Its documents are removed with it (for a time they can be restored), or kept."""
        given = checked(DeleteSourceQuerySerializer, request)
        principal = principal_of(request)
        source = _source(principal, name)
        if given.get("confirm") != name:
            raise InvalidRequest(f"Add ?confirm={name} to the address to show that you mean it.")
        run = service.delete(source, principal, keep_documents=given["keep_documents"])
        return Response({"index_run": None if run is None else IndexRunSerializer(run).data})


class SyncView(APIView):
    required_scopes = {"POST": Scope.INGEST}
    rate_costs = {"POST": 5.0}

    @extend_schema(
        operation_id="sync_source", tags=TAGS, request=SyncSerializer, responses={202: SourceDetailSerializer}
    )
    def post(self, request: Request, name: str) -> Response:
        """Have a worker look at once. 409 while somebody looks; follow it by GET."""
        principal = principal_of(request)
        given = _validated(SyncSerializer, request)
        source = _source(principal, name)
        service.ask_for_sync(source, principal, **given)
        headers = {"Location": f"/rag/sources/{name}"}
        return Response(SourceDetailSerializer(source).data, status=202, headers=headers)


def _source(principal: Principal, name: str) -> Source:
    """The source; `NotFound` alike for one that isn't there and one of a collection that may not be touched."""
    found = service.visible(principal).filter(name=name).first() if name.isprintable() else None
    if found is None:
        raise NotFound(f"There is no source {name!r}.")
    return found


def _validated(serializer_class: Any, request: Request) -> dict[str, Any]:
    serializer = serializer_class(data=request.data)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
