"""Collections: list, create, rename, delete."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.views.decorators.cache import never_cache

from ops.access import requires
from ops.contracts.principal import Scope
from ops.contracts.problems import Conflict, Forbidden, InvalidRequest, Problem, Unprocessable
from ops.requests import Request
from rag.collections import create_collection, delete_collection, update_collection
from rag.models import Collection, TextConfiguration
from rag.pages.summaries import summarize_collections
from rag.readable import open_collections


class NewCollectionForm(forms.Form):
    """The service checks the values; here they are only read."""

    title = forms.CharField(label="Name", max_length=200, strip=True)
    slug = forms.CharField(
        label="Short name",
        max_length=64,
        required=False,
        help_text="For addresses and commands: lower-case letters, digits and hyphens. Made from the name if empty.",
        widget=forms.TextInput(attrs={"autocapitalize": "off", "spellcheck": "false"}),
    )
    text_configuration = forms.ChoiceField(
        label="Language",
        choices=TextConfiguration.choices,
        initial=TextConfiguration.ENGLISH,
        help_text="Decides which words count as the same. Choose Simple for mixed languages and for code.",
    )
    split_identifiers = forms.BooleanField(
        label="Holds source code",
        required=False,
        help_text="Also finds the parts of names such as readQuery and read_query.",
    )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        cleaned["slug"] = cleaned.get("slug") or slugify(cleaned.get("title", ""))[:64].strip("-_")
        return cleaned


class CollectionForm(forms.Form):
    """What can be changed without indexing again."""

    title = forms.CharField(label="Name", max_length=200)
    description = forms.CharField(
        label="Description", required=False, max_length=5_000, widget=forms.Textarea(attrs={"rows": 3})
    )


@requires(GET=Scope.QUERY, POST=Scope.INGEST)
@never_cache
def collection_list(request: HttpRequest) -> HttpResponse:
    """Every open collection with its figures, and the form for a new one."""
    principal = cast(Request, request).principal
    form = NewCollectionForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        try:
            if not principal.may_touch(form.cleaned_data["slug"]):
                raise Forbidden("You may not touch a collection of this name.")
            collection = create_collection(principal=principal, **form.cleaned_data)
        except (InvalidRequest, Unprocessable, Conflict, Forbidden) as problem:
            _add_faults(form, problem, otherwise="slug")
        else:
            messages.success(request, f"The collection “{collection.title}” is ready for documents.")
            return redirect("collections")
    context = {
        "section": "documents",
        "collections": summarize_collections(principal),
        "form": form,
        "may_ingest": principal.has_scope(Scope.INGEST),
        "may_administer": principal.has_scope(Scope.ADMIN),
        "default_collection": settings.RAG_DEFAULT_COLLECTION,
    }
    return render(request, "documents/collections.html", context, status=400 if form.errors else 200)


@requires(GET=Scope.INGEST, POST=Scope.INGEST)
@never_cache
def collection(request: HttpRequest, slug: str) -> HttpResponse:
    """One collection: rename and describe it."""
    principal = cast(Request, request).principal
    found = get_object_or_404(open_collections(principal), slug=slug)
    initial = {"title": found.title or found.slug, "description": found.description}
    form = CollectionForm(request.POST if request.method == "POST" else None, initial=initial)
    if form.is_bound and form.is_valid():
        try:
            update_collection(found, principal, **form.cleaned_data)
        except (InvalidRequest, Unprocessable) as problem:
            _add_faults(form, problem, otherwise="title")
        else:
            messages.success(request, "Saved.")
            return redirect("collection", slug)
    return _collection_page(request, found, form, status=400 if form.errors else 200)


@requires(POST=Scope.ADMIN)
def collection_delete(request: HttpRequest, slug: str) -> HttpResponse:
    """Delete the collection for good, if its slug was typed to confirm it."""
    principal = cast(Request, request).principal
    found = get_object_or_404(open_collections(principal), slug=slug)
    if request.POST.get("confirm", "").strip() != found.slug:
        form = CollectionForm(initial={"title": found.title or found.slug, "description": found.description})
        fault = f"That was not “{found.slug}”, so nothing was deleted."
        return _collection_page(request, found, form, status=400, confirm_fault=fault)
    delete_collection(found, principal)
    messages.success(request, f"The collection “{found.title or found.slug}” was deleted.")
    return redirect("collections")


def _collection_page(
    request: HttpRequest, found: Collection, form: CollectionForm, *, status: int, confirm_fault: str = ""
) -> HttpResponse:
    context = {
        "section": "documents",
        "collection": found,
        "form": form,
        "confirm_fault": confirm_fault,
        "may_administer": cast(Request, request).principal.has_scope(Scope.ADMIN),
    }
    return render(request, "documents/collection.html", context, status=status)


def _add_faults(form: forms.Form, problem: Problem, *, otherwise: str) -> None:
    """Put the service's faults beside the fields that they are about."""
    for name, fault in (problem.errors or {otherwise: problem.detail}).items():
        form.add_error(name if name in form.fields else None, fault)
