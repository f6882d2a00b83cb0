"""Whether somebody takes the work, where Redis comes and goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from rag.management import indexing
from tests.embedded.support import temporary_place
from tests.patience import eventually
from zenglow_site.embedded.redis import EmbeddedRedis

pytestmark = pytest.mark.faults


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedRedis]:
    """A Redis of the test's own, which is asked for workers; there are none."""
    with temporary_place() as place:
        own = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
        own.ensure()
        monkeypatch.setattr(indexing, "current_app", Celery(broker=own.celery_url(1), set_as_current=False))
        yield own
        own.stop()


def test_nobody_does_where_redis_has_gone_since_it_was_last_asked(broker: EmbeddedRedis) -> None:
    assert not indexing.worker_answers()
    broker.stop()
    assert not indexing.worker_answers()


def test_nobody_does_where_redis_goes_while_it_is_waited_for(
    broker: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "WORKER_ANSWER_S", 30.0)
    answers: list[bool | BaseException] = []

    def ask() -> None:
        try:
            answers.append(indexing.worker_answers())
        except BaseException as error:
            answers.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    with redis.Redis.from_url(broker.url(0)) as client:
        eventually(lambda: any(one["cmd"] == "brpop" for one in client.client_list()))
    broker.stop()
    asking.join()
    assert answers == [False]
