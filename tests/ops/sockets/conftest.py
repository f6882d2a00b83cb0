"""What the sockets' application began when it was imported ends before the tests' database goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from models_registry.live import view


@pytest.fixture(autouse=True, scope="session")
def _nobody_follows_a_database_that_goes(django_db_setup: None) -> Iterator[None]:
    yield
    view.reset()
