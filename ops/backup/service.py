"""Making a backup and putting it back."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import django
import redis
from django.core.cache import cache
from django.core.files.storage import default_storage
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.utils.crypto import salted_hmac
from django_redis.exceptions import ConnectionInterrupted

from ops import audit
from ops.backup import archive, database
from ops.backup.archive import BackupError, Manifest, Source
from ops.contracts.audit import declare_action
from ops.contracts.principal import SYSTEM
from ops.files import incoming_folder, move_into_storage

CREATE_BACKUP = declare_action("backup.create", "A backup of the database and all stored files was made.")
RESTORE_BACKUP = declare_action("backup.restore", "A backup took the place of everything that was there.")

Reporter = Callable[[str], None]


def create(target: Path, *, report: Reporter) -> Manifest:
    """Write the database and all stored files to ``target``. Raises `BackupError`; nothing is left behind then.

    The database comes first: files are only ever added for rows, so that every row of the dump finds its file.
    """
    with tempfile.TemporaryDirectory(dir=incoming_folder(), prefix="backup-") as folder:
        dump = Path(folder) / archive.DATABASE
        report("Dumping the database")
        database.dump(dump)
        report("Adding the stored files")
        sources = [Source(archive.DATABASE, lambda: dump.open("rb"), lambda: dump.stat().st_size), *_stored_files()]
        manifest = archive.write(target, sources, _facts())
    audit.record(SYSTEM, CREATE_BACKUP, target.name, {"files": len(manifest.files)})
    return manifest


def restore(source: Path, *, replace: bool, report: Reporter) -> Manifest:
    """Put back what `create` wrote. Nothing is touched before every checksum has been compared.

    ``replace`` allows to replace a database that is not empty. Files are written first, then the database is replaced
    in one transaction: a restore that fails on the way leaves the old database whole. Raises `BackupError`.
    """
    report("Checking the backup")
    manifest = archive.inspect(source)
    _check_is_known(manifest)
    if not replace and not database.is_empty():
        raise BackupError("The database is not empty. Add --yes to replace everything in it by the backup.")
    with tempfile.TemporaryDirectory(dir=incoming_folder(), prefix="restore-") as folder:
        dump = Path(folder) / archive.DATABASE
        report(f"Restoring {len(manifest.files)} files")
        archive.extract(source, manifest, partial(_receive, dump), Path(folder))
        report("Restoring the database")
        database.restore(dump)
    # What was cached belongs to the database that was replaced.
    try:
        cache.delete_pattern("*")  # type: ignore[attr-defined]
    except (ConnectionInterrupted, redis.RedisError):
        report("Redis can't be reached: empty its caches before you start the server")
    if not _pending_migrations():
        audit.record(SYSTEM, RESTORE_BACKUP, source.name, {"created_at": str(manifest.facts.get("created_at"))})
    return manifest


def warnings_after(manifest: Manifest) -> Iterator[str]:
    """What an operator must still do or know after a restore."""
    if _pending_migrations():
        yield "The backup was made by an older version: run `manage.py migrate` before you start the server."
    if manifest.facts.get("secret_fingerprint") != _secret_fingerprint():
        yield (
            "The secret key here is not that of the backup: its API keys are not recognised. "
            "Set ZENGLOW_SECRET_KEY to the old one, or make new keys."
        )
    yield "Restart the server and its workers, if they run: they may still hold what was live before."


def _receive(dump: Path, name: str, path: Path) -> None:
    if name == archive.DATABASE:
        path.rename(dump)
    else:
        move_into_storage(path, name.removeprefix(archive.FILES))


def _stored_files(folder: str = "") -> Iterator[Source]:
    """Every file of the default storage, but not those that are just being received."""
    try:
        folders, names = default_storage.listdir(folder)
    except FileNotFoundError:
        return
    for name in sorted(names):
        path = f"{folder}{name}"
        if not name.startswith("."):
            yield Source(archive.FILES + path, partial(default_storage.open, path), partial(default_storage.size, path))
    for name in sorted(folders):
        if not name.startswith("."):
            yield from _stored_files(f"{folder}{name}/")


def _facts() -> dict[str, Any]:
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "postgresql": database.server_version(),
        "python": platform.python_version(),
        "django": django.get_version(),
        "migrations": sorted(f"{app}.{name}" for app, name in _migrations().applied_migrations),
        "secret_fingerprint": _secret_fingerprint(),
    }


def _check_is_known(manifest: Manifest) -> None:
    """Refuse a backup of a newer ZenGlow, whose tables this one does not know."""
    known = {f"{app}.{name}" for app, name in _migrations().disk_migrations}
    listed = manifest.facts.get("migrations")
    unknown = sorted({str(name) for name in listed} - known) if isinstance(listed, list) else ["none listed"]
    if unknown:
        raise BackupError(f"The backup was made by a newer ZenGlow: its migration {unknown[0][:100]} is unknown here.")


def _pending_migrations() -> bool:
    loader = _migrations()
    return bool(loader.disk_migrations.keys() - loader.applied_migrations.keys())


def _migrations() -> MigrationLoader:
    return MigrationLoader(connection)


def _secret_fingerprint() -> str:
    """Tells whether two installations share their secret key, without telling anything of it."""
    return salted_hmac("ops.backup.fingerprint", "secret key", algorithm="sha256").hexdigest()[:16]
