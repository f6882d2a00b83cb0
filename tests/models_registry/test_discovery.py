"""Finding models, by the real protocols over HTTP and by the files that the tools write."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from models_registry import processes
from models_registry.discovery.refresh import Looked, refresh
from models_registry.discovery.servers import Ollama, OpenAi
from models_registry.discovery.types import SourceError
from models_registry.models import Deployment, Model, ModelVersion
from models_registry.versions import find_version
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Forbidden
from ops.models import AuditEvent
from tests.models_registry.test_formats import TREES, onnx_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store", "empty_cache")]


class Server:
    """Answers paths with what a test puts into `answers`: an object, bytes, or a status."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.headers = dict(self.headers)
                answer = outer.answers.get(self.path, 404)
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nowhere(settings: Any) -> None:
    settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
    settings.REGISTRY_DISCOVER_DIRS = settings.REGISTRY_OLLAMA_URLS = settings.REGISTRY_OPENAI_URLS = ()


def tag(name: str, digest: str, family: str = "llama") -> dict[str, Any]:
    """As Ollama 0.6 answers."""
    return {
        "name": name,
        "model": name,
        "modified_at": "2026-01-01T00:00:00Z",
        "size": 4_100_000_000,
        "digest": digest,
        "details": {
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": "7.2B",
            "quantization_level": "Q4_0",
        },
    }


@pytest.fixture
def ollama(server: Server, settings: Any) -> Server:
    settings.REGISTRY_OLLAMA_URLS = (server.url + "/",)
    server.answers["/api/tags"] = {
        "models": [tag("mistral:7b", "a" * 64), tag("nomic-embed-text:latest", "b" * 64, "nomic-bert")]
    }
    server.answers["/api/ps"] = {
        "models": [{"name": "mistral:7b", "digest": "a" * 64, "size": 5_000_000_000, "size_vram": 5_000_000_000}]
    }
    return server


def look() -> Looked:
    (only,) = refresh(SYSTEM)
    return only


def test_ollama_lists_its_models(ollama: Server) -> None:
    looked = look()
    assert (looked.source, looked.found, looked.error) == (f"ollama {ollama.url}", 2, "")
    assert list(looked.added) == ["ollama/mistral:7b@1", "ollama/nomic-embed-text:latest@1"]
    llm, embedder = find_version("ollama/mistral:7b"), find_version("ollama/nomic-embed-text:latest@1")
    assert (llm.model.kind, llm.model.provider, embedder.model.kind) == ("llm", "ollama", "embedder")
    assert llm.parameters == {
        "url": ollama.url,
        "model": "mistral:7b",
        "size_bytes": 4_100_000_000,
        "family": "llama",
        "parameter_size": "7.2B",
        "quantization": "Q4_0",
        "digest": "a" * 64,
    }
    assert (llm.status, llm.source) == ("ready", looked.source)
    assert not Deployment.objects.exists()


def test_what_a_server_holds_in_memory_is_told_like_a_process(ollama: Server) -> None:
    refresh(SYSTEM)
    (report,) = processes.all_reports()
    (held,) = report.models
    assert (report.name, report.role) == (f"ollama {ollama.url}", "server")
    assert (held.label, held.state, held.device) == ("ollama/mistral:7b@1", "ready", "gpu")
    assert held.memory_bytes == 5_000_000_000
    ollama.answers["/api/ps"] = {"models": None}
    refresh(SYSTEM)
    assert processes.all_reports()[0].models == []


def test_looking_again_changes_nothing_and_leaves_no_line_in_the_audit_trail(ollama: Server) -> None:
    refresh(SYSTEM)
    before = find_version("ollama/mistral:7b").seen_at
    looked = look()
    assert not looked.is_change
    assert ModelVersion.objects.count() == 2
    assert find_version("ollama/mistral:7b").seen_at > before  # type: ignore[operator]
    assert AuditEvent.objects.filter(action="registry.refresh").count() == 1


def test_what_is_gone_is_marked_and_what_is_back_is_ready_again(ollama: Server) -> None:
    refresh(SYSTEM)
    tags = ollama.answers["/api/tags"]
    ollama.answers["/api/tags"] = {"models": tags["models"][:1]}
    assert list(look().missing) == ["ollama/nomic-embed-text:latest@1"]
    gone = find_version("ollama/nomic-embed-text:latest")
    assert (gone.status, gone.status_detail) == ("missing", f"It is no longer found at ollama {ollama.url}.")
    assert look().missing == []

    ollama.answers["/api/tags"] = tags
    assert list(look().returned) == ["ollama/nomic-embed-text:latest@1"]
    gone.refresh_from_db()
    assert (gone.status, gone.status_detail) == ("ready", "")


def test_another_digest_is_another_version(ollama: Server) -> None:
    refresh(SYSTEM)
    old, new = ollama.answers["/api/tags"], {"models": [tag("mistral:7b", "c" * 64)]}
    ollama.answers["/api/tags"] = new
    looked = look()
    assert list(looked.added) == ["ollama/mistral:7b@2"]
    assert "ollama/mistral:7b@1" in looked.missing
    ollama.answers["/api/tags"] = old
    looked = look()
    assert list(looked.returned) == ["ollama/mistral:7b@1", "ollama/nomic-embed-text:latest@1"]
    assert list(looked.missing) == ["ollama/mistral:7b@2"]


def test_a_server_that_is_away_leaves_everything_as_it_was(ollama: Server) -> None:
    refresh(SYSTEM)
    ollama.answers["/api/tags"] = 500
    looked = look()
    assert "answers with status 500" in looked.error
    assert not looked.is_change
    assert set(ModelVersion.objects.values_list("status", flat=True)) == {"ready"}


def test_a_source_that_is_no_longer_named_is_missing(ollama: Server, settings: Any) -> None:
    refresh(SYSTEM)
    settings.REGISTRY_OLLAMA_URLS = ()
    assert len(look().missing) == 2
    assert "no longer among the settings" in find_version("ollama/mistral:7b").status_detail
    assert refresh(SYSTEM) == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (404, "status 404"),
        (b"<html>", "does not answer with JSON"),
        (b"[" * 200_000, "does not answer with JSON"),
        ({"other": []}, "list of models"),
        ({"models": ["a"]}, "list of models"),
        ({"models": [{"name": "../../x\n"}]}, "name can't be used"),
        ({"models": [{"name": 5}]}, "name can't be used"),
        ({"models": [{"name": "x"}] * 2001}, "at most 2000"),
        (b" " * (8 * 1024 * 1024 + 1), "more than"),
    ],
)
def test_nothing_that_a_server_answers_is_believed_blindly(server: Server, answer: Any, told: str) -> None:
    server.answers["/api/tags"] = answer
    with pytest.raises(SourceError, match=told):
        Ollama(server.url).look()


def test_an_address_where_nobody_listens_is_told() -> None:
    with pytest.raises(SourceError, match="can't be reached"):
        Ollama("http://127.0.0.1:1").look()


def test_a_server_of_the_private_network_must_be_allowed(ollama: Server, settings: Any) -> None:
    settings.OPS_OUTGOING_ALLOWED = ()
    assert "add it to OPS_OUTGOING_ALLOWED" in look().error
    assert not ModelVersion.objects.exists()


def test_servers_that_speak_openais_protocol_list_their_models(server: Server, settings: Any) -> None:
    settings.REGISTRY_OPENAI_URLS, settings.REGISTRY_OPENAI_API_KEY = (f"{server.url}/v1",), "sk-secret"
    names = ("gpt-oss-20b", "text-embedding-3-small", "whisper-1", "tts-1")
    server.answers["/v1/models"] = {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 1, "owned_by": "library"} for name in names],
    }
    assert look().found == 4
    kinds = dict(Model.objects.values_list("name", "kind"))
    assert kinds == {
        "openai/gpt-oss-20b": "llm",
        "openai/text-embedding-3-small": "embedder",
        "openai/whisper-1": "stt",
        "openai/tts-1": "tts",
    }
    assert server.headers["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in repr(list(ModelVersion.objects.values()))
    server.answers["/v1/models"] = 401
    assert "sk-secret" not in look().error
    assert OpenAi(server.url).running() is None


# --- folders ----


@pytest.fixture
def folder(tmp_path: Path, settings: Any) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    settings.REGISTRY_DISCOVER_DIRS = (str(made),)
    return made


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def sentence_transformer(folder: Path) -> None:
    put(folder / "modules.json", [{"idx": 0, "type": "sentence_transformers.models.Transformer"}])
    put(folder / "config.json", {"model_type": "bert", "hidden_size": 384})
    put(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    put(folder / "model.safetensors", struct.pack("<Q", 2) + b"{}")


def piper_voice(folder: Path, name: str = "en_GB-alba-medium") -> None:
    put(folder / f"{name}.onnx", onnx_model())
    config = {"audio": {"sample_rate": 22050, "quality": "medium"}, "language": {"code": "en_GB"}, "phoneme_id_map": {}}
    put(folder / f"{name}.onnx.json", config)


def whisper(folder: Path) -> None:
    for name in ("model.bin", "vocabulary.txt"):
        put(folder / name, name.encode())
    put(folder / "config.json", {"alignment_heads": []})


def ranker(folder: Path, name: str = "ours", trees: str = TREES) -> None:
    put(folder / f"{name}.txt", trees.encode())
    sidecar = {
        "file": f"{name}.txt",
        "kind": "lightgbm",
        "description": "Trees",
        "feature_schema_version": 2,
        "fusion_weights": {"ltr": 0.8, "conceptual": 0.2},
        "metrics": {"zero_shot_ndcg@10": {}},
        "provenance": {"datasets": [{"collection": "papers", "sha256": "d" * 64}], "revision": "abc"},
    }
    put(folder / f"{name}.json", sidecar)


def test_each_kind_is_known_by_its_files(folder: Path) -> None:
    sentence_transformer(folder / "encoders" / "mini")
    sentence_transformer(folder / "models--BAAI--bge-small-en-v1.5" / "snapshots" / "0f3a")
    piper_voice(folder / "voices")
    whisper(folder / "whisper-small")
    put(folder / "hf-whisper" / "config.json", {"model_type": "whisper"})
    ranker(folder / "rankers")
    put(folder / "other" / "config.json", {"model_type": "gpt2"})
    put(folder / "other" / "plain.json", b"[1, 2]")

    assert look().found == 6
    found = {model.name: (model.kind, model.provider) for model in Model.objects.all()}
    assert found == {
        "encoders/mini": ("embedder", "sentence-transformers"),
        "BAAI/bge-small-en-v1.5": ("embedder", "sentence-transformers"),
        "piper/en_GB-alba-medium": ("tts", "piper"),
        "whisper-small": ("stt", "faster-whisper"),
        "hf-whisper": ("stt", "transformers"),
        "ours": ("ltr", "lightgbm"),
    }
    voice = find_version("piper/en_GB-alba-medium").parameters
    assert (voice["sample_rate_hz"], voice["language"], voice["quality"]) == (22050, "en_GB", "medium")
    assert find_version("encoders/mini").parameters["location"] == str(folder / "encoders" / "mini")


def test_a_ranker_is_copied_so_that_it_outlives_its_folder(folder: Path) -> None:
    ranker(folder)
    refresh(SYSTEM)
    version = find_version("ours")
    assert version.artifacts.keys() == {"model"}
    assert (version.dataset_sha256, version.code_revision) == ("d" * 64, "abc")
    (folder / "ours.txt").unlink()
    assert look().missing == []
    version.refresh_from_db()
    assert version.status == "ready"


def test_what_changes_in_a_folder_is_another_version(folder: Path) -> None:
    sentence_transformer(folder / "mini")
    refresh(SYSTEM)
    put(folder / "mini" / "config.json", {"model_type": "bert", "hidden_size": 768})
    looked = look()
    assert (list(looked.added), list(looked.missing)) == (["mini@2"], ["mini@1"])


def test_a_file_that_is_no_model_is_told_and_the_others_are_found(folder: Path) -> None:
    ranker(folder, "bad", trees="\x80\x04pickle")
    ranker(folder, "good")
    looked = look()
    assert list(looked.added) == ["good@1"]
    assert "bad.txt is described as a ranker and is none" in looked.error


def test_a_folder_that_is_not_there_is_told(folder: Path) -> None:
    folder.rmdir()
    assert "no folder that can be read" in look().error


def test_links_do_not_lead_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    sentence_transformer(tmp_path / "elsewhere" / "mini")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert look().found == 0


def test_only_who_may_change_everything_refreshes(reader: Principal, limited_operator: Principal) -> None:
    for stranger in (reader, limited_operator):
        with pytest.raises(Forbidden):
            refresh(stranger)


def test_the_command_shows_what_it_found(ollama: Server, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("registry", "refresh")
    assert "ollama/mistral:7b@1" in "".join(capsys.readouterr().out.split())


def test_the_command_says_when_there_is_nowhere_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("registry", "refresh")
    assert "REGISTRY_OLLAMA_URLS" in capsys.readouterr().out


def test_a_model_of_another_kind_with_that_name_is_left_alone(
    folder: Path, make_version: Callable[..., ModelVersion]
) -> None:
    make_version("mini")
    sentence_transformer(folder / "mini")
    looked = look()
    assert looked.added == []
    assert "exists already" in looked.error
