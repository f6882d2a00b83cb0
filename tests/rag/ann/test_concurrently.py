"""Building with transactions of its own, as in production: nobody waits, and a dead builder leaves nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import Error as DatabaseFault
from django.db import connection, connections

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Conflict
from rag.ann import configs, indexes
from rag.models import AnnConfig, AnnState
from rag.pipeline.snapshot import resolve
from tests.patience import PATIENCE_S
from tests.rag.ann.support import run, subject

pytestmark = pytest.mark.usefixtures("live_models")


@pytest.fixture
def no_indexes_left(transactional_db: None) -> Iterator[None]:
    """Emptying the tables between tests leaves their indexes."""
    yield
    for name in indexes.existing():
        indexes.drop(name)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_indexes_left")
class TestConcurrently:
    """With transactions of its own, as in production."""

    def test_searching_and_writing_go_on_while_an_index_is_built(self) -> None:
        collection, space = subject("bees", 6)
        config = configs.propose(collection, space, {}, by=SYSTEM)
        built = threading.Event()
        failures: list[BaseException] = []

        def build() -> None:
            try:
                configs.build(AnnConfig.objects.get(pk=config.pk))
            except BaseException as error:
                failures.append(error)
            finally:
                built.set()
                connections.close_all()

        with connection.cursor() as cursor:
            # An open transaction that wrote to the table: the build has to wait for its end, nobody else has.
            cursor.execute("BEGIN; LOCK doc_embeddings IN ROW EXCLUSIVE MODE")
            builder = threading.Thread(target=build)
            builder.start()
            with beside() as other:
                other.execute("SELECT FROM pg_stat_progress_create_index")
                while other.fetchone() is None:
                    other.execute("SELECT FROM pg_stat_progress_create_index")
                assert indexes.is_being_built(config.index_name)
                other.execute("SET lock_timeout = '60s'")
                other.execute("SELECT count(*) FROM doc_embeddings WHERE collection_id = %s", [collection.id])
                assert other.fetchone() == (6,)
                other.execute("UPDATE doc_embeddings SET space_id = space_id WHERE collection_id = %s", [collection.id])
            with pytest.raises(Conflict, match="being built already"):
                configs.build(AnnConfig.objects.get(pk=config.pk))
            cursor.execute("COMMIT")
        assert built.wait(PATIENCE_S)
        builder.join()
        assert failures == []
        assert AnnConfig.objects.get(pk=config.pk).state == AnnState.READY

    def test_a_killed_builder_leaves_the_live_one_and_the_next_command_clears_up(self) -> None:
        collection, space = subject("bees", 6)
        live = configs.build(configs.propose(collection, space, {}, by=SYSTEM))
        configs.activate(live, by=SYSTEM, force=True)
        config = configs.propose(collection, space, {"m": 8}, by=SYSTEM)
        faults: list[BaseException] = []

        def build() -> None:
            """What a process does that is killed: it notes nothing of its end."""
            try:
                indexes.create(AnnConfig.objects.get(pk=config.pk))
            except DatabaseFault as error:
                faults.append(error)
            finally:
                connection.close()

        with connection.cursor() as cursor:
            cursor.execute("BEGIN; LOCK doc_embeddings IN ROW EXCLUSIVE MODE")
            builder = threading.Thread(target=build)
            builder.start()
            with beside() as other:
                waiting = "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'"
                other.execute(waiting)
                while (building := other.fetchone()) is None:
                    other.execute(waiting)
                other.execute("SELECT pg_terminate_backend(%s)", building)
            builder.join(PATIENCE_S)
            cursor.execute("COMMIT")
        assert len(faults) == 1
        assert indexes.existing() == sorted([live.index_name, config.index_name])
        assert indexes.size_bytes(config.index_name) is None
        assert resolve("bees", SYSTEM).snapshot.ann.config_id == live.pk
        run("list")
        config.refresh_from_db()
        assert config.state == AnnState.FAILED
        assert indexes.existing() == [live.index_name]
        assert indexes.size_bytes(live.index_name)


@contextmanager
def beside() -> Iterator[Any]:
    """A cursor of another connection."""
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            yield cursor
    finally:
        other.close()
