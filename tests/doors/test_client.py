"""The typed client and the ``zenglow`` command, against a running server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.doors.conftest import ROOT, TEA, Product, Shell
from tests.patience import PATIENCE_S
from tests.serving import free_port
from zenglow_client import (
    BadRequestError,
    ConfigurationError,
    ForbiddenError,
    NotAuthenticatedError,
    NotFoundError,
    Patience,
    RateLimitedError,
    ServerAwayError,
    ServerError,
    UnexpectedAnswerError,
    ZenGlow,
    settings,
)
from zenglow_client.models import AnswerText
from zenglow_client.transport import retry_after_s


def test_it_is_a_program_of_its_own() -> None:
    command = [sys.executable, "-m", "zenglow_client", "--help"]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT / "client" / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.startswith("Usage: zenglow")


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(settings.URL_VARIABLE, raising=False)
    monkeypatch.delenv(settings.KEY_VARIABLE, raising=False)


@pytest.fixture
def zenglow(product: Product) -> Iterator[ZenGlow]:
    with ZenGlow(product.url, product.keys["admin"]) as client:
        yield client


@pytest.fixture
def asked(product: Product, shell: Shell) -> Callable[..., Any]:
    """Runs ``zenglow`` with the key of an administrator."""

    def run(*arguments: str, **more: str) -> Any:
        return shell(*arguments, ZENGLOW_URL=product.url, ZENGLOW_API_KEY=product.keys["admin"], **more)

    return run


class Said(ThreadingHTTPServer):
    """A server that gives the same answers in turn, the last one for ever."""

    daemon_threads = True
    answers: list[tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str, dict[str, str]]]


@pytest.fixture
def saying() -> Iterator[Callable[..., Said]]:
    servers: list[Said] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            server = self.server
            assert isinstance(server, Said)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.asked.append((self.command, self.path, dict(self.headers)))
            status, headers, body = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            if status == 0:
                return  # the connection just ends
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = answer  # noqa: N815  (the base class names them)

        def log_message(self, *_: Any) -> None:
            pass

    def say(*answers: tuple[int, dict[str, str], bytes]) -> Said:
        server = Said(("127.0.0.1", 0), Handler)
        server.answers, server.asked = list(answers), []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield say
    for server in servers:
        server.shutdown()
        server.server_close()


def problem(status: int, detail: str) -> bytes:
    return json.dumps({"status": status, "title": "No", "detail": detail, "request_id": "r"}).encode()


READY = json.dumps({"status": "ok", "checks": []}).encode()
RUN = json.dumps(
    {
        "id": "0190a3c8-0000-7000-8000-000000000000",
        "collection": "c",
        "origin": "api",
        "started_by": "k",
        "done": 0,
        "created_at": "2026-01-01T00:00:00Z",
    }
).encode()


def patient(waits: list[float], **options: Any) -> Patience:
    return Patience(sleep=waits.append, **options)


# --- the client ----


def test_a_search_answers_with_typed_passages(zenglow: ZenGlow) -> None:
    answer = zenglow.search("how warm should green tea be", top_k=1, explain=True)
    (found,) = answer.results
    assert (found.document_id, found.text) == ("tea", TEA)
    assert found.contributions
    given = zenglow.give_feedback(answer.request_id, found.chunk_id, "vote", 1)
    assert (given.document_id, given.value, given.position) == ("tea", 1, 0)


def test_an_answer_is_read_whole_or_as_it_is_written(zenglow: ZenGlow) -> None:
    whole = zenglow.ask("How warm should green tea be?")
    assert "70 to 80 degrees" in whole.text
    assert [cited.document_id for cited in whole.citations] == ["tea"]
    with zenglow.ask_streaming("How warm should green tea be?") as pieces:
        *texts, last = pieces
    assert "".join(map(str, texts)) == whole.text
    assert isinstance(last, AnswerText)
    assert last.citations == whole.citations
    with pytest.raises(NotFoundError, match="nobody"), zenglow.ask_streaming("tea?", agent="nobody"):
        pass


def test_a_stream_that_breaks_off_or_fails_is_told(saying: Callable[..., Said]) -> None:
    token = b'event: token\ndata: {"text": "Green"}\n\n'
    failed = b'event: error\ndata: {"problem": {"status": 503, "detail": "The model is away."}}\n\n'
    for end, error, told in [(b"", ServerAwayError, "broke off"), (failed, ServerError, "model is away")]:
        server = saying((200, {"Content-Type": "text/event-stream"}, token + end))
        with (
            ZenGlow(f"http://127.0.0.1:{server.server_port}") as client,
            client.ask_streaming("tea?") as pieces,
        ):
            assert next(pieces) == "Green"
            with pytest.raises(error, match=told):
                next(pieces)


def test_documents_go_in_are_found_and_taken_out(zenglow: ZenGlow, tmp_path: Path) -> None:
    zenglow.create_collection("shelf", title="Shelf")
    runs = [
        zenglow.index(
            [{"document_id": "a/b c", "text": "Bees make honey.", "metadata": {"year": 2001}}], collection="shelf"
        ),
        zenglow.put_document("shelf", "tax", "Income tax is due in January.", title="Tax"),
    ]
    (tmp_path / "lamp.md").write_text("# Lamp\n\nThe lamp burns oil.\n")
    runs.append(zenglow.upload(tmp_path / "lamp.md", collection="shelf", metadata={"year": 2002}))
    for run in runs:
        *_, last = [run, *zenglow.follow(run)]
        assert (last.state, last.added) == ("finished", 1)
    assert {one.document_id for one in zenglow.documents(collection="shelf")} == {"a/b c", "tax", "lamp.md"}
    assert zenglow.document("shelf", "a/b c").text == "Bees make honey."
    found = zenglow.search("honey or oil", collection="shelf", filters={"year": [2002]}).results
    assert [one.document_id for one in found] == ["lamp.md"]
    zenglow.delete_document("shelf", "tax")
    assert {one.document_id for one in zenglow.documents(collection="shelf", state="deleted")} == {"tax"}
    assert zenglow.restore_document("shelf", "tax").total == 1
    with pytest.raises(BadRequestError, match="confirm"):
        zenglow.delete_collection("shelf", confirm="other")
    zenglow.delete_collection("shelf", confirm="shelf")
    with pytest.raises(NotFoundError, match="shelf"):
        zenglow.collection("shelf")


def test_a_long_list_is_read_page_by_page(zenglow: ZenGlow) -> None:
    for number in range(3):
        zenglow.set_weights(1 + number, 1, reason="to have a history")
    first, *_ = list(zenglow.weights_history())
    assert first.normalized.ltr == pytest.approx(0.75)
    assert zenglow.roll_back_weights().normalized.ltr == pytest.approx(2 / 3)


def test_refusals_have_types_of_their_own(product: Product) -> None:
    with ZenGlow(product.url, "zg_wrong") as client, pytest.raises(NotAuthenticatedError):
        client.search("tea")
    with ZenGlow(product.url, product.keys["rater"]) as client, pytest.raises(ForbiddenError, match="query"):
        client.search("tea")
    with ZenGlow(product.url, product.keys["reader"]) as client, pytest.raises(BadRequestError) as refusal:
        client.search("tea", top_k=100_000)
    assert (refusal.value.status, list(refusal.value.errors)) == (400, ["top_k"])
    assert refusal.value.request_id


def test_what_was_refused_for_its_number_is_sent_again_when_the_server_says(saying: Callable[..., Said]) -> None:
    server = saying((429, {"Retry-After": "7"}, problem(429, "Too many.")), (202, {}, RUN))
    waits: list[float] = []
    with ZenGlow(f"http://127.0.0.1:{server.server_port}", "k", patience=patient(waits)) as client:
        assert client.index([{"document_id": "a", "text": "b"}]).collection == "c"
    assert waits == [7.0]
    keys = {headers["Idempotency-Key"] for _, _, headers in server.asked}
    assert len(keys) == 1, "the repetition is the same request"


def test_it_does_not_wait_longer_than_it_may(saying: Callable[..., Said]) -> None:
    server = saying((429, {"Retry-After": "3600"}, problem(429, "Too many.")))
    waits: list[float] = []
    with (
        ZenGlow(f"http://127.0.0.1:{server.server_port}", "k", patience=patient(waits)) as client,
        pytest.raises(RateLimitedError) as refusal,
    ):
        client.search("tea")
    assert (refusal.value.retry_after_s, waits) == (3600.0, [])


def test_a_connection_that_breaks_is_made_again_only_where_that_is_safe(saying: Callable[..., Said]) -> None:
    server = saying((0, {}, b""), (200, {}, READY))
    with ZenGlow(f"http://127.0.0.1:{server.server_port}", "k", patience=patient([])) as client:
        assert client.ready().status == "ok"
    server = saying((200, {"ETag": '"1"'}, b"{}"), (0, {}, b""), (200, {}, b"{}"))
    with (
        ZenGlow(f"http://127.0.0.1:{server.server_port}", "k", patience=patient([])) as client,
        pytest.raises(ServerAwayError, match="broke"),
    ):
        client.set_weights(1, 1)
    assert [method for method, _, _ in server.asked] == ["GET", "PUT"]


def test_something_else_at_the_address_is_named(saying: Callable[..., Said]) -> None:
    for answer in [(200, {}, b"<html>"), (200, {}, b"{}"), (404, {}, b"<html>")]:
        server = saying(answer)
        with (
            ZenGlow(f"http://127.0.0.1:{server.server_port}", patience=patient([])) as client,
            pytest.raises(UnexpectedAnswerError, match="ZenGlow server"),
        ):
            client.search("tea")


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), ("3", 3.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None)]
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


# --- its settings ----


def test_a_kept_key_is_its_owners_alone_and_goes_to_its_server_alone(tmp_path: Path) -> None:
    path = settings.save(settings.Settings("https://one.example", "zg_secret"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert settings.load() == settings.Settings("https://one.example", "zg_secret")
    assert settings.load("https://two.example").api_key is None
    assert "zg_secret" not in repr(settings.load())
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        settings.load()


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.save(settings.Settings("https://one.example", "zg_kept"))
    monkeypatch.setenv(settings.URL_VARIABLE, "https://two.example/")
    monkeypatch.setenv(settings.KEY_VARIABLE, "zg_given")
    assert settings.load() == settings.Settings("https://two.example", "zg_given")


@pytest.mark.parametrize("url", ["", "zenglow.example", "ftp://zenglow.example", "https://", "http://[", "http://a:b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        settings.checked_url(url)


# --- the command ----


def test_a_login_tries_the_key_and_keeps_it(product: Product, shell: Shell, tmp_path: Path) -> None:
    refused = shell("login", "--url", product.url, typed="zg_wrong\n")
    assert (refused.returncode, refused.stdout) == (1, "")
    kept = shell("login", "--url", product.url, typed=product.keys["reader"] + "\n")
    assert kept.returncode == 0, kept.stderr
    assert (tmp_path / "config" / "zenglow" / "client.toml").stat().st_mode & 0o777 == 0o600
    found = shell("search", "green", "tea", "--json")
    assert json.loads(found.stdout)["results"][0]["document_id"] == "tea"
    assert shell("logout").stdout == "Forgotten.\n"
    assert shell("--url", product.url, "search", "tea").returncode == 1


def test_a_search_shows_passages_to_people_and_json_to_programs(asked: Callable[..., Any]) -> None:
    shown = asked("search", "how warm should green tea be", "-k", "1", "--explain")
    assert shown.returncode == 0, shown.stderr
    assert "70 to 80 degrees" in shown.stdout
    assert "request " in shown.stderr
    answer = json.loads(asked("search", "tea", "--json").stdout)
    passage = answer["results"][0]["chunk_id"]
    noted = asked("feedback", answer["request_id"], str(passage), "--grade", "3")
    assert noted.stdout == "Noted: judgement on tea, shown at place 1.\n"


def test_an_answer_streams_to_people_and_is_json_for_programs(asked: Callable[..., Any]) -> None:
    shown = asked("ask", "how", "warm", "should green tea be?")
    assert shown.returncode == 0, shown.stderr
    assert "70 to 80 degrees" in shown.stdout
    assert "[1] tea" in shown.stdout
    answer = json.loads(asked("ask", "how warm should green tea be?", "--json").stdout)
    assert answer["citations"][0]["document_id"] == "tea"
    assert asked("ask", "tea?", "--agent", "nobody").returncode == 2


def test_a_folder_is_indexed_with_what_became_of_each_file(asked: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "bees.md").write_text("# Bees\n\nBees make honey.\n")
    (folder / "deep" / "dance.py").write_text("def waggle_dance(angle):\n    return angle * 2\n")
    (folder / ".hidden.md").write_text("Not this.\n")
    planned = asked("index", str(folder), "--dry-run")
    assert planned.stdout.splitlines() == ["notes/bees.md", "notes/deep/dance.py"]
    first = asked("index", str(folder), "-c", "notes", "--create")
    assert (first.returncode, first.stdout) == (0, "2 added · 0 changed · 0 unchanged · 0 failed\n"), first.stderr
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    second = asked("index", str(folder), "-c", "notes")
    assert (second.returncode, second.stdout) == (1, "0 added · 0 changed · 2 unchanged · 1 failed\n")
    assert "photo.png" in second.stderr
    listed = json.loads(asked("documents", "list", "-c", "notes", "--json").stdout)
    assert {one["document_id"] for one in listed if one["state"] == "indexed"} == {
        "notes/bees.md",
        "notes/deep/dance.py",
    }
    assert "Bees make honey." in asked("documents", "show", "notes", "notes/bees.md").stdout
    refused = asked("collections", "delete", "notes", typed="another\n")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Deleted 'notes'" in asked("collections", "delete", "notes", "--yes").stdout


def test_a_source_is_synced_and_says_what_came_of_it(
    product: Product, asked: Callable[..., Any], saying: Callable[..., Said]
) -> None:
    assert "no source" in asked("sources", "list").stderr
    site = saying((200, {"Content-Type": "text/plain"}, b"Bees make honey."))
    # Another address of this machine than the one that is opened for the tests' model server.
    address = f"http://127.0.0.2:{site.server_port}/bees.txt"
    body = {"name": "bees", "collection": "papers", "kind": "web", "location": address, "interval_minutes": 0}
    added = product.zenglow.call("/rag/sources", body, Authorization=f"Bearer {product.keys['admin']}")
    assert added.status == 201, added
    done = asked("sources", "sync", "bees")
    # This machine is no public address, and nobody has opened it.
    assert (done.returncode, "no public address" in done.stderr) == (1, True)
    (listed,) = json.loads(asked("sources", "list", "--json").stdout)
    assert (listed["name"], listed["outcome"], listed["failures_in_a_row"]) == ("bees", "failed", 1)
    assert "no public address" in asked("sources", "show", "bees").stdout
    assert not site.asked


def test_weights_are_shown_and_changed(asked: Callable[..., Any]) -> None:
    changed = json.loads(asked("weights", "set", "3", "1", "-m", "a trial", "--json").stdout)
    assert changed["normalized"] == {"ltr": 0.75, "conceptual": 0.25}
    assert "a trial" in asked("weights", "history").stdout
    assert asked("weights", "rollback").returncode == 0
    assert "everywhere" in asked("weights", "show").stdout


def test_the_status_names_the_parts(asked: Callable[..., Any]) -> None:
    assert "redis" in asked("status").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("search",),
        ("serach", "tea"),
        ("search", "tea", "--top-k", "none"),
        ("search", "tea", "--top-k", "1000000"),
        ("search", "tea", "--filter", "year"),
        ("search", "tea", "--collection", "nowhere"),
        ("index", "no/such/file"),
        ("documents", "show", "papers", "nothing"),
        ("weights", "set", "0", "0"),
        ("--url", "nowhere", "status"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_code_2(asked: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    said = asked(*arguments)
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert line.startswith("zenglow: ")


def test_other_faults_are_one_line_that_says_what_to_do(product: Product, shell: Shell) -> None:
    away = shell("--url", f"http://127.0.0.1:{free_port()}", "status")
    assert (away.returncode, len(away.stderr.splitlines())) == (1, 1)
    assert "Is it running" in away.stderr
    unknown = shell("--url", product.url, "search", "tea", ZENGLOW_API_KEY="zg_wrong")
    assert (unknown.returncode, "zenglow login" in unknown.stderr) == (1, True)
    forbidden = shell("--url", product.url, "weights", "show", ZENGLOW_API_KEY=product.keys["reader"])
    assert (forbidden.returncode, "registry:read" in forbidden.stderr) == (1, True)


def test_a_command_that_must_wait_says_so(saying: Callable[..., Said], shell: Shell) -> None:
    server = saying((429, {"Retry-After": "1"}, problem(429, "Too many requests.")), (200, {}, READY))
    said = shell("--url", f"http://127.0.0.1:{server.server_port}", "status", ZENGLOW_API_KEY="k")
    assert said.returncode == 0
    assert said.stderr.startswith("Too many requests. Trying again in 1 s …")
