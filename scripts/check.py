"""`make check`: every check, one line each; what failed is shown in full. Exit code 1 if any did.

With ``--coverage`` (`make coverage`) the tests are also traced, which takes them half as long again.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
MOST_TEST_PROCESSES = 8

OWN_VARIABLES = re.compile(r"^(ZENGLOW_|RAG_|OPS_|REGISTRY_|FUSION_|REDIS_|DATABASE_|CELERY_|ENABLE_API_KEYS$)")
KEPT_VARIABLES = {"ZENGLOW_COLLECTIONS_DIR", "ZENGLOW_TEST_DATA_DIR"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", action="store_true", help="say how much of the code the tests run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zenglow-check-") as scratch:
        clean = {
            **dict.fromkeys(names_in_dotenv(), ""),
            **{name: value for name, value in os.environ.items() if not OWN_VARIABLES.match(name)},
            **{name: os.environ[name] for name in KEPT_VARIABLES & set(os.environ)},
            "ZENGLOW_DATA_DIR": scratch,
            "PYTHONWARNINGS": "default",
        }
        # The stores are not asked anything in these steps: nothing listens on port 1.
        production = clean | {
            "ZENGLOW_ENV": "prod",
            "ZENGLOW_SECRET_KEY": secrets.token_urlsafe(64),
            "ZENGLOW_ALLOWED_HOSTS": "zenglow.example",
            "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none",
            "DATABASE_CONNECT_TIMEOUT_S": "1",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": "1",
        }
        results = [
            step("lint", ["-m", "ruff", "check", "."], clean),
            step("format", ["-m", "ruff", "format", "--check", "."], clean),
            step("types", ["-m", "mypy"], clean),
            step("imports", ["-c", "from importlinter.cli import lint_imports_command as run; run()"], clean),
            step("deployment", ["manage.py", "check", "--deploy", "--fail-level", "WARNING"], production),
            step("migrations", ["manage.py", "makemigrations", "--check", "--dry-run"], production),
            step("generated", ["manage.py", "config", "docs", "--check"], clean),
            tests(clean, options.coverage),
        ]
    return 0 if all(results) else 1


def step(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    passed, output = timed(name, arguments, environment)
    if not passed:
        say(output)
    return passed


def tests(clean: Mapping[str, str], coverage: bool) -> bool:
    """The tests in parallel, on stores of their own that are stopped afterwards."""
    data_dir = clean.get("ZENGLOW_TEST_DATA_DIR", str(ROOT / "var" / "check"))
    # One thread for each process: several processes with a thread per core wait for each other most of the time.
    environment = {**clean, "ZENGLOW_TEST_DATA_DIR": data_dir, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS")
    processes = min(max(processors(), 2), MOST_TEST_PROCESSES)
    # Each process begins with a stretch of its own, so that few start a server that another has started already.
    arguments = ["-m", "pytest", "-q", "-n", str(processes), "--dist", "worksteal"]
    if coverage:
        arguments += ["--cov", "--cov-report=xml", "--cov-report="]
    passed, output = timed("tests", arguments, environment)
    stop = [PYTHON, "manage.py", "stack", "stop"]
    stopped = subprocess.run(
        stop, cwd=ROOT, env={**environment, "ZENGLOW_DATA_DIR": data_dir}, check=False, capture_output=True, text=True
    )
    if stopped.returncode != 0:
        say(f"The tests' own stores could not be stopped:\n{stopped.stdout}{stopped.stderr}")
    if not passed:
        say(output)
        return False
    lines = output.strip().splitlines()
    for line in lines:
        if line.startswith(("SKIPPED", "XFAIL")):
            say(f"    {line}")
    say(f"    {lines[-1]}")
    if not coverage:
        return True
    passed, output = timed("coverage", ["-m", "coverage", "report", "--format=total"], clean)
    say(f"    {output.strip()} %" if passed else output)
    return passed


def timed(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[bool, str]:
    """Run Python with `arguments` and print the line of this step. Returns whether it passed, and its whole output."""
    print(f"{name:<12}", end="", flush=True)
    started = time.monotonic()
    done = subprocess.run(
        [PYTHON, *arguments],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    passed = done.returncode == 0
    say(f"{'ok' if passed else 'FAILED':<8}{time.monotonic() - started:7.1f} s")
    return passed, done.stdout


def names_in_dotenv() -> list[str]:
    """What the developer's own .env sets. Set to nothing, it counts as not set, in the environment as in the file."""
    dotenv = ROOT / ".env"
    text = dotenv.read_text(encoding="utf-8") if dotenv.is_file() else ""
    return re.findall(r"^(?:export )?(\w+)\s*=", text, re.MULTILINE)


def processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
