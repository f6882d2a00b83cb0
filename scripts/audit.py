"""Look for known vulnerabilities in everything that a lock names: ``python scripts/audit.py requirements/dev.txt``.

`pip-audit` asks a service, and one that knows nothing looks just like one that has found nothing. So each service is
first asked about a version that is known to be vulnerable; the first that knows of it is believed. Exit code 0: nothing
is known against any package; 1: something is; 2: not everything could be audited, so nothing is known.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")
VULNERABLE = "jinja2==2.10"
"""Vulnerable since 2019 (CVE-2019-10906), and known to every service."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print(f"usage: python {sys.argv[0]} LOCK", file=sys.stderr)
        return 2
    lock = Path(arguments[0])
    pins = pins_of(lock.read_text(encoding="utf-8"))
    service = next((name for name in SERVICES if knows_anything(name)), None)
    if service is None:
        print(
            f"NOTHING WAS AUDITED: neither {' nor '.join(SERVICES)} knows that {VULNERABLE} is vulnerable. "
            "Can this machine reach them?",
            file=sys.stderr,
        )
        return 2
    found = audit(lock, service)
    audited = {normal(one["name"]) for one in found if "skip_reason" not in one}
    if left_out := sorted(pins - audited):
        print(
            f"{len(left_out)} of {len(pins)} packages could not be audited ({service}): {', '.join(left_out)}",
            file=sys.stderr,
        )
        return 2
    faults = [(one, vulnerability) for one in found for vulnerability in one.get("vulns", [])]
    for one, vulnerability in faults:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{len(audited)} packages audited ({service}), {len(faults)} known vulnerabilities")
    return 1 if faults else 0


def pins_of(lock: str) -> set[str]:
    """The names of what is pinned, normalised. Raises `ValueError` for a line that pins nothing, or an empty lock."""
    names = set()
    for line in lock.splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        pin = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==\S", text)
        if pin is None:
            raise ValueError(f"{text!r} pins no version")
        names.add(normal(pin[1]))
    if not names:
        raise ValueError("the lock names no package")
    return names


def normal(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def knows_anything(service: str) -> bool:
    """Whether a service finds fault with a version that is known to be vulnerable."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "vulnerable.txt"
        known.write_text(f"{VULNERABLE}\n", encoding="utf-8")
        return any(one.get("vulns") for one in audit(known, service))


def audit(lock: Path, service: str) -> list[dict[str, Any]]:
    """What `pip-audit` says of each package; nothing when it fails, whose reason is passed on."""
    # The locks name every package and no hash: nothing is resolved, and nothing of ours is installed.
    command = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, *command, "-r", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{service}: {reason}", file=sys.stderr)
        return []
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
