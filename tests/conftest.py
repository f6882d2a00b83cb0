"""The stores that every test uses: the real embedded PostgreSQL and Redis, and the models that ship."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.core.cache import cache
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pytest_django import DjangoDbBlocker

from models_registry import deployments, seeding, serving
from models_registry.live import view
from models_registry.models import GLOBAL_SCOPE, Deployment, Slot
from ops.instrumentation.batch import forget_all, hold_all
from rag.embedders import export_embedder, read_folder, register_embedder
from rag.pipeline import cache as pipeline_cache
from rag.pipeline import snapshot
from rag.pipeline.answer_memory import memory as answer_memory
from rag.pipeline.lexical import counted
from rag.pipeline.passages import memory
from rag.pipeline.postings import held_postings
from rag.pipeline.resident import resident
from rag.seeding import PACKAGED_EMBEDDER, packaged_embedder_folder
from rag.spaces import space_of
from tests.sessions import end_other_sessions
from zenglow_site.embedded.stack import EmbeddedStack

# An example that takes long on a busy machine is no fault, and neither are slowly made examples.
hypothesis_settings.register_profile(
    "zenglow", hypothesis_settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("zenglow")


@pytest.fixture(scope="session")
def embedded_stack() -> EmbeddedStack:
    """The running stack of the tests' data folder. It is left running: the next test run finds it warm."""
    stack = EmbeddedStack(settings.ZENGLOW_DATA_DIR)
    stack.ensure()
    return stack


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    embedded_stack: EmbeddedStack, django_db_modify_db_settings_parallel_suffix: None
) -> None:
    """Start the stores before pytest-django makes this process's database."""


@pytest.fixture(scope="session")
def exported_embedder() -> Path:
    """The packaged embedder as ONNX: exported once for all test processes and runs on this data folder."""
    folder = settings.ZENGLOW_DATA_DIR / "exported-embedder"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (settings.ZENGLOW_DATA_DIR / "exported-embedder.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "export.json").exists():
            export_embedder(read_folder(str(packaged_embedder_folder()), PACKAGED_EMBEDDER), folder)
    return folder


@pytest.fixture(scope="session")
def django_db_setup(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, exported_embedder: Path
) -> Iterator[None]:
    """This process's database holds the live models from the start; a test's own transaction sees them.

    A session that some thread of an ended test still holds must not keep the database from being dropped.
    """
    with django_db_blocker.unblock():
        seed_models(exported_embedder)
    yield
    with django_db_blocker.unblock():
        end_other_sessions()


def seed_models(exported: Path) -> None:
    """What `manage.py seed` does, with the export that the tests share."""
    register_embedder(PACKAGED_EMBEDDER, exported, "tests")
    seeding.seed(lambda line: None)
    view.expire()
    # Its row must outlast the test that first needs it, as processes remember its id.
    space_of(view.model(Slot.EMBEDDER, GLOBAL_SCOPE))


@pytest.fixture
def live_models(db: None, exported_embedder: Path) -> None:
    """The shipped models, live. A test with transactions of its own empties the tables: then they are seeded again."""
    if not Deployment.objects.exists():
        seed_models(exported_embedder)
    view.expire()


@pytest.fixture
def untried_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions go live without showing that they work, as when a file is damaged later."""
    monkeypatch.setattr(deployments, "_trials", {})


@pytest.fixture(autouse=True, scope="session")
def _rows_are_written_on_request() -> Iterator[None]:
    """No thread writes beside a test's transaction; a test that wants the rows calls ``flush``."""
    hold_all()
    yield
    forget_all()


@pytest.fixture(autouse=True)
def loaders(monkeypatch: pytest.MonkeyPatch) -> dict[Slot, serving.Loader]:
    """The real ones, which are taken away: what becomes live answers at once, and no thread loads beside a test."""
    real = dict(serving._loaders)
    monkeypatch.setattr(serving, "_loaders", {})
    return real


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """A test that is undone leaves its collections' generations as they were, with other words in them."""
    counted.forget()
    held_postings.forget()
    memory.forget()
    answer_memory.forget()
    resident.forget()
    snapshot._last_read.clear()


def forget_cached() -> None:
    """Empty this process's memory and its own part of Redis: ``clear`` would empty that of the others beside it too."""
    cache.delete_pattern("*")  # type: ignore[attr-defined]
    answer_memory.forget()


@pytest.fixture
def empty_cache(embedded_stack: EmbeddedStack) -> Iterator[None]:
    """Nothing is cached before and after, and Redis is not left alone for an earlier fault."""
    pipeline_cache._skip_until = 0.0
    forget_cached()
    yield
    forget_cached()
