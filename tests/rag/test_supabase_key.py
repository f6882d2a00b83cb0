"""``SUPABASE_KEY`` from a vault: a real HTTP server that speaks KV version 2, and a real schema ``vault``."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from django.core.checks import run_checks
from django.core.management import CommandError
from django.db import connection
from pytest_django.fixtures import Settings

from ops.contracts.env import ConfigurationError, load
from ops.contracts.health import State
from ops.vault import Keeper, KvField, VaultReadError, read_kv, read_supabase_vault
from rag import supabase_key
from rag.pipeline import retrieval
from rag.pipeline.retrieval import check_retrieval
from tests.patience import PATIENCE_S, eventually
from tests.rag.retrieval.postgrest import KEY, PostgREST, running
from tests.serving import free_port
from zenglow_site.environment import checked
from zenglow_site.management.commands.prepare import Command

TOKEN = "hvs.a-token-of-the-tests"


class KvServer:
    """HashiCorp Vault's ``GET /v1/secret/data/zenglow``: answers as its HTTP API is documented, or as told."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {"SUPABASE_KEY": KEY}
        self.answer: tuple[int, str] | None = None
        """Status and body to answer instead."""
        self.release = threading.Event()
        self.release.set()
        self.requests = 0
        self.url = ""

    def respond(self, path: str, token: str | None) -> tuple[int, str]:
        self.requests += 1
        self.release.wait(PATIENCE_S)
        if self.answer is not None:
            return self.answer
        if token != TOKEN:
            return 403, '{"errors":["permission denied"]}'
        if path != "/v1/secret/data/zenglow":
            return 404, '{"errors":[]}'
        metadata = {"version": 1, "deletion_time": "", "destroyed": False}
        return 200, json.dumps({"data": {"data": self.fields, "metadata": metadata}})


@contextmanager
def serving(vault: KvServer) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = vault.respond(self.path, self.headers.get("X-Vault-Token"))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 307:
                self.send_header("Location", f"{vault.url}/v1/elsewhere")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: Any) -> None:
            """Not to the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    vault.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        vault.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def vault() -> Iterator[KvServer]:
    server = KvServer()
    with serving(server):
        yield server


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    supabase_key.forget()
    retrieval.forget()
    yield
    supabase_key.forget()
    retrieval.forget()


@pytest.fixture
def from_vault(vault: KvServer, settings: Settings) -> KvServer:
    settings.SUPABASE_KEY = None
    settings.VAULT_ADDR, settings.VAULT_TOKEN, settings.VAULT_TIMEOUT_S = vault.url, TOKEN, PATIENCE_S
    return vault


def wanted(vault: KvServer, **changes: Any) -> KvField:
    given: dict[str, Any] = {
        "mount": "secret",
        "path": "zenglow",
        "field": "SUPABASE_KEY",
        "timeout_s": PATIENCE_S,
        "token": TOKEN,
    }
    return KvField(address=vault.url, **given | changes)


class TestKv:
    def test_it_reads_the_field(self, vault: KvServer) -> None:
        assert read_kv(wanted(vault)) == KEY

    @pytest.mark.parametrize(
        ("status", "body", "told"),
        [
            (403, '{"errors":["permission denied"]}', "VAULT_TOKEN has expired, or may not read secret/zenglow"),
            (404, '{"errors":[]}', "nothing at secret/zenglow"),
            (503, '{"errors":["Vault is sealed"]}', "sealed"),
            (500, '{"errors":["oops"]}', "InternalServerError"),
            (307, "", "no secret of a KV store"),
            (200, "<html>", "no secret of a KV store"),
            (200, '{"data":{"SUPABASE_KEY":"of version 1"}}', "no secret of a KV store"),
        ],
    )
    def test_it_says_what_is_wrong(self, vault: KvServer, status: int, body: str, told: str) -> None:
        vault.answer = (status, body)
        with pytest.raises(VaultReadError, match=told) as caught:
            read_kv(wanted(vault))
        assert vault.requests == 1  # a redirect would take the token along
        assert TOKEN not in str(caught.value)

    def test_it_says_that_the_field_is_missing(self, vault: KvServer) -> None:
        for fields in ({}, {"SUPABASE_KEY": ""}, {"SUPABASE_KEY": 7}):
            vault.fields = fields
            with pytest.raises(VaultReadError, match="no text in the field SUPABASE_KEY"):
                read_kv(wanted(vault))

    def test_it_does_not_wait_for_ever(self, vault: KvServer) -> None:
        vault.release.clear()
        with pytest.raises(VaultReadError, match=r"did not answer within 0\.1 s"):
            read_kv(wanted(vault, timeout_s=0.1))

    def test_it_says_that_nobody_is_there(self, vault: KvServer) -> None:
        nowhere = KvField(f"http://127.0.0.1:{free_port()}", TOKEN, "secret", "zenglow", "SUPABASE_KEY")
        with pytest.raises(VaultReadError, match="can't be reached at VAULT_ADDR"):
            read_kv(nowhere)

    def test_its_token_is_not_shown(self, vault: KvServer) -> None:
        assert TOKEN not in repr(wanted(vault)) + str(wanted(vault))


@pytest.mark.django_db
class TestSupabaseVault:
    @pytest.fixture
    def database(self) -> psycopg.Connection[Any]:
        connection.ensure_connection()
        own: psycopg.Connection[Any] = connection.connection
        return own

    @pytest.fixture
    def _schema(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA vault")
            cursor.execute("CREATE TABLE vault.secrets (name text, secret text)")
            cursor.execute(
                "CREATE VIEW vault.decrypted_secrets AS SELECT name, secret, reverse(secret) AS decrypted_secret"
                " FROM vault.secrets"
            )
            cursor.execute("INSERT INTO vault.secrets VALUES ('indexer', %s)", [KEY[::-1]])

    @pytest.mark.usefixtures("_schema")
    def test_it_reads_the_secret(self, database: psycopg.Connection[Any]) -> None:
        assert read_supabase_vault(database, "indexer") == KEY

    @pytest.mark.usefixtures("_schema")
    def test_it_says_that_there_is_none_of_the_name(self, database: psycopg.Connection[Any]) -> None:
        with pytest.raises(VaultReadError, match="no secret called other"):
            read_supabase_vault(database, "other")

    @pytest.mark.usefixtures("_schema")
    def test_it_says_that_it_may_not(self, database: psycopg.Connection[Any]) -> None:
        with connection.cursor() as cursor:
            cursor.execute("REVOKE ALL ON vault.decrypted_secrets FROM CURRENT_USER")
        with pytest.raises(VaultReadError, match="may not read"):
            read_supabase_vault(database, "indexer")

    def test_it_says_that_there_is_no_such_vault(self, settings: Settings) -> None:
        settings.SUPABASE_KEY, settings.SUPABASE_VAULT_SECRET = None, "indexer"
        with pytest.raises(VaultReadError, match=r"SUPABASE_KEY can't be had: .* no Supabase Vault"):
            supabase_key.current()


class TestKeeper:
    def test_it_keeps_the_last_value_while_the_vault_is_away(self, from_vault: KvServer) -> None:
        held = supabase_key.keeper()
        assert held is not None
        assert held.current() == held.current() == KEY
        assert from_vault.requests == 1
        assert held.report().state is State.OK
        from_vault.answer = (503, '{"errors":["Vault is sealed"]}')
        held.refresh()
        assert held.current() == KEY
        report = held.report()
        assert (report.state, "stays in use: Vault is sealed" in report.detail) == (State.DEGRADED, True)
        from_vault.answer, from_vault.fields = None, {"SUPABASE_KEY": "turned"}
        held.refresh()
        assert (held.current(), held.report().state) == ("turned", State.OK)

    def test_it_refreshes_by_itself(self, vault: KvServer) -> None:
        keeper = Keeper("SUPABASE_KEY", "Vault", lambda: read_kv(wanted(vault)), refresh_s=0.01)
        keeper.start()
        try:
            eventually(lambda: keeper.report().state is State.OK)
            vault.fields = {"SUPABASE_KEY": "turned"}
            eventually(lambda: keeper.current() == "turned")
        finally:
            keeper.stop()

    def test_a_request_does_not_wait_for_a_vault_that_failed(self, vault: KvServer) -> None:
        vault.answer = (403, '{"errors":[]}')
        keeper = Keeper("SUPABASE_KEY", "Vault", lambda: read_kv(wanted(vault)), refresh_s=3600)
        keeper.refresh()
        keeper._thread_of = os.getpid()  # as if its thread were between two tries
        asked = vault.requests
        with pytest.raises(VaultReadError, match="VAULT_TOKEN"):
            keeper.current()
        assert (vault.requests, keeper.report().state) == (asked, State.FAILED)

    def test_nothing_secret_is_logged(self, from_vault: KvServer, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        held = supabase_key.keeper()
        assert held is not None
        held.current()
        from_vault.fields = {"SUPABASE_KEY": "turned-key"}
        held.refresh()
        from_vault.answer = (403, '{"errors":["permission denied"]}')
        held.refresh()
        assert "SUPABASE_KEY has changed" in caplog.text
        for secret in (TOKEN, KEY, "turned-key"):
            assert secret not in caplog.text + held.report().detail

    def test_the_environment_comes_first(self, from_vault: KvServer, settings: Settings) -> None:
        settings.SUPABASE_KEY = "of the environment"
        assert (supabase_key.current(), supabase_key.keeper(), from_vault.requests) == ("of the environment", None, 0)


@pytest.mark.django_db
class TestRetrieval:
    @pytest.fixture
    def supabase(self, from_vault: KvServer, settings: Settings) -> Iterator[PostgREST]:
        with running() as server:
            settings.RAG_RETRIEVAL_MODE, settings.SUPABASE_URL = "supabase_rpc", server.url
            yield server

    def test_a_turned_key_is_used_without_a_restart(self, from_vault: KvServer, supabase: PostgREST) -> None:
        from_vault.fields = {"SUPABASE_KEY": "withdrawn"}
        assert "refuses SUPABASE_KEY" in check_retrieval().detail
        from_vault.fields = {"SUPABASE_KEY": KEY}
        held = supabase_key.keeper()
        assert held is not None
        held.refresh()
        assert "refuses" not in check_retrieval().detail
        assert run_checks() == []

    def test_the_server_does_not_start_without_it(self, from_vault: KvServer, supabase: PostgREST) -> None:
        from_vault.answer = (503, '{"errors":["Vault is sealed"]}')
        with pytest.raises(CommandError) as caught:
            Command()._check_retrieval()
        assert (caught.value.returncode, str(caught.value)) == (
            2,
            "SUPABASE_KEY can't be had: Vault is sealed or down: unseal it.",
        )
        report = check_retrieval()
        assert (report.state, "Vault is sealed" in report.detail) == (State.DEGRADED, True)

    def test_the_server_starts_without_it_where_it_is_not_needed(
        self, from_vault: KvServer, settings: Settings
    ) -> None:
        from_vault.answer = (503, '{"errors":["Vault is sealed"]}')
        Command()._check_retrieval()
        assert from_vault.requests == 0


class TestEnvironment:
    def test_a_vault_stands_in_for_the_key(self) -> None:
        supabase = {"SUPABASE_URL": "https://abc.supabase.co"}
        with pytest.raises(ConfigurationError, match="SUPABASE_KEY is missing"):
            checked(load(supabase))
        checked(load({**supabase, "SUPABASE_VAULT_SECRET": "indexer"}))
        checked(load({**supabase, "VAULT_ADDR": "https://vault.example", "VAULT_TOKEN": TOKEN}))
        with pytest.raises(ConfigurationError, match="VAULT_TOKEN is missing"):
            checked(load({"VAULT_ADDR": "https://vault.example"}))
