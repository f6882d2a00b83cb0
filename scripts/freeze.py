"""Lock the requirements: ``requirements/*.in`` → ``requirements/*.txt``, the same on whichever machine it is done.

A lock names versions and nothing else: no index, link or path of the machine that made it, no local version such as
``2.13.0+cpu``, and none of the CUDA packages that the general build of PyTorch brings (see docs/dependencies.md).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
LEVELS = ("base", "milvus", "s3", "whisper", "piper", "dev")
LOWEST_PYTHON = (3, 11)

COMPILE_OPTIONS = (
    "--quiet",
    "--strip-extras",
    "--allow-unsafe",
    "--no-header",
    "--annotation-style=line",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
    "--no-emit-options",
)
HEADER = "# Made by `make freeze` from {level}.in. Don't edit.\n"
CUDA = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton==)")


def freeze(level: str, *options: str) -> None:
    """Rewrite one lock. Versions that are locked already stay unless `options` say ``--upgrade``."""
    lock = REQUIREMENTS / f"{level}.txt"
    command = [sys.executable, "-m", "piptools", "compile", *COMPILE_OPTIONS, *options]
    subprocess.run([*command, "--output-file", lock.name, f"{level}.in"], cwd=REQUIREMENTS, check=True)
    pins = (re.sub(r"\+[a-z0-9.]+", "", line) for line in lock.read_text(encoding="utf-8").splitlines())
    kept = [pin for pin in pins if pin and not pin.startswith(("#", "--")) and not CUDA.match(pin)]
    lock.write_text(HEADER.format(level=level) + "\n".join(kept) + "\n", encoding="utf-8")
    print(f"requirements/{lock.name}: {len(kept)} packages")


if __name__ == "__main__":
    if sys.version_info[:2] != LOWEST_PYTHON:
        # A lock made on a newer Python may hold versions that the lowest one can't install.
        sys.exit(f"Locks are made with Python 3.11, not {sys.version.split()[0]}: make freeze PYTHON=python3.11")
    for name in LEVELS:
        freeze(name, *sys.argv[1:])
