"""The one reading of the environment, shared by settings, the launcher and the commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

# Each import declares its app's variables.
import models_registry.conf  # noqa: F401
import ops.conf  # noqa: F401
import rag.conf  # noqa: F401
import zenglow_site.conf  # noqa: F401
from ops.contracts.env import Environment, limit_library_threads, load, warn_of_deprecations
from zenglow_site.database import database_parameters

limit_library_threads()

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY_CHARACTERS = 50
"""Fewest that a signing secret has; Django's own deployment check wants as many."""

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


@cache
def environment() -> Environment:
    """The validated environment of this process. Raises one `ConfigurationError` that names every fault."""
    return checked(load(dotenv=BASE_DIR / ".env"))


def checked(loaded: Environment) -> Environment:
    """The same, once it is known to be usable and a warning was given of every old name in it."""
    loaded = replace(loaded, errors=(*loaded.errors, *_faults(loaded)))
    loaded.raise_for_errors()
    warn_of_deprecations(loaded)
    return loaded


def is_embedded(loaded: Environment) -> bool:
    """Whether this process uses the embedded PostgreSQL and Redis."""
    return loaded["DATABASE_URL"] is None


def is_reachable(loaded: Environment) -> bool:
    """Whether somebody on another machine may reach the server."""
    return not is_embedded(loaded) or loaded["ZENGLOW_HOST"] not in LOOPBACK_HOSTS


def keys_enabled(loaded: Environment) -> bool:
    """Whether every request needs a key or a signed-in user."""
    if loaded["ZENGLOW_ALLOW_ANONYMOUS"] and loaded["ENABLE_API_KEYS"] is not True:
        return False
    explicit = loaded["ENABLE_API_KEYS"]
    return bool(is_reachable(loaded) if explicit is None else explicit)


def _faults(loaded: Environment) -> Iterator[str]:
    """What no variable says by itself."""
    url, secret = loaded["DATABASE_URL"], loaded["ZENGLOW_SECRET_KEY"]
    if url is not None:
        try:
            database_parameters(url)
        except ValueError as error:
            yield f"DATABASE_URL {error}"
    if secret is not None and len(secret) < SECRET_KEY_CHARACTERS:
        yield (
            f"ZENGLOW_SECRET_KEY is too short: it needs {SECRET_KEY_CHARACTERS} characters or more. "
            """Make one with: python3 -c "import secrets; print(secrets.token_urlsafe(64))\""""
        )
    if loaded["ENABLE_API_KEYS"] is False and is_reachable(loaded) and not loaded["ZENGLOW_ALLOW_ANONYMOUS"]:
        yield (
            "ENABLE_API_KEYS is off while the server can be reached from elsewhere. "
            "Turn it on, or set ZENGLOW_ALLOW_ANONYMOUS=1 if the network is closed."
        )
