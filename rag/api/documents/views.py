"""Collections, documents and index runs: read the request, ask a service, answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast
from uuid import UUID

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db.models import Q
from django.http import HttpResponse, QueryDict
from django.urls import reverse
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, PolymorphicProxySerializer, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api.queries import checked, principal_of
from ops.api.pagination import Pages
from ops.api.parsing import StrictJSONParser
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Forbidden, InvalidRequest, NotFound, TooLarge
from rag import collections
from rag.api.documents.serializers import (
    BulkSerializer,
    CollectionPageSerializer,
    CollectionSerializer,
    CollectionSettingsSerializer,
    DeleteQuerySerializer,
    DocumentIdField,
    DocumentPageSerializer,
    DocumentSerializer,
    DocumentsQuerySerializer,
    DocumentSummarySerializer,
    IndexItemSerializer,
    IndexRunDetailSerializer,
    IndexRunSerializer,
    NewCollectionSerializer,
    NoQuerySerializer,
    PageQuerySerializer,
    RunQuerySerializer,
    SingleSerializer,
    TextSerializer,
    UpdatedCollectionSerializer,
    UploadSerializer,
    file_offers,
    text_offer,
)
from rag.idempotency import Answer, answer_once, fingerprint_of
from rag.ingest import originals, service
from rag.ingest.originals import OriginalError
from rag.ingest.plan import Offer
from rag.models import SLUG_PATTERN, Collection, Document, DocumentState, IndexRun
from rag.readable import open_collections, readable_documents, visible_items, visible_runs, with_counts

TAGS = ["documents"]

_ViewMethod = TypeVar("_ViewMethod", bound=Callable[..., Response])

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="Any text of your own: a request that is sent again with it gets the same answer for 24 hours.",
)


def idempotent(method: _ViewMethod) -> _ViewMethod:
    """Honour ``Idempotency-Key`` on a view's method."""

    @wraps(method)
    def answer(view: APIView, request: Request, *args: Any, **kwargs: Any) -> Response:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return method(view, request, *args, **kwargs)

        def first() -> Answer:
            response = method(view, request, *args, **kwargs)
            # As it is sent: identifiers and times as text.
            body = json.loads(json.dumps(response.data, default=str))
            headers = {name: response[name] for name in ("Location",) if name in response}
            return Answer(response.status_code, body, headers)

        given, is_repeated = answer_once(principal_of(request), key, _fingerprint(request), first)
        headers = dict(given.headers) | ({"Idempotency-Replayed": "true"} if is_repeated else {})
        return Response(given.body, status=given.status, headers=headers)

    return cast(_ViewMethod, answer)


class CollectionPages(Pages):
    ordering = "slug"


class DocumentPages(Pages):
    ordering = "-id"


class ItemPages(Pages):
    ordering = "id"


class CollectionsView(APIView):
    required_scopes = {"GET": Scope.QUERY, "POST": Scope.INGEST}

    @extend_schema(
        operation_id="list_collections",
        tags=TAGS,
        parameters=[PageQuerySerializer],
        responses=CollectionPageSerializer,
    )
    def get(self, request: Request) -> Response:
        """The collections that you may touch, by slug."""
        checked(PageQuerySerializer, request)
        principal = principal_of(request)
        pages = CollectionPages()
        page = pages.paginate_queryset(open_collections(principal), request, self) or []
        return pages.get_paginated_response(CollectionSerializer(with_counts(page, principal), many=True).data)

    @extend_schema(
        operation_id="create_collection",
        tags=TAGS,
        parameters=[IDEMPOTENCY_KEY],
        request=NewCollectionSerializer,
        responses={201: CollectionSerializer},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Make a collection."""
        given = _validated(NewCollectionSerializer, request)
        principal = principal_of(request)
        slug = given.pop("slug")
        if not principal.may_touch(slug):
            raise Forbidden(f"Your key may not touch a collection '{slug}'.")
        made = collections.create_collection(slug, principal, **given)
        body = CollectionSerializer(with_counts([made], principal)[0]).data
        return Response(body, status=201, headers={"Location": reverse("collection-api", args=[slug])})


class CollectionDetailView(APIView):
    required_scopes = {"GET": Scope.QUERY, "PATCH": Scope.INGEST, "DELETE": Scope.ADMIN}

    @extend_schema(operation_id="get_collection", tags=TAGS, responses=CollectionSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """A collection with its settings and how many documents it has."""
        checked(NoQuerySerializer, request)
        principal = principal_of(request)
        collection = _collection(principal, slug)
        return Response(CollectionSerializer(with_counts([collection], principal)[0]).data)

    @extend_schema(
        operation_id="update_collection",
        tags=TAGS,
        parameters=[IDEMPOTENCY_KEY],
        request=CollectionSettingsSerializer,
        responses={200: UpdatedCollectionSerializer, 202: UpdatedCollectionSerializer},
    )
    @idempotent
    def patch(self, request: Request, slug: str) -> Response:
        """Change settings. When they decide how documents are indexed, all are indexed again (202)."""
        principal = principal_of(request)
        updated = collections.update_collection(
            _collection(principal, slug), principal, **_validated(CollectionSettingsSerializer, request)
        )
        shown = with_counts([updated.collection], principal)[0]
        shown.index_run = updated.run  # type: ignore[attr-defined]
        body = UpdatedCollectionSerializer(shown).data
        if updated.run is None:
            return Response(body)
        return Response(body, status=202, headers={"Location": _run_address(updated.run)})

    @extend_schema(
        operation_id="delete_collection", tags=TAGS, parameters=[DeleteQuerySerializer], responses={204: None}
    )
    def delete(self, request: Request, slug: str) -> Response:
        """Delete a collection with all its documents, for good."""
        given = checked(DeleteQuerySerializer, request)
        collection = _collection(principal_of(request), slug)
        if given.get("confirm") != slug:
            raise InvalidRequest(f"This can't be undone: add ?confirm={slug} to the address to show that you mean it.")
        collections.delete_collection(collection, principal_of(request))
        return Response(status=204)


class DocumentsView(APIView):
    required_scopes = {"GET": Scope.QUERY, "POST": Scope.INGEST}
    rate_costs = {"POST": 5.0}
    parser_classes = [StrictJSONParser, MultiPartParser]

    @extend_schema(
        operation_id="list_documents",
        tags=TAGS,
        parameters=[DocumentsQuerySerializer],
        responses=DocumentPageSerializer,
    )
    def get(self, request: Request) -> Response:
        """The documents that you may read, those that were added last first."""
        given = checked(DocumentsQuerySerializer, request)
        principal = principal_of(request)
        documents = readable_documents(principal).select_related("collection").defer("text", "offer")
        if "collection" in given:
            documents = documents.filter(collection=_collection(principal, given["collection"]))
        if "state" in given:
            documents = documents.filter(state=given["state"])
        else:
            documents = documents.exclude(state=DocumentState.DELETED)
        if "q" in given:
            part = given["q"]
            documents = documents.filter(
                Q(document_id__icontains=part) | Q(title__icontains=part) | Q(source__icontains=part)
            )
        pages = DocumentPages()
        page = pages.paginate_queryset(documents, request, self) or []
        return pages.get_paginated_response(DocumentSummarySerializer(page, many=True).data)

    @extend_schema(
        operation_id="index_documents",
        tags=TAGS,
        parameters=[IDEMPOTENCY_KEY],
        request={
            "application/json": PolymorphicProxySerializer(
                "DocumentOrDocuments", [SingleSerializer, BulkSerializer], resource_type_field_name=None
            ),
            "multipart/form-data": UploadSerializer,
        },
        responses={202: IndexRunSerializer},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Index documents: one, many, or uploaded files. What is unchanged costs nothing."""
        if isinstance(_body(request), QueryDict):
            form = _validated_form(request)
            offers, origin = file_offers(form), "upload"
            slug = form.get("collection")
        elif isinstance(request.data, Mapping) and "documents" in request.data:
            bulk = _validated(BulkSerializer, request)
            offers, origin = [text_offer(document) for document in bulk["documents"]], "api"
            slug = bulk.get("collection")
        else:
            single = _validated(SingleSerializer, request)
            offers, origin = [text_offer(single)], "api"
            slug = single.get("collection")
        return _start(request, slug or settings.RAG_DEFAULT_COLLECTION, offers, origin)


class DocumentDetailView(APIView):
    required_scopes = {"GET": Scope.QUERY, "PUT": Scope.INGEST, "DELETE": Scope.INGEST}

    @extend_schema(operation_id="get_document", tags=TAGS, responses=DocumentSerializer)
    def get(self, request: Request, slug: str, document_id: str) -> Response:
        """A document with the text that passages are cut from."""
        checked(NoQuerySerializer, request)
        return Response(DocumentSerializer(_readable(request, slug, document_id)).data)

    @extend_schema(
        operation_id="put_document",
        tags=TAGS,
        parameters=[IDEMPOTENCY_KEY],
        request=TextSerializer,
        responses={202: IndexRunSerializer},
    )
    @idempotent
    def put(self, request: Request, slug: str, document_id: str) -> Response:
        """Add the document, or replace it."""
        _collection(principal_of(request), slug)
        try:
            DocumentIdField().run_validation(document_id)
        except ValidationError as error:
            raise ValidationError({"document_id": error.detail}) from error
        offer = text_offer({**_validated(TextSerializer, request), "document_id": document_id})
        return _start(request, slug, [offer], "api")

    @extend_schema(operation_id="delete_document", tags=TAGS, responses={204: None})
    def delete(self, request: Request, slug: str, document_id: str) -> Response:
        """Take the document out of the search at once. For a time it can be restored."""
        principal = principal_of(request)
        collection = _collection(principal, slug)
        service.remove_document(collection, _printable(document_id), principal)
        return Response(status=204)


class RestoreView(APIView):
    required_scopes = {"POST": Scope.INGEST}

    @extend_schema(
        operation_id="restore_document",
        tags=TAGS,
        parameters=[IDEMPOTENCY_KEY],
        request=None,
        responses={202: IndexRunSerializer},
    )
    @idempotent
    def post(self, request: Request, slug: str, document_id: str) -> Response:
        """Undo a deletion."""
        principal = principal_of(request)
        collection = _collection(principal, slug)
        return _accepted(service.restore_document(collection, _printable(document_id), principal))


class ReindexView(APIView):
    required_scopes = {"POST": Scope.INGEST}

    @extend_schema(
        operation_id="reindex_document",
        tags=TAGS,
        parameters=[IDEMPOTENCY_KEY],
        request=None,
        responses={202: IndexRunSerializer},
    )
    @idempotent
    def post(self, request: Request, slug: str, document_id: str) -> Response:
        """Read and index the document again, such as after a failure."""
        principal = principal_of(request)
        collection = _collection(principal, slug)
        return _accepted(service.reindex_document(collection, _printable(document_id), principal))


class OriginalView(APIView):
    required_scopes = {"GET": Scope.QUERY}

    @extend_schema(
        operation_id="get_original",
        tags=TAGS,
        responses={(200, "application/octet-stream"): OpenApiResponse(OpenApiTypes.BINARY)},
    )
    def get(self, request: Request, slug: str, document_id: str) -> HttpResponse:
        """The file as it was sent, to be saved; the text of a document that was sent as plain text."""
        document = _readable(request, slug, document_id)
        if document.original:
            try:
                response = HttpResponse(originals.read(document.original), content_type="application/octet-stream")
            except OriginalError as error:
                raise NotFound(str(error)) from error
        elif document.text:
            response = HttpResponse(document.text, content_type="text/plain; charset=utf-8")
        else:
            raise NotFound("Nothing is kept of this document.")
        name = PurePosixPath((document.source or document.document_id).replace("\\", "/")).name
        # Nothing in a file may run on this site's behalf, whatever a browser takes it for.
        response.headers["Content-Disposition"] = content_disposition_header(True, name or "document") or "attachment"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
        response.headers["Cache-Control"] = "private, no-cache"
        return response


class IndexRunView(APIView):
    required_scopes = {"GET": Scope.INGEST}

    @extend_schema(
        operation_id="get_index_run", tags=TAGS, parameters=[RunQuerySerializer], responses=IndexRunDetailSerializer
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """How far a run is, and a page of what became of each document that was not unchanged."""
        given = checked(RunQuerySerializer, request)
        principal = principal_of(request)
        run = visible_runs(principal).filter(id=run_id).first()
        if run is None:
            raise NotFound(f"There is no index run {run_id}.")
        items = visible_items(run, principal).defer("text")
        if "state" in given:
            items = items.filter(state=given["state"])
        pages = ItemPages()
        page = pages.paginate_queryset(items, request, self) or []
        listed = pages.get_paginated_response(IndexItemSerializer(page, many=True).data).data
        return Response(IndexRunSerializer(run).data | {"documents": listed})


def _start(request: Request, slug: str, offers: list[Offer], origin: str) -> Response:
    principal = principal_of(request)
    return _accepted(service.start_run(_collection(principal, slug), offers, principal, origin))


def _accepted(run: IndexRun) -> Response:
    return Response(IndexRunSerializer(run).data, status=202, headers={"Location": _run_address(run)})


def _run_address(run: IndexRun) -> str:
    return reverse("index-run-api", args=[run.id])


def _collection(principal: Principal, slug: str) -> Collection:
    """The collection; `NotFound` alike for one that isn't there and one that the principal may not touch."""
    found = open_collections(principal).filter(slug=slug).first() if re.match(SLUG_PATTERN, slug) else None
    if found is None:
        raise NotFound(f"There is no collection {slug!r}. POST /rag/collections makes one.")
    return found


def _readable(request: Request, slug: str, document_id: str) -> Document:
    """The document; `NotFound` alike for one that isn't there and one that the principal may not read."""
    principal = principal_of(request)
    collection = _collection(principal, slug)
    documents = readable_documents(principal).select_related("collection").defer("offer")
    found = documents.filter(collection=collection, document_id=_printable(document_id)).first()
    if found is None:
        raise NotFound(f"There is no document {document_id!r} in '{slug}'.")
    return found


def _printable(document_id: str) -> str:
    """An id from an address. What can't be an id can't be found either, and may be no text at all."""
    if not document_id.isprintable():
        raise NotFound(f"There is no document {document_id!r}.")
    return document_id


def _body(request: Request) -> Any:
    """The parsed body, its size checked before anything is read."""
    declared = str(request.META.get("CONTENT_LENGTH") or "")
    limit = settings.RAG_REQUEST_MAX_BYTES
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"At most {limit} bytes can be sent at once (RAG_REQUEST_MAX_BYTES).", limit_bytes=limit)
    return request.data


def _validated(serializer_class: Any, request: Request) -> dict[str, Any]:
    serializer = serializer_class(data=_body(request))
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def _validated_form(request: Request) -> dict[str, Any]:
    """A form's fields and files, as strictly as JSON: lists where a list is meant, single values elsewhere."""
    form = cast(QueryDict, request.data)
    given: dict[str, Any] = {}
    for name in form:
        values = form.getlist(name)
        if name in {"files", "access_groups"}:
            given[name] = values
        elif len(values) > 1:
            raise InvalidRequest(f"{name}: Given more than once.", errors={name: "Given more than once."})
        else:
            given[name] = values[0]
    serializer = UploadSerializer(data=given)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def _fingerprint(request: Request) -> str:
    """Identity of a request: its method and address, and the content of its body, files included."""
    body = _body(request)
    if isinstance(body, QueryDict):
        parts = [(name, [_value(value) for value in body.getlist(name)]) for name in sorted(body)]
    else:
        parts = body
    content = json.dumps(parts, sort_keys=True).encode()
    return fingerprint_of((request.method or "").encode(), request.get_full_path().encode(), content)


def _value(value: Any) -> Any:
    if not isinstance(value, UploadedFile):
        return value
    value.seek(0)
    content = originals.digest(value.read())
    value.seek(0)
    return [value.name, content]
