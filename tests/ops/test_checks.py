from __future__ import annotations

import pytest
from django.core.checks import run_checks
from pytest_django.fixtures import Settings

from ops.checks import check_anonymous_access, check_every_route_declares_its_scope, check_log_format
from ops.contracts.env import declared, load


@pytest.mark.urls("tests.ops.probe_urls")
def test_e001_names_each_route_that_declares_no_scope() -> None:
    found = check_every_route_declares_its_scope(None)
    assert [(one.id, one.msg.split(" ")[0]) for one in found] == [
        ("ops.E001", "/rag/forgotten"),
        ("ops.E001", "/page/forgotten/"),
    ]


def test_e001_finds_nothing_on_the_site() -> None:
    assert check_every_route_declares_its_scope(None) == []


def test_w001_warns_when_everybody_is_let_in(settings: Settings) -> None:
    settings.ALLOW_ANONYMOUS = False
    assert check_anonymous_access(None) == []
    settings.ALLOW_ANONYMOUS = True
    assert [one.id for one in check_anonymous_access(None)] == ["ops.W001"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ({}, []),
        ({"ZENGLOW_ENV": "prod"}, []),
        ({"ZENGLOW_ENV": "prod", "OPS_LOG_FORMAT": "auto"}, []),
        ({"ZENGLOW_ENV": "prod", "OPS_LOG_FORMAT": "console"}, ["ops.W002"]),
    ],
)
def test_w002_warns_of_a_log_that_no_machine_reads(settings: Settings, names: dict[str, str], ids: list[str]) -> None:
    settings.ENVIRONMENT = load(names, variables=declared())
    assert [one.id for one in check_log_format(None)] == ids


def test_they_run_with_the_deployment_checks() -> None:
    ids = {one.id for one in run_checks(include_deployment_checks=True)}
    assert "ops.E001" not in ids
