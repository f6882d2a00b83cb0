from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models_registry import artifacts
from models_registry.models import Artifact, ModelVersion
from tests.models_registry.conftest import at_once

pytestmark = pytest.mark.django_db

CONTENT = b"tree\nversion=v4\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER_SHA256 = hashlib.sha256(b"other").hexdigest()


def stored_file(store: Path, sha256: str = SHA256) -> Path:
    return store / "artifacts" / sha256[:2] / sha256


def incoming(store: Path) -> list[Path]:
    return list((store / ".incoming").iterdir())


def make_old(sha256: str) -> None:
    Artifact.objects.filter(sha256=sha256).update(stored_at=timezone.now() - timedelta(days=1))


def test_it_stores_bytes_under_their_hash(store: Path) -> None:
    artifact = artifacts.put(CONTENT, "model.txt")

    assert (artifact.sha256, artifact.size_bytes, artifact.filename) == (SHA256, len(CONTENT), "model.txt")
    assert stored_file(store).read_bytes() == CONTENT
    assert incoming(store) == []


def test_it_stores_a_path_and_a_stream_as_the_same_artifact(store: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_bytes(CONTENT)

    assert artifacts.put(source, source.name) == artifacts.put(io.BytesIO(CONTENT), "b.txt")
    assert Artifact.objects.get().filename == "a.txt"


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [("../../etc/passwd", "passwd"), ("C:\\models\\a.txt", "a.txt"), ("", "unnamed"), ("x" * 300, "x" * 200)],
)
def test_it_keeps_only_the_last_part_of_a_file_name(store: Path, given_name: str, kept: str) -> None:
    assert artifacts.put(CONTENT, given_name).filename == kept


@given(content=st.binary(max_size=3000))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=20)
def test_it_gives_back_any_content(store: Path, content: bytes) -> None:
    artifact = artifacts.put(content, "any")
    with artifacts.open_verified(artifact.sha256) as stream:
        assert stream.read() == content


def test_it_adopts_a_file_whose_row_was_never_written(store: Path) -> None:
    with transaction.atomic():
        artifacts.put(CONTENT, "model.txt")
        transaction.set_rollback(True)
    assert stored_file(store).exists()
    assert not Artifact.objects.exists()

    artifacts.put(CONTENT, "model.txt")

    assert Artifact.objects.get().sha256 == SHA256


def test_it_restores_a_file_that_was_lost_or_damaged(store: Path) -> None:
    artifacts.put(CONTENT, "model.txt")
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"half")):
        damage(stored_file(store))
        artifacts.put(CONTENT, "model.txt")
        assert artifacts.local_path(SHA256).read_bytes() == CONTENT


def test_it_keeps_nothing_of_a_stream_that_breaks(store: Path) -> None:
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.blocks = [b"a" * 1000]

        def read(self, size: int = -1, /) -> bytes:
            if self.blocks:
                return self.blocks.pop()
            raise OSError(5, "Input/output error")

    with pytest.raises(artifacts.ArtifactStorageError, match="Input/output error"):
        artifacts.put(Broken(), "model.txt")

    assert incoming(store) == []
    assert not Artifact.objects.exists()


def test_it_refuses_a_file_above_the_limit_and_keeps_nothing(store: Path, settings: Any) -> None:
    settings.REGISTRY_ARTIFACT_MAX_BYTES = 1024
    artifacts.put(b"x" * 1024, "just-right")
    with pytest.raises(artifacts.ArtifactTooLargeError, match="REGISTRY_ARTIFACT_MAX_BYTES"):
        artifacts.put(b"x" * 1025, "too-large")

    assert Artifact.objects.count() == 1
    assert incoming(store) == []


def test_it_names_a_source_that_cannot_be_read(store: Path, tmp_path: Path) -> None:
    with pytest.raises(artifacts.ArtifactMissingError, match="No such file"):
        artifacts.put(tmp_path / "nowhere.txt", "nowhere.txt")


@pytest.mark.parametrize("sha256", [OTHER_SHA256, "", "../../../etc/passwd", SHA256.upper()])
def test_it_says_what_is_missing(store: Path, sha256: str) -> None:
    artifacts.put(CONTENT, "model.txt")
    with pytest.raises(artifacts.ArtifactMissingError):
        artifacts.local_path(sha256)


def test_it_refuses_a_damaged_file_also_after_it_was_verified_once(store: Path) -> None:
    artifacts.put(CONTENT, "model.txt")
    assert artifacts.local_path(SHA256) == stored_file(store)

    stored_file(store).write_bytes(b"#" * len(CONTENT))
    os.utime(stored_file(store), ns=(0, 0))

    with pytest.raises(artifacts.ArtifactCorruptError, match=SHA256[:12]):
        artifacts.local_path(SHA256)


def test_it_does_not_read_a_verified_file_again(store: Path) -> None:
    artifacts.put(CONTENT, "model.txt")
    path = artifacts.local_path(SHA256)
    status = path.stat()

    # The same size, inode and time: only reading it could tell. So the answer shows that it was not read.
    path.write_bytes(b"#" * len(CONTENT))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert artifacts.local_path(SHA256) == path


def test_it_copies_from_a_remote_store_and_repairs_its_copy(remote_store: Path) -> None:
    artifacts.put(CONTENT, "model.txt")
    copy = artifacts.local_path(SHA256)
    assert copy.is_relative_to(remote_store / "cache")

    copy.write_bytes(b"damaged")
    assert artifacts.local_path(SHA256).read_bytes() == CONTENT


def test_it_refuses_a_damaged_remote_file_and_put_repairs_it(remote_store: Path) -> None:
    artifacts.put(CONTENT, "model.txt")
    name = f"artifacts/{SHA256[:2]}/{SHA256}"
    with default_storage.open(name, "wb") as stored:
        stored.write(b"damaged")
    with pytest.raises(artifacts.ArtifactCorruptError):
        artifacts.local_path(SHA256)

    artifacts.put(CONTENT, "model.txt")
    assert artifacts.local_path(SHA256).read_bytes() == CONTENT


def test_it_says_what_a_remote_store_lacks(remote_store: Path) -> None:
    with pytest.raises(artifacts.ArtifactMissingError):
        artifacts.local_path(SHA256)


@pytest.mark.django_db(transaction=True)
def test_it_stores_one_content_once_when_many_offer_it_together(store: Path) -> None:
    results = at_once(*[lambda: artifacts.put(CONTENT, "model.txt")] * 4)

    assert [result.sha256 for result in results] == [SHA256] * 4
    assert Artifact.objects.count() == 1
    assert stored_file(store).read_bytes() == CONTENT


def test_collection_spares_what_a_version_needs_and_what_is_new(
    store: Path, make_version: Callable[..., ModelVersion]
) -> None:
    needed = make_version(content=b"needed").artifacts["model"]
    make_old(needed)
    artifacts.put(b"new", "new")

    assert artifacts.collect_garbage(dry_run=False) == []
    assert Artifact.objects.count() == 2


@pytest.mark.parametrize("kind", ["store", "remote_store"])
def test_collection_deletes_what_nobody_needs_but_not_in_a_dry_run(request: pytest.FixtureRequest, kind: str) -> None:
    request.getfixturevalue(kind)
    artifacts.put(CONTENT, "model.txt")
    make_old(SHA256)
    garbage = [artifacts.Garbage(SHA256, "model.txt", len(CONTENT))]

    assert artifacts.collect_garbage(dry_run=True) == garbage
    assert default_storage.exists(f"artifacts/{SHA256[:2]}/{SHA256}")

    assert artifacts.collect_garbage(dry_run=False) == garbage
    assert not default_storage.exists(f"artifacts/{SHA256[:2]}/{SHA256}")
    assert not Artifact.objects.exists()


def test_collection_deletes_the_leftovers_of_processes_that_died(store: Path) -> None:
    artifacts.put(CONTENT, "model.txt")
    Artifact.objects.all().delete()
    half = store / ".incoming" / "half"
    half.write_bytes(b"ha")
    os.utime(half, (0, 0))
    os.utime(stored_file(store), (0, 0))

    found = artifacts.collect_garbage(dry_run=False)

    assert found == [artifacts.Garbage(SHA256, "", len(CONTENT))]
    assert not half.exists()
    assert not stored_file(store).exists()


def test_collection_of_an_empty_store_finds_nothing(store: Path) -> None:
    assert artifacts.collect_garbage(dry_run=False) == []
    with pytest.raises(artifacts.ArtifactMissingError), transaction.atomic():
        artifacts.require([SHA256])
