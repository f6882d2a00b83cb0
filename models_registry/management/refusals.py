"""How a command of the registry refuses: one line on stderr and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import CommandError

from models_registry.artifacts import ArtifactError
from ops import refusals as of_services


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a refusal of the services, or a broken artifact, into a `CommandError` with exit code 2."""
    try:
        with of_services.refusals():
            yield
    except ArtifactError as error:
        raise CommandError(str(error), returncode=2) from error
