"""The embedded profile's signing secret: made on first use, kept in the data folder, readable by its owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ops.contracts.env import ConfigurationError


def secret_key(data_dir: Path) -> str:
    """The secret of this data folder. Two processes that start at once agree on one: the file is linked into place.

    Raises `ConfigurationError` when it can't be kept there.
    """
    path = data_dir / "secret_key"
    try:
        if not path.exists():
            _make(path)
        secret = path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or path}: {error.strerror}. Run as the owner of {data_dir}, or choose another folder "
            "for the data (ZENGLOW_DATA_DIR)."
        ) from error
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        raise ConfigurationError(f"{path} is damaged. Remove it: everybody then signs in again, and keys are remade.")
    return secret


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(64))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first: its secret counts
    finally:
        draft.unlink()
