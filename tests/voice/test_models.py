"""Models of speech that somebody brings in: fetched or added, put live, and what happens when one can't be used."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django.fixtures import Settings

from models_registry import deployments, loading, serving, versions
from models_registry.formats import Format, FormatError, require_format
from models_registry.live import view
from models_registry.loading import LoadState
from models_registry.models import ModelVersion, Slot
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Unprocessable
from tests.patience import PATIENCE_S, eventually
from tests.voice import tiny_whisper
from tests.voice.sounds import SPOKEN
from voice import catalogue, doctor, installed, mirror, model_files
from voice.engines import piper as piper_files
from voice.engines import whisper as whisper_files
from voice.engines.contracts import VocabularyKind
from voice.vocabulary.hot_words import general_probability, hot_words

pytestmark = pytest.mark.django_db

SET = [pair for name, value in tiny_whisper.PARAMETERS.items() for pair in ("--set", f"{name}={value}")]
REPOSITORY = "acme/whisper-tiny"


@pytest.fixture(autouse=True)
def _engines_end(live_models: None) -> Iterator[None]:
    yield
    installed.close_engines()
    for report in loading.reports():
        loading.unloaded(report.label)
    view.expire()


def run(*arguments: object) -> str:
    out = StringIO()
    call_command("voices", *map(str, arguments), stdout=out, stderr=StringIO())
    return out.getvalue()


def promote(label: str) -> ModelVersion:
    version = versions.find_version(label)
    deployments.activate(deployments.slot_of(version), version, by=SYSTEM)
    view.expire()
    return version


def add_whisper(folder: Path, name: str = "tiny") -> ModelVersion:
    run("add", folder, "--name", name, *SET)
    return versions.find_version(name)


# --- added, and put live ----


def test_an_added_whisper_hears_once_it_is_promoted(whisper_folder: Path, keys_off: None) -> None:
    version = add_whisper(whisper_folder)
    assert set(version.artifacts) == {"model", "config", "tokenizer", "preprocessor", "vocabulary"}
    promote("tiny")
    answer = Client(SERVER_NAME="127.0.0.1").post(
        "/leonardo/listen", (SPOKEN / "slow-queries.wav").read_bytes(), "audio/wav"
    )
    heard = answer.json()
    assert heard["text"] == tiny_whisper.SENTENCES["slow-queries"]
    assert heard["engine"] == "tiny@1"
    assert heard["confidence"] > 0.9
    assert heard["words"][-1]["text"] == "queries?"


def test_an_added_voice_speaks_with_its_speakers_once_it_is_promoted(
    piper_folder: Path, keys_off: None, tmp_path: Path
) -> None:
    run("add", piper_folder, "--name", "tones")
    promote("tones")
    status = Client(SERVER_NAME="127.0.0.1").get("/leonardo/status").json()
    assert status["voices"] == ["ada", "bea"]
    out = tmp_path / "bea.wav"
    assert "s" in run("test", "bea", "--out", out)
    assert out.read_bytes()[:4] == b"RIFF"
    assert out.stat().st_size > 16_000


def test_a_version_moves_between_installations_as_any_other(whisper_folder: Path, tmp_path: Path) -> None:
    add_whisper(whisper_folder)
    archive = tmp_path / "tiny.zip"
    call_command("registry", "export", "tiny@1", str(archive), stdout=StringIO())
    call_command("registry", "import", str(archive), "--name", "again", stdout=StringIO())
    assert versions.find_version("again").artifacts == versions.find_version("tiny").artifacts


def test_a_cut_off_model_file_is_told_from_a_whole_one(whisper_folder: Path, tmp_path: Path) -> None:
    whole = (whisper_folder / "model.bin").read_bytes()
    cut = tmp_path / "model.bin"
    assert require_format(whisper_folder / "model.bin", "model", "faster-whisper") is Format.CTRANSLATE2
    for length in (20, 5000, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(FormatError, match="not whole"):
            require_format(cut, "model", "faster-whisper")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda folder: None, "neither a Whisper model"),
        (lambda folder: (folder / "model.bin").write_bytes(b"x"), "lacks config.json, tokenizer.json"),
        (lambda folder: (folder / "a.onnx").write_bytes(b"x"), "a.onnx.json is not beside"),
        (lambda folder: [(folder / f"{name}.onnx").write_bytes(b"x") for name in "ab"], "holds 2 voices"),
    ],
)
def test_a_folder_without_a_model_is_refused(make: Callable[[Path], Any], fault: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(CommandError, match=fault) as caught:
        run("add", tmp_path)
    assert caught.value.returncode == 2


def test_a_voice_that_describes_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    (tmp_path / "a.onnx.json").write_text("{}")
    with pytest.raises(CommandError, match="does not describe a Piper voice"):
        run("add", tmp_path / "a.onnx")
    assert not ModelVersion.objects.filter(model__name="a").exists()


def test_a_name_that_is_nowhere_is_refused_without_a_look_at_the_network() -> None:
    with pytest.raises(CommandError, match="no cached model"):
        run("add", "acme/nowhere")


def test_a_parameter_that_there_is_not_is_refused(whisper_folder: Path) -> None:
    with pytest.raises(CommandError, match="no parameter 'colour'"):
        run("add", whisper_folder, "--name", "tiny", "--set", "colour=red")


# --- when it can't be used ----


def break_model(folder: Path, broken: Path) -> Path:
    """A copy whose model file is cut off."""
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:5000])
    return broken


def test_a_broken_model_does_not_go_live(whisper_folder: Path, tmp_path: Path) -> None:
    add_whisper(break_model(whisper_folder, tmp_path), "broken")
    with pytest.raises(Unprocessable, match="broken@1 does not work here"):
        promote("broken")
    assert installed.speech_to_text().label.startswith("pocketsphinx@")
    assert versions.find_version("broken").status == "failed"


def test_one_that_breaks_later_is_shown_as_failed_and_a_packaged_engine_takes_its_place(
    whisper_folder: Path, tmp_path: Path, keys_off: None, untried_models: None
) -> None:
    add_whisper(break_model(whisper_folder, tmp_path), "broken")
    promote("broken")
    heard = installed.speech_to_text()
    assert heard.label == f"{versions.find_version('pocketsphinx')}, as broken@1 can't be used"
    assert heard.engine.name == "pocketsphinx"
    local = Client(SERVER_NAME="127.0.0.1")
    (shown,) = [model for model in local.get("/health/models").json()["models"] if model["model"] == "broken@1"]
    assert shown["state"] == "failed"
    assert "can't be loaded" in shown["processes"][0]["error"]
    (engine,) = [one for one in local.get("/leonardo/status").json()["engines"] if one["slot"] == "stt"]
    assert engine["state"] == "failed"
    assert "pocketsphinx takes its place" in engine["detail"]


def test_a_broken_voice_leaves_the_packaged_one_speaking(piper_folder: Path, untried_models: None) -> None:
    run("add", piper_folder, "--name", "tones")
    version = promote("tones")
    live = view.model(Slot.TTS, "global")
    link = installed.model_folder(live, piper_files.FILES) / piper_files.FILES["model"]
    link.unlink()
    link.symlink_to("/nowhere")
    installed.model_folder(live, piper_files.FILES)
    assert link.resolve().exists(), "a link that leads elsewhere is put right"
    (version.model.__class__.objects.filter(pk=version.model.pk)).update(provider="of-the-future")
    view.reset()
    spoken = installed.text_to_speech()
    assert spoken.engine.name == "espeak-ng"
    assert spoken.label.endswith("as tones@1 can't be used")


def test_a_model_that_is_whole_again_is_used_again(
    whisper_folder: Path, untried_models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_whisper(whisper_folder)
    promote("tiny")
    with monkeypatch.context() as patched:
        patched.setattr("voice.engines.whisper.MODULE", "voice.engines.no_such_child")
        assert "tiny@1 can't be used" in installed.speech_to_text().label
    assert "tiny@1 can't be used" in installed.speech_to_text().label, "it is left alone for a while"
    monkeypatch.setattr(installed, "RETRY_AFTER_S", 0.0)
    installed._engines.pop(versions.find_version("tiny").pk)
    assert versions.find_version("pocketsphinx").pk in installed._engines
    assert installed.speech_to_text().label == "tiny@1"
    assert versions.find_version("pocketsphinx").pk not in installed._engines, "what took its place ends"


# --- started on demand ----


def test_the_packaged_engines_start_when_somebody_speaks_and_not_before(
    keys_off: None, loaders: dict[Slot, serving.Loader], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.VOICE_STT_PROCESSES = 1
    engine_loaders = {slot: loaders[slot] for slot in (Slot.STT, Slot.TTS)}
    monkeypatch.setattr(serving, "_loaders", engine_loaders)
    serving.warm_up()
    local = Client(SERVER_NAME="127.0.0.1")

    def states() -> dict[str, str]:
        models = local.get("/health/models").json()["models"]
        return {slot: model["state"] for model in models for slot in model["slots"] if slot in {"stt", "tts"}}

    assert states() == {"stt": "idle", "tts": "idle"}
    engines = {one["slot"]: one for one in local.get("/leonardo/status").json()["engines"]}
    assert engines["stt"]["detail"] == "It starts when somebody first speaks."
    assert "en-gb-rp" in installed.voices()
    serving.settle()
    assert states() == {"stt": "idle", "tts": "idle"}, "a look at the voices starts nothing"
    heard = installed.speech_to_text().engine
    assert isinstance(heard, installed.ListeningPool)
    eventually(lambda: states()["stt"] == "ready")
    assert len(heard.pool.child_pids()) == 1
    memory = loading.report_of(str(versions.find_version("pocketsphinx"))).memory_bytes
    assert memory is not None
    assert memory > 50_000_000, "the process that listens is counted"
    serving.forget()


def test_who_speaks_goes_on_with_an_engine_that_another_has_replaced(whisper_folder: Path) -> None:
    add_whisper(whisper_folder)
    promote("tiny")
    heard: Any = installed.speech_to_text()
    (pid,) = heard.engine.pool.child_pids()
    installed.EngineLoader().unload(view.model(Slot.STT, "global"))
    recognition = heard.engine.start(lambda transcript: None)
    assert recognition.finish().result(PATIENCE_S).text == ""
    assert heard.engine.pool.child_pids() == [pid]
    del heard, recognition
    gc.collect()
    eventually(lambda: not Path(f"/proc/{pid}/exe").exists())


# --- hot words ----


def test_hot_words_are_the_collections_own_in_its_spelling() -> None:
    texts = [
        "The pgvector index is rebuilt by PostgreSQL at night.",
        "PostgreSQL keeps the index in memory.",
        "Ask Mbeki about pgvector and about the house.",
    ]
    found = hot_words(texts, general_probability(), most=3)
    assert set(found[:2]) == {"PostgreSQL", "pgvector"}
    assert "the" not in {word.lower() for word in hot_words(texts, general_probability())}
    assert hot_words([], general_probability()) == []


def test_each_engine_names_the_vocabulary_that_it_takes(whisper_folder: Path) -> None:
    assert installed.speech_to_text().engine.vocabulary_kind is VocabularyKind.LANGUAGE_MODEL
    add_whisper(whisper_folder)
    promote("tiny")
    assert installed.speech_to_text().engine.vocabulary_kind is VocabularyKind.HOT_WORDS


# --- fetched ----


class Hub:
    """A server with the addresses of a hub. ``cut_after`` bytes it hangs up, once for each number in it."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.folder, self.files = folder, files
        self.asked: list[tuple[str, str]] = []
        self.cut_after: list[int] = []
        self.knows_ranges = True
        self.lies: dict[str, bytes] = {}
        self.url = ""

    def listing(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "images", "oid": "0", "size": 0}]
        for path, content in self.files.items():
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git}
            if path.endswith((".bin", ".onnx")):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            hub.asked.append((self.path, wanted))
            if self.path.startswith(f"/api/models/{REPOSITORY}/tree/main"):
                self.answer(200, json.dumps(hub.listing()).encode())
                return
            name = self.path.removeprefix(f"/{REPOSITORY}/resolve/main/")
            content = hub.lies.get(name, hub.files.get(name))
            if content is None:
                self.answer(404, b"")
            elif wanted and hub.knows_ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.answer(206, content[start:], f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.answer(200, content)

        def answer(self, status: int, content: bytes, content_range: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            if hub.cut_after and len(content) > 1000:
                self.wfile.write(content[: hub.cut_after.pop(0)])
                self.close_connection = True
            else:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(whisper_folder: Path, settings: Settings, tmp_path: Path) -> Iterator[Hub]:
    settings.ZENGLOW_DATA_DIR = tmp_path
    files = {path.name: path.read_bytes() for path in whisper_folder.iterdir()}
    with serve(Hub(tmp_path, files)) as running:
        settings.VOICE_MODELS_URL = running.url
        yield running


def fetch(hub: Hub, *arguments: str) -> str:
    return run("fetch", REPOSITORY, *SET, *arguments)


def test_a_model_is_fetched_checked_and_registered(hub: Hub) -> None:
    assert "whisper-tiny@1 is registered" in fetch(hub)
    version = versions.find_version("whisper-tiny")
    assert version.artifacts["model"] == hashlib.sha256(hub.files["model.bin"]).hexdigest()
    assert version.provenance["fetched"] == f"{hub.url}/{REPOSITORY}"
    assert not list((hub.folder / "voice" / "downloads").iterdir()), "what was fetched lies in the registry alone"


def test_what_was_cut_off_is_gone_on_with(hub: Hub) -> None:
    hub.cut_after = [100_000, 50_000]
    fetch(hub)
    ranges = [wanted for path, wanted in hub.asked if path.endswith("model.bin")]
    assert ranges == ["", "bytes=100000-", "bytes=150000-"]


def test_a_call_that_was_ended_is_gone_on_with_by_the_next(hub: Hub) -> None:
    known = catalogue.find(REPOSITORY)
    assert known is not None
    folder = hub.folder / "voice" / "downloads" / known.name
    folder.mkdir(parents=True)
    (folder / "model.part").write_bytes(hub.files["model.bin"][:1234])
    fetch(hub)
    assert (f"/{REPOSITORY}/resolve/main/model.bin", "bytes=1234-") in hub.asked


def test_a_server_without_ranges_sends_it_all_again(hub: Hub) -> None:
    hub.cut_after, hub.knows_ranges = [1000], False
    fetch(hub)
    assert versions.find_version("whisper-tiny").artifacts["model"]


@pytest.mark.parametrize(
    ("name", "lie", "fault"),
    [
        ("model.bin", lambda content: b"x" + content[1:], "its hash differs"),
        ("config.json", lambda content: b"x" + content[1:], "its hash differs"),
        ("model.bin", lambda content: content + b"x" * 3_000_000, "larger than"),
    ],
)
def test_another_content_than_was_listed_is_thrown_away(
    hub: Hub, name: str, lie: Callable[[bytes], bytes], fault: str
) -> None:
    hub.lies[name] = lie(hub.files[name])
    with pytest.raises(CommandError, match=fault) as caught:
        fetch(hub)
    assert caught.value.returncode == 2
    assert not ModelVersion.objects.filter(model__name="whisper-tiny").exists()


def test_a_server_that_always_hangs_up_is_given_up(hub: Hub) -> None:
    hub.cut_after = [0] * mirror.ATTEMPTS
    with pytest.raises(CommandError, match=r"ended in the middle|can't be reached"):
        fetch(hub)


def test_offline_is_one_line_that_says_what_to_do(settings: Settings) -> None:
    settings.VOICE_MODELS_URL = "http://127.0.0.1:9"
    with pytest.raises(CommandError, match=r"127.0.0.1:9 can't be reached .*voices add FOLDER") as caught:
        run("fetch", "en_GB-alba-medium")
    assert caught.value.returncode == 2
    assert "\n" not in str(caught.value)


def test_what_the_mirror_lacks_and_what_nobody_knows_is_told(hub: Hub) -> None:
    with pytest.raises(CommandError, match=r"does not have Systran/faster-whisper-tiny\.en at main"):
        run("fetch", "whisper-tiny.en")
    with pytest.raises(CommandError, match="is not known"):
        run("fetch", "nothing")
    hub.files.pop("tokenizer.json")
    with pytest.raises(CommandError, match=r"has no tokenizer\.json"):
        fetch(hub)


def test_a_disk_without_room_is_told_before_anything_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "SPARE_BYTES", 1 << 60)
    with pytest.raises(CommandError, match="no room"):
        fetch(hub)
    assert len(hub.asked) == 1


def test_the_list_shows_what_is_here_and_what_can_be_fetched() -> None:
    shown = run("list")
    assert "pocketsphinx@1" in shown
    assert "en-gb-rp" in shown
    assert "whisper-small.en" in shown
    assert "en-gb-rp" in run("list", "--names").splitlines()


def test_the_known_models_name_their_files_as_the_hub_does() -> None:
    assert catalogue.KNOWN["en_GB-alba-medium"].files["model"] == "en/en_GB/alba/medium/en_GB-alba-medium.onnx"
    assert catalogue.find("acme/model@v1.0") is not None
    for nothing in ("acme", "acme/../x", "a/b/c", "acme/model@"):
        assert catalogue.find(nothing) is None
    assert set(whisper_files.NEEDED) <= set(whisper_files.FILES)
    assert model_files.NAME.fullmatch("en_GB-alba-medium")
    assert LoadState.IDLE.value == "idle"


# --- the doctor ----


def test_the_doctor_tries_every_engine_and_says_what_fails_and_what_is_not_installed(
    whisper_folder: Path, piper_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_whisper(break_model(whisper_folder, tmp_path), "broken")
    run("add", piper_folder, "--name", "tones")
    parts = {part.name: part for part in doctor.examine()}
    pocketsphinx, broken = parts["speech to text, pocketsphinx@1"], parts["speech to text, broken@1"]
    assert (pocketsphinx.state, broken.state) == (doctor.State.WORKS, doctor.State.FAILS)
    assert "s for a second of eSpeak's voice" in pocketsphinx.what
    assert pocketsphinx.what.endswith("live: global")
    assert "can't be loaded" in broken.what
    tones = parts["text to speech, tones@1"]
    assert "first sound after" in tones.what
    assert tones.what.endswith("not live")
    assert parts["wake word"].state is doctor.State.WORKS
    ModelVersion.objects.filter(model__name__in=("broken", "tones")).delete()
    monkeypatch.setattr(doctor, "find_spec", lambda module: None)
    absent = list(doctor._engines(Slot.STT, lambda version: "tried"))[-1]
    assert (absent.state, absent.what) == (doctor.State.ABSENT, "not installed")
    assert "requirements/whisper.txt" in absent.next
    monkeypatch.setattr(doctor, "find_spec", lambda module: module)
    assert list(doctor._engines(Slot.TTS, lambda version: "tried"))[-1].what == "installed, without a model"
