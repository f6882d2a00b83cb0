"""Folders, lock files and logs of the embedded stack."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from zenglow_site.embedded.accounts import current_account
from zenglow_site.embedded.folders import exclusive, make_folder, rotate_log, socket_folder, write_file

US = current_account()
LOCK_NAME = ".s.PGSQL.5432.lock"


@pytest.mark.parametrize(
    ("home", "inside"),
    [
        ("/srv/zenglow/var/postgres", True),
        ("/srv/with spaces/var/postgres", True),
        ("/" + "x" * (100 - len(f"//run/{LOCK_NAME}")), True),
        ("/" + "x" * (101 - len(f"//run/{LOCK_NAME}")), False),
        ("/" + "é" * 45, False),
        ("/a,b", False),
        ("/it's", False),
        ('/"quoted"', False),
        ("/back\\slash", False),
        ("/two\nlines", False),
    ],
)
def test_it_puts_the_socket_where_an_address_can_name_it(home: str, inside: bool) -> None:
    folder = socket_folder(Path(home), LOCK_NAME, Path("/tmp"))

    assert folder == Path(home) / "run" if inside else folder.parent == Path("/tmp")
    assert len(os.fsencode(folder / LOCK_NAME)) <= 100


def test_it_gives_every_folder_a_socket_folder_of_its_own() -> None:
    first, second = (socket_folder(Path("/" + letter * 99), LOCK_NAME, Path("/tmp")) for letter in "ab")

    assert first != second
    assert first == socket_folder(Path("/" + "a" * 99), LOCK_NAME, Path("/tmp"))


def test_it_makes_folders_with_their_modes_and_leaves_existing_ones(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    make_folder(tmp_path / "a" / "b", US, 0o711)
    make_folder(tmp_path / "a" / "b", US, 0o700)

    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [
        0o700,
        0o755,
        0o711,
    ]
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_it_waits_for_a_lock_and_notices_when_its_file_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    taken = threading.Event()

    def take() -> None:
        with exclusive(path, US, PATIENCE_S):
            with pytest.raises(TimeoutError), exclusive(path, US, timeout_s=0):
                pass
            taken.set()

    waiting = threading.Thread(target=take)
    with exclusive(path, US, timeout_s=0):
        waiting.start()
        with pytest.raises(TimeoutError), exclusive(path, US, timeout_s=0.05):
            pass
        assert not taken.is_set()
        path.unlink()

    assert taken.wait(PATIENCE_S)
    waiting.join()


def test_it_leaves_no_draft_when_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()

    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "file", "text", US)

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_it_rotates_only_a_log_that_is_too_long_and_only_once(tmp_path: Path) -> None:
    log, lock, old = tmp_path / "log", tmp_path / "lock", tmp_path / "log.1"
    rotate_log(log, lock, US, max_bytes=3)
    log.write_text("abc")
    rotate_log(log, lock, US, max_bytes=3)
    assert not old.exists()

    log.write_text("abcd")
    with exclusive(lock, US, timeout_s=0):
        rotate_log(log, lock, US, max_bytes=3)
        assert log.read_text() == "abcd"
    rotate_log(log, lock, US, max_bytes=3)
    rotate_log(log, lock, US, max_bytes=3)

    assert (log.read_text(), old.read_text()) == ("", "abcd")
