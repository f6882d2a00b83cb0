"""What is particular to folders of this machine, and to buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ops import outgoing
from ops.contracts.problems import InvalidRequest
from ops.outgoing import GuardedTransport
from rag.models import SourceOutcome
from tests.rag.sources.conftest import Make, ids, look
from tests.rag.sources.places import Bucket, Folder

pytestmark = pytest.mark.django_db


def test_no_folder_is_open_unless_the_operator_opened_it(opened: Path, make: Make, settings: Any) -> None:
    folder = Folder(opened / "folder")
    for location in ("/etc", str(opened.parent), f"{opened}/../secrets", "folder"):
        with pytest.raises(InvalidRequest, match="location"):
            make(folder, location=location)
    settings.RAG_SOURCE_FOLDERS = ()
    with pytest.raises(InvalidRequest, match="RAG_SOURCE_FOLDERS"):
        make(folder)


def test_a_link_does_not_lead_out_of_what_was_opened(opened: Path, make: Make) -> None:
    secrets = opened.parent / "secrets"
    (secrets / "note.txt").write_text("Nobody may see this.")
    (opened / "way-out").symlink_to(secrets)
    folder = Folder(opened / "folder")
    with pytest.raises(InvalidRequest, match="location"):
        make(folder, location=str(opened / "way-out"))
    (folder.root / "way-out").symlink_to(secrets)
    (folder.root / "note.txt").symlink_to(secrets / "note.txt")
    folder.put("bees.txt", "Bees make honey.")
    source = look(make(folder))
    assert ids() == {"shelf/bees.txt"}
    folder.close()
    folder.root.symlink_to(secrets)
    source = look(source)
    assert (source.outcome, "RAG_SOURCE_FOLDERS" in source.error) == (SourceOutcome.FAILED, True)


def test_its_documents_have_the_groups_and_metadata_of_the_source(opened: Path, make: Make) -> None:
    folder = Folder(opened / "folder")
    folder.put("bees.txt", "Bees make honey.")
    source = look(make(folder, access_groups=["keepers"], metadata={"shelf": 3}))
    (document,) = source.collection.documents.all()
    assert (document.access_groups, document.metadata, document.source) == (["keepers"], {"shelf": 3}, "bees.txt")


def test_a_file_that_could_not_be_indexed_is_tried_again(opened: Path, make: Make) -> None:
    folder = Folder(opened / "folder")
    folder.put("broken.pdf", "This is no PDF.")
    source = look(make(folder))
    assert source.last_run is not None
    assert source.last_run.failed == 1
    assert look(source).tally["found"] == 1


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(s3_endpoint, f"b-{abs(hash(request.node.name))}")


def test_only_what_is_below_the_prefix_is_taken(bucket: Bucket, make: Make) -> None:
    bucket.put("bees.txt", "Bees make honey.")
    bucket.put("deep/", "")
    bucket.bucket.put_object(Key="other/tax.txt", Body=b"Income tax.")
    bucket.bucket.put_object(Key="docs/photo.bin", Body=b"\x00")
    source = look(make(bucket))
    assert ids() == {"shelf/bees.txt"}
    assert source.tally["left_out"] == {"is a folder's mark": 1, "'.bin' files cannot be read": 1}
    (document,) = source.collection.documents.all()
    assert document.source == f"s3://{bucket.name}/docs/bees.txt"


def test_a_bucket_that_is_not_there_or_a_key_that_is_none_is_told(bucket: Bucket, make: Make) -> None:
    source = look(make(bucket, location="s3://b-nowhere-at-all/"))
    assert (source.outcome, "NoSuchBucket" in source.error) == (SourceOutcome.FAILED, True)
    for secret, told in (("token", "access_key"), ("missing", "can't be read")):
        source.secret = secret
        source.save()
        source = look(source)
        assert told in source.error
        assert "token-that-nobody-may-see" not in source.error


def test_its_endpoint_must_be_open_to_calls(bucket: Bucket, make: Make, settings: Any) -> None:
    settings.OPS_OUTGOING_ALLOWED = ()
    source = look(make(bucket))
    assert (source.outcome, "no public address" in source.error) == (SourceOutcome.FAILED, True)


def test_each_request_goes_to_the_address_that_was_judged(
    bucket: Bucket, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads to the bucket for us alone, and later into the network."""
    leads_to = ["127.0.0.1"]
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return leads_to

    def guarded() -> httpx.Client:
        return httpx.Client(transport=GuardedTransport(rebinding), trust_env=False)

    monkeypatch.setattr(outgoing, "client", guarded)
    bucket.put("a + b&c é.txt", "Bees make honey.")
    bucket.put("c.txt", "Wasps make paper.")
    port = bucket.endpoint.rpartition(":")[2]
    source = look(make(bucket, options={"endpoint_url": f"http://s3.eu-west-1.amazonaws.com:{port}"}))
    assert (source.outcome, ids()) == (SourceOutcome.OK, {"shelf/a + b&c é.txt", "shelf/c.txt"})
    assert asked == ["s3.eu-west-1.amazonaws.com"] * 3, "a listing and two objects"

    leads_to[:] = ["169.254.169.254"]
    source = look(source)
    assert (source.outcome, "no public address" in source.error) == (SourceOutcome.FAILED, True)
    assert ids() == {"shelf/a + b&c é.txt", "shelf/c.txt"}


@pytest.mark.parametrize("location", ["bucket", "s3://", "https://bucket/", "s3://bucket/?x=1"])
def test_it_is_written_as_s3_has_it(bucket: Bucket, make: Make, location: str) -> None:
    with pytest.raises(InvalidRequest, match="location"):
        make(bucket, location=location)
