"""One running ZenGlow per data folder."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.embedded.support import finish, python
from zenglow_site.embedded.errors import DataDirError, InstanceRunningError
from zenglow_site.embedded.instance import InstanceLock

URL = "http://127.0.0.1:8000"

HOLD = """
import signal, sys
from pathlib import Path
from zenglow_site.embedded.instance import InstanceLock
from zenglow_site.embedded.redis import EmbeddedRedis
place = Path(sys.argv[1])
lock = InstanceLock(place)
lock.acquire(sys.argv[2])
EmbeddedRedis(place / "redis", short_base=place).ensure()
print("held", flush=True)
signal.pause()
"""


def test_it_says_who_holds_the_folder(place: Path) -> None:
    holder = python(HOLD, place, URL)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    lock = InstanceLock(place)

    with pytest.raises(InstanceRunningError) as caught:
        lock.acquire("http://127.0.0.1:9000")

    assert re.search(
        rf"already runs on the data in {place} \(process {holder.pid}, since .* UTC, at {URL}\)", str(caught.value)
    )
    found = lock.holder()
    assert found is not None
    assert (found.process_id, found.url) == (holder.pid, URL)
    assert timedelta(0) <= datetime.now(UTC) - found.started_at < timedelta(minutes=5)

    # Killed: the lock is free at once, though the Redis that it started lives on.
    holder.kill()
    holder.communicate()
    assert lock.holder() is None
    lock.acquire(URL)
    lock.release()


def test_it_can_be_taken_again_after_its_release(place: Path) -> None:
    with InstanceLock(place / "new" / "var") as lock:
        lock.acquire(URL)
        assert lock.holder() is not None
        with pytest.raises(InstanceRunningError):
            InstanceLock(place / "new" / "var").acquire(URL)

    assert lock.holder() is None
    lock.release()
    lock.acquire(URL)
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', "\x00" * 50], ids=repr)
def test_it_is_not_confused_by_a_damaged_file(text: str, place: Path) -> None:
    lock = InstanceLock(place)
    lock.path.write_text(text)
    assert lock.holder() is None

    lock.acquire(URL)

    found = lock.holder()
    assert found is not None
    assert found.url == URL
    lock.path.write_text(text)
    assert lock.holder() is None
    with pytest.raises(InstanceRunningError, match="another process"):
        InstanceLock(place).acquire(URL)
    lock.release()


def test_it_reports_a_folder_that_cannot_be_used(place: Path) -> None:
    (place / "file").write_text("")

    with pytest.raises(DataDirError, match="Choose a folder"):
        InstanceLock(place / "file" / "var").acquire(URL)


def test_two_folders_have_two_instances(place: Path) -> None:
    locks = [InstanceLock(place / name) for name in ("a", "b")]
    for lock in locks:
        lock.acquire(URL)
    other = python(
        "import sys; from pathlib import Path; from zenglow_site.embedded.instance import InstanceLock\n"
        "print([InstanceLock(Path(sys.argv[1]) / name).holder() is not None for name in 'abc'])",
        place,
    )

    assert finish(other) == "[True, True, False]"
    for lock in locks:
        lock.release()
