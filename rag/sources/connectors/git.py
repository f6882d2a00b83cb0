"""A Git repository, over HTTPS or in a folder of this machine: the files of one branch.

A bare clone of depth 1 is kept between two times, so that only what has changed is fetched. A file is known by the id
of its content, which Git keeps anyway. The program ``git`` is run without a shell, without the configuration of whoever
runs the server, without hooks, without submodules, and may speak no other protocol than the one that was meant.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit

from django.conf import settings

from ops import outgoing
from ops.contracts.env import handed_over
from ops.contracts.problems import InvalidRequest
from rag.ingest.formats import media_type_of_name
from rag.sources import options as checks
from rag.sources.permitted import permitted_folder
from rag.sources.types import Event, Found, Known, LeftOut, Place, Same, SourceError, Unreadable

BRANCH = "refs/zenglow/head"
_FILE_MODES = {"100644", "100755"}


class GitConnector:
    kind = "git"
    option_help: Mapping[str, str] = {
        "branch": "Which branch or tag; else the repository's default.",
        "folder": "Only what is below this folder of the repository.",
        **checks.SELECTION_HELP,
    }

    def checked_location(self, location: str) -> str:
        if location.startswith("/"):
            return str(permitted_folder(location))
        try:
            parts = urlsplit(location)
            is_address = parts.scheme in outgoing.SCHEMES and bool(parts.hostname) and parts.username is None
        except ValueError:
            is_address = False
        if not is_address or not location.isprintable():
            fault = "An https:// address without a user name, or the path of a folder. A token goes into a secret."
            raise InvalidRequest(f"location: {fault}", errors={"location": fault})
        return location

    def checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        kept = checks.checked(options, {"branch": checks.text(200), "folder": checks.text(500), **checks.SELECTION})
        if str(kept.get("branch", "")).startswith("-"):
            raise InvalidRequest("options.branch: A branch.", errors={"options.branch": "A branch does not begin so."})
        if "folder" in kept:
            kept["folder"] = kept["folder"].strip("/")
        return kept

    def events(self, place: Place, known: Mapping[str, Known]) -> Iterator[Event]:
        clone = _Clone(place)
        clone.fetch()
        selection = checks.Selection(place.options)
        within = f"{place.options['folder']}/" if place.options.get("folder") else ""
        wanted: list[tuple[str, str]] = []
        for mode, content_id, size, name in clone.files():
            if within and not name.startswith(within):
                continue
            path = name.removeprefix(within)
            reason = _reason_to_leave(mode, size, path, selection)
            if reason is not None:
                yield LeftOut(reason)
            elif (seen := known.get(path)) is not None and seen.revision == content_id:
                yield Same(path)
            else:
                wanted.append((path, content_id))
        for path, content_id, content in clone.contents(wanted):
            if content is None:
                yield Unreadable(path, "can't be read from the clone")
            else:
                yield Found(path, content, content_id, address=f"{within}{path}")


def _reason_to_leave(mode: str, size: int, path: str, selection: checks.Selection) -> str | None:
    name = PurePosixPath(path)
    if mode not in _FILE_MODES:
        return "is a symbolic link or a submodule"
    if any(part.startswith(".") for part in name.parts):
        return "is hidden"
    if not path.isprintable():
        return "has a name that is not printable text"
    if media_type_of_name(path) is None:
        return f"{name.suffix.lower()!r} files cannot be read" if name.suffix else "has no extension"
    if size == 0:
        return "is empty"
    if size > settings.RAG_DOCUMENT_MAX_BYTES:
        return f"is larger than {settings.RAG_DOCUMENT_MAX_BYTES / (1 << 20):g} MB"
    return None if selection.takes(path) else "is not selected"


class _Clone:
    """The bare clone of a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._folder = place.folder / "clone.git"
        self._home = place.folder / "home"
        self._is_local = place.location.startswith("/")

    def fetch(self) -> None:
        """Bring the clone up to date. Raises `SourceError`."""
        program = shutil.which("git")
        if program is None:
            raise SourceError("The program git is not installed on the machine of the worker.")
        self._program = program
        self._home.mkdir(parents=True, exist_ok=True)
        if not (self._folder / "HEAD").exists():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._git("init", "--quiet", "--bare", "--template=", str(self._folder), within=None)
        wanted = self._place.options.get("branch") or "HEAD"
        self._git(
            *(
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--force",
                "--no-recurse-submodules",
                "--no-write-fetch-head",
            ),
            *("--", self._place.location, f"{wanted}:{BRANCH}"),
        )
        # Otherwise the contents of every commit that was ever the newest would stay.
        self._git("gc", "--quiet", "--auto", "--prune=now")

    def files(self) -> Iterator[tuple[str, str, int, str]]:
        """``(mode, id of the content, bytes, path)`` of every file."""
        listed = self._git("ls-tree", "-r", "-l", "-z", "--full-tree", BRANCH)
        for entry in listed.split(b"\0"):
            if not entry:
                continue
            about, _, name = entry.partition(b"\t")
            mode, _, content_id, size = about.decode().split()
            path = name.decode("utf-8", "replace")
            yield mode, content_id, int(size) if size.isdecimal() else 0, path

    def contents(self, wanted: list[tuple[str, str]]) -> Iterator[tuple[str, str, bytes | None]]:
        """``(path, id, content)`` of the wanted files, by one process."""
        if not wanted:
            return
        with subprocess.Popen(
            [self._program, "cat-file", "--batch"],
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            questions, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
            try:
                for path, content_id in wanted:
                    questions.write(f"{content_id}\n".encode())
                    questions.flush()
                    yield path, content_id, _read_object(answers)
            finally:
                process.kill()

    def _git(self, *arguments: str, within: Path | None = Path()) -> bytes:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                cwd=self._folder if within is not None else self._place.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=settings.RAG_SOURCE_TIMEOUT_S,
                preexec_fn=_bounded,
            )
        except subprocess.TimeoutExpired:
            raise SourceError("git took longer than RAG_SOURCE_TIMEOUT_S.") from None
        except OSError as error:
            raise SourceError(f"git could not be run ({error.strerror}).") from error
        if done.returncode != 0:
            raise SourceError(f"git could not {arguments[0]}: {self._reason(done.stderr)}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        configuration = [
            ("core.hooksPath", os.devnull),
            ("http.followRedirects", "false"),
            ("credential.helper", ""),
            ("gc.autoDetach", "false"),
            ("safe.directory", "*"),
        ]
        if not self._is_local:
            configuration += self._for_the_network()
        environment = {
            "PATH": handed_over("PATH") or os.defpath,
            "HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "file" if self._is_local else urlsplit(self._place.location).scheme,
            "GIT_CONFIG_COUNT": str(len(configuration)),
        }
        for number, (name, value) in enumerate(configuration):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return environment

    def _for_the_network(self) -> list[tuple[str, str]]:
        """git connects to the very address that was judged, and shows its token there alone."""
        parts = urlsplit(self._place.location)
        port = parts.port or outgoing.SCHEMES[parts.scheme]
        address = outgoing.addresses_of(self._place.location)[0]
        pinned = f"{parts.hostname}:{port}:{f'[{address}]' if ':' in address else address}"
        configuration = [("http.curloptResolve", pinned), ("http.proxy", "")]
        if self._place.secret:
            token = base64.b64encode(f"x-access-token:{self._place.secret}".encode()).decode()
            configuration.append(
                (f"http.{parts.scheme}://{parts.netloc}/.extraHeader", f"Authorization: Basic {token}")
            )
        return configuration

    def _reason(self, said: bytes) -> str:
        """The last line of what git said, without the secret."""
        lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        told = lines[-1].removeprefix("fatal: ") if lines else "it did not say why."
        return told.replace(self._place.secret, "…") if self._place.secret else told


def _read_object(stream: IO[bytes]) -> bytes | None:
    """The next object of ``git cat-file --batch``; ``None`` for one that is missing."""
    head = stream.readline().split()
    if len(head) != 3 or head[1] != b"blob":
        return None
    size = int(head[2])
    content = stream.read(size)
    stream.read(1)  # the line's end
    return content if len(content) == size else None


def _bounded() -> None:
    """No file that git writes, above all no pack, may be larger than was allowed."""
    import resource

    limit = settings.RAG_SOURCE_GIT_MAX_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
