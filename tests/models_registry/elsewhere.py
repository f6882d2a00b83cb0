"""Other processes on a test's own database, key space and file store, for tests that kill or starve them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from django.conf import settings
from django.core.files.storage import default_storage
from django.db import connection

from tests.patience import PATIENCE_S
from tests.settings import ZENGLOW_DATA_DIR

# Stores hold no real models here, so none is tried out.
PRELUDE = """
import os, signal, sys
import tests.settings as s
s.DATABASES["default"]["NAME"] = {database!r}
s.DATABASES["default"]["OPTIONS"]["pool"]["timeout"] = 60
s.CACHES["default"]["KEY_PREFIX"] = {prefix!r}
s.STORAGES["default"] = {storage!r}
{before}
import django
django.setup()
from models_registry import artifacts, deployments, rollouts, versions, weights
from models_registry.models import ModelVersion, Rollout, Slot
from ops.contracts.principal import SYSTEM
deployments._trials.clear()
deployments._guards.clear()
def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def command(code: str, *, before: str = "") -> list[str]:
    """What runs ``code`` in a process of the installation. ``before`` runs before Django is set up."""
    storage = {**settings.STORAGES["default"], "OPTIONS": {"location": str(default_storage.path(""))}}
    prelude = PRELUDE.format(
        database=connection.settings_dict["NAME"],
        prefix=settings.CACHES["default"]["KEY_PREFIX"],
        storage=storage,
        before=before,
    )
    return [sys.executable, "-c", prelude + code]


def environment() -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "ZENGLOW_TEST_DATA_DIR": str(ZENGLOW_DATA_DIR),  # a test may have set the setting to a folder of its own
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "OMP_NUM_THREADS": "1",
    }


def start(code: str, **kwargs: Any) -> subprocess.Popen[str]:
    """Begin it; its output is a pipe, so that it can say how far it is."""
    return subprocess.Popen(
        command(code, **kwargs),
        cwd=settings.BASE_DIR,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(code: str, *, under: tuple[str, ...] = (), **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever that is. ``under``: a command that starts it."""
    return subprocess.run(
        [*under, *command(code, **kwargs)],
        cwd=settings.BASE_DIR,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
