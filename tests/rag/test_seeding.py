"""What an export refuses, and what seeding registers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models_registry.artifacts import local_path
from models_registry.models import ModelVersion, Slot
from rag import seeding
from rag.embedders import ExportFailedError, export_embedder, read_folder
from rag.models import EmbeddingSpace
from rag.pipeline.features import SCHEMA_VERSION
from rag.seeding import SHIPPED_RANKERS, default_ranker, packaged_embedder_folder, seed_retrieval
from rag.spaces import IDENTITY, space_slug


def test_the_export_says_what_it_is(exported_embedder: Path) -> None:
    assert {path.name for path in exported_embedder.iterdir()} == {"model.onnx", "tokenizer.json", "export.json"}
    assert json.loads((exported_embedder / "export.json").read_text()) == {
        "dimension": 384,
        "max_tokens": 256,
        "query_prompt": "",
        "document_prompt": "",
        "pooling": "mean",
        "normalize": True,
    }


@pytest.mark.parametrize("fault", ["no model", "cut weights"])
def test_a_folder_that_is_no_whole_model_is_refused(fault: str, tmp_path: Path) -> None:
    folder, output = tmp_path / "model", tmp_path / "output"
    if fault == "no model":
        folder.mkdir()
    else:
        shutil.copytree(packaged_embedder_folder(), folder)
        weights = next(path for path in folder.rglob("*") if path.suffix in {".safetensors", ".bin"})
        weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ExportFailedError) as refused:
        export_embedder(read_folder(str(folder), "model"), output)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not output.exists()


@pytest.mark.usefixtures("live_models")
class TestSeeding:
    def test_seeding_again_changes_nothing(self) -> None:
        def everything() -> list[Any]:
            return list(ModelVersion.objects.order_by("id").values())

        before, lines = everything(), list[str]()
        chosen = seed_retrieval(lines.append)
        assert everything() == before
        assert lines == []  # nothing that takes time
        assert {slot: version.model.name for slot, version in chosen.items()} == {
            Slot.EMBEDDER: "all-MiniLM-L6-v2",
            Slot.LTR: default_ranker(),
        }

    def test_the_sidecars_declare_one_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        declared = [path.stem for path in SHIPPED_RANKERS.glob("*.json") if json.loads(path.read_text())["default"]]
        assert declared == [default_ranker()]
        monkeypatch.setattr(seeding, "SHIPPED_RANKERS", tmp_path)
        assert default_ranker() == "simple"  # nothing learned was worth it
        for name in ("one", "other"):
            (tmp_path / f"{name}.json").write_text(json.dumps({"default": True}))
        with pytest.raises(seeding.SeedingError, match="one and other"):
            default_ranker()

    def test_every_shipped_ranker_is_registered_as_it_ships(self) -> None:
        seed_retrieval(lambda line: None)
        for sidecar_path in SHIPPED_RANKERS.glob("*.json"):
            sidecar = json.loads(sidecar_path.read_text())
            version = ModelVersion.objects.filter(model__name=sidecar_path.stem).order_by("-number")[0]
            stored = local_path(version.artifacts["model"]).read_bytes()
            assert stored == (SHIPPED_RANKERS / sidecar["file"]).read_bytes()
            assert version.model.provider == sidecar["kind"]
            assert version.parameters["feature_schema_version"] == SCHEMA_VERSION
            assert version.provenance == sidecar["provenance"]

    def test_the_embedder_has_a_space_of_its_own(self) -> None:
        version = ModelVersion.objects.get(model__name="all-MiniLM-L6-v2")
        own = space_slug(version.artifacts["model"], version.parameters)
        assert EmbeddingSpace.objects.get(slug=own).dimension == 384
        assert {
            space_slug(version.artifacts["model"], version.parameters | {name: "other"}) for name in IDENTITY
        }.isdisjoint({own})
        assert space_slug("0" * 64, version.parameters) != own
