"""``SUPABASE_KEY``, from the environment or from a vault."""

from __future__ import annotations

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from ops.contracts.health import register_health_check
from ops.vault import Keeper, KvField, VaultReadError, read_kv, read_supabase_vault

NAME = "SUPABASE_KEY"

_keepers: list[Keeper] = []


def keeper() -> Keeper | None:
    """What holds the key of a vault; ``None`` where no vault is named, or the environment has the key itself."""
    if settings.SUPABASE_KEY or not (settings.VAULT_ADDR or settings.SUPABASE_VAULT_SECRET):
        return None
    if not _keepers:
        _keepers.append(_make())
    return _keepers[0]


def is_available() -> bool:
    """Whether there is a place to have the key from."""
    return bool(settings.SUPABASE_KEY) or keeper() is not None


def current() -> str:
    """The key in force. Raises `VaultReadError`."""
    held = keeper()
    return str(settings.SUPABASE_KEY) if held is None else held.current()


def start() -> None:
    """Read it and keep it fresh beside the requests of this process, where a vault has it."""
    if (held := keeper()) is not None:
        held.start()


def register() -> None:
    """Show it in ``/health/ready``, where a vault has it."""
    if (held := keeper()) is not None:
        register_health_check("vault", held.report, critical=False)


def forget() -> None:
    """Drop what was read: for tests that change settings."""
    while _keepers:
        _keepers.pop().stop()


def _make() -> Keeper:
    refresh_s = settings.VAULT_REFRESH_S
    if settings.VAULT_ADDR:
        wanted = KvField(
            settings.VAULT_ADDR,
            settings.VAULT_TOKEN,
            settings.VAULT_KV_MOUNT,
            settings.VAULT_KV_PATH,
            settings.VAULT_KV_FIELD,
            settings.VAULT_NAMESPACE,
            settings.VAULT_TIMEOUT_S,
        )
        return Keeper(NAME, str(wanted), lambda: read_kv(wanted), refresh_s)
    name = settings.SUPABASE_VAULT_SECRET
    return Keeper(NAME, f"Supabase Vault, secret {name}", lambda: _from_database(name), refresh_s)


def _from_database(name: str) -> str:
    """By a connection besides the pool, which a request may be waiting for."""
    parameters = connections[DEFAULT_DB_ALIAS].get_connection_params()
    for ours in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(ours, None)
    try:
        with psycopg.connect(**parameters, autocommit=True) as connection:
            return read_supabase_vault(connection, name)
    except psycopg.Error as error:
        raise VaultReadError(f"The database can't be reached for Supabase Vault ({type(error).__name__}).") from None
