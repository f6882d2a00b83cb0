"""Make `.venv`, or bring it up to date with the locks: ``venv.py base`` to run ZenGlow, ``venv.py dev`` to work on it.

Only the standard library is at hand here. A second call with unchanged locks returns at once. An environment whose
making was cut short is made anew: a package that was half written looks installed to pip.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STATE = VENV / "state.json"
"""``{level: sha256 of its lock}`` for each level that is installed whole; ``{}`` while something is being installed."""
LOG = VENV / "pip.log"
LOCKS = {"base": ROOT / "requirements" / "base.txt", "dev": ROOT / "requirements" / "dev.txt"}

TRIED = (3, 11)
"""The Python that ZenGlow was run and tested on."""

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_INDEX_TIMEOUT_S = 5

REDIS_NEEDED = """On {machine} there is no ready-made Redis in the Python package index. Install redis-server first:
  Debian, Ubuntu   sudo apt install redis-server
  Fedora, RHEL     sudo dnf install redis
  macOS            brew install redis
Or set DATABASE_URL, REDIS_HOST and REDIS_PORT to servers of your own."""


class SetupError(Exception):
    """The environment can't be made; the message says what to do."""


def main(level: str) -> None:
    """Have `.venv` hold exactly what the lock of `level` says. Raises `SetupError`."""
    with one_at_a_time() as lock:
        state = read_state()
        if is_current(state, level):
            return
        check_platform()
        if state == {} or not VENV_PYTHON.exists() or is_of_another_python():
            make_empty(lock)
        write_state({})
        install(level, lock)
        current = {name: digest(name) for name in (("base", "dev") if level == "dev" else ("base",))}
        write_state(current)


def is_current(state: dict[str, str] | None, level: str) -> bool:
    installed = bool(state) and state.get(level) == digest(level)
    return installed and VENV_PYTHON.exists() and not is_of_another_python()


def is_of_another_python() -> bool:
    """Whether PYTHON asks for another version than the environment was made with."""
    if "PYTHON" not in os.environ:
        return False
    match = re.search(r"^version\s*=\s*(\d+)\.(\d+)", (VENV / "pyvenv.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    return match is None or (int(match[1]), int(match[2])) != sys.version_info[:2]


def read_state() -> dict[str, str] | None:
    """What is installed; ``None`` for an environment that was made by hand, or for none."""
    try:
        state: dict[str, str] = json.loads(STATE.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return state


def write_state(state: dict[str, str]) -> None:
    draft = STATE.with_suffix(".new")
    draft.write_text(json.dumps(state), encoding="ascii")
    draft.replace(STATE)


def digest(level: str) -> str:
    return hashlib.sha256(LOCKS[level].read_bytes()).hexdigest()


def check_platform() -> None:
    """Say what was never tried; refuse where something is missing that pip can't bring."""
    brings_redis = sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 13)
    if brings_redis and sys.version_info[:2] == TRIED:
        return
    machine = f"{platform.system()} {platform.machine()} with Python {platform.python_version()}"
    if not brings_redis and shutil.which("redis-server") is None and "DATABASE_URL" not in os.environ:
        raise SetupError(REDIS_NEEDED.format(machine=machine))
    say(f"Not verified: ZenGlow was tried on Linux x86-64 with Python {TRIED[0]}.{TRIED[1]}, not on {machine}.")


def make_empty(lock: int) -> None:
    """An environment with pip and nothing else, marked as unfinished before anything is in it."""
    say(f"Making .venv with Python {platform.python_version()} …")
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    write_state({})
    # Not sys.executable, which may be the very file that was just removed.
    python = getattr(sys, "_base_executable", sys.executable)
    command = [python, "-I", "-m", "venv", str(VENV)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=[lock])
    if made.returncode != 0:
        raise SetupError(f"`{python} -m venv` failed:\n{made.stdout}{made.stderr}")


def install(level: str, lock: int) -> None:
    pins = LOCKS[level].read_text(encoding="utf-8")
    LOG.write_text("", encoding="utf-8")
    torch = re.search(r"^torch==(\S+)", pins, re.MULTILINE)
    if torch and not list(VENV.glob(f"lib/python*/site-packages/torch-{torch[1]}*.dist-info")):
        install_torch(torch[1], lock)
    say(f"Installing requirements/{level}.txt …")
    count = len(re.findall(r"^[A-Za-z0-9]", pins, re.MULTILINE))
    if not pip("-r", str(LOCKS[level]), packages=count, lock=lock):
        raise SetupError(f"pip failed. The end of {LOG}:\n{tail(LOG)}")


def install_torch(version: str, lock: int) -> None:
    """PyTorch for processors only, where PyTorch's own index answers; its general build brings gigabytes of CUDA."""
    say(f"Installing PyTorch {version} …")
    requirement = f"torch=={version}"
    processors_only = ["--no-deps", "--index-url", TORCH_CPU_INDEX, requirement]
    if answers(f"{TORCH_CPU_INDEX}/torch/") and pip(*processors_only, lock=lock):
        return
    say(f"  {TORCH_CPU_INDEX} can't be used; taking it from the configured package index, which may be larger.")
    if not pip("--constraint", str(LOCKS["base"]), requirement, lock=lock):
        raise SetupError(f"pip failed. The end of {LOG}:\n{tail(LOG)}")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=TORCH_INDEX_TIMEOUT_S):
            return True
    except OSError:
        return False


def pip(*arguments: str, lock: int, packages: int = 1) -> bool:
    """Install, with one line of progress instead of pip's own account of it, which goes to the log."""
    command = [str(VENV_PYTHON), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += ["install", "--progress-bar", "off", "--no-warn-script-location", *arguments]
    progress = Progress(packages)
    with LOG.open("a", encoding="utf-8") as log, progress.shown():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            pass_fds=[lock],
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            progress.heed(line)
        return process.wait() == 0


class Progress:
    """One line that is rewritten on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, packages: int) -> None:
        self.packages = packages
        self.seen = 0
        self.doing = "asking the package index"
        self.installing = False
        self.done = threading.Event()

    def heed(self, line: str) -> None:
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            self.seen += 1
        if match := re.match(r"\s+(?:Downloading|Using cached) (\S+?)-\d\S* (\(.+\))", line):
            self.doing = f"fetching {match[1]} {match[2]}"
        elif line.startswith("Installing collected packages"):
            self.packages = line.count(",") + 1
            self.present = self.count_installed()
            self.installing = True

    def count_installed(self) -> int:
        return len(list(VENV.glob("lib/python*/site-packages/*.dist-info")))

    def text(self) -> str:
        if self.installing:
            return f"  {self.count_installed() - self.present}/{self.packages} installed"
        return f"  {min(self.seen, self.packages)}/{self.packages} {self.doing}"

    @contextmanager
    def shown(self) -> Iterator[None]:
        ticker = threading.Thread(target=self.tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            self.done.set()
            ticker.join()

    def tick(self) -> None:
        terminal = sys.stdout.isatty()
        started = time.monotonic()
        while not self.done.wait(0.2 if terminal else 10.0):
            text = f"{self.text()} ({time.monotonic() - started:.0f} s)"
            if terminal:
                columns = shutil.get_terminal_size().columns
                print(f"\r{text[: columns - 1]}\x1b[K", end="", flush=True)
            else:
                say(text)
        if terminal:
            print("\r\x1b[K", end="", flush=True)


@contextmanager
def one_at_a_time() -> Iterator[int]:
    """Hold a lock on this file, so that two `make` at once don't write the same environment.

    The file descriptor is for child processes: one that outlives us keeps the lock until it ends.
    """
    with Path(__file__).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another `make` is preparing .venv; waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def tail(path: Path, lines: int = 25) -> str:
    return "\n".join(path.read_text(encoding="utf-8").splitlines()[-lines:])


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except SetupError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: the next `make` makes .venv anew.")
