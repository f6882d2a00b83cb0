"""Real places that sources look at, all alike to tests: a folder, a web server, a Git repository, a bucket."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import boto3
from moto.server import ThreadedMotoServer


class TestPlace(Protocol):
    """Somewhere that texts can be put, by a path below it."""

    __test__ = False
    kind: str
    options: dict[str, Any]

    @property
    def location(self) -> str: ...

    def put(self, path: str, text: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def close(self) -> None:
        """Take the place itself away."""


@dataclass
class Folder:
    root: Path
    kind: str = "folder"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)

    @property
    def location(self) -> str:
        return str(self.root)

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def close(self) -> None:
        self.root.rename(self.root.with_name("elsewhere"))


@dataclass
class Repository:
    """A working copy whose every change is committed."""

    root: Path
    kind: str = "git"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("commit", "--quiet", "--allow-empty", "-m", "Begin")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    @property
    def location(self) -> str:
        return str(self.root)

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.commit()

    def remove(self, path: str) -> None:
        (self.root / path).unlink()
        self.commit()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "Change")

    def close(self) -> None:
        self.root.rename(self.root.with_name("elsewhere"))


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Site:
    """A web site whose start page leads to every page that was put there."""

    kind: str = "web"
    options: dict[str, Any] = field(default_factory=lambda: {"delay_s": 0})
    answers: dict[str, Answer] = field(default_factory=dict)
    """By path with its query; they go before the pages."""
    texts: dict[str, str] = field(default_factory=dict)
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often a path was answered with a status."""
    user_agents: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.user_agents.add(self.headers["User-Agent"])
                found = site.answer_to(self.path, self.headers.get("If-None-Match"))
                site.asked[self.path, found.status] += 1
                self.send_response(found.status)
                for name, value in (found.headers | {"Content-Length": str(len(found.body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(found.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer_to(self, path: str, known: str | None) -> Answer:
        if path in self.answers:
            return self.answers[path]
        if path == "/docs/":
            links = "".join(f'<a href="{name}">{name}</a> ' for name in sorted(self.texts))
            return Answer(page(f"<h1>Start</h1><p>The pages: {links}</p>"), headers=HTML)
        text = self.texts.get(path.removeprefix("/docs/"))
        if text is None:
            return Answer(b"Nothing.", 404)
        tag = f'"{hash(text)}"'
        if known == tag:
            return Answer(status=304, headers={"ETag": tag})
        return Answer(text.encode(), headers={"Content-Type": "text/plain; charset=utf-8", "ETag": tag})

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def location(self) -> str:
        return f"{self.origin}/docs/"

    def put(self, path: str, text: str) -> None:
        self.texts[path] = text

    def remove(self, path: str) -> None:
        del self.texts[path]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


HTML = {"Content-Type": "text/html; charset=utf-8"}


def page(body: str, head: str = "") -> bytes:
    return f"<!doctype html><html><head><title>Page</title>{head}</head><body>{body}</body></html>".encode()


@dataclass
class Bucket:
    endpoint: str
    name: str
    kind: str = "s3"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.options = {"endpoint_url": self.endpoint, "region": "eu-west-1"}
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        store = boto3.resource("s3", endpoint_url=self.endpoint, region_name="eu-west-1", **keys)
        self.bucket = store.Bucket(self.name)
        self.bucket.create(CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    @property
    def location(self) -> str:
        return f"s3://{self.name}/docs/"

    def put(self, path: str, text: str) -> None:
        self.bucket.put_object(Key=f"docs/{path}", Body=text.encode())

    def remove(self, path: str) -> None:
        self.bucket.Object(f"docs/{path}").delete()

    def close(self) -> None:
        self.bucket.objects.all().delete()
        self.bucket.delete()


@contextmanager
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
