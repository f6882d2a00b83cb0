"""Who a server runs as.

Ordinary users run the servers as themselves. PostgreSQL refuses to run as root, so root hands it to the owner of
the data folder or, where root owns that too, to an unprivileged account.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenglow_site.embedded.errors import AccountError

SERVICE_ACCOUNTS = ("zenglow", "pgserver", "postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    uid: int
    gid: int

    @property
    def name(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"user {self.uid}"

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()

    @property
    def is_listed(self) -> bool:
        """Whether the machine's user database knows this account (initdb insists on it)."""
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            return False
        return True

    def popen_arguments(self) -> dict[str, Any]:
        """Arguments with which `subprocess` starts a program as this account."""
        if self.is_us:
            return {}
        # Without extra_groups the program would keep root's groups.
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_enter(self, folder: Path) -> bool:
        """Whether this account may pass into `folder`, as the kernel sees it (modes, access lists, mounts)."""
        return self._test("-x", folder)

    def can_read(self, file: Path) -> bool:
        return self._test("-r", file)

    def _test(self, flag: str, path: Path) -> bool:
        if self.is_us:
            return os.access(path, {"-x": os.X_OK, "-r": os.R_OK}[flag])
        command = ["/bin/sh", "-c", 'test "$0" "$1"', flag, str(path)]
        try:
            return subprocess.run(command, cwd="/", check=False, **self.popen_arguments()).returncode == 0
        except OSError as error:
            raise AccountError(
                f"This root can't start programs as the account {self.name} ({error.strerror}), and PostgreSQL "
                "refuses to run as root. Run as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
            ) from error


def current_account() -> Account:
    return Account(os.geteuid(), os.getegid())


def owner_of(path: Path) -> Account:
    """The account that owns an existing path."""
    status = path.stat()
    try:
        return Account(status.st_uid, pwd.getpwuid(status.st_uid).pw_gid)
    except KeyError:
        return Account(status.st_uid, status.st_gid)


def unprivileged_account(owner: Account) -> Account:
    """The account that runs PostgreSQL in a folder of `owner`. Never root.

    Raises AccountError when there is none.
    """
    if owner.uid != 0 and owner.is_listed:
        return owner
    if os.geteuid() != 0:
        raise AccountError(
            f"The user id {owner.uid} is not in this machine's user database, and PostgreSQL's initdb insists on "
            "that. Add the user (in a container: `useradd -u ... zenglow` in its image), or run as a listed one."
        )
    for name in SERVICE_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise AccountError(
        "PostgreSQL refuses to run as root, and this machine has none of the accounts "
        f"{', '.join(SERVICE_ACCOUNTS)}. Make one with `useradd --system zenglow`, or run as an ordinary user."
    )
