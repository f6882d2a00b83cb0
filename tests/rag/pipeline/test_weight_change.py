"""What a change of weights costs a query whose features are cached, in the process that makes it and in another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.conf import settings
from django.db import connection

import ops.statements
from models_registry import weights
from models_registry.live import view
from ops.contracts.principal import SYSTEM
from rag.models import Collection
from rag.pipeline.search import SearchRequest, search
from tests.conftest import forget_cached
from tests.rag.pipeline.support import Text, fill
from tests.settings import ZENGLOW_DATA_DIR

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("embedded_stack", "live_models", "empty_cache"),
]

QUERY = SearchRequest("bees", collection="c")

# Answers a line that names a version once it is live here, with what that answer cost.
OTHER_PROCESS = """
import json, sys, time
import django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from models_registry.live import view
from tests.rag.pipeline.test_weight_change import asked
view.follow()
assert view._listener.subscribed.wait(600)
asked()  # so that what a connection looks up once is no part of what follows
for line in sys.stdin:
    while view.weights("c").version != int(line):
        time.sleep(0.01)
    print(json.dumps(asked()), flush=True)
"""


@contextmanager
def statements() -> Iterator[list[str]]:
    """What this process asks of the database, whichever way: by a cursor, or by `ops.statements`."""
    seen: list[str] = []

    def noted(place: Any, name: str, position: int) -> Any:
        real = getattr(place, name)

        def run(*arguments: Any, **options: Any) -> Any:
            seen.append(str(arguments[position]))
            return real(*arguments, **options)

        return mock.patch.object(place, name, run)

    with noted(psycopg.Cursor, "execute", 1), noted(ops.statements, "fetch", 1), noted(ops.statements, "begin", 1):
        yield seen


def asked() -> dict[str, Any]:
    """An answer's part that tells how it came about."""
    with statements() as seen:
        answer = search(QUERY, SYSTEM)
    return {
        "version": answer["fusion_weights_version"],
        "cache": answer["cache"],
        "stages": sorted(name for name, duration_ms in answer["timings"].items() if duration_ms),
        # What is live is looked up at most once a second, whatever is asked: that is no part of the query.
        "statements": [one for one in seen if "models_registry_" not in one],
        "fused": {result["chunk_id"]: result["fused_score"] for result in answer["results"]},
    }


def changed(ltr: float) -> int:
    row = weights.change(weights.propose(ltr, 1 - ltr), by=SYSTEM)
    assert row.weights_id is not None
    view.expire()
    return row.weights_id


@pytest.fixture
def collection(live_models: None) -> Collection:
    made = Collection.objects.create(slug="c")
    fill(made, {name: Text(f"A passage on {name} and bees.") for name in ("honey", "mites", "queens", "wax")})
    return made


@pytest.fixture
def ask_elsewhere(collection: Collection) -> Iterator[Callable[[int], dict[str, Any]]]:
    """Asks in another process, once a version is live there."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "ZENGLOW_TEST_DATA_DIR": str(ZENGLOW_DATA_DIR),
        "PYTEST_XDIST_WORKER": settings.CACHES["default"]["KEY_PREFIX"].removeprefix("test-"),
        "OMP_NUM_THREADS": "1",
        "PATH": "",
    }
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(connection.settings_dict["NAME"])],
        cwd=settings.BASE_DIR,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask(version: int) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{version}\n")
            process.stdin.flush()
            found: dict[str, Any] = json.loads(process.stdout.readline())
            return found | {"fused": {int(chunk): score for chunk, score in found["fused"].items()}}

        yield ask
        process.kill()


def test_a_query_whose_features_are_cached_costs_one_fusion_in_every_process(
    ask_elsewhere: Callable[[int], dict[str, Any]],
) -> None:
    # Another process may have asked already: what it found is forgotten.
    ask_elsewhere(view.weights("c").version)
    forget_cached()
    first = asked()
    assert (first["cache"], "embed_ms" in first["stages"]) == ("none", True)
    assert any("doc_embeddings" in one for one in first["statements"]), "a search that computes is seen to"

    before = first["version"]
    for ltr, ask in ((0.1, ask_elsewhere), (0.9, lambda version: asked())):
        version = changed(ltr)
        assert version > before
        answer = ask(version)
        assert answer["version"] == version
        assert answer["cache"] == "feature"
        assert answer["stages"] == ["fusion_ms", "pipeline_ms"]
        # One look at the collection, and one for those of the passages shown that the process doesn't remember.
        snapshot, *results = answer["statements"]
        assert "rag_collection" in snapshot
        assert len(results) <= 1
        assert all("rag_chunk" in one and "doc_embeddings" not in one for one in results)
        assert answer["fused"] != first["fused"]
        # What one process has fused the other finds.
        other = asked() if ask is ask_elsewhere else ask_elsewhere(version)
        assert (other["cache"], other["version"], other["fused"]) == ("full", version, answer["fused"])
        before = version
