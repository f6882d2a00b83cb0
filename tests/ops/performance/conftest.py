"""A database on a server that has TimescaleDB: the tests' own, or the one of ``ZENGLOW_TEST_TIMESCALE_URL``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections
from environ import Env
from pytest_django import DjangoDbBlocker

NAME = "zenglow_test_timescale"


@pytest.fixture
def timescale_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The default connection leads to a migrated database with the extension, which goes afterwards."""
    with django_db_blocker.unblock():
        usual = connections["default"]
        other = usual.copy("default")
        if url := os.environ.get("ZENGLOW_TEST_TIMESCALE_URL"):
            server = Env.db_url_config(url)
            other.settings_dict |= {key: server.get(key, "") for key in ("HOST", "PORT", "USER", "PASSWORD")}
            other.settings_dict["OPTIONS"] = {
                key: value for key, value in other.settings_dict["OPTIONS"].items() if key != "pool"
            }
        other.settings_dict["NAME"] = "postgres"
        parameters = other.get_connection_params()
        with psycopg.connect(
            **{key: parameters[key] for key in ("host", "port", "user", "password", "dbname") if parameters.get(key)},
            autocommit=True,
        ) as server_connection:
            found = server_connection.execute(
                "SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"
            ).fetchone()
            if not found or not found[0]:
                pytest.skip("no TimescaleDB: set ZENGLOW_TEST_TIMESCALE_URL to a server that has it")
            server_connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
            server_connection.execute(f"CREATE DATABASE {NAME}")
            other.settings_dict["NAME"] = NAME
            connections["default"] = other
            try:
                call_command("migrate", "ops", verbosity=0)
                yield
            finally:
                connections["default"] = usual
                other.close()
                server_connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
