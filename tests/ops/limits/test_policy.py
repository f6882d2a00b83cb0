"""Who is limited, by how much, and what a refusal says."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import cast

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from ops.access import Access
from ops.contracts.principal import ANONYMOUS, Principal, PrincipalKind, Scope
from ops.limits import buckets, policy
from ops.limits.policy import REFUSALS
from tests.ops.test_middleware import assert_problem
from zenglow_site.environment import limits_enabled

pytestmark = [pytest.mark.urls("tests.ops.probe_urls"), pytest.mark.django_db]


@pytest.fixture
def limited(settings: Settings, keys_on: None, empty_cache: None) -> Settings:
    """Limits that regain nothing while a test runs, and that nobody has drawn on."""
    settings.RATE_LIMITS = True
    for holder in ("KEY", "USER", "IP"):
        setattr(settings, f"OPS_RATE_LIMIT_{holder}_BURST", 1000)
        setattr(settings, f"OPS_RATE_LIMIT_{holder}_PER_S", 1e-6)
    return settings


def test_a_key_is_refused_after_its_burst_and_told_when_to_come_back(
    limited: Settings, remote: Client, key_with: Callable[..., str]
) -> None:
    limited.OPS_RATE_LIMIT_KEY_BURST = 3
    limited.OPS_RATE_LIMIT_KEY_PER_S = 0.001
    headers = {"x-api-key": key_with(Scope.QUERY)}
    counted = REFUSALS.labels("key", "http")._value.get()
    answers = [remote.get("/rag/echo", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    body = assert_problem(answers[-1], 429)
    assert body["violated-policies"] == ["key"]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 1000
    assert REFUSALS.labels("key", "http")._value.get() == counted + 1
    assert remote.get("/rag/echo", headers={"x-api-key": key_with(Scope.QUERY)}).status_code == 200


def test_the_log_says_whom_a_limit_refused(
    limited: Settings, remote: Client, key_with: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    limited.OPS_RATE_LIMIT_KEY_BURST = 1
    key = key_with(Scope.QUERY)
    with caplog.at_level(logging.INFO, logger="zenglow.request"):
        answers = [remote.get("/rag/echo", headers={"x-api-key": key}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    lines = [cast(dict[str, object], one.msg) for one in caplog.records if one.name == "zenglow.request"]
    assert [line["principal"] for line in lines] == [f"key:{key.split('_')[1]}"] * 2


def test_every_answer_says_what_is_left(limited: Settings, remote: Client, key_with: Callable[..., str]) -> None:
    """Structured fields of the IETF draft, of a granted and of a refused request alike."""
    limited.OPS_RATE_LIMIT_KEY_BURST, limited.OPS_RATE_LIMIT_KEY_PER_S = 2, 0.01
    headers = {"x-api-key": key_with(Scope.QUERY)}
    answers = [remote.get("/rag/echo", headers=headers) for _ in range(3)]
    for answer, left in zip(answers, (1, 0, 0), strict=True):
        assert answer.headers["RateLimit-Policy"].startswith('"key";q=2;w=200, "ip";q=1000;w=')
        members = dict(re.findall(r'"(\w+)";r=(\d+);t=\d+', answer.headers["RateLimit"]))
        assert members["key"] == str(left)
    assert re.search(r'"key";r=1;t=100,', answers[0].headers["RateLimit"])


def test_a_person_is_limited_wherever_signed_in(limited: Settings, remote: Client, person: User) -> None:
    limited.OPS_RATE_LIMIT_USER_BURST = 2
    remote.force_login(person)
    assert [remote.get("/rag/echo").status_code for _ in range(3)] == [200, 200, 429]
    assert remote.get("/rag/echo", REMOTE_ADDR="203.0.113.10").status_code == 429


def test_an_address_is_limited_whatever_keys_it_has(
    limited: Settings, remote: Client, key_with: Callable[..., str]
) -> None:
    limited.OPS_RATE_LIMIT_IP_BURST = 3
    answers = [remote.get("/rag/echo", headers={"x-api-key": key_with(Scope.QUERY)}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["violated-policies"] == ["ip"]


def test_guessing_keys_costs_the_address_dearly(
    limited: Settings, remote: Client, key_with: Callable[..., str]
) -> None:
    limited.OPS_RATE_LIMIT_IP_BURST = 25
    wrong = [remote.get("/rag/echo", headers={"x-api-key": f"zg_{n}"}).status_code for n in range(3)]
    assert wrong == [401, 401, 429]
    assert remote.get("/rag/echo", headers={"x-api-key": key_with(Scope.QUERY)}).status_code == 200


def test_strangers_are_limited_as_well(limited: Settings, remote: Client) -> None:
    limited.OPS_RATE_LIMIT_IP_BURST = 2
    assert [remote.get("/rag/echo").status_code for _ in range(3)] == [401, 401, 429]


def test_a_caller_behind_a_trusted_proxy_is_limited_alone(limited: Settings, remote: Client) -> None:
    limited.OPS_RATE_LIMIT_IP_BURST = 1
    limited.OPS_TRUSTED_PROXIES = ("203.0.113.9",)
    for caller in ("198.51.100.1", "198.51.100.2"):
        headers = {"x-forwarded-for": caller}
        assert [remote.get("/rag/echo", headers=headers).status_code for _ in range(2)] == [401, 429]


def test_what_watches_the_server_is_not_limited(
    limited: Settings, remote: Client, key_with: Callable[..., str]
) -> None:
    limited.OPS_RATE_LIMIT_IP_BURST = 1
    headers = {"x-api-key": key_with(Scope.OPS_READ)}
    for path in ("/metrics/basic", "/health/live", "/metrics/basic", "/health/live"):
        assert remote.get(path, headers=headers).status_code == 200


def test_without_limits_nothing_is_said_of_them(keys_off: None, local: Client, settings: Settings) -> None:
    settings.RATE_LIMITS = False
    settings.OPS_RATE_LIMIT_IP_BURST = 1
    answers = [local.get("/rag/echo") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert "RateLimit" not in answers[0].headers


def test_a_view_says_what_it_costs() -> None:
    class Dear:
        required_scopes = {"POST": Access.ANYBODY}
        rate_costs = {"POST": 10.0}

    assert policy.cost_of(Dear(), "POST") == 10
    assert policy.cost_of(Dear(), "GET") == policy.DEFAULT_COST


@pytest.mark.parametrize(
    ("address", "holder"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", ""),
    ],
)
def test_one_customer_of_ipv6_is_one_holder(address: str, holder: str) -> None:
    assert policy.address_holder(address) == holder


def test_a_key_and_a_user_of_the_same_name_have_nothing_in_common() -> None:
    key = Principal(PrincipalKind.API_KEY, "7", frozenset({Scope.QUERY}))
    user = Principal(PrincipalKind.USER, "7", frozenset({Scope.QUERY}), user_id=7)
    of_key, of_user, of_nobody = (
        {bucket.key for bucket in policy.buckets_of(principal, "")} for principal in (key, user, ANONYMOUS)
    )
    assert of_key
    assert of_user
    assert not of_key & of_user
    assert not of_nobody
    assert buckets.take([]).is_granted


@pytest.mark.parametrize(
    ("stage", "host", "chosen", "is_on"),
    [
        ("local", "127.0.0.1", None, False),
        ("local", "0.0.0.0", None, True),
        ("local", "0.0.0.0", "false", False),
        ("local", "127.0.0.1", "true", True),
        ("prod", "127.0.0.1", None, True),
        ("staging", "127.0.0.1", None, True),
    ],
)
def test_limits_are_on_where_others_reach_the_server(stage: str, host: str, chosen: str | None, is_on: bool) -> None:
    from ops.contracts.env import load

    names = {"ZENGLOW_ENV": stage, "ZENGLOW_HOST": host, "OPS_RATE_LIMITS": chosen or ""}
    assert limits_enabled(load(names)) is is_on
