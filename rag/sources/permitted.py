"""What sources may touch on this machine: folders that the operator opened, and secrets in a folder of theirs."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings

from ops.contracts.problems import InvalidRequest
from rag.sources.types import SourceError

_SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_SECRET_BYTES = 64 * 1024


def permitted_folder(location: str) -> Path:
    """A folder of this machine that sources may read. Raises `InvalidRequest`.

    Symbolic links on the way are followed before it is compared: one can't lead out of what was opened.
    """
    path = Path(location)
    if not path.is_absolute() or not location.isprintable():
        raise _refused("Give the whole path, from / on.")
    real = path.resolve()
    opened = [Path(folder).resolve() for folder in settings.RAG_SOURCE_FOLDERS]
    if not any(real.is_relative_to(folder) for folder in opened):
        raise _refused(f"{location} is in no folder that RAG_SOURCE_FOLDERS opens to sources.")
    return real


def secret_name(name: str) -> str:
    """The name of a secret, checked. Raises `InvalidRequest`."""
    if name and not _SECRET.fullmatch(name):
        fault = "The name of a file in RAG_SOURCE_SECRETS_DIR: letters, digits, dots, hyphens and underscores."
        raise InvalidRequest(f"secret: {fault}", errors={"secret": fault})
    return name


def read_secret(name: str) -> str:
    """The text of a secret file; "" for no name. Raises `SourceError`, in which no secret stands."""
    if not name:
        return ""
    folder = settings.RAG_SOURCE_SECRETS_DIR
    if folder is None:
        raise SourceError(f"It needs the secret '{name}', but RAG_SOURCE_SECRETS_DIR names no folder.")
    path = Path(folder) / secret_name(name)
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError):
        raise SourceError(f"The secret '{name}' can't be read: there must be a text file {path}.") from None


def _refused(fault: str) -> InvalidRequest:
    return InvalidRequest(f"location: {fault}", errors={"location": fault})
