"""Folders, lock files and logs of the embedded stack.

Root may work in a folder of somebody else: what it makes there belongs to that owner, so that they can go on
without root. A folder that was there before is never opened up: no mode of a parent is ever changed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zenglow_site.embedded.accounts import Account
from zenglow_site.embedded.errors import DataDirError

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, with the closing NUL.
MAX_SOCKET_PATH_BYTES = 100
# A comma separates hosts for libpq and folders for PostgreSQL; quotes and control characters need escaping somewhere.
_UNSAFE_IN_ADDRESS = re.compile(r"[,\"'\\\x00-\x1f\x7f]")
LOCK_POLL_S = 0.02


def short_hash(path: Path) -> str:
    """Twelve hexadecimal digits that name a path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def nearest_existing(path: Path) -> Path:
    """The path itself or its closest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def make_folder(folder: Path, owner: Account, mode: int) -> None:
    """Make the folder and its missing parents for `owner`, with `mode` whatever the umask; keep existing ones."""
    if folder.is_dir():
        return
    if folder.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not folder.parent.is_dir():
        make_folder(folder.parent, owner, 0o755)
    # Renamed when finished: an account that can't enter a half-made folder would be taken for one that never can.
    draft = folder.with_name(f".{secrets.token_hex(8)}")
    try:
        draft.mkdir(0o700)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    try:
        if not owner.is_us:
            os.chown(draft, owner.uid, owner.gid)
        draft.chmod(mode)
        draft.rename(folder)
    except OSError:
        draft.rmdir()
        if not folder.is_dir():  # else another process was first
            raise


def make_private_folder(folder: Path, account: Account) -> None:
    """Make a folder that only `account` (and root) can enter, or check that an existing one is so.

    Raises DataDirError when the path is a link, not a folder, or somebody else's: whoever made it could read and
    replace what lies inside.
    """
    with suppress(FileExistsError):
        folder.mkdir(0o700)
    status = folder.lstat()
    # Our own root may have been killed between making the folder and giving it away.
    made_by_us = status.st_uid in (account.uid, os.geteuid())
    if not stat.S_ISDIR(status.st_mode) or not made_by_us:
        raise DataDirError(
            f"{folder} must be a folder of the account {account.name}, but something else is there "
            f"(owner: user id {status.st_uid}). Remove it, or choose another folder for the data (ZENGLOW_DATA_DIR)."
        )
    if status.st_uid != account.uid:
        os.chown(folder, account.uid, account.gid)
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)


def is_private_folder(folder: Path, account: Account) -> bool:
    """Whether the folder is a real one of `account`. A server in a folder of anybody else is not ours."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == account.uid


def socket_folder(home: Path, longest_name: str, short_base: Path) -> Path:
    """Where a server of `home` puts its socket: inside, or in `short_base` when an address could not hold the path."""
    folder = home / "run"
    path = str(folder / longest_name)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES and not _UNSAFE_IN_ADDRESS.search(path):
        return folder
    return short_base / f"zg-{short_hash(home)}"


def write_file(path: Path, text: str, owner: Account) -> None:
    """Replace the file as a whole: a reader sees the old text or the new."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(file.fileno(), 0o644)
            _give_to(file.fileno(), owner)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def open_private_file(path: Path, owner: Account, flags: int) -> int:
    """Open (and if need be make) a file of `owner` that nobody else can read; its descriptor."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    _give_to(descriptor, owner)
    return descriptor


def _give_to(descriptor: int, owner: Account) -> None:
    if os.geteuid() == 0 and os.fstat(descriptor).st_uid != owner.uid:
        os.fchown(descriptor, owner.uid, owner.gid)


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file if it is free. The kernel frees it when its last holder ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(path: Path, owner: Account, timeout_s: float) -> Iterator[None]:
    """Hold the lock file. Raises TimeoutError when another process keeps it for longer than `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        descriptor = open_private_file(path, owner, os.O_RDWR)
        try:
            while not try_lock(descriptor):
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} is held by another process")
                time.sleep(LOCK_POLL_S)
            if _is_same_file(path, descriptor):
                yield
                return
            # The folder was deleted and made again while we waited: this lock protects nothing any more.
        finally:
            os.close(descriptor)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def rotate_log(log_file: Path, lock_file: Path, owner: Account, max_bytes: int) -> None:
    """Move a log that has grown past `max_bytes` to `<name>.1`, so that both together stay within about twice that.

    The servers append to an inherited descriptor, so the file is copied and emptied in place; lines written between
    the two are lost. Whoever finds the lock taken leaves it to the holder.
    """
    try:
        if log_file.stat().st_size <= max_bytes:
            return
        with exclusive(lock_file, owner, timeout_s=0):
            if log_file.stat().st_size > max_bytes:
                old = log_file.with_name(f"{log_file.name}.1")
                old.unlink(missing_ok=True)
                shutil.copyfile(log_file, old)
                old.chmod(0o600)
                if os.geteuid() == 0:
                    os.chown(old, owner.uid, owner.gid)
                os.truncate(log_file, 0)
    except (FileNotFoundError, TimeoutError):
        return
