"""What starting, stopping and finding a server have in common, for PostgreSQL and Redis alike.

Rules, each the answer to a failure that was seen:
- Ask first: a server that answers needs no lock, so that every command attaches at once.
- Only then take the folder's lock and ask again: of many simultaneous first starts one starts the server.
- A lock file's process id proves nothing; a live process whose working directory is the data folder does.
- The server inherits a locked descriptor (`server.lock`) that the kernel frees when its last process ends: two
  servers on one data folder are impossible, also across containers, where process ids say nothing.
- Nothing is remembered between calls: the server may have died since the last one.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from zenglow_site.embedded import folders, processes
from zenglow_site.embedded.accounts import Account, current_account, owner_of
from zenglow_site.embedded.errors import DataDirError, StartError, StartTimeoutError, StopError
from zenglow_site.embedded.installs import ELSEWHERE

logger = logging.getLogger(__name__)

SHORT_BASE = Path("/tmp")  # noqa: S108 (the folder made there is checked to be private)
MAX_LOG_BYTES = 8 * 1024 * 1024
LOG_TAIL_LINES = 12
PROBE_TIMEOUT_S = 3.0
# One more try after a start that failed: a helper of a killed predecessor may have held something until now.
STARTS = 2
# A server that is stuck never heeds a signal that it may ignore; a kill only takes the kernel's time.
ESCALATION_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 30.0


class State(enum.Enum):
    """What a server says of itself. WAITING: alive, but starting, recovering, stopping or too busy to answer."""

    UP = "up"
    WAITING = "waiting"
    DOWN = "down"


@dataclass(frozen=True)
class ServerStatus:
    """One server at one moment; `process_id` is None when there is no process."""

    name: str
    state: State
    process_id: int | None
    account: str
    socket: Path
    data: Path
    log_file: Path


class EmbeddedServer(ABC):
    """One server on one folder. Objects are cheap and keep no state of the server."""

    name: ClassVar[str]
    program: ClassVar[str]  # as the process table calls it
    stop_signals: ClassVar[tuple[signal.Signals, ...]]  # gentlest first

    def __init__(self, root: Path, *, elsewhere: Path = ELSEWHERE, short_base: Path = SHORT_BASE) -> None:
        """`root` holds data, socket and log. `elsewhere` and `short_base` take over what can't lie there: as root,
        what the server's account could not reach; and sockets whose path would be too long."""
        self.root = root.expanduser().resolve()
        self.elsewhere = elsewhere.resolve()
        self.short_base = short_base.resolve()
        self.log_file = self.root / f"{self.program}.log"
        self._lock_file = self.root / ".lock"

    # --- where ---------------------------------------------------------------------------------------------------

    @property
    def owner(self) -> Account:
        """Whose the root folder is (or will be): what we make in it belongs to them."""
        if os.geteuid() != 0:
            return current_account()
        return owner_of(folders.nearest_existing(self.root))

    @property
    @abstractmethod
    def account(self) -> Account:
        """Who the server runs as. Raises AccountError, DataDirError."""

    @property
    def home(self) -> Path:
        """The folder that really holds data and socket."""
        return self.root

    @property
    def data(self) -> Path:
        """The server's data folder, which is also its working directory."""
        return self.home / "data"

    @property
    @abstractmethod
    def _socket_name(self) -> str:
        """File name of the socket."""

    @property
    def socket_dir(self) -> Path:
        """The private folder of the socket. The same before and after the first start."""
        # PostgreSQL puts a lock file of this length beside the socket.
        return folders.socket_folder(self.home, f"{self._socket_name}.lock", self.short_base)

    @property
    def socket_path(self) -> Path:
        return self.socket_dir / self._socket_name

    # --- what ----------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Ask the server. Takes milliseconds; at most a few seconds when it is alive but silent."""
        try:
            if not self._pid_file.exists() or not folders.is_private_folder(self.socket_dir, self.account):
                # Its data were deleted under it, or somebody else made the folder: whoever answers is not ours.
                return State.DOWN
        except PermissionError:
            return State.DOWN
        return self._ask()

    def ping(self) -> bool:
        """Whether the server answers."""
        return self.state() is State.UP

    def process_id(self) -> int | None:
        """The server's process, if one is alive."""
        try:
            process_id = int(self._pid_file.read_text(encoding="ascii").split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        if process_id > 0 and processes.works_in(process_id, self.data, self.account):
            return process_id
        return None

    def status(self) -> ServerStatus:
        return ServerStatus(
            name=self.name,
            state=self.state(),
            process_id=self.process_id(),
            account=self.account.name,
            socket=self.socket_path,
            data=self.data,
            log_file=self.log_file,
        )

    def ensure(self, timeout_s: float = 300.0) -> None:
        """Return once the server answers; start it if need be. Safe to call from any number of processes.

        Raises StartError when it ends while starting, StartTimeoutError when it is not up in time (recovery after a
        crash can take minutes; it goes on), DataDirError, AccountError, BinaryNotFoundError.
        """
        deadline = time.monotonic() + timeout_s
        with self._explained_errors():
            if not self.ping():
                folders.make_folder(self.root, self.owner, 0o711)
                try:
                    with folders.exclusive(self._lock_file, self.owner, timeout_s):
                        self._start(deadline)
                except TimeoutError as error:
                    raise StartTimeoutError(
                        f"Another process has been starting or stopping {self.name} for {timeout_s:g} s. "
                        f"Try again; its log is {self.log_file}."
                    ) from error
            self.rotate_log()

    def stop(self, timeout_s: float = 60.0) -> None:
        """End the server and wait until it is gone; nothing to do when it does not run.

        A server that has not ended after `timeout_s` is killed; it recovers at its next start. Raises StopError.
        """
        with self._explained_errors():
            if not self.root.is_dir():
                return
            try:
                with folders.exclusive(self._lock_file, self.owner, timeout_s):
                    self._end(timeout_s)
            except TimeoutError as error:
                raise StopError(
                    f"Another process has been starting or stopping {self.name} for {timeout_s:g} s. Try again."
                ) from error

    def rotate_log(self, max_bytes: int = MAX_LOG_BYTES) -> None:
        """Bound the log. `ensure` does it too; a process that lives for days calls it now and then."""
        folders.rotate_log(self.log_file, self._lock_file, self.owner, max_bytes)

    # --- for subclasses ------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _pid_file(self) -> Path:
        """A file in the data folder whose first line is the server's process id while it runs."""

    @abstractmethod
    def _ask(self) -> State:
        """Ask whoever listens on the socket."""

    @abstractmethod
    def _prepare(self, deadline: float) -> list[str | Path]:
        """Make folders, configuration and, on first use, data; the command that starts the server."""

    def _has_started(self) -> bool:
        """Whether a live server should be listening by now."""
        return True

    def _remains(self) -> list[Path]:
        """Files of a dead server that would hinder the next."""
        return [self._pid_file, self.socket_path]

    # --- how -----------------------------------------------------------------------------------------------------

    def _start(self, deadline: float) -> None:
        """With the lock held: bring the server up, whatever a predecessor left behind."""
        command: list[str | Path] | None = None
        started: int | None = None
        starts_left = STARTS
        log_position = 0
        while (state := self.state()) is not State.UP:
            alive = self.process_id()
            if alive is None and started is not None and processes.is_alive(started):
                alive = started
            if time.monotonic() >= deadline:
                raise StartTimeoutError(self._late_message(alive, log_position))
            if alive is None:
                if not starts_left:
                    raise StartError(
                        f"{self.name} ended while it was starting. Its log, {self.log_file}, says:\n"
                        f"{self._log_tail(log_position)}"
                    )
                command = command or self._prepare(deadline)
                self._clear_remains()
                log_position = self._log_size()
                logger.info("Starting %s in %s", self.name, self.home)
                started = self._spawn(command)
                starts_left -= 1
            elif state is State.DOWN and alive != started and self._has_started() and not self._listens():
                logger.warning("%s lost its socket; restarting it", self.name)
                self._end(KILL_TIMEOUT_S)
            else:
                time.sleep(processes.POLL_S)

    def _spawn(self, command: list[str | Path]) -> int | None:
        """The new server's process id; None when one turned out to be there after all."""
        guard = folders.open_private_file(self.home / "server.lock", self.owner, os.O_RDWR)
        log = folders.open_private_file(self.log_file, self.owner, os.O_WRONLY | os.O_APPEND)
        try:
            if not processes.wait_until(
                lambda: folders.try_lock(guard) or self.process_id() is not None, KILL_TIMEOUT_S
            ):
                raise StartError(
                    f"{self.data} is in use by a process that can't be seen from here, probably in another "
                    f"container. End that one first; two servers of {self.name} on one folder would destroy the data."
                )
            if self.process_id() is not None:  # of a launcher that was killed right after starting it
                return None
            return processes.start_detached(command, self.account, log, inherited=[guard])
        finally:
            os.close(guard)
            os.close(log)

    def _end(self, timeout_s: float) -> None:
        """With the lock held: end the server and whatever it left."""
        process_id = self.process_id()
        if process_id is not None:
            logger.info("Stopping %s (process %d)", self.name, process_id)
            for position, with_signal in enumerate(self.stop_signals):
                later_s = KILL_TIMEOUT_S if with_signal is signal.SIGKILL else ESCALATION_TIMEOUT_S
                if processes.end(process_id, with_signal, later_s if position else timeout_s):
                    break
            else:
                raise StopError(f"{self.name} (process {process_id}) could not be ended, not even by SIGKILL.")
        self._clear_remains()

    def _clear_remains(self) -> None:
        """Clear the way for a new server, once no main process is alive.

        Orphans must go first: a backend in a long query does not notice the death of its postmaster and keeps the
        shared memory. The files name process ids that may meanwhile be a zombie's or a stranger's.
        """
        self._kill_all_in(self.data)
        for file in self._remains():
            file.unlink(missing_ok=True)

    def _kill_all_in(self, folder: Path) -> None:
        for process_id in processes.processes_in(folder, self.program, self.account):
            logger.warning("Ending process %d, which a former %s left", process_id, self.name)
            if not processes.end(process_id, signal.SIGKILL, KILL_TIMEOUT_S):
                raise StopError(f"Process {process_id}, left by a former {self.name}, can't be killed.")

    def _listens(self) -> bool:
        """Whether anybody accepts connections at the socket, even if they don't answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_TIMEOUT_S)
            try:
                probe.connect(str(self.socket_path))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError:
                return True
            return True

    # --- explaining ----------------------------------------------------------------------------------------------

    @contextmanager
    def _explained_errors(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            owner = owner_of(folders.nearest_existing(self.root)).name if self.root.exists() else "somebody else"
            raise DataDirError(
                f"{error.filename or self.root} can't be used by {current_account().name}: {self.root} belongs to "
                f"{owner}. Run as {owner}, or choose another folder for the data (ZENGLOW_DATA_DIR)."
            ) from error
        except OSError as error:
            raise DataDirError(
                f"{error.filename or self.root}: {error.strerror}. Free or repair that place, or choose another "
                "folder for the data (ZENGLOW_DATA_DIR)."
            ) from error

    def _late_message(self, alive: int | None, log_position: int) -> str:
        if alive is None:
            return f"{self.name} did not start in time. Try again with more time."
        return (
            f"{self.name} (process {alive}) is alive but does not answer yet. After a crash it may need minutes to "
            f"recover; it goes on doing so, so try again. Its log, {self.log_file}, says:\n"
            f"{self._log_tail(log_position)}"
        )

    def _log_size(self) -> int:
        try:
            return self.log_file.stat().st_size
        except FileNotFoundError:
            return 0

    def _log_tail(self, position: int) -> str:
        """The last lines written since `position`, a size in bytes."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(position)
                lines = file.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return "(nothing)"
        return "\n".join(lines[-LOG_TAIL_LINES:]) or "(nothing)"
