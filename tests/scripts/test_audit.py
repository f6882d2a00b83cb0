"""The audit of the locks, with a `pip-audit` that says what it is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import audit

ROOT = Path(__file__).resolve().parents[2]
CANARY = audit.VULNERABLE.partition("==")[0]

# Answers from a file: for each service, what is known of each package.
STAND_IN = """
import json, os, sys
from pathlib import Path

arguments = sys.argv[1:]
known = json.loads(Path(os.environ["KNOWN"]).read_text()).get(arguments[arguments.index("--vulnerability-service") + 1])
if known is None:
    sys.exit("ConnectionError: the service can't be reached")
found = []
for line in Path(arguments[arguments.index("-r") + 1]).read_text().splitlines():
    name, _, version = line.partition("==")
    if name in known:
        vulns = [{"id": id, "fix_versions": ["9.9"], "aliases": [], "description": ""} for id in known[name]]
        found.append({"name": name, "version": version, "vulns": vulns})
    elif name:
        found.append({"name": name, "skip_reason": "Dependency not found"})
print(json.dumps({"dependencies": found, "fixes": []}))
sys.exit(1 if any(one.get("vulns") for one in found) else 0)
"""

Audit = Callable[[dict[str, Any]], subprocess.CompletedProcess[str]]


@pytest.fixture
def audited(tmp_path: Path) -> Audit:
    package = tmp_path / "pip_audit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    lock = tmp_path / "lock.txt"
    lock.write_text("# Made by a test.\nDjango==5.2\nredis_client==6.4\n")

    def run(known: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "known.json").write_text(json.dumps(known))
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "KNOWN": str(tmp_path / "known.json")}
        command = [sys.executable, str(ROOT / "scripts" / "audit.py"), str(lock)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


KNOWS = {CANARY: ["CVE-1"], "Django": [], "redis_client": []}


def test_a_lock_that_nothing_is_known_against_is_in_order(audited: Audit) -> None:
    done = audited({"pypi": KNOWS})
    assert (done.returncode, done.stdout.strip()) == (0, "2 packages audited (pypi), 0 known vulnerabilities")


def test_a_vulnerable_package_is_named_with_the_version_that_mends_it(audited: Audit) -> None:
    done = audited({"pypi": KNOWS | {"Django": ["CVE-2", "CVE-3"]}})
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "Django 5.2: CVE-2, fixed in 9.9"
    assert done.stdout.splitlines()[-1] == "2 packages audited (pypi), 2 known vulnerabilities"


@pytest.mark.parametrize("pypi", [None, {}, {CANARY: [], "Django": [], "redis_client": []}])
def test_a_service_that_knows_nothing_is_not_believed(audited: Audit, pypi: dict[str, Any] | None) -> None:
    done = audited({"pypi": pypi, "osv": KNOWS | {"Django": ["CVE-2"]}})
    assert done.returncode == 1
    assert "2 packages audited (osv)" in done.stdout
    alone = audited({"pypi": pypi})
    assert alone.returncode == 2
    assert "NOTHING WAS AUDITED" in alone.stderr
    assert alone.stdout == ""


def test_a_package_that_is_left_out_is_a_failure(audited: Audit) -> None:
    done = audited({"pypi": {CANARY: ["CVE-1"], "Django": []}})
    assert done.returncode == 2
    assert "1 of 2 packages could not be audited (pypi): redis-client" in done.stderr


def test_every_line_of_our_locks_pins_a_package() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        assert audit.pins_of(lock.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "django>=5\n"])
def test_a_lock_that_pins_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"pins no version|names no package"):
        audit.pins_of(text)
