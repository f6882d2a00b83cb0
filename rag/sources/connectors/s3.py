"""A bucket of Amazon S3, or of anything that speaks its protocol. Needs the optional part ``requirements/s3.txt``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from ops import outgoing
from ops.contracts.problems import InvalidRequest
from rag.ingest.formats import media_type_of_name
from rag.sources import options as checks
from rag.sources.connectors.s3_sending import sender
from rag.sources.types import Event, Found, Known, LeftOut, Place, Same, SourceError, Unreadable

INSTALL = "Install it: .venv/bin/pip install -r requirements/s3.txt"


class S3Connector:
    """Objects by their ETag, which S3 changes with every write."""

    kind = "s3"
    option_help: Mapping[str, str] = {
        "endpoint_url": "A server that speaks S3; else Amazon's.",
        "region": "The bucket's region.",
        "anonymous": "Whether to ask without any key, as public buckets allow.",
        **checks.SELECTION_HELP,
    }

    def checked_location(self, location: str) -> str:
        bucket, _ = _split(location)
        if not bucket or not location.isprintable():
            fault = "Write it as s3://bucket or s3://bucket/prefix."
            raise InvalidRequest(f"location: {fault}", errors={"location": fault})
        return location

    def checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return checks.checked(
            options,
            {"endpoint_url": _endpoint, "region": checks.text(64), "anonymous": checks.flag, **checks.SELECTION},
        )

    def events(self, place: Place, known: Mapping[str, Known]) -> Iterator[Event]:
        with outgoing.client() as http:
            yield from _events(_client(place, http), place, known)


def _events(client: Any, place: Place, known: Mapping[str, Known]) -> Iterator[Event]:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = _split(place.location)
    selection = checks.Selection(place.options)
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                path = entry["Key"].removeprefix(prefix).lstrip("/")
                reason = _reason_to_leave(path, entry["Size"], selection)
                if reason is not None:
                    yield LeftOut(reason)
                elif (seen := known.get(path)) is not None and seen.revision == entry["ETag"]:
                    yield Same(path)
                else:
                    yield _read(client, bucket, entry["Key"], path, entry["ETag"])
    except (BotoCoreError, ClientError) as error:
        raise SourceError(f"The bucket {bucket} can't be listed: {_told(error)}") from None


def _read(client: Any, bucket: str, key: str, path: str, etag: str) -> Event:
    from botocore.exceptions import BotoCoreError, ClientError

    limit = settings.RAG_DOCUMENT_MAX_BYTES
    try:
        answer = client.get_object(Bucket=bucket, Key=key, IfMatch=etag)
        with answer["Body"] as body:
            content = body.read(limit + 1)
    except (BotoCoreError, ClientError, OSError) as error:
        return Unreadable(path, f"can't be read: {_told(error)}")
    if len(content) > limit:
        return LeftOut(_too_large())
    media_type = media_type_of_name(path) or ""
    return Found(path, content, etag, address=f"s3://{bucket}/{key}", media_type=media_type)


def _reason_to_leave(path: str, size: int, selection: checks.Selection) -> str | None:
    suffix = PurePosixPath(path).suffix.lower()
    if not path or path.endswith("/"):
        return "is a folder's mark"
    if not path.isprintable():
        return "has a name that is not printable text"
    if media_type_of_name(path) is None:
        return f"{suffix!r} files cannot be read" if suffix else "has no extension"
    if size == 0:
        return "is empty"
    if size > settings.RAG_DOCUMENT_MAX_BYTES:
        return _too_large()
    return None if selection.takes(path) else "is not selected"


def _too_large() -> str:
    return f"is larger than {settings.RAG_DOCUMENT_MAX_BYTES / (1 << 20):g} MB"


def _client(place: Place, http: httpx.Client) -> Any:
    """A client with the place's own key, else one that boto3 finds where its users expect it; it calls by ``http``."""
    if find_spec("boto3") is None:
        raise SourceError(f"boto3 is not installed. {INSTALL}")
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    endpoint = place.options.get("endpoint_url")
    config = Config(
        retries={"max_attempts": 3, "mode": "standard"},
        s3={"addressing_style": "path"} if endpoint else None,
        signature_version=UNSIGNED if place.options.get("anonymous") else None,
    )
    try:
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name=place.options.get("region"), config=config, **_keys(place.secret)
        )
    except (BotoCoreError, ValueError) as error:
        raise SourceError(f"S3 can't be asked: {error}") from None
    client.meta.events.register("before-send.s3", sender(http))
    return client


def _keys(secret: str) -> dict[str, str]:
    if not secret:
        return {}
    try:
        given = json.loads(secret)
        return {"aws_access_key_id": given["access_key"], "aws_secret_access_key": given["secret_key"]}
    except (ValueError, KeyError, TypeError):
        raise SourceError('The secret must hold {"access_key": "…", "secret_key": "…"}.') from None


def _told(error: Exception) -> str:
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, dict) and "Error" in answer:
        fault = answer["Error"]
        return f"{fault.get('Code', '')} {fault.get('Message', '')}".strip()
    return f"{type(error).__name__}: {error}"


def _split(location: str) -> tuple[str, str]:
    """Bucket and prefix; the bucket is empty where there is none."""
    try:
        parts = urlsplit(location, allow_fragments=False)
    except ValueError:
        return "", ""
    if parts.scheme != "s3" or parts.query:
        return "", ""
    return parts.netloc, parts.path.lstrip("/")


def _endpoint(name: str, value: Any) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) else urlsplit("")
        is_address = parts.scheme in outgoing.SCHEMES and bool(parts.hostname) and parts.username is None
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError("An address that begins with https:// or http://, without a user name.")
    return str(value)
