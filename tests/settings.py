"""The product's settings on stores of the tests' own, with one Redis key space per test process."""

import os
from pathlib import Path

_root = Path(__file__).resolve().parent.parent
for _name in list(os.environ):
    if _name.startswith(
        (
            *("RAG_", "OPS_", "REGISTRY_", "VOICE_", "FUSION_", "REDIS_", "DATABASE_"),
            *("CELERY_BROKER", "SUPABASE_", "MILVUS_", "VAULT_"),
        )
    ) or _name in {
        "ZENGLOW_ENV",
        "ZENGLOW_HOST",
        "ZENGLOW_PORT",
        "ENABLE_API_KEYS",
    }:
        del os.environ[_name]
_dotenv = _root / ".env"
for _line in _dotenv.read_text(encoding="utf-8").splitlines() if _dotenv.is_file() else ():
    _name, _, _ = _line.removeprefix("export ").partition("=")
    if _name.strip().isidentifier() and _name.strip() not in os.environ:
        # An empty variable counts as not set, and hides the developer's own choice.
        os.environ[_name.strip()] = ""
os.environ["ZENGLOW_DATA_DIR"] = os.environ.get("ZENGLOW_TEST_DATA_DIR", str(_root / "var" / "test"))

from tests.patience import PATIENCE_S  # noqa: E402
from zenglow_site.settings import *  # noqa: E402, F403
from zenglow_site.settings import (  # noqa: E402
    CACHES,
    CELERY_BROKER_TRANSPORT_OPTIONS,
    CHANNEL_LAYERS,
    DATABASES,
    ZENGLOW_DATA_DIR,
)

_worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
# A busy machine is not a fault: tests of silent servers and endless files set limits of their own.
CACHES["default"]["OPTIONS"] |= {"SOCKET_TIMEOUT": PATIENCE_S, "SOCKET_CONNECT_TIMEOUT": PATIENCE_S}
DATABASES["default"]["OPTIONS"]["pool"]["timeout"] = PATIENCE_S
# Twenty seconds of a core for each collection that a test indexes; the tests of the ears turn it on.
VOICE_VOCABULARY = False
RAG_PARSE_TIMEOUT_S = RAG_RETRIEVAL_TIMEOUT_S = MILVUS_WRITE_TIMEOUT_S = OPS_HEALTH_TIMEOUT_S = PATIENCE_S
CACHES["default"]["KEY_PREFIX"] = f"test-{_worker}"
CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] = f"test-{_worker}"
CELERY_BROKER_TRANSPORT_OPTIONS["global_keyprefix"] = f"test-{_worker}:"
# One file store per test process: a test may count or delete what it stored.
STORAGES["default"]["OPTIONS"]["location"] = ZENGLOW_DATA_DIR / f"files-{_worker}"  # noqa: F405
# Tests render pages without a collectstatic; the manifest storage is tried by the browser tests' own server.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}  # noqa: F405
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # noqa: F405  (WhiteNoise warns of a folder that isn't there)
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
