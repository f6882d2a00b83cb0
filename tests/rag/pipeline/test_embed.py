"""The exported embedder against the model it was made of, and what it refuses."""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ops.contracts import model_calls
from ops.contracts.model_calls import ModelCall
from rag.pipeline import embed
from rag.pipeline.embed import Embedder, EmbeddingError, Encoder, Sharing, Space
from rag.pipeline.types import Float32Array
from rag.seeding import packaged_embedder_folder

TEXTS = [
    "drag",
    "What is the drag of a slender wing at supersonic speed?",
    "",
    " ",
    "the of and",
    "Die Straße nach Köln – 12 €",
    "蜜蜂跳舞告诉同伴花的位置",
    "النحل يرقص",
    "🐝🌸",
    "def f(x):\n    return x ** 2\n",
    "<p>&amp;</p> \t\x00\x01 \u200b",
    "a" * 500,
    "word " * 200,
    "A passage of middling length that is repeated until it is cut off by the limit. " * 40,
]


@pytest.fixture(scope="module")
def encoder(exported_embedder: Path) -> Encoder:
    return make_encoder(exported_embedder)


def make_encoder(folder: Path, **changes: Any) -> Encoder:
    facts = json.loads((folder / "export.json").read_text())
    given = {"dimension": facts["dimension"], "max_tokens": facts["max_tokens"], "threads": 1} | changes
    return Encoder(folder / "model.onnx", folder / "tokenizer.json", **given)


@pytest.fixture(scope="module")
def original() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and transformers warn of each other
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(packaged_embedder_folder()), device="cpu")


def test_its_vectors_are_those_of_the_model(encoder: Encoder, original: Any) -> None:
    expected = original.encode(TEXTS, normalize_embeddings=True, convert_to_numpy=True)
    vectors = encoder.encode(TEXTS).vectors
    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < 1e-5
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)


def test_it_counts_tokens_as_the_model_does(encoder: Encoder, original: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts beyond the limit are meant
        expected = [len(original.tokenizer.tokenize(text)) for text in TEXTS]
    assert encoder.count_tokens(TEXTS) == expected
    assert max(expected) > 256
    assert encoder.count_tokens([]) == []


def test_a_text_has_the_same_vector_alone_and_in_any_company(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = np.vstack([encoder.encode([text]).vectors for text in TEXTS])
    order = np.random.default_rng(0).permutation(len(TEXTS))
    for batch_tokens in (1, 64, 700, 4096):
        monkeypatch.setattr(embed, "BATCH_TOKENS", batch_tokens)
        together = encoder.encode([TEXTS[position] for position in order]).vectors
        assert np.abs(together - alone[order]).max() < 1e-5


def test_no_pass_is_larger_than_a_batch(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    run = Encoder._run

    def noting(self: Encoder, ids: Any, mask: Any) -> Float32Array:
        shapes.append(ids.shape)
        return run(self, ids, mask)

    monkeypatch.setattr(Encoder, "_run", noting)
    monkeypatch.setattr(embed, "BATCH_TOKENS", 300)
    encoder.encode(TEXTS)
    assert sum(rows for rows, _ in shapes) == len(TEXTS)
    assert all(rows == 1 or rows * width <= 300 for rows, width in shapes)
    assert max(width for _, width in shapes) == 256


def test_no_texts_have_no_vectors(encoder: Encoder) -> None:
    assert encoder.encode([]).vectors.shape == (0, 384)


def test_prompts_stand_before_queries_and_documents(encoder: Encoder) -> None:
    space = Space(1, "m@1", 384, 256, query_prompt="query: ", document_prompt="passage: ")
    embedder = Embedder(space, encoder)
    assert np.abs(embedder.embed_query("bees") - encoder.encode(["query: bees"]).vectors[0]).max() < 1e-6
    assert np.abs(embedder.embed_documents(["bees"]) - encoder.encode(["passage: bees"]).vectors).max() < 1e-6
    assert embedder.count_tokens(["bees"]) == encoder.count_tokens(["bees"])


def test_a_model_of_another_dimension_is_refused(exported_embedder: Path) -> None:
    with pytest.raises(EmbeddingError, match="384 numbers, but its space has 383"):
        make_encoder(exported_embedder, dimension=383)


def test_a_model_that_fails_says_so(exported_embedder: Path) -> None:
    # The model has places for 512 tokens.
    long = make_encoder(exported_embedder, max_tokens=2000)
    with pytest.raises(EmbeddingError, match="The embedder failed"):
        long.encode(["word " * 1500])


def test_values_that_are_no_numbers_are_refused(exported_embedder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder(exported_embedder)
    monkeypatch.setattr(Encoder, "_run", lambda self, ids, mask: np.full((len(ids), 384), np.nan, np.float32))
    with pytest.raises(EmbeddingError, match="not numbers"):
        encoder.encode(["bees"])


def test_queries_at_the_same_time_get_the_vectors_that_they_get_alone(exported_embedder: Path) -> None:
    encoder = make_encoder(exported_embedder, sharing=Sharing(passes=1, most=8, wait_ms=1))
    passes: list[int] = []
    run = encoder._run

    def counted(ids: Any, mask: Any) -> Float32Array:
        passes.append(len(ids))
        return run(ids, mask)

    encoder._run = counted  # type: ignore[method-assign]
    queries = [text for text in TEXTS if len(text) < 100] * 4
    expected = [encoder.encode([query]).vectors[0] for query in queries]
    passes.clear()
    with ThreadPoolExecutor(len(queries)) as pool:
        encoded = list(pool.map(encoder.encode_query, queries))
        vectors = [one.vector for one in encoded]
    assert sum(passes) == len(queries)
    assert all(one.batch_size <= 8 for one in encoded)
    for vector, alone in zip(vectors, expected, strict=True):
        assert np.abs(vector - alone).max() < 1e-5


def test_texts_of_very_different_lengths_do_not_share_a_pass(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    run = encoder._run

    def seen(ids: Any, mask: Any) -> Float32Array:
        shapes.append(ids.shape)
        assert mask.sum() >= ids.size / (1 + embed.MAX_PADDING)
        return run(ids, mask)

    monkeypatch.setattr(encoder, "_run", seen)
    encoder.encode(["drag"] * 3 + ["word " * 100] * 2 + ["drag of wings"])
    assert sorted(shapes) == [(1, 5), (2, 102), (3, 3)]


def test_each_call_is_told_with_its_items_and_the_tokens_that_were_read(
    exported_embedder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[ModelCall] = []
    monkeypatch.setattr(model_calls, "_sinks", [calls.append])
    embedder = Embedder(Space(1, "mini@3", 384, 16, "", ""), make_encoder(exported_embedder, max_tokens=16))
    embedder.embed_query("bees dance")
    embedder.embed_documents(["bees", "word " * 100])
    told = [(call.model, call.operation, call.items, call.tokens, call.batch_size) for call in calls]
    # Each text is framed by two special tokens, and cut at 16.
    assert told == [("mini@3", "query", 1, 4, 1), ("mini@3", "documents", 2, 3 + 16, 2)]
