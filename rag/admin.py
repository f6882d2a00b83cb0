"""Retrieval in the admin: what is shown is read-only, what changes goes through the services.

Who may enter the admin administers, and so reads every document. Nothing here deletes by Django's cascade: that knows
nothing of postings, and would load every chunk to count it.
"""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db import transaction
from django.db.models import Model as DjangoModel
from django.db.models import QuerySet
from django.db.models.functions import Substr
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ops.admin import LatestRows, ReadOnlyAdmin, principal_of
from ops.contracts.problems import Problem
from rag import collections, erasure, tasks
from rag.ann import configs as ann_configs
from rag.ann.describe import how, state_of
from rag.evaluation import stored
from rag.evaluation.figures import comparison_figures, figures_of
from rag.ingest import runs, service
from rag.models import (
    AnnConfig,
    AnnState,
    Chunk,
    Collection,
    Document,
    EvaluationRun,
    EvaluationState,
    Feedback,
    IndexItem,
    IndexRun,
    QueryLog,
)

EXCERPT_CHARACTERS = 5_000
LIST_EXCERPT_CHARACTERS = 120


class CollectionForm(forms.ModelForm[Collection]):
    """The settings of a collection, checked as the services check them."""

    class Meta:
        model = Collection
        fields = ("slug", *collections.SETTINGS)

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            collections.check_collection(self.instance)
        except Problem as problem:
            for name, fault in problem.errors.items():
                self.add_error(name if name in self.fields else None, fault)


@admin.register(Collection)
class CollectionAdmin(admin.ModelAdmin[Collection]):
    form = CollectionForm
    list_display = ("slug", "title", "documents_link", "text_configuration", "split_identifiers", "created_at")
    list_filter = ("text_configuration", "split_identifiers")
    search_fields = ("slug", "title", "description")
    actions = ("reindex",)

    def get_readonly_fields(self, request: HttpRequest, obj: Collection | None = None) -> Any:
        return ("slug", "generation", "access_epoch", "created_at") if obj else ()

    @admin.display(description="documents")
    def documents_link(self, collection: Collection) -> SafeString:
        address = reverse("admin:rag_document_changelist")
        return format_html(
            '<a href="{}?collection__id__exact={}">{}</a>', address, collection.pk, collection.documents.count()
        )

    def save_model(self, request: HttpRequest, obj: Collection, form: Any, change: bool) -> None:
        """Through the services; the row that the form filled is never saved itself."""
        settings = {name: form.cleaned_data[name] for name in collections.SETTINGS}
        if not change:
            obj.pk = collections.create_collection(obj.slug, principal_of(request), **settings).pk
            return
        updated = collections.update_collection(Collection.objects.get(pk=obj.pk), principal_of(request), **settings)
        if updated.run is not None:
            self.message_user(request, _run_message(updated.run))

    def delete_model(self, request: HttpRequest, obj: Collection) -> None:
        collections.delete_collection(obj, principal_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Collection]) -> None:
        for collection in queryset:
            self.delete_model(request, collection)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """What the confirmation page shows, counted instead of loaded."""
        listed = [f"{collection} with {collection.documents.count()} documents" for collection in objs]
        return listed, {"collections": len(listed)}, set(), []

    @admin.action(description="Index all documents again where settings changed", permissions=["change"])
    def reindex(self, request: HttpRequest, queryset: QuerySet[Collection]) -> None:
        for collection in queryset:
            try:
                self.message_user(request, _run_message(service.reindex_collection(collection, principal_of(request))))
            except Problem as problem:
                self.message_user(request, f"{collection}: {problem}", messages.ERROR)


@admin.register(Document)
class DocumentAdmin(ReadOnlyAdmin):
    list_display = ("document_id", "title", "collection", "state", "chunk_count", "size_bytes", "updated_at")
    list_filter = ("state", "collection", "media_type")
    list_select_related = ("collection",)
    search_fields = ("document_id", "title", "source")
    actions = ("reindex", "remove", "restore")
    fields = (
        *("collection", "document_id", "title", "source", "external_url", "media_type", "metadata", "access_groups"),
        *("state", "failure", "chunks_link", "size_bytes", "original", "content_hash", "source_root"),
        *("created_at", "updated_at", "indexed_at", "deleted_at", "text_excerpt"),
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Document]:
        documents: QuerySet[Document] = super().get_queryset(request).defer("text", "offer")
        return documents.annotate(excerpt=Substr("text", 1, EXCERPT_CHARACTERS)).order_by("-id")

    def has_work_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("rag.change_document")

    @admin.display(description="chunks")
    def chunks_link(self, document: Document) -> SafeString:
        address = reverse("admin:rag_chunk_changelist")
        return format_html('<a href="{}?document__id__exact={}">{}</a>', address, document.pk, document.chunk_count)

    @admin.display(description="text (beginning)")
    def text_excerpt(self, document: Any) -> SafeString:
        return format_html("<pre>{}</pre>", document.excerpt)

    @admin.action(description="Index again", permissions=["work"])
    def reindex(self, request: HttpRequest, queryset: QuerySet[Document]) -> None:
        self._each(request, queryset, service.reindex_document, "are being indexed again")

    @admin.action(description="Delete (can be undone)", permissions=["work"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Document]) -> None:
        self._each(request, queryset, service.remove_document, "were deleted; they can be restored")

    @admin.action(description="Restore", permissions=["work"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Document]) -> None:
        self._each(request, queryset, service.restore_document, "are being restored")

    def _each(self, request: HttpRequest, queryset: QuerySet[Document], act: Any, done: str) -> None:
        count = 0
        for document in queryset.select_related("collection"):
            try:
                act(document.collection, document.document_id, principal_of(request))
                count += 1
            except Problem as problem:
                self.message_user(request, str(problem), messages.ERROR)
        if count:
            self.message_user(request, f"{count} documents {done}.")


@admin.register(Chunk)
class ChunkAdmin(ReadOnlyAdmin):
    """Passages, without their term ids, which mean nothing to people."""

    list_display = ("id", "document", "ordinal", "headings", "page", "token_count", "excerpt")
    list_filter = ("collection",)
    list_select_related = ("document",)
    search_fields = ("=id", "document__document_id")
    show_full_result_count = False
    paginator = LatestRows
    fields = (
        *("document", "ordinal", "heading_path", "page", "start", "end", "token_count", "title_length"),
        *("chunking_version", "text"),
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Chunk]:
        return super().get_queryset(request).defer("tokens", "document__text").order_by("-id")

    @admin.display(description="headings")
    def headings(self, chunk: Chunk) -> str:
        return " › ".join(chunk.heading_path)

    @admin.display(description="text")
    def excerpt(self, chunk: Chunk) -> str:
        return " ".join(chunk.text.split())[:LIST_EXCERPT_CHARACTERS]


@admin.register(IndexRun)
class IndexRunAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "collection", "origin", "started_by", "state", "progress", "failed", "finished_at")
    list_filter = ("state", "collection")
    list_select_related = ("collection",)
    search_fields = ("=id", "started_by", "origin")
    actions = ("cancel",)
    fields = (
        *("id", "collection", "origin", "started_by", "state", "progress", "items_link"),
        *("added", "changed", "removed", "unchanged", "failed"),
        *("created_at", "started_at", "progressed_at", "finished_at"),
    )
    readonly_fields = fields

    def has_work_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("rag.change_indexrun")

    @admin.display(description="done")
    def progress(self, run: IndexRun) -> str:
        return f"{run.done} of {run.total}"

    @admin.display(description="documents")
    def items_link(self, run: IndexRun) -> SafeString:
        address = reverse("admin:rag_indexitem_changelist")
        return format_html('<a href="{}?run__id__exact={}">what became of each document</a>', address, run.pk)

    @admin.action(description="Cancel", permissions=["work"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[IndexRun]) -> None:
        count = sum(runs.cancel_run(run.id) for run in queryset)
        self.message_user(request, f"{count} runs were cancelled; what they have indexed stays.")


@admin.register(IndexItem)
class IndexItemAdmin(ReadOnlyAdmin):
    list_display = ("document_id", "state", "reason", "attempts", "run")
    list_filter = ("state",)
    list_select_related = ("run",)
    search_fields = ("document_id", "reason")
    show_full_result_count = False
    paginator = LatestRows
    fields = ("run", "document_id", "title", "source", "media_type", "remove", "state", "reason", "attempts")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[IndexItem]:
        return super().get_queryset(request).defer("text").order_by("-id")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "run__id__exact" or super().lookup_allowed(lookup, value, request)


class AnnConfigForm(forms.ModelForm[AnnConfig]):
    """A configuration as the services check it. Without a space it is that of the collection's live embedder."""

    class Meta:
        model = AnnConfig
        fields = ("collection", "space", *ann_configs.SETTINGS, "reason")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if "space" in self.fields:  # a row that is only looked at has no fields
            self.fields["space"].required = False
            self.fields["space"].help_text = "Empty: the space of the embedder that is live."

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("collection") is not None and cleaned.get("space") is None:
            try:
                cleaned["space"] = ann_configs.live_space(cleaned["collection"])
            except Problem as problem:
                self.add_error("space", str(problem))
        return cleaned

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            ann_configs.check(self.instance)
        except Problem as problem:
            for name, fault in problem.errors.items():
                self.add_error(name if name in self.fields else None, fault)


class ActivateAnnForm(ActionForm):
    """What the activation of a configuration also asks."""

    reason = forms.CharField(required=False, max_length=500)
    force = forms.BooleanField(required=False, help_text="although its recall is below the floor")


@admin.register(AnnConfig)
class AnnConfigAdmin(admin.ModelAdmin[AnnConfig]):
    """How vectors are searched. A row is added, built by a background task, put live and dropped; never edited."""

    form = AnnConfigForm
    action_form = ActivateAnnForm
    list_display = (
        *("__str__", "space", "progress", "settings", "recall_at_10", "search_p50_ms", "search_p95_ms"),
        *("vectors", "size", "by", "created_at"),
    )
    list_filter = ("state", "collection", "strategy")
    list_select_related = ("collection", "space")
    actions = ("activate", "measure", "drop")

    def has_change_permission(self, request: HttpRequest, obj: AnnConfig | None = None) -> bool:
        return obj is None and super().has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: AnnConfig | None = None) -> bool:
        return False

    def has_work_permission(self, request: HttpRequest) -> bool:
        return super().has_change_permission(request)

    def get_fields(self, request: HttpRequest, obj: AnnConfig | None = None) -> Any:
        if obj is None:
            return AnnConfigForm.Meta.fields
        return ("progress", *(field.name for field in AnnConfig._meta.concrete_fields))

    def get_readonly_fields(self, request: HttpRequest, obj: AnnConfig | None = None) -> Any:
        return () if obj is None else self.get_fields(request, obj)

    def save_model(self, request: HttpRequest, obj: AnnConfig, form: Any, change: bool) -> None:
        """Through the services; the row that the form filled is never saved itself."""
        given = {name: form.cleaned_data[name] for name in ann_configs.SETTINGS}
        made = ann_configs.propose(
            form.cleaned_data["collection"],
            form.cleaned_data["space"],
            given,
            by=principal_of(request),
            reason=form.cleaned_data["reason"],
        )
        obj.pk = made.pk
        obj.refresh_from_db()
        transaction.on_commit(lambda: tasks.build_ann.delay(made.pk))
        self.message_user(request, "It is built and measured in the background; this page shows how far that is.")

    @admin.display(description="state")
    def progress(self, config: AnnConfig) -> str:
        return state_of(config)

    @admin.display(description="how")
    def settings(self, config: AnnConfig) -> str:
        return how(config)

    @admin.display(description="size")
    def size(self, config: AnnConfig) -> str:
        return "" if config.size_bytes is None else filesizeformat(config.size_bytes)

    @admin.action(description="Put live (drops the index that it replaces)", permissions=["work"])
    def activate(self, request: HttpRequest, queryset: QuerySet[AnnConfig]) -> None:
        if queryset.count() != 1:
            self.message_user(request, "Choose exactly one row to put live.", messages.ERROR)
            return
        config = queryset.get()
        try:
            before = ann_configs.activate(
                config,
                by=principal_of(request),
                reason=request.POST.get("reason", ""),
                force=bool(request.POST.get("force")),
            )
        except Problem as problem:
            self.message_user(request, str(problem), messages.ERROR)
            return
        if before is not None and before.index_name:
            number, reason = before.pk, f"{config} took its place."
            transaction.on_commit(lambda: tasks.drop_ann.delay(number, reason))
        self.message_user(request, f"{config} is live.", messages.SUCCESS)

    @admin.action(description="Measure recall and time", permissions=["work"])
    def measure(self, request: HttpRequest, queryset: QuerySet[AnnConfig]) -> None:
        for config in queryset:
            tasks.measure_ann.delay(config.pk)
        self.message_user(request, "Measuring in the background.")

    @admin.action(description="Drop the index", permissions=["work"])
    def drop(self, request: HttpRequest, queryset: QuerySet[AnnConfig]) -> None:
        for config in queryset:
            if config.state == AnnState.LIVE:
                self.message_user(request, f"{config} is live: put another one live first.", messages.ERROR)
            else:
                tasks.drop_ann.delay(config.pk, "Dropped in the admin.")
                self.message_user(request, f"{config} is being dropped.")


@admin.register(EvaluationRun)
class EvaluationRunAdmin(ReadOnlyAdmin):
    """What was measured, with its plots; two of them compared; forgotten through the service."""

    change_form_template = "admin/rag/evaluationrun/change_form.html"
    list_display = ("id", "created_at", "collection", "label", "state", "ndcg", "ranker", "in_sample", "started_by")
    list_filter = ("state", "in_sample", "collection")
    search_fields = ("=id", "label", "dataset_sha256")
    actions = ("compare",)
    fields = (
        *("collection", "label", "state", "failure", "progress", "in_sample", "dataset_sha256", "revision"),
        *("started_by", "created_at", "started_at", "finished_at", "shown_snapshot"),
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[EvaluationRun]:
        return super().get_queryset(request).defer("per_query")

    def has_delete_permission(self, request: HttpRequest, obj: DjangoModel | None = None) -> bool:
        return request.user.has_perm("rag.delete_evaluationrun")

    def delete_model(self, request: HttpRequest, obj: EvaluationRun) -> None:
        stored.delete(obj, principal_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[EvaluationRun]) -> None:
        for run in queryset:
            self.delete_model(request, run)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        run = self.get_object(request, object_id)
        figures = figures_of(run) if run is not None and run.state == EvaluationState.FINISHED else None
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "figures": figures})

    @admin.display(description="nDCG@10", ordering="metrics__pipeline__ndcg@10")
    def ndcg(self, run: EvaluationRun) -> str:
        return f"{run.metrics['pipeline']['ndcg@10']:.4f}" if "pipeline" in run.metrics else ""

    @admin.display(description="queries")
    def progress(self, run: EvaluationRun) -> str:
        return f"{run.done} of {run.total}"

    @admin.display(description="snapshot")
    def shown_snapshot(self, run: EvaluationRun) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(run.snapshot, indent=2, ensure_ascii=False, sort_keys=True))

    @admin.action(description="Compare two selected")
    def compare(self, request: HttpRequest, queryset: QuerySet[EvaluationRun]) -> HttpResponse | None:
        if queryset.count() != 2:
            self.message_user(request, "Choose exactly two evaluations to compare.", messages.ERROR)
            return None
        a, b = queryset.order_by("id")
        try:
            figures = comparison_figures(stored.compare_runs(a, b))
        except Problem as problem:
            self.message_user(request, str(problem), messages.ERROR)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": f"{b} against {a}",
            "opts": self.opts,
            "figures": figures,
        }
        return TemplateResponse(request, "admin/rag/evaluationrun/compare.html", context)


def _run_message(run: IndexRun) -> str:
    return f"'{run.collection}': {run.total} documents are looked at again (run {run})."


@admin.register(QueryLog)
class QueryLogAdmin(ReadOnlyAdmin):
    """What was asked, as far as `RAG_QUERY_LOG` lets it be kept; erased for one asker as a whole."""

    list_display = ("occurred_at", "collection", "query", "asked_by", "result_count")
    list_filter = ("collection", "occurred_at")
    search_fields = ("=request_id", "=asked_by", "=query_hmac", "query")
    show_full_result_count = False
    actions = ("erase_askers",)
    fields = (
        *("request_id", "occurred_at", "collection", "query", "query_hmac", "asked_by", "result_count", "degraded"),
        "snapshot",
    )
    readonly_fields = fields

    @admin.action(description="Erase everything that these askers wrote, conversations too", permissions=("erase",))
    def erase_askers(self, request: HttpRequest, queryset: QuerySet[QueryLog]) -> None:
        for asked_by in sorted(set(queryset.values_list("asked_by", flat=True))):
            erased = erasure.erase(asked_by, principal_of(request))
            self.message_user(request, f"Erased {erasure.in_words(erased)} of {asked_by}.")

    def has_erase_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("rag.delete_querylog")


@admin.register(Feedback)
class FeedbackAdmin(ReadOnlyAdmin):
    """What people made of what they were shown. `manage.py feedback judge` makes judgements of it."""

    list_display = ("created_at", "kind", "value", "query", "document_id", "position", "weight", "variant", "by")
    list_filter = ("kind", "variant", "collection")
    search_fields = ("query", "document_id", "=request_id", "by")
    paginator = LatestRows
    show_full_result_count = False
    date_hierarchy = "created_at"


from rag import conversations_admin, sources_admin  # noqa: E402, F401
