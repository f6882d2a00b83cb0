from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from ops import audit, keys
from ops.backup import BackupError, create, database, restore, service
from ops.backup.archive import Manifest, inspect
from ops.contracts.principal import SYSTEM, Scope
from ops.models import ApiKey, AuditEvent

MANIFEST = "manifest.json"


def silent(line: str) -> None:
    pass


def execute(sql: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def files(settings: Any, tmp_path: Path) -> Path:
    """The folder of an empty local storage."""
    folder = tmp_path / "files"
    folder.mkdir()
    backend = "django.core.files.storage.FileSystemStorage"
    settings.STORAGES = settings.STORAGES | {"default": {"BACKEND": backend, "OPTIONS": {"location": folder}}}
    settings.ZENGLOW_DATA_DIR = tmp_path
    return folder


@pytest.fixture
def extra_objects() -> Iterator[None]:
    """What a plain table is not: things that a restore must replace, and leave behind when it is over."""
    yield
    execute("DROP TABLE IF EXISTS later_parent, later_child, measured CASCADE")
    execute("DROP FUNCTION IF EXISTS later_function(integer)")
    execute("DROP TYPE IF EXISTS later_type")


# --- round trip ----


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("extra_objects", "empty_cache")
def test_it_brings_tables_and_files_back_as_they_were(files: Path, tmp_path: Path) -> None:
    key = keys.create_key("before", [Scope.QUERY], actor=SYSTEM)
    audit.record(SYSTEM, "test.note", "ünïcode \n tab\t \\ quote'", {"nested": [1, 2.5, None, "é"]})
    vector = "0.1,0.2,0.33333334"
    execute(f"CREATE TABLE measured (id int GENERATED ALWAYS AS IDENTITY, embedding vector DEFAULT '[{vector}]')")
    execute("INSERT INTO measured DEFAULT VALUES")
    default_storage.save("originals/ab/abc", ContentFile(bytes(range(256)) * 5000))
    default_storage.save("empty", ContentFile(b""))
    before = list(AuditEvent.objects.order_by("id").values())

    create(tmp_path / "a.backup", report=silent)

    ApiKey.objects.all().delete()
    AuditEvent.objects.all().delete()
    audit.record(SYSTEM, "test.note", "made after the backup")
    default_storage.delete("empty")
    (files / "originals/ab/abc").write_bytes(b"damaged")
    default_storage.save("made-after", ContentFile(b"kept"))
    execute("CREATE TABLE later_parent (id int PRIMARY KEY)")
    execute("CREATE TABLE later_child (parent int REFERENCES later_parent, entry bigint REFERENCES ops_auditevent)")
    execute("CREATE FUNCTION later_function(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1'")
    execute("CREATE TYPE later_type AS ENUM ('a')")
    execute("DROP TABLE measured")
    cache.set("answer", "of the replaced database")

    restore(tmp_path / "a.backup", replace=True, report=silent)

    rows = list(AuditEvent.objects.order_by("id").values())
    assert rows[: len(before)] == before
    assert [row["action"] for row in rows[len(before) :]] == ["backup.restore"]
    assert keys.verify(key.text) is not None
    assert execute("SELECT embedding::text FROM measured") == [(f"[{vector}]",)]
    assert execute("INSERT INTO measured DEFAULT VALUES RETURNING id") == [(2,)]
    assert (files / "originals/ab/abc").read_bytes() == bytes(range(256)) * 5000
    assert (files / "empty").read_bytes() == b""
    assert (files / "made-after").read_bytes() == b"kept"
    assert "later_parent" not in connection.introspection.table_names()
    assert execute("SELECT count(*) FROM pg_proc WHERE proname = 'later_function'") == [(0,)]
    assert execute("SELECT count(*) FROM pg_type WHERE typname = 'later_type'") == [(0,)]
    assert execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == [(1,)]
    assert cache.get("answer") is None
    assert list((files / ".incoming").iterdir()) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("empty_cache")
def test_it_brings_files_back_to_a_remote_storage(settings: Any, tmp_path: Path) -> None:
    backend = {"BACKEND": "django.core.files.storage.InMemoryStorage"}
    settings.STORAGES = settings.STORAGES | {"default": backend}
    settings.ZENGLOW_DATA_DIR = tmp_path
    default_storage.save("originals/ab/abc", ContentFile(b"content"))
    create(tmp_path / "a.backup", report=silent)
    default_storage.delete("originals/ab/abc")
    restore(tmp_path / "a.backup", replace=True, report=silent)
    with default_storage.open("originals/ab/abc") as stored:
        assert stored.read() == b"content"


# --- creating ----


@pytest.mark.django_db
def test_a_backup_is_private_complete_and_says_what_it_holds(files: Path, tmp_path: Path) -> None:
    default_storage.save("a/b", ContentFile(b"content"))
    (files / ".incoming").mkdir()
    (files / ".incoming" / "half").write_bytes(b"ha")
    target = tmp_path / "a.backup"

    create(target, report=silent)

    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target, "r:") as archive:
        assert archive.getnames() == ["database.dump", "files/a/b", MANIFEST]
    manifest = inspect(target)
    assert manifest.files == ["a/b"]
    assert manifest.members["files/a/b"].sha256 == hashlib.sha256(b"content").hexdigest()
    assert "ops.0001_initial" in manifest.facts["migrations"]
    assert manifest.facts["postgresql"] == database.server_version()


@pytest.mark.django_db
def test_it_never_overwrites_a_file(files: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.backup"
    target.write_bytes(b"precious")
    with pytest.raises(BackupError, match="exists already"):
        create(target, report=silent)
    assert target.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "files"]


@pytest.mark.django_db
def test_it_says_that_a_folder_cannot_be_written(files: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="No such file or directory"):
        create(tmp_path / "nowhere" / "a.backup", report=silent)


@pytest.mark.django_db
def test_it_leaves_nothing_when_pg_dump_fails(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_conninfo", lambda: "host=/nowhere dbname=x")
    with pytest.raises(BackupError, match=r"pg_dump failed: .*nowhere"):
        create(tmp_path / "a.backup", report=silent)
    assert not (tmp_path / "a.backup").exists()
    assert list((files / ".incoming").iterdir()) == []


@pytest.mark.django_db
def test_it_names_the_package_when_no_client_fits(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_client_folders", lambda: iter([tmp_path]))
    with pytest.raises(BackupError, match="postgresql-client-"):
        create(tmp_path / "a.backup", report=silent)


# --- refusing ----


@pytest.fixture
def backup(files: Path, tmp_path: Path, db: None) -> Path:
    default_storage.save("a/b", ContentFile(b"content"))
    create(tmp_path / "good.backup", report=silent)
    return tmp_path / "good.backup"


@pytest.fixture
def untouched(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be written once an archive turned out to be bad."""

    def fail(*args: Any) -> None:
        raise AssertionError("the restore went on")

    monkeypatch.setattr(database, "restore", fail)
    monkeypatch.setattr(service, "move_into_storage", fail)


def contents(backup: Path) -> dict[str, bytes]:
    with tarfile.open(backup, "r:") as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def entry(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, content


def pack(target: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(target, "w:") as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return target


def with_manifest(members: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    body = json.loads(members[MANIFEST])
    body["members"] = {
        name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in members.items()
        if name != MANIFEST
    }
    return members | {MANIFEST: json.dumps(body | changes).encode()}


def repack(backup: Path, members: dict[str, bytes]) -> Path:
    return pack(backup.with_name("bad.backup"), [entry(name, content) for name, content in members.items()])


HOSTILE_NAMES = [
    "../outside",
    "files/../../outside",
    "/etc/passwd",
    "files//etc/passwd",
    "files/./a",
    "files/.incoming/a",
    "files/a\\b",
    "files/a\nb",
    "files/",
    "files/" + "a" * 2000,
    "other",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_it_refuses_names_that_lead_elsewhere(backup: Path, untouched: None, name: str) -> None:
    bad = repack(backup, with_manifest(contents(backup) | {name: b"x"}))
    with pytest.raises(BackupError, match="name that it may not have"):
        restore(bad, replace=True, report=silent)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE]
)
def test_it_refuses_whatever_is_no_plain_file(backup: Path, untouched: None, kind: bytes) -> None:
    members = [entry(name, content) for name, content in contents(backup).items()]
    bad = pack(backup.with_name("bad.backup"), [entry("files/x", type=kind, linkname="/etc/passwd"), *members])
    with pytest.raises(BackupError, match="no plain file"):
        restore(bad, replace=True, report=silent)


def test_it_refuses_a_sparse_file(backup: Path, untouched: None) -> None:
    huge = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(2**50),
        "GNU.sparse.name": "files/x",
    }
    sparse, content = entry("files/x", b"0\n" + b"\0" * 1022)
    sparse.pax_headers = huge
    members = [entry(name, content) for name, content in contents(backup).items()]
    bad = backup.with_name("bad.backup")
    with tarfile.open(bad, "w:", format=tarfile.PAX_FORMAT) as archive:
        for info, data in [(sparse, content), *members]:
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(BackupError, match="no plain file"):
        restore(bad, replace=True, report=silent)


def test_it_refuses_a_name_that_comes_twice(backup: Path, untouched: None) -> None:
    members = [entry(name, content) for name, content in contents(backup).items()]
    bad = pack(backup.with_name("bad.backup"), [members[1], *members])
    with pytest.raises(BackupError, match="twice"):
        restore(bad, replace=True, report=silent)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda members: members | {"files/a/b": b"CONTENT"}, "'files/a/b' has another checksum"),
        (lambda members: members | {"database.dump": members["database.dump"][:-1]}, "has another checksum"),
        (lambda members: {n: c for n, c in members.items() if n != "files/a/b"}, "'files/a/b' is missing"),
        (lambda members: members | {"files/c": b"added"}, "'files/c' is not in its manifest"),
        (lambda members: {n: c for n, c in members.items() if n != MANIFEST}, "no manifest.json"),
        (lambda members: with_manifest({n: c for n, c in members.items() if n != "database.dump"}), "no database.dump"),
        (lambda members: with_manifest(members, format_version=2), "the format 2"),
        (
            lambda members: with_manifest(members, facts={"migrations": ["rag.9999_future"]}),
            "rag.9999_future is unknown",
        ),
        (lambda members: with_manifest(members, facts={}), "none listed is unknown"),
        *[
            (lambda members, bad=bad: members | {MANIFEST: bad}, "manifest.json can't be read")
            for bad in (
                b"",
                b"[]",
                b"null",
                b"{",
                b'{"format": 1}',
                b"[" * 100_000,
                b"\xff",
                b'{"format":"zenglow-backup"}',
            )
        ],
    ],
)
def test_it_refuses_what_does_not_agree_with_its_manifest(
    backup: Path, untouched: None, change: Callable[[dict[str, bytes]], dict[str, bytes]], told: str
) -> None:
    with pytest.raises(BackupError, match=told):
        restore(repack(backup, change(contents(backup))), replace=True, report=silent)


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 600, 5000, -15 * 1024])
def test_it_refuses_an_archive_that_was_cut_off(backup: Path, untouched: None, keep: int) -> None:
    cut = backup.with_name("cut.backup")
    cut.write_bytes(backup.read_bytes()[:keep])
    with pytest.raises(BackupError):
        restore(cut, replace=True, report=silent)


def test_it_refuses_other_files_and_compressed_ones(backup: Path, untouched: None, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"not a backup" * 1000)
    with tarfile.open(tmp_path / "compressed", "w:gz") as archive:
        archive.add(backup, "database.dump")
    for name in ("text", "compressed", "nowhere", "files"):
        with pytest.raises(BackupError, match=name):
            restore(tmp_path / name, replace=True, report=silent)


def test_it_asks_before_it_replaces_anything(backup: Path, untouched: None) -> None:
    with pytest.raises(BackupError, match="Add --yes"):
        restore(backup, replace=False, report=silent)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("dump", [b"no dump", None])
def test_a_restore_that_fails_leaves_the_database_whole(
    backup: Path, monkeypatch: pytest.MonkeyPatch, dump: bytes | None
) -> None:
    audit.record(SYSTEM, "test.note", "precious")
    before = list(AuditEvent.objects.values())
    if dump is None:  # a statement fails after everything has been dropped
        monkeypatch.setattr(
            database, "_EMPTY_PUBLIC_SCHEMA", database._EMPTY_PUBLIC_SCHEMA + "CREATE TABLE ops_auditevent (id int);"
        )
        bad = backup
    else:
        bad = repack(backup, with_manifest(contents(backup) | {"database.dump": dump}))
    with pytest.raises(BackupError, match=r"left as it was: .*(already exists|valid archive)"):
        restore(bad, replace=True, report=silent)
    assert list(AuditEvent.objects.values()) == before


# --- afterwards ----


@pytest.mark.django_db
def test_it_tells_what_is_left_to_do(backup: Path, settings: Any) -> None:
    manifest = inspect(backup)
    assert ["Restart" in line for line in service.warnings_after(manifest)] == [True]

    MigrationRecorder(connection).record_unapplied("ops", "0002_query_performance")
    settings.SECRET_KEY = "another" * 10
    pending, secret, _ = service.warnings_after(Manifest(manifest.facts, manifest.members))
    assert "manage.py migrate" in pending
    assert "API keys" in secret


@pytest.mark.django_db
def test_the_command_reports_and_refuses_in_one_line(files: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "a.backup"
    call_command("backup", "create", str(target))
    told = capsys.readouterr()
    assert "the database and 0 files." in told.out
    assert "Dumping the database" in told.err
    for arguments in (["create", str(target)], ["restore", str(target)], ["restore", str(tmp_path / "nowhere")]):
        with pytest.raises(CommandError) as refusal:
            call_command("backup", *arguments)
        assert refusal.value.returncode == 2
        assert "\n" not in str(refusal.value)
