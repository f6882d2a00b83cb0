from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.pipeline.features import COLUMN, FEATURES, SCHEMA, SCHEMA_VERSION, extract
from rag.pipeline.fusion import min_max
from rag.pipeline.ltr import (
    LightGbmRanker,
    LinearRanker,
    ModelFormatError,
    Ranker,
    SimpleRanker,
    load_ranker,
)
from rag.pipeline.types import FeatureMatrix
from rag.seeding import SHIPPED_RANKERS
from tests.rag.pipeline.candidates import drawn

SIDECARS = sorted(SHIPPED_RANKERS.glob("*.json"))
COLLECTIONS = {"cranfield", "cisi", "cacm"}


def shipped(name: str) -> tuple[Ranker, bytes]:
    sidecar = json.loads((SHIPPED_RANKERS / f"{name}.json").read_text())
    model = (SHIPPED_RANKERS / sidecar["file"]).read_bytes()
    return load_ranker(sidecar["kind"], model), model


@pytest.fixture
def features() -> FeatureMatrix:
    return extract(*drawn(1))


@pytest.mark.parametrize("path", SIDECARS, ids=lambda path: path.stem)
def test_every_shipped_model_loads_and_is_what_its_sidecar_says(path, features):
    sidecar = json.loads(path.read_text())
    ranker, model = shipped(path.stem)
    assert ranker.kind == sidecar["kind"]
    assert sidecar["feature_schema_version"] == SCHEMA_VERSION
    assert len(model) < 1_000_000
    assert np.isfinite(ranker.score(features)).all()
    weights = sidecar["fusion_weights"]
    assert min(weights.values()) >= 0.2 - 1e-9
    assert sum(weights.values()) == pytest.approx(1.0)
    assert {"datasets", "command", "embedders", "parameters"} <= sidecar["provenance"].keys()


def test_all_that_is_promised_ships():
    assert {path.stem for path in SIDECARS} >= {"ltr-default", *(f"ltr-without-{name}-linear" for name in COLLECTIONS)}


@pytest.mark.parametrize("name", sorted(COLLECTIONS))
def test_a_leave_one_out_model_was_not_trained_on_what_it_leaves_out(name):
    sidecar = json.loads((SHIPPED_RANKERS / f"ltr-without-{name}-linear.json").read_text())
    assert {dataset["collection"] for dataset in sidecar["provenance"]["datasets"]} == COLLECTIONS - {name}
    assert [list(of_row) for of_row in sidecar["metrics"]["zero_shot_ndcg@10"].values()] == [[name]]


@pytest.mark.parametrize("path", SIDECARS, ids=lambda path: path.stem)
def test_the_parts_of_an_explanation_sum_to_the_score(path, features):
    ranker, _ = shipped(path.stem)
    parts = ranker.explain(features)
    assert parts.shape == (len(features.values), len(FEATURES) + 1)
    assert parts.sum(axis=1) == pytest.approx(ranker.score(features), rel=1e-5, abs=1e-5)


KINDS = {
    "lightgbm": shipped("ltr-default")[0],
    "linear": shipped("ltr-default-linear")[0],
    "simple": SimpleRanker(),
}
"""One ranker of each kind that can be live."""


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_base_and_contributions_sum_to_the_score_whatever_the_features(kind, data):
    """Candidates drawn anywhere within the schema's bounds, a column often the same for all, as serving sees them."""
    n = data.draw(st.integers(1, 12))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    low, high = np.array([(feature.low, feature.high) for feature in SCHEMA]).T
    values = generator.uniform(low, high, size=(n, len(SCHEMA)))
    equal = data.draw(st.lists(st.booleans(), min_size=len(SCHEMA), max_size=len(SCHEMA)))
    values[:, equal] = values[0, equal]
    features = FeatureMatrix(SCHEMA_VERSION, values.astype(np.float32))
    parts, scores = KINDS[kind].explain(features), KINDS[kind].score(features)
    assert parts.shape == (n, len(FEATURES) + 1)
    assert np.isfinite(parts).all()
    # The score is single precision: an error of its largest terms, which may cancel out.
    tolerance = 1e-6 * max(1.0, float(np.abs(parts).max())) * len(FEATURES)
    assert parts.sum(axis=1) == pytest.approx(scores, abs=tolerance)


def test_every_part_of_the_linear_score_is_the_weight_times_the_value(features):
    ranker = KINDS["linear"]
    parts = ranker.explain(features)
    assert parts[:, :-1] == pytest.approx(features.values * ranker.weights, abs=1e-9)
    assert not parts[:, -1].any()


def test_the_base_is_the_same_for_each_candidate_of_a_query(features):
    for ranker in KINDS.values():
        assert np.ptp(ranker.explain(features)[:, -1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("path", SIDECARS, ids=lambda path: path.stem)
def test_a_model_survives_being_written_and_read(path, features):
    ranker, model = shipped(path.stem)
    assert ranker.to_bytes() == model
    again = load_ranker(ranker.kind, ranker.to_bytes())
    assert np.array_equal(again.score(features), ranker.score(features))


def test_a_shipped_ranker_scores_no_and_one_and_equal_candidates():
    empty = FeatureMatrix(SCHEMA_VERSION, np.zeros((0, len(FEATURES)), dtype=np.float32))
    equal = FeatureMatrix(SCHEMA_VERSION, np.full((3, len(FEATURES)), 0.5, dtype=np.float32))
    for ranker in (shipped("ltr-default")[0], shipped("ltr-default-linear")[0], SimpleRanker()):
        assert ranker.score(empty).shape == (0,)
        assert ranker.explain(empty).shape == (0, len(FEATURES) + 1)
        assert len(set(ranker.score(equal).tolist())) == 1
        assert ranker.explain(equal).sum(axis=1) == pytest.approx(ranker.score(equal), rel=1e-5)


def test_the_linear_ranker_is_a_weighted_sum(features):
    ranker = LinearRanker.of({"cosine": 2.0, "length": -0.5})
    expected = 2.0 * features.values[:, COLUMN["cosine"]] - 0.5 * features.values[:, COLUMN["length"]]
    assert ranker.score(features) == pytest.approx(expected, abs=1e-6)


def test_the_simple_ranker_is_the_mean_of_both_scaled_scores(features):
    cosine, bm25 = features.values[:, COLUMN["cosine"]], features.values[:, COLUMN["bm25"]]
    assert SimpleRanker().score(features) == pytest.approx((min_max(cosine) + min_max(bm25)) / 2, abs=1e-5)


def test_rankers_refuse_features_of_another_version(features):
    other = FeatureMatrix(SCHEMA_VERSION + 1, features.values)
    for ranker in (shipped("ltr-default")[0], shipped("ltr-default-linear")[0], SimpleRanker()):
        with pytest.raises(ModelFormatError, match="schema version"):
            ranker.score(other)


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"feature_schema_version": 1}',
        b'{"feature_schema_version": 99, "weights": {}}',
        b'{"feature_schema_version": 1, "weights": {"no such feature": 1}}',
        b'{"feature_schema_version": 1, "weights": {"cosine": "much"}}',
        b'{"feature_schema_version": 1, "weights": {"cosine": NaN}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_linear_model_is_refused(model):
    with pytest.raises(ModelFormatError):
        load_ranker("linear", model)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ModelFormatError, match="no ranker of kind"):
        load_ranker("neural", b"")


def replaced(old: str, new: str) -> bytes:
    model = shipped("ltr-default")[1].decode()
    assert old in model
    return model.replace(old, new, 1).encode()


def with_first(field: str, change) -> bytes:
    """The default model with the numbers of the first such line changed, and the tree's size put right."""
    model = shipped("ltr-default")[1].decode()
    line = next(line for line in model.split("\n") if line.startswith(f"{field}="))
    numbers = line.partition("=")[2].split(" ")
    new = f"{field}={' '.join(change(numbers))}"
    sizes = next(line for line in model.split("\n") if line.startswith("tree_sizes="))
    first, _, rest = sizes.partition("=")[2].partition(" ")
    grown = f"tree_sizes={int(first) + len(new) - len(line)} {rest}"
    return model.replace(line, new, 1).replace(sizes, grown, 1).encode()


@pytest.mark.parametrize(
    "model",
    [
        lambda: b"",
        lambda: b"tree\nend of trees\n",
        lambda: shipped("ltr-default")[1][:5000],
        lambda: shipped("ltr-default")[1].rpartition(b"zenglow_start:")[0],
        lambda: replaced("cosine_norm", "cosine_gnom"),
        lambda: replaced("num_class=1", "num_class=2"),
        lambda: replaced("end of trees", "end of tees"),
        lambda: replaced("tree_sizes=", "tree_sizes=1"),
        lambda: replaced('"scale": ', '"scale": -'),
        lambda: replaced('"feature_schema_version": ', '"feature_schema_version": 9'),
        lambda: with_first("split_feature", lambda numbers: ["999", *numbers[1:]]),
        lambda: with_first("split_feature", lambda numbers: ["-1", *numbers[1:]]),
        lambda: with_first("left_child", lambda numbers: ["700", *numbers[1:]]),
        lambda: with_first("left_child", lambda numbers: ["0", *numbers[1:]]),
        lambda: with_first("right_child", lambda numbers: ["-90", *numbers[1:]]),
        lambda: with_first("threshold", lambda numbers: numbers[1:]),
        lambda: with_first("leaf_value", lambda numbers: ["nan", *numbers[1:]]),
        lambda: with_first("leaf_value", lambda numbers: numbers[1:]),
        lambda: with_first("num_leaves", lambda numbers: ["1000000"]),
        lambda: with_first("num_cat", lambda numbers: ["3"]),
    ],
)
def test_a_damaged_lightgbm_model_is_refused(model):
    with pytest.raises(ModelFormatError):
        load_ranker("lightgbm", model())


@settings(max_examples=60)
@given(st.data())
def test_a_lightgbm_model_with_any_line_lost_never_ends_the_process(data):
    lines = shipped("ltr-default")[1].split(b"\n")
    lost = data.draw(st.integers(0, 80))
    try:
        ranker = LightGbmRanker.from_bytes(b"\n".join(lines[:lost] + lines[lost + 1 :]))
    except ModelFormatError:
        return
    assert len(ranker.score(extract(*drawn(2)))) == 30
