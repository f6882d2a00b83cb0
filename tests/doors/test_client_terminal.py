"""The command in a real terminal: bars while it works, and none where nobody looks."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.doors.conftest import ROOT, Product


def test_indexing_shows_how_far_it_is_on_a_terminal_alone(product: Product, tmp_path: Path) -> None:
    (tmp_path / "coffee.txt").write_text("Coffee wants 93 degrees.")
    command = [sys.executable, "-m", "zenglow_client", "index", str(tmp_path)]
    environment = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "COLUMNS": "120",
        "PYTHONPATH": str(ROOT / "client" / "src"),
        "ZENGLOW_URL": product.url,
        "ZENGLOW_API_KEY": product.keys["admin"],
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs) as running:
        os.close(theirs)
        shown = _read(ours)
    assert running.returncode == 0, shown
    assert "Sending" in shown
    assert "Indexing" in shown
    assert "1/1" in shown

    piped = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Sending" not in piped.stderr


def _read(terminal: int) -> str:
    """All that is written to a terminal until its other end is closed."""
    blocks: list[bytes] = []
    try:
        while block := os.read(terminal, 65_536):
            blocks.append(block)
    except OSError:  # what Linux says at the end
        pass
    finally:
        os.close(terminal)
    return b"".join(blocks).decode(errors="replace")
