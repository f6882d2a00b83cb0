"""Fetching a model from a hub, or from whatever offers the same two kinds of address.

    {VOICE_MODELS_URL}/api/models/{repository}/tree/{revision}/{folder}    its files: JSON with sizes and hashes
    {VOICE_MODELS_URL}/{repository}/resolve/{revision}/{path}              one of them

Hugging Face, its mirrors and the proxies of artifact stores do; a plain web server does with the first saved as a file.
What was fetched in part is gone on with. A file gets its name when its hash is the one that was listed, and not before.

MirrorError     it can't be reached, does not have the model, or sends something else. One sentence.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
from django.conf import settings

from voice.catalogue import Known

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
ATTEMPTS = 4
"""Of one file, in a row, without a byte more."""
LONGEST_LISTING = 4 << 20
SPARE_BYTES = 256 << 20
"""Left free on the disk."""
PIECE = 1 << 20

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are there, and all of them."""


class MirrorError(Exception):
    """The message is one sentence for an operator."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as the hub lists it. ``digest`` is ``sha256:…``, or ``git:…`` for the small ones that Git holds itself."""

    path: str
    size: int
    digest: str


def base_url() -> str:
    return str(settings.VOICE_MODELS_URL).rstrip("/")


def listing(known: Known) -> dict[str, Remote]:
    """The files of a model that the mirror has, by role. Raises `MirrorError`."""
    folder = f"/{quote(known.folder)}" if known.folder else ""
    address = f"{base_url()}/api/models/{known.repository}/tree/{quote(known.revision, safe='')}{folder}"
    with _client() as client, _told(), client.stream("GET", address) as answer:
        _require(answer, f"{known.repository} at {known.revision}")
        content = bytearray()
        for piece in answer.iter_bytes():
            content += piece
            if len(content) > LONGEST_LISTING:
                raise MirrorError(f"{_host()} lists more than {LONGEST_LISTING >> 20} MB of files.")
    try:
        entries = json.loads(bytes(content))
        listed = {str(entry["path"]): _remote(entry) for entry in entries if entry["type"] == "file"}
    except (ValueError, KeyError, TypeError) as error:
        raise MirrorError(f"{_host()} lists no files as a hub does. Is VOICE_MODELS_URL right?") from error
    found = {role: listed[path] for role, path in known.files.items() if path in listed}
    missing = [known.files[role] for role in known.needed if role not in found]
    if missing:
        raise MirrorError(f"{known.repository} has no {', '.join(missing)}: it is no model that can be used here.")
    largest = max(found.values(), key=lambda remote: remote.size)
    if largest.size > settings.REGISTRY_ARTIFACT_MAX_BYTES:
        raise MirrorError(f"{largest.path} has {largest.size} bytes, more than REGISTRY_ARTIFACT_MAX_BYTES.")
    return found


def fetch(known: Known, files: dict[str, Remote], folder: Path, progress: Progress) -> dict[str, Path]:
    """Have the files in ``folder``, by role, whole and checked; those that are there are left. Raises `MirrorError`."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(remote.size for role, remote in files.items() if not (folder / role).exists())
    if shutil.disk_usage(folder).free < missing + SPARE_BYTES:
        raise MirrorError(f"The disk of {folder} has no room for {missing >> 20} MB.")
    paths = {}
    with _client() as client:
        for role, remote in files.items():
            paths[role] = folder / role
            if not _is_whole(paths[role], remote):
                _download(client, known, remote, paths[role], progress)
            progress(remote.path, remote.size, remote.size)
    return paths


def _download(client: httpx.Client, known: Known, remote: Remote, path: Path, progress: Progress) -> None:
    draft = path.with_name(f"{path.name}.part")
    address = f"{base_url()}/{known.repository}/resolve/{quote(known.revision, safe='')}/{quote(remote.path)}"
    attempts = 0
    while (have := draft.stat().st_size if draft.exists() else 0) != remote.size or have == 0:
        if have > remote.size:
            draft.unlink()
            continue
        try:
            with _told():
                _go_on(client, address, remote, draft, have, progress)
        except MirrorError:
            grown = draft.stat().st_size - have if draft.exists() else 0
            attempts = 1 if grown > 0 else attempts + 1
            if attempts >= ATTEMPTS:
                raise
        if remote.size == 0:
            break
    if not _is_whole(draft, remote):
        draft.unlink(missing_ok=True)
        raise MirrorError(f"{remote.path} is not what {_host()} lists: its hash differs. It was thrown away.")
    draft.replace(path)


def _go_on(client: httpx.Client, address: str, remote: Remote, draft: Path, have: int, progress: Progress) -> None:
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", address, headers=headers) as answer:
        if have and answer.status_code == httpx.codes.OK:
            have = 0  # it knows no ranges
        elif have and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            draft.unlink()
            raise MirrorError(f"{_host()} sends another part of {remote.path} than it was asked for.")
        _require(answer, remote.path)
        with draft.open("ab" if have else "wb") as file:
            for piece in answer.iter_bytes():
                have += len(piece)
                if have > remote.size:
                    raise MirrorError(f"{remote.path} is larger than the {remote.size} bytes that {_host()} lists.")
                file.write(piece)
                progress(remote.path, have, remote.size)
    if have < remote.size:
        raise MirrorError(f"{_host()} ended in the middle of {remote.path}. The next call goes on from there.")


def _remote(entry: dict[str, object]) -> Remote:
    large = entry.get("lfs")
    if isinstance(large, dict):
        return Remote(str(entry["path"]), int(large["size"]), f"sha256:{large['oid']}")
    size = entry["size"]
    if not isinstance(size, int):
        raise TypeError("a size is a number")
    return Remote(str(entry["path"]), size, f"git:{entry['oid']}")


def _is_whole(path: Path, remote: Remote) -> bool:
    if not path.exists() or path.stat().st_size != remote.size:
        return False
    kind, _, expected = remote.digest.partition(":")
    digest = hashlib.sha256()
    if kind == "git":  # by SHA-1 over its length and its content
        digest = hashlib.sha1(f"blob {remote.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest() == expected


def _client() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"User-Agent": "zenglow"})


def _require(answer: httpx.Response, what: str) -> None:
    if answer.status_code in {401, 403, 404}:
        raise MirrorError(f"{_host()} does not have {what} (HTTP {answer.status_code}).")
    if answer.status_code not in {200, 206}:
        raise MirrorError(f"{_host()} answered HTTP {answer.status_code} for {what}.")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MirrorError(
            f"{_host()} can't be reached ({type(error).__name__}). Offline, fetch the model elsewhere, copy its folder "
            "here and add it: manage.py voices add FOLDER. Or set VOICE_MODELS_URL to a mirror."
        ) from error


def _host() -> str:
    return urlsplit(base_url()).netloc or base_url()
