from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from models_registry import artifacts, deployments, versions, weights
from models_registry.models import Deployment, FusionWeights, ModelKind, ModelVersion, Slot, VersionStatus
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Conflict, Forbidden, NotFound, PreconditionFailed, Unprocessable
from ops.models import AuditEvent
from tests.models_registry.conftest import at_once

pytestmark = pytest.mark.django_db

MakeVersion = Callable[..., ModelVersion]


def new_weights(ltr: float = 0.6) -> FusionWeights:
    return weights.create_version(weights.propose(ltr, 1 - ltr), by=SYSTEM)


def live_thing(slot: Slot, scope: str = "global") -> ModelVersion | FusionWeights | None:
    row = Deployment.objects.filter(slot=slot, scope=scope, ended_at=None).first()
    return None if row is None else row.model_version or row.weights


def test_it_makes_a_version_live_and_ends_the_one_before(operator: Principal, make_version: MakeVersion) -> None:
    first, second = make_version(content=b"one"), make_version(content=b"two")
    deployments.activate(Slot.LTR, first, by=operator, reason="start")
    row = deployments.activate(Slot.LTR, second, by=operator, reason="better on papers")

    ended, live = Deployment.objects.order_by("id")
    assert live == row
    assert (live.model_version, live.by, live.reason, live.ended_at) == (second, "olga", "better on papers", None)
    assert (ended.model_version, ended.ended_at) == (first, live.started_at)


def test_it_leaves_what_is_live_already_as_it_is(operator: Principal, make_version: MakeVersion) -> None:
    version = make_version()
    row = deployments.activate(Slot.LTR, version, by=operator)
    assert deployments.activate(Slot.LTR, version, by=operator) == row
    assert Deployment.objects.count() == 1
    assert AuditEvent.objects.filter(action="deployment.activate").count() == 1


def test_it_records_who_changed_what_and_why(operator: Principal, make_version: MakeVersion) -> None:
    deployments.activate(Slot.LTR, make_version(content=b"one"), by=operator)
    deployments.activate(Slot.LTR, make_version(content=b"two"), by=operator, reason="better")

    event = AuditEvent.objects.filter(action="deployment.activate").latest("id")
    assert event.target == "global/ltr"
    assert event.details == {"reason": "better", "before": "ranker@1", "after": "ranker@2"}


def test_a_collection_can_have_its_own_of_everything(
    operator: Principal, make_version: MakeVersion, collections: set[str]
) -> None:
    ranker, embedder = make_version(), make_version("encoder", b"onnx", ModelKind.EMBEDDER)
    deployments.activate(Slot.LTR, ranker, by=operator)
    deployments.activate(Slot.EMBEDDER, embedder, "papers", by=operator)
    deployments.activate(Slot.WEIGHTS, new_weights(), "manuals", by=operator)

    places = {(row.scope, row.slot) for row in deployments.live()}
    assert places == {("global", "ltr"), ("papers", "embedder"), ("manuals", "weights")}


def test_it_refuses_a_thing_in_a_slot_of_another_kind(operator: Principal, make_version: MakeVersion) -> None:
    ranker, embedder = make_version(), make_version("encoder", b"onnx", ModelKind.EMBEDDER)
    for slot, thing in (
        (Slot.EMBEDDER, ranker),
        (Slot.LTR, embedder),
        (Slot.WEIGHTS, ranker),
        (Slot.LTR, new_weights()),
    ):
        with pytest.raises(Unprocessable, match="slot"):
            deployments.activate(slot, thing, by=operator)
    assert not Deployment.objects.exists()


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_broken_file_leaves_the_running_version_in_service(
    operator: Principal, make_version: MakeVersion, content: bytes | None
) -> None:
    good, broken = make_version(content=b"one"), make_version(content=b"two")
    deployments.activate(Slot.LTR, good, by=operator)
    path = artifacts.local_path(broken.artifacts["model"])
    path.unlink() if content is None else path.write_bytes(content)

    with pytest.raises(Unprocessable, match="ranker@2 can't be used"):
        deployments.activate(Slot.LTR, broken, by=operator)

    assert live_thing(Slot.LTR) == good


def test_it_refuses_whoever_may_not(
    reader: Principal, limited_operator: Principal, collections: set[str], store: Path
) -> None:
    row = new_weights()
    for principal, scope in ((reader, "global"), (limited_operator, "global"), (limited_operator, "papers")):
        with pytest.raises(Forbidden):
            deployments.activate(Slot.WEIGHTS, row, scope, by=principal)
        with pytest.raises(Forbidden):
            deployments.rollback(Slot.WEIGHTS, scope, by=principal)
        with pytest.raises(Forbidden):
            deployments.deactivate(Slot.WEIGHTS, scope, by=principal)
    deployments.activate(Slot.WEIGHTS, row, "manuals", by=limited_operator)
    assert live_thing(Slot.WEIGHTS, "manuals") == row


def test_it_refuses_a_collection_that_does_not_exist(operator: Principal, collections: set[str]) -> None:
    with pytest.raises(NotFound, match="paperz"):
        deployments.activate(Slot.WEIGHTS, new_weights(), "paperz", by=operator)


def test_deactivating_an_override_brings_the_global_choice_back(operator: Principal, collections: set[str]) -> None:
    general, own = new_weights(0.6), new_weights(0.9)
    deployments.activate(Slot.WEIGHTS, general, by=operator)
    deployments.activate(Slot.WEIGHTS, own, "papers", by=operator)
    assert deployments.effective(Slot.WEIGHTS, "papers").weights == own  # type: ignore[union-attr]

    deployments.deactivate(Slot.WEIGHTS, "papers", by=operator)

    assert deployments.effective(Slot.WEIGHTS, "papers").weights == general  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="papers"):
        deployments.deactivate(Slot.WEIGHTS, "papers", by=operator)


def test_the_global_scope_is_never_emptied(operator: Principal) -> None:
    deployments.activate(Slot.WEIGHTS, new_weights(), by=operator)
    with pytest.raises(Unprocessable):
        deployments.deactivate(Slot.WEIGHTS, "global", by=operator)


def test_rolling_back_restores_the_one_before_and_again_undoes_it(operator: Principal) -> None:
    first, second, third = new_weights(0.1), new_weights(0.2), new_weights(0.3)
    for row in (first, second, third):
        deployments.activate(Slot.WEIGHTS, row, by=operator)

    deployments.rollback(Slot.WEIGHTS, by=operator, reason="worse")
    assert live_thing(Slot.WEIGHTS) == second
    deployments.rollback(Slot.WEIGHTS, by=operator)
    assert live_thing(Slot.WEIGHTS) == third
    assert Deployment.objects.count() == 5


def test_rolling_back_a_first_override_removes_it_and_again_restores_it(
    operator: Principal, collections: set[str]
) -> None:
    own = new_weights(0.9)
    deployments.activate(Slot.WEIGHTS, own, "papers", by=operator)

    assert deployments.rollback(Slot.WEIGHTS, "papers", by=operator) is None
    assert live_thing(Slot.WEIGHTS, "papers") is None

    deployments.rollback(Slot.WEIGHTS, "papers", by=operator)
    assert live_thing(Slot.WEIGHTS, "papers") == own

    # Before this override there was a time without one, although an older override exists.
    assert deployments.rollback(Slot.WEIGHTS, "papers", by=operator) is None


@pytest.mark.parametrize("scope", ["global", "papers"])
def test_it_says_when_there_is_nothing_to_roll_back(operator: Principal, collections: set[str], scope: str) -> None:
    if scope == "global":
        deployments.activate(Slot.WEIGHTS, new_weights(), by=operator)
    with pytest.raises(Conflict, match="no earlier"):
        deployments.rollback(Slot.WEIGHTS, scope, by=operator)


def test_rolling_back_to_a_version_with_a_broken_file_changes_nothing(
    operator: Principal, make_version: MakeVersion
) -> None:
    first, second = make_version(content=b"one"), make_version(content=b"two")
    for version in (first, second):
        deployments.activate(Slot.LTR, version, by=operator)
    artifacts.local_path(first.artifacts["model"]).write_bytes(b"damaged")

    with pytest.raises(Unprocessable):
        deployments.rollback(Slot.LTR, by=operator)
    assert live_thing(Slot.LTR) == second


def test_it_answers_what_was_live_at_any_time(operator: Principal) -> None:
    rows = [deployments.activate(Slot.WEIGHTS, new_weights(ltr), by=operator) for ltr in (0.1, 0.2)]
    for row in rows:
        assert list(deployments.live_at(row.started_at)) == [row]
    instant_before = rows[1].started_at - timedelta(microseconds=1)
    assert list(deployments.live_at(instant_before)) == [rows[0]]
    assert not deployments.live_at(rows[0].started_at - timedelta(microseconds=1)).exists()
    assert list(deployments.live_at(timezone.now() + timedelta(days=1))) == [rows[1]]


def test_a_clock_that_went_back_does_not_break_the_history(operator: Principal) -> None:
    first = deployments.activate(Slot.WEIGHTS, new_weights(0.1), by=operator)
    future = timezone.now() + timedelta(hours=1)
    Deployment.objects.filter(pk=first.pk).update(started_at=future)

    second = deployments.activate(Slot.WEIGHTS, new_weights(0.2), by=operator)

    first.refresh_from_db()
    assert first.ended_at == second.started_at == future
    assert list(deployments.live_at(future)) == [second]
    deployments.rollback(Slot.WEIGHTS, by=operator)
    assert live_thing(Slot.WEIGHTS) == first.weights


def test_a_refused_precondition_changes_nothing(operator: Principal) -> None:
    first = deployments.activate(Slot.WEIGHTS, new_weights(0.1), by=operator)

    def refuse(current: Deployment | None) -> None:
        assert current == first
        raise PreconditionFailed("no")

    for change in (
        lambda: deployments.activate(Slot.WEIGHTS, new_weights(0.2), by=operator, precondition=refuse),
        lambda: deployments.rollback(Slot.WEIGHTS, by=operator, precondition=refuse),
    ):
        with pytest.raises(PreconditionFailed):
            change()
    assert list(deployments.live()) == [first]


def test_the_table_itself_refuses_a_second_live_row(operator: Principal) -> None:
    row = deployments.activate(Slot.WEIGHTS, new_weights(), by=operator)
    row.pk = None
    row._state.adding = True
    with pytest.raises(IntegrityError, match="registry_one_live_deployment"), transaction.atomic():
        row.save()


@pytest.mark.django_db(transaction=True)
def test_concurrent_writers_leave_one_live_and_a_history_without_gaps(operator: Principal) -> None:
    rows = [new_weights(ltr / 10) for ltr in range(8)]

    def change(row: FusionWeights) -> Callable[[], Any]:
        return lambda: deployments.activate(Slot.WEIGHTS, row, by=operator)

    results = at_once(*[change(row) for row in rows])

    assert all(isinstance(result, Deployment) for result in results), results
    history = list(Deployment.objects.order_by("started_at", "id"))
    assert len(history) == 8
    assert [row.ended_at for row in history[:-1]] == [row.started_at for row in history[1:]]
    assert history[-1].ended_at is None


@pytest.mark.django_db(transaction=True)
def test_only_one_of_two_that_expect_the_same_wins(operator: Principal) -> None:
    seen = deployments.activate(Slot.WEIGHTS, new_weights(), by=operator)

    def expects_seen(current: Deployment | None) -> None:
        if current != seen:
            raise PreconditionFailed("lost")

    def change(ltr: float) -> Callable[[], Any]:
        return lambda: weights.change(weights.propose(ltr, 1), by=operator, precondition=expects_seen)

    results = at_once(*[change(ltr) for ltr in (1, 2, 3, 4)])

    assert [type(result) for result in results].count(Deployment) == 1
    assert [type(result) for result in results].count(PreconditionFailed) == 3
    # The losers' versions are not left behind.
    assert FusionWeights.objects.count() == 2


class TestTrials:
    """A version shows that it works before it goes live."""

    @pytest.fixture
    def picky(self, trials: dict[Slot, deployments.Trial]) -> dict[str, str]:
        """Labels of versions that don't work, and why."""
        faults: dict[str, str] = {}

        def try_out(version: ModelVersion) -> None:
            if fault := faults.get(str(version)):
                raise Unprocessable(fault)

        trials[Slot.LTR] = try_out
        return faults

    def test_a_broken_version_is_marked_and_leaves_the_live_one_in_service(
        self, operator: Principal, make_version: MakeVersion, picky: dict[str, str]
    ) -> None:
        good, bad = make_version(content=b"one"), make_version(content=b"two")
        deployments.activate(Slot.LTR, good, by=operator)
        picky["ranker@2"] = "It has no trees."
        with pytest.raises(Unprocessable, match="no trees"):
            deployments.activate(Slot.LTR, bad, by=operator, force=True)
        bad.refresh_from_db()
        assert (bad.status, bad.status_detail) == ("failed", "It has no trees.")
        assert live_thing(Slot.LTR) == good

        del picky["ranker@2"]
        deployments.activate(Slot.LTR, bad, by=operator)
        bad.refresh_from_db()
        assert (bad.status, bad.status_detail) == ("ready", "")

    def test_a_damaged_file_shows_as_failed(self, operator: Principal, make_version: MakeVersion, store: Path) -> None:
        version = make_version()
        next(path for path in (store / "artifacts").rglob("*") if path.is_file()).write_bytes(b"half")
        with pytest.raises(Unprocessable, match="not well"):
            deployments.activate(Slot.LTR, version, by=operator)
        version.refresh_from_db()
        assert version.status == "failed"
        assert "another content" in version.status_detail

    def test_going_back_to_a_broken_version_is_refused_and_marks_it(
        self, operator: Principal, make_version: MakeVersion, picky: dict[str, str]
    ) -> None:
        first, second = make_version(content=b"one"), make_version(content=b"two")
        deployments.activate(Slot.LTR, first, by=operator)
        deployments.activate(Slot.LTR, second, by=operator)
        picky["ranker@1"] = "It has no trees."
        with pytest.raises(Unprocessable):
            deployments.rollback(Slot.LTR, by=operator)
        first.refresh_from_db()
        assert first.status == "failed"
        assert live_thing(Slot.LTR) == second

    def test_a_missing_version_is_refused(self, operator: Principal, make_version: MakeVersion) -> None:
        version = make_version()
        versions.set_status(version, VersionStatus.MISSING, "The server no longer lists it.")
        with pytest.raises(Unprocessable, match="no longer lists it"):
            deployments.activate(Slot.LTR, version, by=operator)
        version.refresh_from_db()
        assert version.status == "missing"
