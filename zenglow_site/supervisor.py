"""What `make run` runs: stores, migrations, web server and worker, brought up in order and kept up until Ctrl-C.

It holds the data folder's instance lock, so there is one per folder. A process that ends by itself is started again,
after a pause that grows while it keeps ending. Every child carries a mark in its environment, by which the next
supervisor finds and ends what one that was killed left running.
"""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from ops.contracts.env import child_environment
from ops.contracts.metrics import SHARED_FOLDER_VARIABLE
from ops.instrumentation.processes import forget_counts
from zenglow_site.embedded import folders
from zenglow_site.embedded.accounts import current_account
from zenglow_site.embedded.errors import EmbeddedError
from zenglow_site.embedded.instance import InstanceLock
from zenglow_site.embedded.processes import wait_until
from zenglow_site.embedded.server import State
from zenglow_site.embedded.stack import EmbeddedStack
from zenglow_site.environment import BASE_DIR
from zenglow_site.web_processes import HANDOVER_VARIABLE, handover_channel, web_processes

MARK = "STARTED_BY_ZENGLOW_ON"
"""Name of the environment variable that tells our children, and theirs, from all other processes: the data folder."""

LOG_MAX_BYTES = 10 * 1024 * 1024
STOP_SIGNALS = ((signal.SIGTERM, 3.0), (signal.SIGQUIT, 20.0), (signal.SIGKILL, 5.0))
"""With the seconds to wait after each. Celery finishes its tasks on the first and hands them back on the second."""

FIRST_RESTART_PAUSE_S = 0.5
LONGEST_RESTART_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A process that has run this long gets its short first pause back."""

STORE_CHECK_INTERVAL_S = 2.0
STORE_PATIENCE_S = 5.0
STORE_STOP_TIMEOUT_S = 20.0
WEB_START_TIMEOUT_S = 300.0
BACKLOG = 128
"""Connections that wait for one of several web servers to accept them."""

KEY_HINT = """
  Everybody signs in, or uses a key, such as this one:
        KEY=$({manage} apikey create first --scope query --quiet)
"""

Say = Callable[[str], None]


class SupervisorError(Exception):
    """The stack can't be brought up; the message says what to do."""


class _StopRequestedError(Exception):
    """Ctrl-C or SIGTERM, raised where a long wait is to end at once."""


@dataclass(slots=True)
class Service:
    """A process that should always run."""

    name: str
    command: Sequence[str]
    descriptors: Sequence[int] = ()
    """What it inherits besides its output."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its own, besides those of all our children."""
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = FIRST_RESTART_PAUSE_S
    due_at: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Brings everything up on ``data_dir`` and keeps it there. ``stack`` is ``None`` in the service profile."""

    data_dir: Path
    host: str
    port: int
    web_processes: int
    """Or 0, for as many as suit the machine."""
    worker_processes: int
    keys_enabled: bool
    stack: EmbeddedStack | None
    command_log: Path
    """Where the commands that bring the stack up write their log lines; what people should see goes to stdout."""
    say: Say
    services: list[Service] = field(default_factory=list)
    commands: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    is_interruptible: bool = False
    has_tls: bool = False
    """Whether the web server speaks TLS itself (`zenglow_site.tls`)."""
    listener: socket.socket | None = None
    """What several web servers accept from; a single one listens by itself."""
    handover: Sequence[socket.socket] = ()
    """The two ends of what several web servers hand connections over by."""
    store_trouble: str = ""

    @property
    def url(self) -> str:
        host = self._reachable_host
        scheme = "https" if self.has_tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def run(self) -> None:
        """Bring everything up, print how to use it, and return after Ctrl-C or SIGTERM with all of it stopped.

        Raises `SupervisorError` and `EmbeddedError`.
        """
        started = time.monotonic()
        lock = InstanceLock(self.data_dir)
        lock.acquire(self.url)
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
            self._end_leftovers()
            forget_counts(self._metrics_folder)
            self._check_port()
            self.web_processes = web_processes(self.web_processes, share_an_address=self._can_share)
            try:
                self._bring_up()
                if not self.stopping.is_set():
                    self.say(self._banner(time.monotonic() - started))
                    self.commands.append(self._command("starter"))
                self._watch()
            except _StopRequestedError:
                pass
            finally:
                self._bring_down()
        finally:
            lock.release()

    # --- up ----

    def _bring_up(self) -> None:
        if self.stack is not None:
            self.say("Starting PostgreSQL and Redis …")
            with self._interruptible():
                self.stack.ensure()
        self._prepare()
        if self.stopping.is_set():
            return
        self.say("Starting the web server and the worker …")
        python = [sys.executable, "-m"]
        schedule = str(self.data_dir / "run" / "celerybeat-schedule")
        Path(schedule).parent.mkdir(parents=True, exist_ok=True)
        self.services = [
            *self._web_services(),
            Service(
                "worker",
                [
                    *[*python, "celery", "--quiet", "-A", "zenglow_site.celery", "worker", "--loglevel", "WARNING"],
                    *["--concurrency", str(self.worker_processes), "--without-gossip", "--without-mingle"],
                    *["--beat", "--schedule", schedule],
                ],
            ),
            Service("guardian", [sys.executable, str(BASE_DIR / "manage.py"), "rollout", "guard"]),
        ]
        for service in self.services:
            self._start(service)
        self._wait_for_web()

    def _web_services(self) -> list[Service]:
        if self.web_processes == 1:
            return [Service("web", self._web_command("-b", self.host, "-p", str(self.port)))]
        self.listener = self._bound()
        self.listener.listen(BACKLOG)
        self.handover = taking, giving = handover_channel()
        listens = self.listener.fileno()
        command = self._web_command("--fd", str(listens))
        services = []
        for number in range(1, self.web_processes + 1):
            role, end = ("take", taking.fileno()) if number == 1 else ("give", giving.fileno())
            name = "web" if number == 1 else f"web-{number}"
            services.append(Service(name, command, [listens, end], {HANDOVER_VARIABLE: f"{role}:{end}"}))
        return services

    def _web_command(self, *address: str) -> list[str]:
        server = [sys.executable, "-m", "zenglow_site.tls" if self.has_tls else "daphne", "--verbosity", "0"]
        return [*server, "--no-server-name", *address, "zenglow_site.asgi:application"]

    @property
    def _can_share(self) -> bool:
        """Whether several web servers can share our address."""
        return not (self.has_tls or self._is_ipv6)

    def _prepare(self) -> None:
        """Bring the database and the files up to date. Raises `SupervisorError`."""
        if self.stopping.is_set():
            return
        process = self._command("prepare")
        self.commands.append(process)
        while process.poll() is None:
            if self.stopping.wait(0.02):
                return
        self.commands.remove(process)
        if process.returncode != 0:
            raise SupervisorError(f"`manage.py prepare` failed; what it said is above and in {self.command_log}.")

    def _command(self, name: str) -> subprocess.Popen[bytes]:
        """A management command whose output people see."""
        return subprocess.Popen(
            [sys.executable, str(BASE_DIR / "manage.py"), name],
            cwd=BASE_DIR,
            env=self._environment(OPS_LOG_FILE=str(self.command_log)),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _start(self, service: Service) -> None:
        log_path = self._log_path(service.name)
        with log_path.open("ab") as log:
            # A session of its own: Ctrl-C reaches the supervisor alone, which then ends the children in order.
            service.process = subprocess.Popen(
                service.command,
                cwd=BASE_DIR,
                env=self._environment(**service.variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=service.descriptors,
                start_new_session=True,
            )
        service.started_at = time.monotonic()

    def _wait_for_web(self) -> None:
        deadline = time.monotonic() + WEB_START_TIMEOUT_S
        while not self.stopping.wait(0.05):
            web = self.services[0].process
            if web is None or web.poll() is not None:
                raise SupervisorError(f"The web server ended while starting. Its log: {self._log_path('web')}")
            connection = http.client.HTTPConnection(self._reachable_host, self.port, timeout=5)
            try:
                if self.has_tls:
                    connection.connect()  # more would take a certificate of ours
                else:
                    # Not urllib, which would follow the redirect of a server that insists on HTTPS.
                    connection.request("GET", "/health/live")
                    connection.getresponse()
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise SupervisorError(
                        f"The web server didn't answer in {WEB_START_TIMEOUT_S:g} s. Its log: {self._log_path('web')}"
                    ) from None
            else:
                return
            finally:
                connection.close()

    def _check_port(self) -> None:
        if self.web_processes > 1 and not self._can_share:
            raise SupervisorError(
                "Several web processes share a plain IPv4 address. Set ZENGLOW_WEB_PROCESSES=1, or have a proxy in "
                "front of them speak TLS and IPv6."
            )
        self._bound().close()

    def _bound(self) -> socket.socket:
        """A socket on our address. Raises `SupervisorError` where that can't be used."""
        bound = socket.socket(socket.AF_INET6 if self._is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self.host, self.port))
        except OSError as error:
            bound.close()
            raise SupervisorError(
                f"{self.host}:{self.port} can't be used ({error.strerror}). "
                f"Choose another port: make run PORT={self.port + 1 if self.port < 65_535 else 8000}"
            ) from error
        return bound

    # --- kept up ----

    def _watch(self) -> None:
        """Restart what ends and look after the stores, until asked to stop."""
        next_check = time.monotonic() + STORE_CHECK_INTERVAL_S
        while not self.stopping.wait(0.2):
            for service in self.services:
                self._tend(service, time.monotonic())
            self.commands = [command for command in self.commands if command.poll() is None]
            if time.monotonic() >= next_check:
                if self.stack is not None:
                    self._tend_stores(self.stack)
                self._tend_logs()
                next_check = time.monotonic() + STORE_CHECK_INTERVAL_S

    def _tend(self, service: Service, now: float) -> None:
        process = service.process
        if process is not None and process.poll() is not None:
            _kill_group(process)
            if now - service.started_at > STEADY_AFTER_S:
                service.pause_s = FIRST_RESTART_PAUSE_S
            self.say(
                f"The {service.name} process ended with {process.returncode}; starting it again in "
                f"{service.pause_s:g} s. Its log: {self._log_path(service.name)}"
            )
            service.process = None
            service.due_at = now + service.pause_s
            service.pause_s = min(service.pause_s * 2, LONGEST_RESTART_PAUSE_S)
        if service.process is None and now >= service.due_at:
            self._start(service)

    def _tend_stores(self, stack: EmbeddedStack) -> None:
        for server in (stack.postgres, stack.redis):
            if server.state() is State.DOWN and not self.store_trouble:
                self.say(f"{server.name} has ended; starting it again. Its log: {server.log_file}")
        trouble = ""
        try:
            with self._interruptible():
                stack.ensure(STORE_PATIENCE_S)
        except EmbeddedError as error:
            trouble = str(error)
        # Said once, not at each attempt; a log's tail in it differs from time to time.
        if bool(trouble) != bool(self.store_trouble):
            self.say(trouble or "PostgreSQL and Redis answer again.")
        self.store_trouble = trouble

    def _tend_logs(self) -> None:
        lock = self.data_dir / "run" / "logs.lock"
        for log in (*(self._log_path(service.name) for service in self.services), self.command_log):
            folders.rotate_log(log, lock, current_account(), LOG_MAX_BYTES)
        if self.stack is not None:
            self.stack.rotate_logs()

    # --- down ----

    def _bring_down(self) -> None:
        self.say("Stopping …")
        _end([*self.commands, *(service.process for service in self.services if service.process is not None)])
        for ours in (self.listener, *self.handover):
            if ours is not None:
                ours.close()
        if self.stack is not None:
            self.stack.stop(STORE_STOP_TIMEOUT_S)
        self.say("Stopped.")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping.set()
        if self.is_interruptible:
            self.is_interruptible = False
            raise _StopRequestedError

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """A block that a signal ends where it stands, by `_StopRequestedError`."""
        self.is_interruptible = True
        try:
            if self.stopping.is_set():
                raise _StopRequestedError
            yield
        finally:
            self.is_interruptible = False

    def _end_leftovers(self) -> None:
        """End what a supervisor that was killed left running. Its stores are not among it: they are used again."""
        family = [
            process
            for process in psutil.process_iter(["environ"])  # None where it may not be read
            if (process.info["environ"] or {}).get(MARK) == str(self.data_dir) and process.pid != os.getpid()
        ]
        if not family:
            return
        self.say("Ending what an earlier run left behind …")
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)

    # --- small things ----

    @property
    def _metrics_folder(self) -> Path:
        """Where our children keep their counts, so that whichever is scraped tells those of all."""
        return self.data_dir / "run" / "metrics"

    @property
    def _is_ipv6(self) -> bool:
        return ":" in self.host

    @property
    def _reachable_host(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  (compared, not bound)

    def _log_path(self, name: str) -> Path:
        folder = self.data_dir / "log"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    def _environment(self, **more: str) -> dict[str, str]:
        ours = {
            MARK: str(self.data_dir),
            SHARED_FOLDER_VARIABLE: str(self._metrics_folder),
            "ZENGLOW_DATA_DIR": str(self.data_dir),
            "ZENGLOW_HOST": self.host,
            "ZENGLOW_PORT": str(self.port),
            "ZENGLOW_WEB_PROCESSES": str(self.web_processes),
            "PYTHONUNBUFFERED": "1",
        }
        return child_environment() | ours | more

    def _banner(self, seconds: float) -> str:
        body = """{"query": "How are fusion weights rolled back?"}"""
        key_header = """-H "X-API-Key: $KEY" """ if self.keys_enabled else ""
        manage = ".venv/bin/python manage.py"
        if self.data_dir != BASE_DIR / "var":  # where a command would look by itself
            manage = f"ZENGLOW_DATA_DIR={shlex.quote(str(self.data_dir))} {manage}"
        return f"""
ZenGlow is up ({seconds:.0f} s).

  Ask         {self.url}/
  Search      {self.url}/search/
  Voice       {self.url}/voice/
  Documents   {self.url}/documents/
  Admin       {self.url}/admin/
  API         {self.url}/api/docs/
  Commands    {manage} help
  Logs        {self._log_path("web").parent}
{KEY_HINT.format(manage=manage) if self.keys_enabled else ""}
  Try:  curl -s {self.url}/rag/query2 {key_header}-H 'Content-Type: application/json' -d '{body}'

Ctrl-C stops everything.
"""


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End children and their children, all at once: politely, then for good."""
    for with_signal, patience_s in STOP_SIGNALS:
        for process in processes:
            process.send_signal(with_signal)  # to nobody when it has ended and we know it
        if wait_until(lambda: all(process.poll() is not None for process in processes), patience_s):
            break
    for process in processes:
        _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the session that a child led."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
