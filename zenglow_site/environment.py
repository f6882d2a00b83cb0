"""The one reading of the environment, shared by settings, the launcher and the commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

# Each import declares its app's variables.
import models_registry.conf  # noqa: F401
import ops.conf  # noqa: F401
import voice.conf  # noqa: F401
import zenglow_site.conf  # noqa: F401
from ops.contracts.env import Environment, Fault, load, set_library_defaults, warn_of_deprecations
from ops.proxies import trusted_networks
from rag.conf import VAULTS
from zenglow_site.database import database_parameters

set_library_defaults()

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY_CHARACTERS = 50
"""Fewest that a signing secret has; Django's own deployment check wants as many."""

METRICS_PASSWORD_CHARACTERS = 16

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


def https_only(loaded: Environment) -> bool:
    """Whether pages are served over HTTPS alone: by a proxy that is meant to, or by the server itself."""
    return bool(loaded["ZENGLOW_SECURE_COOKIES"]) or loaded["ZENGLOW_TLS_CERTIFICATE"] is not None


def limits_enabled(loaded: Environment) -> bool:
    """Whether callers are limited in how much they ask for."""
    explicit = loaded["OPS_RATE_LIMITS"]
    return bool(is_reachable(loaded) if explicit is None else explicit)


def _faults(loaded: Environment) -> Iterator[Fault]:
    """What no variable says by itself."""
    url, secret = loaded["DATABASE_URL"], loaded["ZENGLOW_SECRET_KEY"]
    for entry in loaded["OPS_TRUSTED_PROXIES"]:
        try:
            trusted_networks((entry,))
        except ValueError:
            message = f"OPS_TRUSTED_PROXIES holds {entry!r}, which is no address and no network such as 10.0.0.0/8."
            yield Fault("invalid", "OPS_TRUSTED_PROXIES", message)
    if url is not None:
        try:
            database_parameters(url)
        except ValueError as error:
            yield Fault("invalid", "DATABASE_URL", f"DATABASE_URL {error}")
    for name in ("ZENGLOW_TLS_CERTIFICATE", "ZENGLOW_TLS_KEY", "ZENGLOW_TLS_CLIENT_CA"):
        if loaded[name] is not None and not os.access(loaded[name], os.R_OK):
            yield Fault("invalid", name, f"{name} is {loaded[name]}, which is no file that can be read.")
        if loaded[name] is not None and loaded["ZENGLOW_TLS_CERTIFICATE"] is None:
            yield Fault("contradictory", name, f"{name} means nothing without ZENGLOW_TLS_CERTIFICATE.")
    if loaded["SUPABASE_URL"] and not any(loaded[name] for name in ("SUPABASE_KEY", *VAULTS)):
        message = "SUPABASE_KEY is missing: set it, or name the vault that has it (VAULT_ADDR, SUPABASE_VAULT_SECRET)."
        yield Fault("missing", "SUPABASE_KEY", message)
    password = loaded["OPS_METRICS_PASSWORD"]
    if password is not None and len(password) < METRICS_PASSWORD_CHARACTERS:
        message = f"OPS_METRICS_PASSWORD is too short: it needs {METRICS_PASSWORD_CHARACTERS} characters or more."
        yield Fault("out_of_bounds", "OPS_METRICS_PASSWORD", message)
    if secret is not None and len(secret) < SECRET_KEY_CHARACTERS:
        yield Fault(
            "out_of_bounds",
            "ZENGLOW_SECRET_KEY",
            f"ZENGLOW_SECRET_KEY is too short: it needs {SECRET_KEY_CHARACTERS} characters or more. "
            """Make one with: python3 -c "import secrets; print(secrets.token_urlsafe(64))\"""",
        )
    if loaded["ENABLE_API_KEYS"] is False and is_reachable(loaded) and not loaded["ZENGLOW_ALLOW_ANONYMOUS"]:
        yield Fault(
            "contradictory",
            "ENABLE_API_KEYS",
            "ENABLE_API_KEYS is off while the server can be reached from elsewhere. "
            "Turn it on, or set ZENGLOW_ALLOW_ANONYMOUS=1 if the network is closed.",
        )


def single_sign_on(loaded: Environment) -> dict[str, Any]:
    """django-allauth's ``SOCIALACCOUNT_PROVIDERS``; empty where no provider is configured."""
    if not loaded["ZENGLOW_OIDC_ISSUER"]:
        return {}
    app = {
        "provider_id": "sso",
        "name": loaded["ZENGLOW_OIDC_NAME"],
        "client_id": loaded["ZENGLOW_OIDC_CLIENT_ID"] or "",
        "secret": loaded["ZENGLOW_OIDC_CLIENT_SECRET"] or "",
        "settings": {"server_url": loaded["ZENGLOW_OIDC_ISSUER"]},
    }
    return {"openid_connect": {"APPS": [app], "OAUTH_PKCE_ENABLED": True}}
