"""The artifact store on a server that speaks S3, over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from django.core.files.storage import default_storage, storages
from django.utils import timezone
from moto.server import ThreadedMotoServer

from models_registry import artifacts
from models_registry.models import Artifact
from zenglow_site.object_store import s3_storage

pytestmark = pytest.mark.django_db

CONTENT = b"tree\nversion=v4\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"artifacts/{SHA256[:2]}/{SHA256}"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, settings: Any, tmp_path: Path) -> Iterator[Any]:
    """An empty bucket that the product keeps its files in."""
    variables = {
        "ZENGLOW_S3_BUCKET": "zenglow",
        "ZENGLOW_S3_ENDPOINT_URL": endpoint,
        "ZENGLOW_S3_REGION": "eu-west-1",
        "ZENGLOW_S3_ACCESS_KEY": "key",
        "ZENGLOW_S3_SECRET_KEY": "secret",
        "ZENGLOW_S3_PREFIX": "one",
    }
    made = boto3.resource(
        "s3", endpoint_url=endpoint, region_name="eu-west-1", aws_access_key_id="key", aws_secret_access_key="secret"
    ).Bucket("zenglow")
    made.create(CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    settings.ZENGLOW_DATA_DIR = tmp_path
    settings.STORAGES = {**settings.STORAGES, "default": s3_storage(variables)}  # type: ignore[arg-type]
    yield made
    storages._storages.clear()
    made.objects.all().delete()
    made.delete()


def test_an_artifact_is_kept_under_its_hash_and_read_through_a_verified_copy(bucket: Any, tmp_path: Path) -> None:
    artifacts.put(CONTENT, "model.txt")
    assert [stored.key for stored in bucket.objects.all()] == [f"one/{NAME}"]
    copy = artifacts.local_path(SHA256)
    assert copy.is_relative_to(tmp_path / "cache")
    assert copy.read_bytes() == CONTENT
    assert artifacts.is_stored(SHA256)
    assert not artifacts.is_stored("0" * 64)


def test_what_is_damaged_is_refused_and_put_right(bucket: Any) -> None:
    artifacts.put(CONTENT, "model.txt")
    bucket.put_object(Key=f"one/{NAME}", Body=b"other")
    with pytest.raises(artifacts.ArtifactCorruptError):
        artifacts.local_path(SHA256)
    artifacts.put(CONTENT, "model.txt")
    assert artifacts.local_path(SHA256).read_bytes() == CONTENT


def test_what_is_gone_is_named(bucket: Any) -> None:
    with pytest.raises(artifacts.ArtifactMissingError):
        artifacts.local_path(SHA256)


@pytest.mark.parametrize("dry_run", [True, False])
def test_garbage_is_collected(bucket: Any, dry_run: bool) -> None:
    artifacts.put(CONTENT, "model.txt")
    Artifact.objects.update(stored_at=timezone.now() - timedelta(days=1))
    assert [garbage.sha256 for garbage in artifacts.collect_garbage(dry_run=dry_run)] == [SHA256]
    assert default_storage.exists(NAME) is dry_run


def test_a_store_that_is_away_or_refuses_is_a_fault_in_one_sentence(bucket: Any, settings: Any) -> None:
    options = settings.STORAGES["default"]["OPTIONS"]
    for changes in ({"bucket_name": "nowhere"}, {"endpoint_url": "http://127.0.0.1:1"}):
        default = {"BACKEND": settings.STORAGES["default"]["BACKEND"], "OPTIONS": options | changes}
        settings.STORAGES = {**settings.STORAGES, "default": default}
        with pytest.raises(artifacts.ArtifactStorageError, match="could not be"):
            artifacts.put(CONTENT, "model.txt")
        with pytest.raises(artifacts.ArtifactError):
            artifacts.local_path(SHA256)
    assert not Artifact.objects.exists()
