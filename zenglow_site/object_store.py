"""Keeping files in an S3-compatible store instead of on this machine: an optional part of the installation."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ops.contracts.env import Environment

INSTALL = "Install it: .venv/bin/pip install -r requirements/s3.txt"

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 30


def s3_storage(environment: Environment) -> dict[str, Any]:
    """The entry of ``STORAGES`` for the bucket that the environment names.

    Raises `ImproperlyConfigured` when the part is not installed.
    """
    if find_spec("storages") is None or find_spec("boto3") is None:
        raise ImproperlyConfigured(f"ZENGLOW_S3_BUCKET is set, but django-storages is not installed. {INSTALL}")
    from botocore.config import Config

    endpoint = environment["ZENGLOW_S3_ENDPOINT_URL"]
    return {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": environment["ZENGLOW_S3_BUCKET"],
            "endpoint_url": endpoint or None,
            "region_name": environment["ZENGLOW_S3_REGION"] or None,
            # Without a key, boto3 looks where its users expect: an instance's role, a profile.
            "access_key": environment["ZENGLOW_S3_ACCESS_KEY"] or None,
            "secret_key": environment["ZENGLOW_S3_SECRET_KEY"] or None,
            "location": environment["ZENGLOW_S3_PREFIX"],
            # A put takes the place of what has the name, at once.
            "file_overwrite": True,
            "default_acl": None,
            "client_config": Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"max_attempts": 3, "mode": "standard"},
                # Stores of one's own seldom have a name for each bucket.
                s3={"addressing_style": "path"} if endpoint else None,
            ),
        },
    }
