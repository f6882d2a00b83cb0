"""Callers of each kind: somebody at this machine, somebody elsewhere, holders of keys, people who signed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.instrumentation import batch


@pytest.fixture(autouse=True)
def _held_writers() -> Iterator[None]:
    """Nothing is written behind a test's back, and no key is remembered from the test before."""
    keys.forget_verifications()
    keys.last_used_writer()
    batch.hold_all()
    yield
    keys.forget_verifications()


@pytest.fixture
def keys_on(settings: Settings) -> None:
    settings.ENABLE_API_KEYS = True
    settings.ALLOW_ANONYMOUS = False


@pytest.fixture
def keys_off(settings: Settings) -> None:
    settings.ENABLE_API_KEYS = False
    settings.ALLOW_ANONYMOUS = False


@pytest.fixture
def local() -> Client:
    """A program on this machine."""
    return Client(SERVER_NAME="127.0.0.1", raise_request_exception=False)


@pytest.fixture
def remote(settings: Settings) -> Client:
    """A program on another machine."""
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "zenglow.example"]
    return Client(SERVER_NAME="zenglow.example", REMOTE_ADDR="203.0.113.9", raise_request_exception=False)


@pytest.fixture
def key_with(db: None) -> Callable[..., str]:
    """Makes a key with the given scopes and returns its text."""

    def make(*scopes: Scope) -> str:
        return keys.create_key("test", scopes, actor=SYSTEM).text

    return make


@pytest.fixture
def person(db: None) -> User:
    return User.objects.create_user("ada", password="a long password for ada")
