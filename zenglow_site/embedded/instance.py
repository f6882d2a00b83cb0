"""One running ZenGlow per data folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from zenglow_site.embedded import folders, processes
from zenglow_site.embedded.accounts import current_account, owner_of
from zenglow_site.embedded.errors import DataDirError, InstanceRunningError

# `holder` takes a free lock for a moment; a start at just that moment must not fail.
PATIENCE_S = 0.5


@dataclass(frozen=True)
class Holder:
    """Who runs on a data folder. `started_at` is in UTC."""

    process_id: int
    url: str
    started_at: datetime


class InstanceLock:
    """The lock of a data folder, held for as long as the supervisor lives; the kernel frees it at its death."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.path = self.data_dir / "instance.lock"
        self._descriptor: int | None = None

    def acquire(self, url: str) -> None:
        """Take the lock and write down who we are. Raises InstanceRunningError with the holder, DataDirError."""
        try:
            owner = owner_of(folders.nearest_existing(self.data_dir)) if os.geteuid() == 0 else current_account()
            folders.make_folder(self.data_dir, owner, 0o755)
            descriptor = folders.open_private_file(self.path, owner, os.O_RDWR)
        except OSError as error:
            raise DataDirError(
                f"{error.filename or self.path}: {error.strerror}. Choose a folder for the data that you can write "
                "(ZENGLOW_DATA_DIR)."
            ) from error
        if not processes.wait_until(lambda: folders.try_lock(descriptor), PATIENCE_S):
            os.close(descriptor)
            raise InstanceRunningError(self._running_message())
        self._descriptor = descriptor
        holder = Holder(os.getpid(), url, datetime.now(UTC))
        text = json.dumps(asdict(holder) | {"started_at": holder.started_at.isoformat()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)

    def release(self) -> None:
        """Give the lock back; nothing to do when it is not held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> Holder | None:
        """Who holds the lock now, in this process or another; None when nobody does or it has yet to say who."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if folders.try_lock(descriptor):
                return None  # what the file says was written by a holder that is dead
            fields = json.loads(os.pread(descriptor, 4096, 0))
            return Holder(int(fields["process_id"]), str(fields["url"]), datetime.fromisoformat(fields["started_at"]))
        except (ValueError, TypeError, KeyError):
            return None
        finally:
            os.close(descriptor)

    def _running_message(self) -> str:
        holder = self.holder()
        if holder is None:
            who = "another process"
        else:
            who = f"process {holder.process_id}, since {holder.started_at:%Y-%m-%d %H:%M} UTC, at {holder.url}"
        return (
            f"ZenGlow already runs on the data in {self.data_dir} ({who}). Use that one, stop it first, or choose "
            "another folder for this one (ZENGLOW_DATA_DIR) and another port."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
