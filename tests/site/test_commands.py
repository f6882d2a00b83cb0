"""The commands that every start goes through, and the stores by themselves."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import override_settings

from models_registry.models import Deployment, FusionWeights
from ops.contracts.principal import SYSTEM
from rag.collections import create_collection
from rag.ingest import runs, service
from rag.ingest.folders import FolderOffers
from rag.models import Collection, Document, IndexRun, RunState
from rag.pipeline.query import SearchRequest
from rag.pipeline.search import search
from tests.serving import Zenglow
from zenglow_site.celery import app
from zenglow_site.embedded.server import State
from zenglow_site.management.commands import prepare, starter


def run_command(name: str) -> str:
    output = io.StringIO()
    call_command(name, stdout=output, stderr=io.StringIO())
    return output.getvalue()


class TestFirstAdmin:
    @pytest.mark.django_db
    def test_it_makes_an_account_that_can_sign_in_and_shows_its_password_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            output = run_command("first_admin")
        found = re.search(r"Administrator: (\S+)\n +Password: +(\S+)\n", output)
        assert found is not None
        name, password = found.groups()
        user = authenticate(username=name, password=password)
        assert isinstance(user, User)
        assert user.is_superuser
        assert len(password) >= 16
        assert password not in caplog.text
        assert run_command("first_admin") == ""
        assert User.objects.count() == 1

    @pytest.mark.django_db
    def test_it_leaves_an_administrator_under_another_name_alone(self) -> None:
        User.objects.create_superuser("ida", password="correct horse battery staple")
        assert run_command("first_admin") == ""
        assert not User.objects.filter(username="admin").exists()


class TestPrepare:
    @pytest.mark.usefixtures("live_models")
    def test_a_new_installation_can_be_searched_from_the_first_second_on(self, tmp_path: Path) -> None:
        with override_settings(STATIC_ROOT=tmp_path / "static"):
            run_command("prepare")
        answer = search(SearchRequest("owls"), SYSTEM)
        assert (answer["collection"], answer["results"], answer["degraded"]) == ("default", [], [])

    @pytest.mark.usefixtures("live_models")
    def test_where_there_is_another_collection_none_is_added(self, tmp_path: Path) -> None:
        create_collection("papers", SYSTEM)
        with override_settings(STATIC_ROOT=tmp_path / "static"):
            run_command("prepare")
        assert [collection.slug for collection in Collection.objects.all()] == ["papers"]

    @pytest.mark.usefixtures("live_models")
    def test_it_says_nothing_when_there_is_nothing_to_do(self, tmp_path: Path) -> None:
        User.objects.create_superuser("ida", password="correct horse battery staple")
        before = (Deployment.objects.count(), FusionWeights.objects.count())
        with override_settings(STATIC_ROOT=tmp_path / "static"):
            assert run_command("prepare") == "Collecting static files …\n"
            (tmp_path / "static" / "css" / "zenglow.css").unlink()
            assert run_command("prepare") == ""
            assert not (tmp_path / "static" / "css" / "zenglow.css").exists(), "it was not even looked at"
        assert (Deployment.objects.count(), FusionWeights.objects.count()) == before

    def test_it_collects_again_when_a_source_file_is_new(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "one.css").write_text("a{}")
        with override_settings(STATIC_ROOT=tmp_path / "static", STATICFILES_DIRS=[source]):
            first = prepare._fingerprint()
            assert prepare._fingerprint() == first
            (source / "two.css").write_text("b{}")
            assert prepare._fingerprint() != first


@pytest.fixture
def queue(embedded_stack: object) -> Iterator[None]:
    app.control.purge()
    yield
    app.control.purge()


@pytest.mark.usefixtures("live_models", "queue")
class TestStarter:
    @pytest.fixture(autouse=True)
    def _small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two documents instead of the whole project, and no long wait for a worker that doesn't exist here."""
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "one.md").write_text("# One\n\nFusion weights are rolled back with one command.")
        (tmp_path / "docs" / "two.md").write_text("# Two\n\nEvery stage is timed.")
        monkeypatch.setattr(starter, "BASE_DIR", tmp_path)
        monkeypatch.setattr(starter, "ATTEMPTS_TO_REACH_A_WORKER", 1)

    def test_it_indexes_once(self) -> None:
        output = run_command("starter")
        assert "2 added · 0 changed · 0 removed · 0 unchanged · 0 failed" in output
        assert set(Document.objects.values_list("document_id", flat=True)) == {"docs/one.md", "docs/two.md"}
        collection = Collection.objects.get()
        assert (collection.slug, collection.split_identifiers) == ("default", True)
        assert run_command("starter") == ""
        assert IndexRun.objects.count() == 1

    def test_it_stays_away_where_people_have_begun_with_something_else(self) -> None:
        create_collection("handbook", SYSTEM)
        assert run_command("starter") == ""
        assert not IndexRun.objects.exists()

    def test_it_stays_away_where_the_default_collection_is_in_use(self) -> None:
        collection = create_collection("default", SYSTEM)
        run = runs.create_run(collection, "ida", "api")
        runs.open_run(run)
        assert run_command("starter") == ""
        assert IndexRun.objects.count() == 1

    def test_it_goes_on_with_what_was_cut_off_in_the_middle(self, tmp_path: Path) -> None:
        collection = create_collection("default", SYSTEM, split_identifiers=True)
        offers = FolderOffers([tmp_path / "docs"])
        run = service.start_run(collection, offers, SYSTEM, starter.ORIGIN, roots=offers.roots, enqueue=False)
        output = run_command("starter")
        assert "goes on" in output
        assert "2 added" in output
        run.refresh_from_db()
        assert run.state == RunState.FINISHED
        assert IndexRun.objects.count() == 1

    def test_it_begins_again_when_it_was_cut_off_before_it_knew_what_to_do(self) -> None:
        runs.create_run(create_collection("default", SYSTEM), SYSTEM.name, starter.ORIGIN)
        assert "2 added" in run_command("starter")
        assert Document.objects.count() == 2

    def test_an_interruption_leaves_the_run_to_the_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*arguments: object, **keywords: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(service, "process_batch", interrupt)
        run_command("starter")
        assert IndexRun.objects.get().state == RunState.RUNNING


@pytest.mark.faults
class TestStack:
    def test_it_starts_shows_and_stops_the_stores(self, make_zenglow: Callable[..., Zenglow]) -> None:
        zenglow = make_zenglow(is_new=True)
        before = zenglow.run("stack", "status")
        assert before.returncode == 0
        assert [line.split()[:3] for line in before.stdout.splitlines()] == [
            ["PostgreSQL", "down", "-"],
            ["Redis", "down", "-"],
        ]
        for _ in range(2):
            started = zenglow.run("stack", "start")
            assert started.returncode == 0, started.stderr
            assert [line.split()[:3] for line in started.stdout.splitlines()] == [
                ["PostgreSQL", "up", str(zenglow.stack.postgres.process_id())],
                ["Redis", "up", str(zenglow.stack.redis.process_id())],
            ]
        for _ in range(2):
            assert zenglow.run("stack", "stop").returncode == 0
            assert [status.state for status in zenglow.stack.status()] == [State.DOWN, State.DOWN]
        assert zenglow.family() == []

    def test_a_command_on_a_database_without_tables_says_what_to_do(self, make_zenglow: Callable[..., Zenglow]) -> None:
        zenglow = make_zenglow(is_new=True)
        refused = zenglow.run("apikey", "create", "first", "--scope", "query")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "run manage.py migrate (or make run)" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert zenglow.run("stack", "stop").returncode == 0

    def test_there_is_none_in_the_service_profile(self, make_zenglow: Callable[..., Zenglow]) -> None:
        zenglow = make_zenglow(
            is_new=True,
            DATABASE_URL="postgres://zenglow@127.0.0.1:1/zenglow",
            REDIS_HOST="127.0.0.1",
            REDIS_PORT="1",
            ZENGLOW_SECRET_KEY="s" * 50,
        )
        refused = zenglow.run("stack", "start")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == "CommandError: DATABASE_URL is set: this installation has no embedded stack.\n"
