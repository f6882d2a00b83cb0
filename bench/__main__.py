"""``make bench``: every benchmark in turn, each in a process of its own; ``python -m bench NAME …`` runs some."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.setup import DATA_DIR

ROOT = Path(__file__).resolve().parent.parent
NOT_BENCHMARKS = {"__init__", "__main__", "public", "server_settings", "server_urls", "serving", "setup"}


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    if unknown := set(names) - set(known):
        sys.exit(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    failed = False
    try:
        for name in names or known:
            print(f"--- {name}", flush=True)
            failed |= subprocess.run([sys.executable, "-m", f"bench.{name}"], cwd=ROOT, check=False).returncode != 0
    finally:
        stop_stores()
    return int(failed)


def stop_stores() -> None:
    """The benchmarks leave the stores of their own data folder up for the next one."""
    from zenglow_site.embedded.stack import EmbeddedStack

    EmbeddedStack(DATA_DIR).stop()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
