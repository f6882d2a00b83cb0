from __future__ import annotations

import math

import pytest
from django.db import IntegrityError, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models_registry import weights
from models_registry.models import Deployment, FusionWeights
from ops.contracts.principal import Principal
from ops.contracts.problems import Forbidden, InvalidRequest, NotFound
from ops.models import AuditEvent

usable = st.floats(min_value=0, max_value=weights.MAXIMUM)


@given(ltr=st.floats(), conceptual=st.floats())
def test_weights_are_either_usable_or_refused_with_a_named_field(ltr: float, conceptual: float) -> None:
    acceptable = all(math.isfinite(x) and 0 <= x <= weights.MAXIMUM for x in (ltr, conceptual)) and ltr + conceptual > 0
    if acceptable:
        assert weights.propose(ltr, conceptual) == weights.ProposedWeights(ltr, conceptual)
    else:
        with pytest.raises(InvalidRequest) as refusal:
            weights.propose(ltr, conceptual)
        assert set(refusal.value.errors) <= {"ltr", "conceptual"}
        assert refusal.value.errors


@pytest.mark.parametrize(
    ("ltr", "conceptual", "errors"),
    [
        (-0.1, 1, {"ltr": "must not be negative"}),
        (1, math.nan, {"conceptual": "must be a finite number"}),
        (math.inf, -1, {"ltr": "must be a finite number", "conceptual": "must not be negative"}),
        (0, 0, {"ltr": "must not be 0 when the conceptual weight is 0 too"}),
        (1, 1_000_001, {"conceptual": "must be at most 1e+06"}),
    ],
)
def test_it_says_what_is_wrong_with_each_weight(ltr: float, conceptual: float, errors: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        weights.propose(ltr, conceptual)
    assert refusal.value.errors == errors


@pytest.mark.django_db
@given(ltr=usable, conceptual=usable)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
def test_every_usable_pair_survives_the_database_and_normalizes(
    operator: Principal, ltr: float, conceptual: float
) -> None:
    if ltr + conceptual == 0:
        return
    created = weights.create_version(weights.propose(ltr, conceptual), by=operator)
    stored = weights.find_version(created.version)
    assert (stored.ltr, stored.conceptual) == (ltr, conceptual)
    assert math.isclose(sum(stored.normalized), 1)
    assert all(0 <= share <= 1 for share in stored.normalized)


@pytest.mark.django_db
@pytest.mark.parametrize(("ltr", "conceptual"), [(0, 0), (-1, 2), (math.inf, 1), (math.nan, 1), (1, math.nan)])
def test_the_table_itself_refuses_weights_that_cannot_be_used(ltr: float, conceptual: float) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        FusionWeights.objects.create(ltr=ltr, conceptual=conceptual, author="x", reason="x")


@pytest.mark.django_db
def test_a_version_keeps_its_author_and_reason_and_is_audited(operator: Principal) -> None:
    created = weights.create_version(weights.propose(0.7, 0.3), by=operator, reason="more learning")
    assert (created.author, created.reason) == ("olga", "more learning")
    event = AuditEvent.objects.get()
    assert (event.action, event.target) == ("weights.create", f"weights/{created.version}")
    assert event.details == {"ltr": 0.7, "conceptual": 0.3, "reason": "more learning"}


@pytest.mark.django_db
def test_a_refused_change_leaves_no_version_behind(reader: Principal) -> None:
    with pytest.raises(Forbidden):
        weights.change(weights.propose(0.7, 0.3), by=reader)
    assert not FusionWeights.objects.exists()
    assert not Deployment.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("number", [-1, 0, 12345678, 2**31, 2**63])
def test_it_says_that_a_version_is_not_there(number: int) -> None:
    with pytest.raises(NotFound, match=str(number)):
        weights.find_version(number)
