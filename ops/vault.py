"""Secrets that a vault keeps: read at the start, held in memory, refreshed beside the requests, never logged.

Two vaults are known: the KV store, version 2, of HashiCorp Vault (and OpenBao), by `read_kv`; and Supabase Vault, a
view in the database itself, by `read_supabase_vault`. ``VAULT_ADDR`` is the operator's own, as every address in the
environment, so that it may lead into the private network; a redirect is not followed, as the token would go with it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hvac
import psycopg
import requests
from hvac.exceptions import Forbidden, InvalidPath, VaultDown, VaultError

from ops.contracts.health import Report, State

logger = logging.getLogger(__name__)

RETRY_S = 5.0
"""Between two tries while there is no value; a shorter refresh interval wins."""


class VaultReadError(Exception):
    """The secret can't be had. The message is one sentence, free of secrets, that says what to look at."""


@dataclass(frozen=True, slots=True)
class KvField:
    """One field of a secret in a KV store, version 2."""

    address: str
    token: str = field(repr=False)
    mount: str
    path: str
    field: str
    namespace: str | None = None
    timeout_s: float = 3.0

    def __str__(self) -> str:
        return f"Vault, {self.mount}/{self.path}, field {self.field}"


def read_kv(wanted: KvField) -> str:
    """The newest version's value. Raises `VaultReadError`."""
    with requests.Session() as session:
        session.trust_env = False
        client = hvac.Client(
            wanted.address,
            token=wanted.token,
            namespace=wanted.namespace,
            timeout=wanted.timeout_s,
            allow_redirects=False,
            session=session,
        )
        try:
            answer: Any = client.secrets.kv.v2.read_secret_version(
                path=wanted.path, mount_point=wanted.mount, raise_on_deleted_version=True
            )
            found = answer["data"]["data"].get(wanted.field)
        except (VaultError, requests.RequestException) as error:
            raise VaultReadError(_explained(error, wanted)) from None
        except (KeyError, TypeError, AttributeError, ValueError):
            raise VaultReadError("What VAULT_ADDR answered is no secret of a KV store, version 2.") from None
    if not isinstance(found, str) or not found:
        raise VaultReadError(f"{wanted.mount}/{wanted.path} in Vault has no text in the field {wanted.field}.")
    return found


def read_supabase_vault(connection: psycopg.Connection[Any], name: str) -> str:
    """The secret called ``name``. Raises `VaultReadError`."""
    try:
        row = connection.execute(
            "SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = %s", (name,)
        ).fetchone()
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable):
        raise VaultReadError("The database has no Supabase Vault (vault.decrypted_secrets).") from None
    except psycopg.errors.InsufficientPrivilege:
        raise VaultReadError("The database's role may not read vault.decrypted_secrets: grant it.") from None
    except psycopg.Error as error:
        raise VaultReadError(f"The database did not answer for Supabase Vault ({type(error).__name__}).") from None
    if row is None or not row[0]:
        raise VaultReadError(f"Supabase Vault has no secret called {name}.")
    return str(row[0])


class Keeper:
    """Holds one secret. ``read`` gets it anew, and may raise `VaultReadError`. Safe to use from several threads.

    Once `start`ed it reads every ``refresh_s`` on a thread of its own; a value that can't be refreshed stays in use.
    """

    def __init__(self, name: str, source: str, read: Callable[[], str], refresh_s: float) -> None:
        self._name = name
        self._source = source
        self._read = read
        self._refresh_s = refresh_s
        self._lock = threading.Lock()
        self._value: str | None = None
        self._read_at = 0.0
        self._fault = ""
        self._thread_of: int | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Read now and from then on, in this process. A second call does nothing."""
        with self._lock:
            if self._thread_of == os.getpid():
                return
            self._thread_of = os.getpid()
        threading.Thread(target=self._run, name=f"vault-{self._name}", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def current(self) -> str:
        """The value; read now if it never was and nobody does that beside. Raises `VaultReadError`."""
        if (value := self._value) is not None:
            return value
        with self._lock:
            if self._value is None and (self._thread_of != os.getpid() or not self._fault):
                self._read_now()
            if self._value is None:
                raise VaultReadError(f"{self._name} can't be had: {self._fault}")
            return self._value

    def refresh(self) -> None:
        """Read it now, whoever else does: one at a time."""
        with self._lock:
            self._read_now()

    def _read_now(self) -> None:
        try:
            found = self._read()
        except VaultReadError as error:
            if str(error) != self._fault:
                logger.warning("%s can't be read from %s: %s", self._name, self._source, error)
            self._fault = str(error)
            return
        if self._value is not None and found != self._value:
            logger.info("%s has changed in %s and is used from now on", self._name, self._source)
        self._value, self._fault, self._read_at = found, "", time.monotonic()

    def report(self) -> Report:
        """For ``/health/ready``. Reads only when that was never tried."""
        if self._value is None and not self._fault:
            self.refresh()
        if self._value is None:
            return Report(State.FAILED, f"{self._name} can't be had: {self._fault}")
        age = f"read {time.monotonic() - self._read_at:.0f} s ago"
        if self._fault:
            return Report(State.DEGRADED, f"{self._name}, {age}, stays in use: {self._fault}")
        return Report(State.OK, f"{self._name} from {self._source}, {age}")

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.refresh()
            except Exception:
                logger.exception("%s could not be refreshed", self._name)
            pause_s = self._refresh_s if not self._fault else min(RETRY_S, self._refresh_s)
            self._stopping.wait(pause_s)


def _explained(error: Exception, wanted: KvField) -> str:
    where = f"{wanted.mount}/{wanted.path}"
    if isinstance(error, Forbidden):
        return f"Vault refuses: VAULT_TOKEN has expired, or may not read {where}."
    if isinstance(error, InvalidPath):
        return f"Vault has nothing at {where}, or its newest version was deleted (VAULT_KV_MOUNT, VAULT_KV_PATH)."
    if isinstance(error, VaultDown):
        return "Vault is sealed or down: unseal it."
    if isinstance(error, requests.Timeout):
        return f"Vault did not answer within {wanted.timeout_s:g} s (VAULT_TIMEOUT_S)."
    if isinstance(error, requests.RequestException):
        return f"Vault can't be reached at VAULT_ADDR ({type(error).__name__})."
    return f"Vault answered with the error {type(error).__name__}."
