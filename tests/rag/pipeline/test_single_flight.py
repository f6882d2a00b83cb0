"""Equal questions at once: how many computations they cost, in one process and in several, and who shares what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from ops.instrumentation.snapshot import SNAPSHOT
from rag.models import Collection
from rag.pipeline import cache, search, single_flight
from rag.pipeline.cache import Entry
from rag.pipeline.query import SearchRequest
from rag.pipeline.search import search as run_search
from tests.patience import PATIENCE_S
from tests.rag.pipeline.support import Text, fill

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine: nobody gives up waiting, and no claim ends by itself."""
    monkeypatch.setattr(single_flight, "CLAIM_S", PATIENCE_S)
    monkeypatch.setattr(single_flight, "WAIT_S", PATIENCE_S)


class Computation:
    """Counts how often it is run; each run ends when it is told to."""

    def __init__(self, answer: bytes | None = b"answer") -> None:
        self.answer = answer
        self.runs = 0
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self._lock = threading.Lock()

    def __call__(self) -> bytes | None:
        with self._lock:
            self.runs += 1
        self.begun.set()
        assert self.go_on.wait(PATIENCE_S)
        if self.answer is not None:
            cache.put(Entry("full", "key", self.answer, 3600))
        return self.answer


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(110) as pool:
        yield pool


def followers(callers: ThreadPoolExecutor, ask: Callable[[], Any], count: int) -> list[Future[Any]]:
    """Ask from so many threads; returns when every one of them has begun."""
    begun = threading.Barrier(count + 1)

    def follow() -> Any:
        begun.wait(PATIENCE_S)
        return ask()

    futures = [callers.submit(follow) for _ in range(count)]
    begun.wait(PATIENCE_S)
    return futures


def test_who_asks_while_an_answer_is_computed_shares_it(callers: ThreadPoolExecutor) -> None:
    compute = Computation()
    leader = callers.submit(single_flight.share, "key", compute)
    assert compute.begun.wait(PATIENCE_S)
    others = followers(callers, lambda: single_flight.share("key", compute), 99)
    compute.go_on.set()
    assert leader.result(PATIENCE_S) is None  # it knows its own answer
    # One that came so late that all was over computes again, and finds the claim and then the answer in the cache.
    assert [other.result(PATIENCE_S) for other in others] == [b"answer"] * 99
    assert compute.runs == 1
    assert single_flight._flights == {}


def test_another_question_does_not_wait(callers: ThreadPoolExecutor) -> None:
    slow, quick = Computation(), Computation(answer=None)
    leader = callers.submit(single_flight.share, "key", slow)
    assert slow.begun.wait(PATIENCE_S)
    quick.go_on.set()
    assert single_flight.share("another key", quick) is None
    assert quick.runs == 1
    slow.go_on.set()
    leader.result(PATIENCE_S)


def test_what_may_not_be_shared_is_shared_with_nobody_and_leaves_no_claim(callers: ThreadPoolExecutor) -> None:
    compute = Computation(answer=None)
    leader = callers.submit(single_flight.share, "key", compute)
    assert compute.begun.wait(PATIENCE_S)
    others = followers(callers, lambda: single_flight.share("key", compute), 5)
    compute.go_on.set()
    assert [future.result(PATIENCE_S) for future in (leader, *others)] == [None] * 6
    assert cache.claim("key", 60)


def test_an_error_ends_the_flight_and_reaches_the_one_who_computed(callers: ThreadPoolExecutor) -> None:
    def fail() -> bytes | None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        single_flight.share("key", fail)
    assert single_flight._flights == {}
    assert cache.claim("key", 60)


def test_another_processs_answer_is_waited_for(callers: ThreadPoolExecutor) -> None:
    assert cache.claim("key", PATIENCE_S)  # as the other process does
    compute = Computation()
    waiting = callers.submit(single_flight.share, "key", compute)
    cache.put(Entry("full", "key", b"theirs", 3600))
    assert waiting.result(PATIENCE_S) == b"theirs"
    assert compute.runs == 0


def test_a_process_that_died_over_its_computation_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_flight, "CLAIM_S", 0.2)
    assert cache.claim("key", 0.2)
    compute = Computation()
    compute.go_on.set()
    assert single_flight.share("key", compute) is None
    assert compute.runs == 1


def test_without_redis_each_process_computes_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Computation(answer=None)
    compute.go_on.set()
    monkeypatch.setattr(cache, "_skip_until", float("inf"))  # as after a failed call
    assert single_flight.share("key", compute) is None
    assert compute.runs == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("live_models")
class TestSearch:
    @pytest.fixture
    def asked(self) -> Callable[[], dict[str, Any]]:
        collection = Collection.objects.create(slug="flight")
        fill(collection, {"bees": Text("Bees dance to show the way."), "tax": Text("Tax is due in January.")})
        view.expire()

        def ask() -> dict[str, Any]:
            try:
                return run_search(SearchRequest(query="how do bees dance", collection="flight"), SYSTEM)
            finally:
                connection.close()

        return ask

    def test_a_hundred_equal_questions_at_once_cost_one_computation(
        self, asked: Callable[[], dict[str, Any]], callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs: list[str] = []
        score = search.score

        def counted(query: str, *rest: Any) -> Any:
            runs.append(query)
            return score(query, *rest)

        monkeypatch.setattr(search, "score", counted)
        before = SNAPSHOT.cache_lookups().get("full", {}).get("hit", {})
        answers = [future.result(PATIENCE_S) for future in followers(callers, asked, 100)]
        assert runs == ["how do bees dance"]
        assert len({answer["request_id"] for answer in answers}) == 100
        assert {str(answer["results"]) for answer in answers} == {str(answers[0]["results"])}
        assert sorted(answer["cache"] for answer in answers) == ["full"] * 99 + ["none"]
        after = SNAPSHOT.cache_lookups()["full"]["hit"]
        assert sum(after.values()) - sum(before.values()) == 99

    def test_misses_say_why(self, asked: Callable[[], dict[str, Any]]) -> None:
        def missed() -> dict[str, int]:
            return SNAPSHOT.cache_lookups()["full"]["miss"]

        asked()
        before = missed()
        asked()
        assert missed() == before
        Collection.objects.filter(slug="flight").update(generation=77)
        asked()
        assert missed().get("documents", 0) == before.get("documents", 0) + 1
        Collection.objects.filter(slug="flight").update(access_epoch=77)
        asked()
        assert missed().get("access", 0) == before.get("access", 0) + 1
