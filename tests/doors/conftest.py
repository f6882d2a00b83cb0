"""One whole product for all tests of the doors that other programs come in by: with keys, a worker and a document."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.rag.answers.model_server import ModelServer
from tests.serving import Zenglow, installations, prepared_data  # noqa: F401  (a fixture)
from zenglow_client import settings
from zenglow_client.console.main import run

ROOT = Path(__file__).resolve().parents[2]
TEA = "Green tea is brewed at 70 to 80 degrees Celsius. Hotter water makes it bitter."


SCOPES = {
    "admin": ["admin"],
    "reader": ["query"],
    "writer": ["query", "ingest", "feedback"],
    "rater": ["feedback"],
    "watcher": ["ops:read"],
    "stranger": ["query", "ingest"],
}
"""Keys that the tests use; that of the stranger is for another collection alone."""

MAKE_KEYS = """
import json, sys
import django
django.setup()
from ops import keys
from ops.contracts.principal import SYSTEM
made = {}
for name, scopes in json.loads(sys.argv[1]).items():
    collections = ["elsewhere"] if name == "stranger" else None
    made[name] = keys.create_key(name, scopes, actor=SYSTEM, collections=collections).text
print(json.dumps(made))
"""


@dataclass(frozen=True, slots=True)
class Product:
    """A running installation, keys for it by whose they are (`SCOPES`), and a folder that sources may look at."""

    zenglow: Zenglow
    keys: dict[str, str]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.zenglow.port}"

    def index(self, documents: dict[str, str]) -> None:
        """Put texts into ``papers``, and wait until they can be found."""
        authorization = f"Bearer {self.keys['admin']}"
        run_path = self.zenglow.index(documents, Authorization=authorization)
        self.zenglow.finished(run_path, Authorization=authorization)


@pytest.fixture(scope="session")
def _model_server() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def models(_model_server: ModelServer) -> Iterator[ModelServer]:
    """The server of the agent Leonardo's model, which does no wrong unless a test says so."""
    _model_server.reset()
    yield _model_server
    _model_server.reset()


@pytest.fixture(scope="session")
def product(
    request: pytest.FixtureRequest, _model_server: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """Up, with the document ``tea`` in the collection ``papers``."""
    folder = tmp_path_factory.mktemp("shelf")
    with installations(request) as make:
        zenglow = make(
            ENABLE_API_KEYS="1",
            RAG_DEFAULT_COLLECTION="papers",
            REGISTRY_OLLAMA_URLS=_model_server.url,
            OPS_OUTGOING_ALLOWED="127.0.0.1",
            RAG_SOURCE_FOLDERS=str(folder),
            RAG_MODEL_CONNECT_TIMEOUT_S="60",
            RAG_MODEL_FIRST_TOKEN_TIMEOUT_S=str(PATIENCE_S),
            RAG_MODEL_PAUSE_S="0",
        )
        zenglow.start()
        made = subprocess.run(
            [sys.executable, "-c", MAKE_KEYS, json.dumps(SCOPES)],
            cwd=ROOT,
            env=zenglow.environment | {"DJANGO_SETTINGS_MODULE": "zenglow_site.settings"},
            capture_output=True,
            text=True,
            check=True,
        )
        found = Product(zenglow, json.loads(made.stdout.splitlines()[-1]), folder)
        found.index({"tea": TEA})
        yield found


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


Shell = Callable[..., Said]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs ``zenglow``, as somebody whose home is empty; in this process, as starting one takes longest."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run_command(*arguments: str, typed: str = "", **variables: str) -> Said:
        capsys.readouterr()
        with monkeypatch.context() as here:
            for name, value in (
                {"COLUMNS": "200", settings.URL_VARIABLE: "", settings.KEY_VARIABLE: ""} | variables
            ).items():
                here.setenv(name, value)
            here.setattr(sys, "argv", ["zenglow", *arguments])
            here.setattr(sys, "stdin", io.StringIO(typed))
            with pytest.raises(SystemExit) as end:
                run()
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return run_command
