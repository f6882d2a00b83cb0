"""When a failing server is tried again, when it is left alone, and how it comes back."""

from __future__ import annotations

import pytest

from rag.pipeline.remote.guard import ATTEMPTS, CircuitBreaker, Guard
from rag.pipeline.retrieval import RetrievalError


class Passing(Exception):
    pass


class Lasting(Exception):
    pass


class Server:
    """Fails with each of ``faults`` in turn, then answers."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return "answer"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> Guard:
    return Guard(
        "The server",
        explain=lambda error: f"It fails: {type(error).__name__}." if isinstance(error, Passing | Lasting) else None,
        is_passing=lambda error: isinstance(error, Passing),
        patience_s=30,
        breaker=CircuitBreaker(5, failures=2, clock=clock),
    )


def test_a_passing_fault_is_tried_again(guard: Guard) -> None:
    server = Server(Passing(), Passing())
    assert guard.call(server) == "answer"
    assert server.calls == 3


def test_it_gives_up_after_some_attempts(guard: Guard) -> None:
    server = Server(*[Passing()] * 10)
    with pytest.raises(RetrievalError, match="It fails: Passing"):
        guard.call(server)
    assert server.calls == ATTEMPTS


def test_a_lasting_fault_is_not_tried_again(guard: Guard) -> None:
    server = Server(Lasting())
    with pytest.raises(RetrievalError, match="It fails: Lasting"):
        guard.call(server)
    assert server.calls == 1


def test_a_mistake_of_ours_is_no_fault_of_the_server(guard: Guard) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            guard.call(lambda: 1 / 0)
    assert guard.call(Server()) == "answer"


def fail(guard: Guard, times: int) -> None:
    for _ in range(times):
        with pytest.raises(RetrievalError):
            guard.call(Server(Lasting()))


def test_after_failures_in_a_row_the_server_is_left_alone(guard: Guard, clock: Clock) -> None:
    fail(guard, 2)
    server = Server()
    clock.now = 4.9
    with pytest.raises(RetrievalError, match=r"left alone for some seconds, as it failed: It fails: Lasting\."):
        guard.call(server)
    assert server.calls == 0


def test_one_call_tries_whether_it_is_back(guard: Guard, clock: Clock) -> None:
    fail(guard, 2)
    clock.now = 5
    beside = Server()

    def trial() -> str:
        with pytest.raises(RetrievalError, match="left alone"):
            guard.call(beside)
        return "back"

    assert guard.call(trial) == "back"
    assert guard.call(beside) == "answer"


def test_a_trial_that_fails_keeps_it_open(guard: Guard, clock: Clock) -> None:
    fail(guard, 2)
    clock.now = 5
    fail(guard, 1)
    clock.now = 9.9
    server = Server()
    with pytest.raises(RetrievalError, match="left alone"):
        guard.call(server)
    clock.now = 10
    assert guard.call(server) == "answer"


def test_failures_that_are_not_in_a_row_do_not_open_it(guard: Guard) -> None:
    for _ in range(5):
        fail(guard, 1)
        assert guard.call(Server()) == "answer"


def test_a_health_check_asks_although_it_is_open_and_closes_it(guard: Guard) -> None:
    fail(guard, 2)
    assert guard.ask(Server()) == "answer"
    assert guard.call(Server()) == "answer"
