"""Git repositories: one branch, no more than it needs, and nothing that the repository would like to run."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ops.contracts.problems import InvalidRequest
from rag.models import SourceOutcome
from tests.rag.sources.conftest import Make, ids, look
from tests.rag.sources.places import Repository

pytestmark = pytest.mark.django_db

TOKEN = "token-that-nobody-may-see"


@contextmanager
def git_over_http(folder: Path, *, seen: list[str]) -> Iterator[str]:
    """Git's own ``http-backend`` behind a server that asks for the token."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            if seen[-1] != f"Basic {base64.b64encode(f'x-access-token:{TOKEN}'.encode()).decode()}":
                self.send_response(401)
                self.end_headers()
                return
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            variables = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": parts.path,
                "QUERY_STRING": parts.query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "CONTENT_LENGTH": str(length),
            }
            done = subprocess.run(
                ["git", "http-backend"], input=self.rfile.read(length), env=variables, capture_output=True, check=True
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815  (the base class names them)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_it_is_fetched_over_http_with_its_token(repository: Repository, make: Make) -> None:
    repository.put("bees.md", "Bees make honey.")
    seen: list[str] = []
    with git_over_http(repository.root.parent, seen=seen) as address:
        source = look(make(repository, location=f"{address}/repository/.git", secret="token"))
        assert (source.outcome, source.error) == (SourceOutcome.OK, "")
        assert ids() == {"shelf/bees.md"}
        source.secret = "bucket"
        source.save()
        source = look(source)
    assert source.outcome == SourceOutcome.FAILED
    assert TOKEN not in source.error


def test_another_branch_and_a_folder_of_it_can_be_chosen(repository: Repository, make: Make) -> None:
    repository.put("guide/bees.md", "Bees make honey.")
    repository.put("other.md", "Something else.")
    repository.git("checkout", "--quiet", "-b", "next")
    repository.put("guide/tea.md", "Green tea wants 70 degrees.")
    repository.git("checkout", "--quiet", "main")
    source = look(make(repository, options={"branch": "next", "folder": "/guide/"}))
    assert ids() == {"shelf/bees.md", "shelf/tea.md"}
    source.options = {"branch": "gone"}
    source.save()
    source = look(source)
    assert (source.outcome, "gone" in source.error) == (SourceOutcome.FAILED, True)
    assert ids() == {"shelf/bees.md", "shelf/tea.md"}


def test_links_hidden_files_and_what_is_no_document_are_left_out(repository: Repository, make: Make) -> None:
    (repository.root / "leak.md").symlink_to("/etc/passwd")
    (repository.root / ".secret.md").write_text("Hidden.")
    (repository.root / "logo.bin").write_bytes(b"\x00")
    (repository.root / "empty.md").touch()
    repository.put("bees.md", "Bees make honey.")
    source = look(make(repository))
    assert ids() == {"shelf/bees.md"}
    assert source.tally["left_out"] == {
        "is a symbolic link or a submodule": 1,
        "is hidden": 1,
        "'.bin' files cannot be read": 1,
        "is empty": 1,
    }


def test_a_history_that_was_rewritten_is_followed(repository: Repository, make: Make) -> None:
    repository.put("bees.md", "Bees make honey.")
    source = look(make(repository))
    repository.put("tea.md", "Green tea wants 70 degrees.")
    repository.git("reset", "--quiet", "--soft", "HEAD~2")
    repository.remove("bees.md")
    source = look(source)
    assert (source.outcome, ids()) == (SourceOutcome.OK, {"shelf/tea.md"})


def test_a_repository_larger_than_allowed_is_refused(repository: Repository, make: Make, settings: Any) -> None:
    settings.RAG_SOURCE_GIT_MAX_BYTES = 20_000
    (repository.root / "noise.txt").write_bytes(os.urandom(60_000).hex().encode())
    repository.commit()
    source = look(make(repository))
    assert (source.outcome, ids()) == (SourceOutcome.FAILED, set())


@pytest.mark.parametrize(
    "location",
    [
        "ext::sh -c touch% /tmp/owned",
        "ssh://git@example.org/x.git",
        "file:///etc",
        "https://token@example.org/x.git",
        "--upload-pack=touch /tmp/owned",
        "/etc",
        "relative/folder",
    ],
)
def test_other_protocols_and_folders_are_refused(repository: Repository, make: Make, location: str) -> None:
    with pytest.raises(InvalidRequest, match="location"):
        make(repository, location=location)


def test_a_private_address_is_not_called(repository: Repository, make: Make, settings: Any) -> None:
    settings.OPS_OUTGOING_ALLOWED = ()
    source = look(make(repository, location="http://127.0.0.1:1/x.git"))
    assert "no public address" in source.error


def test_a_branch_is_no_option_of_the_program(repository: Repository, make: Make) -> None:
    with pytest.raises(InvalidRequest, match="branch"):
        make(repository, options={"branch": "--upload-pack=x"})
