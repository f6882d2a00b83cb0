"""Visitors of the pages, and documents that went through real indexing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from pytest_django.fixtures import Settings

from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection, Document, IndexRun

AddDocuments = Callable[..., dict[str, Document]]
SignIn = Callable[..., Client]


@pytest.fixture(autouse=True)
def _pages(live_models: None, empty_cache: None) -> None:
    """Every page test has the shipped models and nothing cached."""


@pytest.fixture
def visitor() -> Client:
    """A browser on this machine while keys are off."""
    return Client(SERVER_NAME="127.0.0.1", headers={"Accept": "text/html"})


@pytest.fixture
def stranger(settings: Settings) -> Client:
    """A browser elsewhere that nobody has signed in."""
    settings.ENABLE_API_KEYS = True
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "zenglow.example"]
    return Client(SERVER_NAME="zenglow.example", REMOTE_ADDR="203.0.113.9", headers={"Accept": "text/html"})


@pytest.fixture
def sign_in(stranger: Client) -> SignIn:
    """Signs a new person in, elsewhere; ``groups`` are names of groups, ``is_staff`` makes an administrator."""

    def make(name: str = "mira", *, groups: tuple[str, ...] = (), is_staff: bool = False) -> Client:
        user = User.objects.create_user(name, password="correct horse battery", is_staff=is_staff)
        user.groups.set([Group.objects.get_or_create(name=group)[0] for group in groups])
        stranger.force_login(user)
        return stranger

    return make


@pytest.fixture
def add_documents() -> AddDocuments:
    """Indexes documents for good: ``add({"a.md": "text"}, collection="notes", external_url=…)``, by their id."""

    def add(
        contents: Mapping[str, str | bytes], *, collection: str = "default", **about: object
    ) -> dict[str, Document]:
        home, _ = Collection.objects.get_or_create(slug=collection)
        offers = [
            Offer(
                document_id=name,
                content=content.encode() if isinstance(content, str) else content,
                source=name,
                **about,
            )  # type: ignore[arg-type]
            for name, content in contents.items()
        ]
        work_off(start_run(home, offers, SYSTEM, "command", enqueue=False))
        return {document.document_id: document for document in home.documents.filter(document_id__in=contents)}

    return add


def work_off(run: IndexRun) -> IndexRun:
    """What a worker does."""
    while process_batch(run.id):
        pass
    run.refresh_from_db()
    return run
