"""The shapes of collections, documents and index runs."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from rest_framework import serializers

from ops.api.fields import StrictBooleanField, StrictCharField, StrictIntegerField, StrictSerializer
from ops.api.parsing import parse_json
from ops.contracts.problems import Problem
from rag.ingest import formats
from rag.ingest.plan import MAX_DOCUMENT_ID_CHARACTERS, Offer
from rag.ingest.types import IngestError
from rag.models import Collection, Document, DocumentState, IndexItem, IndexRun, ItemState, RunState, TextConfiguration

TITLE_CHARACTERS = 1000
SOURCE_CHARACTERS = 2000
ADDRESS_CHARACTERS = 2048
METADATA_BYTES = 64 * 1024
MAX_ACCESS_GROUPS = 100
ACTIONS = ("original", "restore", "reindex")
"""What may follow a document's address, so that no id may end with it."""

SLUG_HELP = "Slug; without it RAG_DEFAULT_COLLECTION."


class DocumentIdField(StrictCharField):
    """The caller's own id of a document: anything printable that can stand in an address."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=MAX_DOCUMENT_ID_CHARACTERS, trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        value = super().to_internal_value(data)
        parts = value.split("/")
        if not value.isprintable() or value != value.strip():
            raise serializers.ValidationError("Use printable characters, without white space at the ends.")
        if not {".", ".."}.isdisjoint(parts):
            raise serializers.ValidationError("No part between slashes may be '.' or '..'.")
        if len(parts) > 1 and parts[-1] in ACTIONS:
            raise serializers.ValidationError(f"An id can't end with '/{parts[-1]}', which is an action's address.")
        return value


class MetadataField(serializers.DictField):
    """A JSON object of bounded size; in a form, its text."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if isinstance(data, str):
            try:
                data = parse_json(data.encode())
            except Problem as problem:
                raise serializers.ValidationError(str(problem)) from problem
        value: dict[str, Any] = super().to_internal_value(data)
        if len(json.dumps(value, ensure_ascii=False).encode()) > METADATA_BYTES:
            raise serializers.ValidationError(f"At most {METADATA_BYTES // 1024} KB.")
        return value


class AddressField(StrictCharField):
    """An address that a page may link to."""

    def to_internal_value(self, data: Any) -> str:
        value = super().to_internal_value(data)
        try:
            parts = urlsplit(value)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise serializers.ValidationError("Give an address that begins with http:// or https://.")
        return value


class AccessGroupsField(serializers.ListField):
    child = StrictCharField(max_length=150)

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, max_length=MAX_ACCESS_GROUPS, **options)

    def to_internal_value(self, data: Any) -> list[str]:
        return list(dict.fromkeys(super().to_internal_value(data)))


class AboutDocumentSerializer(StrictSerializer):
    """What may be said of a document besides its text."""

    title = StrictCharField(required=False, allow_blank=True, max_length=TITLE_CHARACTERS)
    source = StrictCharField(  # type: ignore[assignment]
        required=False, allow_blank=True, max_length=SOURCE_CHARACTERS, help_text="Where it came from, for readers."
    )
    external_url = AddressField(required=False, allow_null=True, max_length=ADDRESS_CHARACTERS)
    metadata = MetadataField(required=False, help_text="Searches can filter by it.")
    access_groups = AccessGroupsField(help_text="Groups that may read it; without any, the collection's default.")


class TextSerializer(AboutDocumentSerializer):
    """A document as text: the whole of it, which replaces what was there under its id."""

    text = StrictCharField(allow_blank=True, trim_whitespace=False, help_text="May be empty if there is a title.")
    media_type = StrictCharField(
        required=False, max_length=128, help_text="How to read the text, such as text/markdown; else text/plain."
    )

    def validate_text(self, value: str) -> str:
        limit = settings.RAG_DOCUMENT_MAX_BYTES
        if len(value.encode()) > limit:
            raise serializers.ValidationError(f"At most {limit} bytes (RAG_DOCUMENT_MAX_BYTES).")
        return value

    def validate_media_type(self, value: str) -> str:
        try:
            known = formats.format_of(value).media_type
        except IngestError as error:
            raise serializers.ValidationError(str(error)) from error
        if known in _FILES_ONLY:
            raise serializers.ValidationError("Documents of this type are sent as files (multipart/form-data).")
        return known

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs["text"].strip() and not attrs.get("title", "").strip():
            raise serializers.ValidationError({"text": "There is neither text nor a title to index."})
        return attrs


class DocumentTextSerializer(TextSerializer):
    document_id = DocumentIdField(help_text="Your own id; unique in the collection.")


class SingleSerializer(DocumentTextSerializer):
    collection = StrictCharField(required=False, help_text=SLUG_HELP)


class BulkSerializer(StrictSerializer):
    collection = StrictCharField(required=False, help_text=SLUG_HELP)
    documents = DocumentTextSerializer(many=True, allow_empty=False)

    def validate_documents(self, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        limit = settings.RAG_BULK_MAX_DOCUMENTS
        if len(value) > limit:
            raise serializers.ValidationError(f"At most {limit} documents at once (RAG_BULK_MAX_DOCUMENTS).")
        first: dict[str, int] = {}
        for number, document in enumerate(value):
            earlier = first.setdefault(document["document_id"], number)
            if earlier != number:
                raise serializers.ValidationError(
                    f"Documents {earlier} and {number} have the same id '{document['document_id']}'."
                )
        return value


class UploadSerializer(AboutDocumentSerializer):
    """Files, as a form sends them. Each becomes a document with its name as id, JSON Lines one a line."""

    collection = StrictCharField(required=False, help_text=SLUG_HELP)
    files = serializers.ListField(child=serializers.FileField(allow_empty_file=True), allow_empty=False)
    document_id = DocumentIdField(required=False, help_text="Only with a single file.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        alone = {"document_id", "title", "source", "external_url"} & set(attrs)
        if len(attrs["files"]) > 1 and alone:
            raise serializers.ValidationError(dict.fromkeys(alone, "Can be given only with a single file."))
        return attrs


class CollectionSettingsSerializer(StrictSerializer):
    """Bounds are checked by `rag.collections`, for every way in alike."""

    title = StrictCharField(required=False, allow_blank=True)
    description = StrictCharField(required=False, allow_blank=True, max_length=10_000)
    text_configuration = serializers.ChoiceField(
        choices=TextConfiguration.choices, required=False, help_text="How PostgreSQL stems and drops stop words."
    )
    split_identifiers = StrictBooleanField(required=False, help_text="Also index the parts of names: for code.")
    chunk_tokens = StrictIntegerField(required=False, min_value=1, max_value=100_000, help_text="Longest chunk.")
    chunk_overlap_tokens = StrictIntegerField(required=False, min_value=0, max_value=100_000)
    default_access_groups = AccessGroupsField(help_text="For documents without groups of their own; empty: everyone.")


class NewCollectionSerializer(CollectionSettingsSerializer):
    slug = StrictCharField(max_length=64)


class PageQuerySerializer(StrictSerializer):
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class DocumentsQuerySerializer(PageQuerySerializer):
    collection = serializers.CharField(required=False, max_length=64)
    state = serializers.ChoiceField(
        choices=DocumentState.choices, required=False, help_text="Without it, all but deleted documents."
    )
    q = serializers.CharField(required=False, max_length=200, help_text="Part of the id, the title or the source.")


class RunQuerySerializer(PageQuerySerializer):
    state = serializers.ChoiceField(
        choices=ItemState.choices, required=False, help_text="Only documents of which that became."
    )


class DeleteQuerySerializer(StrictSerializer):
    confirm = serializers.CharField(required=False, max_length=64, help_text="The slug, to show that you mean it.")


class NoQuerySerializer(StrictSerializer):
    """For addresses that take no parameters."""


class CollectionSerializer(serializers.ModelSerializer[Collection]):
    """A collection as it is shown. ``documents`` are those that the asking principal may read."""

    documents = serializers.DictField(
        child=serializers.IntegerField(), source="documents_by_state", help_text="Documents by state."
    )

    class Meta:
        model = Collection
        fields: tuple[str, ...] = (
            "slug",
            "title",
            "description",
            "text_configuration",
            "split_identifiers",
            "chunk_tokens",
            "chunk_overlap_tokens",
            "default_access_groups",
            "documents",
            "created_at",
        )


class DocumentSummarySerializer(serializers.ModelSerializer[Document]):
    collection = serializers.CharField(source="collection.slug")

    class Meta:
        model = Document
        fields: tuple[str, ...] = (
            "collection",
            "document_id",
            "title",
            "source",
            "external_url",
            "media_type",
            "metadata",
            "access_groups",
            "size_bytes",
            "state",
            "failure",
            "chunk_count",
            "created_at",
            "updated_at",
            "indexed_at",
            "deleted_at",
        )


class DocumentSerializer(DocumentSummarySerializer):
    class Meta(DocumentSummarySerializer.Meta):
        fields: tuple[str, ...] = (*DocumentSummarySerializer.Meta.fields, "text")


class IndexRunSerializer(serializers.ModelSerializer[IndexRun]):
    collection = serializers.CharField(source="collection.slug")
    state = serializers.ChoiceField(choices=RunState.choices)
    done = serializers.IntegerField()

    class Meta:
        model = IndexRun
        fields: tuple[str, ...] = (
            "id",
            "collection",
            "origin",
            "started_by",
            "state",
            "total",
            "done",
            "added",
            "changed",
            "removed",
            "unchanged",
            "failed",
            "created_at",
            "started_at",
            "finished_at",
        )


class IndexItemSerializer(serializers.ModelSerializer[IndexItem]):
    class Meta:
        model = IndexItem
        fields: tuple[str, ...] = ("document_id", "state", "reason")


class PageSerializer(serializers.Serializer[Any]):
    """A page of a list; ``next`` and ``previous`` are the addresses of its neighbours."""

    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


class CollectionPageSerializer(PageSerializer):
    results = CollectionSerializer(many=True)


class DocumentPageSerializer(PageSerializer):
    results = DocumentSummarySerializer(many=True)


class IndexItemPageSerializer(PageSerializer):
    results = IndexItemSerializer(many=True)


class IndexRunDetailSerializer(IndexRunSerializer):
    """Progress, and what became of each document that was not unchanged."""

    documents = IndexItemPageSerializer()

    class Meta(IndexRunSerializer.Meta):
        fields: tuple[str, ...] = (*IndexRunSerializer.Meta.fields, "documents")


class UpdatedCollectionSerializer(CollectionSerializer):
    index_run = IndexRunSerializer(allow_null=True, help_text="Brings the documents up to new settings.")

    class Meta(CollectionSerializer.Meta):
        fields: tuple[str, ...] = (*CollectionSerializer.Meta.fields, "index_run")


_FILES_ONLY = frozenset({formats.PDF, formats.DOCX, formats.PPTX, formats.XLSX, formats.EPUB, formats.JSONL})


def text_offer(document: dict[str, Any]) -> Offer:
    """A validated document of `TextSerializer` with its id."""
    given = {name: document[name] for name in _ABOUT if name in document}
    media_type = document.get("media_type", formats.PLAIN_TEXT)
    return Offer(document["document_id"], document["text"], media_type=media_type, **given)


def file_offers(form: dict[str, Any]) -> list[Offer]:
    """The validated files of `UploadSerializer`."""
    given = {name: form[name] for name in _ABOUT if name in form}
    return [_file_offer(file, form.get("document_id"), given) for file in form["files"]]


def _file_offer(file: UploadedFile[Any], document_id: str | None, given: dict[str, Any]) -> Offer:
    name = (file.name or "").strip() or "unnamed"
    return Offer(
        document_id or name,
        file.read(),
        media_type=_sent_media_type(file, name),
        **{"source": name, **given},
    )


def _sent_media_type(file: UploadedFile[Any], name: str) -> str:
    """What the client says of a file whose name says nothing; "" leaves it to name and content."""
    if formats.media_type_of_name(name) is not None:
        return ""
    try:
        return formats.format_of(file.content_type or "").media_type
    except IngestError:
        return ""


_ABOUT = ("title", "source", "external_url", "metadata", "access_groups")
