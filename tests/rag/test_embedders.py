"""Bringing in an embedder: what a folder may hold, which prompts count, and that the served vectors are the model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models_registry.models import ModelKind
from models_registry.versions import register_model
from ops.contracts.problems import Conflict
from rag.embedders import ExportFailedError, find_folder, read_folder, register_embedder
from rag.pipeline.embed import Embedder, EmbeddingError, Encoder, Space
from rag.recipes.model_folder import ModelFolderError, family_prompts, inspect_folder, own_prompts
from rag.recipes.onnx_export import ExportError, export
from tests.rag.tiny_models import edit, make_model

TEXTS = ["bees dance", "a" * 300, "Пчёлы 蜜蜂!", "", "two words, then some more of them"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


class TestExport:
    @pytest.mark.parametrize(
        ("pooling", "name", "normalize"), [("mean", "mean", True), ("cls", "cls", False), ("lasttoken", "last", True)]
    )
    def test_served_vectors_are_those_of_the_original(
        self, pooling: str, name: str, normalize: bool, tmp_path: Path
    ) -> None:
        from sentence_transformers import SentenceTransformer

        folder = make_model(tmp_path / "model", pooling=pooling, normalize=normalize)
        assert export(folder, tmp_path / "out", query_prompt="find: ", document_prompt="text: ") > 0.9999
        said = json.loads((tmp_path / "out" / "export.json").read_text())
        assert (said["pooling"], said["normalize"], said["dimension"], said["max_tokens"]) == (name, normalize, 16, 128)
        original = SentenceTransformer(str(folder), device="cpu")
        embedder = embedder_of(tmp_path / "out")
        for text, vector in zip(TEXTS, embedder.embed_documents(TEXTS), strict=True):
            assert vector @ original.encode(text, prompt="text: ", normalize_embeddings=True) > 0.9999
            query = original.encode(text, prompt="find: ", normalize_embeddings=True)
            assert embedder.embed_query(text) @ query > 0.9999

    def test_another_pooling_can_be_chosen(self, model: Path, tmp_path: Path) -> None:
        export(model, tmp_path / "own")
        export(model, tmp_path / "chosen", pooling="cls")
        assert json.loads((tmp_path / "chosen" / "export.json").read_text())["pooling"] == "cls"
        own, chosen = (embedder_of(tmp_path / name).embed_query("bees dance") for name in ("own", "chosen"))
        assert own @ chosen < 0.999

    def test_a_table_of_words_without_a_transformer_is_refused(self, model: Path, tmp_path: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Tokenizer

        words = StaticEmbedding(Tokenizer.from_file(str(model / "tokenizer.json")), embedding_dim=8)
        SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path / "static"))
        with pytest.raises(ExportError, match="static has no transformer with a fast tokenizer"):
            export(tmp_path / "static", tmp_path / "out")

    def test_a_prompt_that_the_model_leaves_out_of_its_pooling_is_refused(self, copy: Path, tmp_path: Path) -> None:
        edit(copy / "1_Pooling" / "config.json", include_prompt=False)
        export(copy, tmp_path / "without")
        with pytest.raises(ExportError, match="differs from the model"):
            export(copy, tmp_path / "with", query_prompt="a rather long instruction: ")

    def test_a_file_with_vectors_of_another_length_is_refused_when_it_is_loaded(
        self, model: Path, tmp_path: Path
    ) -> None:
        export(model, tmp_path / "out")
        with pytest.raises(EmbeddingError, match="16 numbers, but its space has 12"):
            embedder_of(tmp_path / "out", dimension=12)


def embedder_of(exported: Path, **changes: int) -> Embedder:
    said = json.loads((exported / "export.json").read_text()) | changes
    space = Space(1, "tiny@1", said["dimension"], said["max_tokens"], said["query_prompt"], said["document_prompt"])
    return Embedder(
        space,
        Encoder(
            exported / "model.onnx",
            exported / "tokenizer.json",
            dimension=said["dimension"],
            max_tokens=said["max_tokens"],
            threads=1,
        ),
    )


class TestPrompts:
    @pytest.mark.parametrize(
        ("name", "query", "document"),
        [
            *(
                (name, "Represent this sentence for searching relevant passages: ", "")
                for name in ("BAAI/bge-small-en-v1.5", "bge-large-en", "BAAI_bge-base-en-v1.5", "my/BGE-Small-EN-tuned")
            ),
            ("BAAI/bge-base-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", ""),
            ("BAAI/bge-m3", "", ""),
            *(
                (name, "query: ", "passage: ")
                for name in ("intfloat/e5-small-v2", "intfloat/multilingual-e5-large", "e5-base")
            ),
            (
                "intfloat/multilingual-e5-large-instruct",
                "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
                "",
            ),
            ("thenlper/gte-small", "", ""),
            ("Alibaba-NLP/gte-multilingual-base", "", ""),
            ("sentence-transformers/all-MiniLM-L6-v2", "", ""),
            ("sentence-transformers/all-mpnet-base-v2", "", ""),
            ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
            ("something/else", "", ""),
            ("made5-small", "", ""),
        ],
    )
    def test_each_family_gets_its_own(self, name: str, query: str, document: str) -> None:
        found = family_prompts(name)
        assert (found.query, found.document) == (query, document)

    def test_the_family_is_that_of_the_model_it_was_made_from(self, copy: Path) -> None:
        edit(copy / "config.json", _name_or_path="intfloat/e5-small-v2")
        prompts = inspect_folder(copy, "ours").prompts
        assert (prompts.query, prompts.document) == ("query: ", "passage: ")

    @pytest.mark.parametrize(
        ("configuration", "expected"),
        [
            ({}, None),
            ({"prompts": {}}, None),
            ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, None),
            ({"prompts": {"query": "q: ", "document": "d: "}}, ("q: ", "d: ")),
            ({"prompts": {"query": "q: "}}, ("q: ", "")),
            ({"prompts": {"query": "q: ", "passage": "p: "}}, ("q: ", "p: ")),
            ({"prompts": {"search_query": "q: ", "search_document": "d: "}}, ("q: ", "d: ")),
            ({"prompts": {"all": "x: "}, "default_prompt_name": "all"}, ("x: ", "x: ")),
            ({"prompts": {"clustering": "c: "}}, None),
        ],
        ids=str,
    )
    def test_those_of_the_models_own_configuration(
        self, configuration: dict[str, object], expected: tuple[str, str] | None
    ) -> None:
        found = own_prompts(configuration)
        assert (found and (found.query, found.document)) == expected

    def test_the_models_own_come_before_its_familys_and_those_given_before_both(self, tmp_path: Path) -> None:
        folder = make_model(tmp_path / "e5-small", prompts={"query": "own: ", "document": ""})
        own = read_folder(str(folder), "e5-small").prompts
        assert (own.query, own.document) == ("own: ", "")
        given = read_folder(str(folder), "e5-small", document_prompt="given: ").prompts
        assert (given.query, given.document) == ("own: ", "given: ")
        edit(folder / "config_sentence_transformers.json", prompts={"query": "", "document": ""})
        family = read_folder(str(folder), "e5-small").prompts
        assert (family.query, family.document) == ("query: ", "passage: ")


class TestFolder:
    def test_weights_in_a_pickle_are_refused(self, copy: Path) -> None:
        (copy / "pytorch_model.bin").write_bytes(b"")
        assert inspect_folder(copy, "x").path == copy  # the safetensors beside it are taken
        (copy / "model.safetensors").unlink()
        with pytest.raises(ModelFolderError, match=r"pickle \(pytorch_model.bin\), which can run code"):
            inspect_folder(copy, "x")
        (copy / "pytorch_model.bin").unlink()
        with pytest.raises(ModelFolderError, match=r"model\.safetensors is missing"):
            inspect_folder(copy, "x")

    def test_a_part_of_it_in_a_pickle_is_refused(self, copy: Path) -> None:
        (copy / "2_Dense").mkdir()
        (copy / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
        modules = json.loads((copy / "modules.json").read_text())
        modules.append({"idx": 3, "name": "3", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
        (copy / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ModelFolderError, match="2_Dense has its weights only as a pickle"):
            inspect_folder(copy, "x")

    @pytest.mark.parametrize("where", ["config", "modules"])
    def test_code_of_its_own_is_not_run(self, where: str, copy: Path) -> None:
        if where == "config":
            edit(copy / "config.json", auto_map={"AutoModel": "modeling.Model"})
        else:
            modules = json.loads((copy / "modules.json").read_text())
            (copy / "modules.json").write_text(json.dumps([modules[0] | {"type": "os.system"}, *modules[1:]]))
        with pytest.raises(ModelFolderError, match="needs code of its own"):
            inspect_folder(copy, "x")

    def test_what_is_no_model_is_refused(self, copy: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelFolderError, match="no sentence-transformers model"):
            inspect_folder(tmp_path, "x")
        (copy / "modules.json").write_text("{")
        with pytest.raises(ModelFolderError, match=r"modules\.json can't be read"):
            inspect_folder(copy, "x")

    @pytest.mark.parametrize("name", ["BAAI/bge-small-en-v1.5", "nowhere"])
    def test_a_model_that_is_not_in_the_cache_is_not_downloaded(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ExportFailedError, match=f"hf download {name}"):
            find_folder(name)

    @pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "-x-", "x" * 200])
    def test_what_can_be_no_name_is_refused(self, name: str) -> None:
        with pytest.raises(ExportFailedError, match="no name that a model can have"):
            find_folder(name)

    def test_a_model_in_the_cache_is_found_by_its_name(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        revision = "0" * 40
        stored = tmp_path / "models--some--model"
        shutil.copytree(model, stored / "snapshots" / revision)
        (stored / "refs").mkdir()
        (stored / "refs" / "main").write_text(revision)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert read_folder("some/model", "model").path == stored / "snapshots" / revision


@pytest.mark.django_db
class TestRegistering:
    def test_the_same_export_is_the_same_version_and_other_weights_are_the_next(
        self, model: Path, tmp_path: Path
    ) -> None:
        export(model, tmp_path / "one")
        export(make_model(tmp_path / "tuned", seed=1), tmp_path / "two")
        labels = [str(register_embedder("tiny", tmp_path / name, "test")) for name in ("one", "one", "two")]
        assert labels == ["tiny@1", "tiny@1", "tiny@2"]

    def test_a_model_that_changed_its_dimension_is_another_model(self, model: Path, tmp_path: Path) -> None:
        export(model, tmp_path / "one")
        export(make_model(tmp_path / "wide", dimension=32), tmp_path / "two")
        register_embedder("tiny", tmp_path / "one", "test")
        with pytest.raises(Conflict, match=r"tiny@1 has vectors of 16 numbers, this model of 32.*--name"):
            register_embedder("tiny", tmp_path / "two", "test")
        assert str(register_embedder("wide", tmp_path / "two", "test")) == "wide@1"

    def test_the_name_of_another_kind_of_model_is_refused(self, model: Path, tmp_path: Path) -> None:
        export(model, tmp_path / "one")
        register_model("ranker", ModelKind.LTR, "lightgbm")
        with pytest.raises(Conflict, match="exists already"):
            register_embedder("ranker", tmp_path / "one", "test")


def test_vectors_of_random_weights_differ(model: Path, tmp_path: Path) -> None:
    """Otherwise nothing above could fail."""
    export(model, tmp_path / "out")
    vectors = embedder_of(tmp_path / "out").embed_documents(["bees dance", "income tax", "zebra"])
    similarity = vectors @ vectors.T
    assert similarity[~np.eye(3, dtype=bool)].max() < 0.99
