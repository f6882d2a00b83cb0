"""The whole pipeline: what an answer holds, in which order, out of which cache, and with what missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.cache import cache as django_cache
from django.core.files.storage import default_storage
from django.db import OperationalError
from drf_spectacular.generators import SchemaGenerator

from models_registry import artifacts, deployments, serving, versions, weights
from models_registry.live import view
from models_registry.loading import LoadState, report_of
from models_registry.models import ModelKind, ModelVersion, Slot
from ops.contracts.health import State
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import InvalidRequest, NotFound
from ops.models import AlertEvent
from rag import spaces
from rag.health import check_live_models
from rag.models import Chunk, Collection, DocEmbedding, Document, EmbeddingSpace
from rag.pipeline import cache, loaded, rankers, snapshot
from rag.pipeline.answer_memory import memory as answer_memory
from rag.pipeline.features import FEATURES, SCHEMA
from rag.pipeline.fusion import min_max
from rag.pipeline.search import SearchRequest, search
from tests.conftest import forget_cached
from tests.rag.pipeline.support import Text, fill, lookups, person, put, remove

DOCUMENTS = {
    "waggle": Text("Bees dance in figures of eight to show the way to flowers.", "The waggle dance", source="bees.md"),
    "honey": Text("Honey is nectar that bees have thickened and stored in combs.", "Honey", {"year": 1999}),
    "mites": Text("Varroa mites weaken a hive; oxalic acid in winter kills them.", "Mites", {"year": 2001}),
    "queen": Text("The queen lays up to two thousand eggs a day in early summer.", "The queen", {"year": [1999, 2001]}),
    "tax": Text("Income tax for the self-employed is due at the end of January."),
    "vat": Text("Register for value added tax once your turnover passes the threshold."),
    "anchor": Text("Let out chain of four times the depth before the anchor holds."),
    "reef": Text("Reef the mainsail early, before the wind has made it hard."),
    "bread": Text("A sourdough starter needs flour and water once a day."),
    "crust": Text("Steam in the oven keeps the crust of a loaf soft for longer."),
    "router": Text("ECONNRESET from the router means that its lease is to be renewed.", "The router"),
    "dns": Text("A name that does not resolve is most often a mistake in DNS."),
}

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(scope="module")
def shared(module_transaction: None, embedded_stack: object) -> Collection:
    view.expire()
    collection = Collection.objects.create(slug="shared")
    fill(collection, DOCUMENTS)
    return collection


@pytest.fixture
def broken_models() -> Iterator[None]:
    """For tests that damage a model: what this process has loaded is loaded anew before and after."""
    spaces.forget()
    rankers.forget()
    yield
    spaces.forget()
    rankers.forget()
    view.expire()


def ask(query: str = "how do bees show each other flowers", collection: str = "shared", **given: Any) -> dict[str, Any]:
    return search(SearchRequest(query=query, collection=collection, **given), SYSTEM)


def ids(answer: dict[str, Any]) -> list[str]:
    return [result["document_id"] for result in answer["results"]]


def without_circumstances(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs each time: its id, its timings, its cache."""
    return {name: value for name, value in answer.items() if name not in {"request_id", "timings", "cache", "degraded"}}


class TestAnswer:
    def test_it_has_exactly_what_the_interface_promises(self, shared: Collection) -> None:
        answer = ask(top_k=3)
        assert list(answer) == [
            *("request_id", "query", "top_k", "collection", "results", "fusion_weights", "fusion_weights_version"),
            *("feature_schema_version", "models", "ranker", "safeguard", "variant", "retrieval_mode", "cache"),
            *("degraded", "timings"),
        ]
        assert set(answer["timings"]) == {
            *("embed_ms", "retrieval_ms", "feature_ms", "ltr_ms", "fusion_ms", "pipeline_ms"),
        }
        assert len(answer["results"]) == 3
        for result in answer["results"]:
            assert list(result) == [
                *("chunk_id", "document_id", "source", "title", "text", "external_url", "heading_path", "page"),
                *("start", "end", "metadata", "matched_by", "distance", "conceptual_score", "conceptual_score_norm"),
                *("ltr_score", "ltr_score_norm", "fused_score"),
            ]
            assert set(result["matched_by"]) == {"dense", "lexical"}
        assert (answer["cache"], answer["degraded"], answer["safeguard"]) == ("none", [], None)
        assert (answer["variant"], answer["retrieval_mode"]) == ("stable", "pgvector")
        assert answer["models"] == {
            "embedder": view.model(Slot.EMBEDDER, "shared").label,
            "ltr": view.model(Slot.LTR, "shared").label,
        }

    def test_it_finds_by_meaning_and_by_words(self, shared: Collection) -> None:
        best = ask()["results"][0]
        assert best["document_id"] == "waggle"
        assert (best["source"], best["title"], best["text"]) == (
            *("bees.md", "The waggle dance"),
            DOCUMENTS["waggle"].text,
        )
        assert best["text"] == Document.objects.get(document_id="waggle").text[best["start"] : best["end"]]
        assert ids(ask("ECONNRESET"))[0] == "router"
        assert ids(ask("how to keep parasites from killing my colony"))[0] == "mites"

    def test_the_fused_score_is_the_weighted_sum_of_both_norms(self, shared: Collection) -> None:
        answer = ask(top_k=100)
        shares = answer["fusion_weights"]
        assert shares["ltr"] + shares["conceptual"] == pytest.approx(1)
        results = answer["results"]
        assert len(results) == len(DOCUMENTS)
        for name in ("ltr_score", "conceptual_score"):
            norms = min_max(np.array([result[name] for result in results]))
            assert [result[f"{name}_norm"] for result in results] == pytest.approx(norms.tolist(), abs=1e-6)
        for result in results:
            assert result["conceptual_score"] == pytest.approx(1 - result["distance"])
            fused = shares["ltr"] * result["ltr_score_norm"] + shares["conceptual"] * result["conceptual_score_norm"]
            assert result["fused_score"] == pytest.approx(fused)
        order = [(-result["fused_score"], result["chunk_id"]) for result in results]
        assert order == sorted(order)

    def test_distances_are_those_of_the_stored_vectors(self, shared: Collection) -> None:
        query = spaces.embedder_for("shared").embed_query("anchor")
        stored = {
            row.chunk_id: float(1 - np.asarray(row.embedding) @ query)
            for row in DocEmbedding.objects.filter(collection=shared)
        }
        answer = ask("anchor", top_k=100)
        assert {
            result["chunk_id"]: pytest.approx(result["distance"], abs=1e-5) for result in answer["results"]
        } == stored
        by_distance = sorted(answer["results"], key=lambda result: result["distance"])
        assert [result["matched_by"]["dense"] for result in by_distance] == list(range(1, len(DOCUMENTS) + 1))
        assert {r["document_id"]: r["matched_by"]["lexical"] for r in by_distance if r["matched_by"]["lexical"]} == {
            "anchor": 1
        }

    def test_pages_are_cut_from_one_order(self, shared: Collection) -> None:
        whole = ask(top_k=100)["results"]
        assert ask(top_k=4)["results"] == whole[:4]
        assert ask(top_k=4, offset=4)["results"] == whole[4:8]
        assert ask(top_k=100, offset=len(DOCUMENTS) - 1)["results"] == whole[-1:]
        assert ask(top_k=4, offset=200)["results"] == []

    def test_a_document_shows_once_when_grouped(self, shared: Collection) -> None:
        space = EmbeddingSpace.objects.get(id=spaces.embedder_for("shared").space.id)
        passages = ["Bees dance on the comb.", "Bees sleep at night.", "A bee dances for the others."]
        vectors = spaces.embedder_for("shared").embed_documents(passages)
        put(shared, space, "several", *passages, vectors=vectors)
        whole = ask(top_k=100)["results"]
        grouped = ask(top_k=100, group_by="document")["results"]
        first_of_each = {result["document_id"]: result for result in reversed(whole)}
        assert len(whole) == len(grouped) + 2
        assert {result["document_id"]: result for result in grouped} == first_of_each
        assert grouped == [result for result in whole if result in grouped]
        assert ask(top_k=3, offset=2, group_by="document")["results"] == grouped[2:5]

    def test_filters_keep_the_rest_out(self, shared: Collection) -> None:
        assert set(ids(ask(filters={"year": 2001}))) == {"mites", "queen"}
        assert set(ids(ask(filters={"year": [1999, 2001]}))) == {"honey", "mites", "queen"}
        assert ids(ask(filters={"year": 1})) == []

    def test_what_was_asked_is_normalised(self, shared: Collection) -> None:
        assert ask("  cafe\u0301 \n\t crust ")["query"] == "caf\u00e9 crust"

    def test_bad_requests_name_their_faults(self, shared: Collection) -> None:
        with pytest.raises(InvalidRequest) as refused:
            ask(" ", top_k=0, offset=-1, group_by="chunk", filters={"a": []})
        assert set(refused.value.errors) == {"query", "top_k", "offset", "group_by", "filters.a"}
        with pytest.raises(NotFound):
            ask(collection="nowhere")

    def test_without_a_collection_the_default_one_is_asked(self, shared: Collection, settings: Any) -> None:
        settings.RAG_DEFAULT_COLLECTION = "shared"
        assert search(SearchRequest(query="bees"), SYSTEM)["collection"] == "shared"


class TestExplanation:
    def test_features_and_contributions_come_only_when_asked_for(self, shared: Collection) -> None:
        plain, explained = ask(), ask(explain=True)
        for result, other in zip(plain["results"], explained["results"], strict=True):
            assert "features" not in result
            assert "contributions" not in result
            assert "fused_parts" not in result
            assert list(other["features"]) == list(FEATURES)
            assert list(other["contributions"]) == [*FEATURES, "base"]
            assert result == {name: other[name] for name in result}

    @pytest.mark.parametrize("ranker", ["ltr-default", "ltr-default-linear", "simple"])
    def test_contributions_sum_to_the_score_of_every_ranker(self, shared: Collection, ranker: str) -> None:
        version = ModelVersion.objects.get(model__name=ranker, number=1)
        deployments.activate(Slot.LTR, version, "shared", by=SYSTEM)
        view.expire()
        for answer in (ask(explain=True), ask(explain=True, top_k=100), ask(explain=True, offset=2)):
            assert answer["models"]["ltr"] == f"{ranker}@1"
            for result in answer["results"]:
                assert sum(result["contributions"].values()) == pytest.approx(result["ltr_score"], abs=1e-5)

    def test_the_parts_of_the_fusion_sum_to_the_fused_score(self, shared: Collection) -> None:
        weights.change(weights.propose(0.7, 0.3), "shared", by=SYSTEM)
        view.expire()
        for result in ask(explain=True, top_k=100)["results"]:
            parts = result["fused_parts"]
            assert parts["ltr"] == pytest.approx(0.7 * result["ltr_score_norm"])
            assert parts["conceptual"] == pytest.approx(0.3 * result["conceptual_score_norm"])
            assert sum(parts.values()) == pytest.approx(result["fused_score"])

    def test_the_schema_says_what_each_feature_means(self) -> None:
        described = SchemaGenerator(api_version="1").get_schema(request=None, public=True)["components"]["schemas"]
        result = described["Result"]["properties"]
        assert list(result["features"]["properties"]) == list(FEATURES)
        assert list(result["contributions"]["properties"]) == [*FEATURES, "base"]
        for feature in SCHEMA:
            assert feature.meaning in result["features"]["properties"][feature.name]["description"]
        assert result["fused_parts"]["$ref"].endswith("/FusedParts")

    def test_features_are_what_the_result_shows(self, shared: Collection) -> None:
        for result in ask(explain=True)["results"]:
            assert result["features"]["cosine"] == pytest.approx(result["conceptual_score"], abs=1e-6)
            rank = result["matched_by"]["dense"]
            assert result["features"]["dense_rank"] == pytest.approx(60 / (60 + rank), abs=1e-6)
        assert "base" not in FEATURES


class TestCaches:
    def test_the_second_answer_is_the_first(self, shared: Collection) -> None:
        first = ask(explain=True)
        second = ask(explain=True)
        assert (first["cache"], second["cache"]) == ("none", "full")
        assert without_circumstances(first) == without_circumstances(second)
        assert first["request_id"] != second["request_id"]
        ran = {name for name, duration in second["timings"].items() if duration}
        assert ran == {"pipeline_ms"}

    def test_a_weight_change_costs_one_fusion(self, shared: Collection) -> None:
        before = ask(top_k=100)
        weights.change(weights.propose(0, 1), "shared", by=SYSTEM)
        view.expire()
        after = ask(top_k=100)
        assert after["cache"] == "feature"
        assert {name for name, duration in after["timings"].items() if duration} == {"fusion_ms", "pipeline_ms"}
        assert after["fusion_weights"] == {"ltr": 0, "conceptual": 1}
        assert after["fusion_weights_version"] > before["fusion_weights_version"]
        distances = [result["distance"] for result in after["results"]]
        assert distances == sorted(distances)
        assert ask(top_k=100)["cache"] == "full"

    def test_another_page_or_an_explanation_costs_no_retrieval(self, shared: Collection) -> None:
        ask()
        for given in ({"offset": 3}, {"top_k": 2}, {"group_by": "document"}, {"explain": True}):
            answer = ask(**given)
            assert answer["cache"] == "feature"
            assert not answer["timings"]["retrieval_ms"]
            assert not answer["timings"]["embed_ms"]

    def test_the_cached_scores_explain_as_the_fresh_ones(self, shared: Collection) -> None:
        fresh = ask(explain=True)
        forget_cached()
        ask()
        again = ask(explain=True)
        assert again["cache"] == "feature"
        assert without_circumstances(again) == without_circumstances(fresh)

    def test_spellings_that_are_the_same_text_share_an_answer(self, shared: Collection) -> None:
        ask("cafe\u0301 crust")
        assert ask("  caf\u00e9   crust\n")["cache"] == "full"
        assert ask("Caf\u00e9 crust")["cache"] == "none"

    def test_time_to_live_0_turns_a_cache_off(self, shared: Collection, settings: Any) -> None:
        settings.RAG_RESPONSE_CACHE_TTL_S = 0
        assert [ask()["cache"] for _ in range(3)] == ["none", "feature", "feature"]
        settings.RAG_FEATURE_CACHE_TTL_S = 0
        assert [ask()["cache"] for _ in range(2)] == ["none", "none"]

    def test_people_who_read_the_same_share_an_answer_and_others_do_not(self, shared: Collection) -> None:
        request = SearchRequest(query="bees", collection="shared")
        search(request, person("kim", "staff"))
        assert search(request, person("lee"))["cache"] == "full"
        fill(shared, {"guarded": Text("A guarded word about bees.", access_groups=["staff"])})
        assert search(request, person("kim", "staff"))["cache"] == "none"
        assert search(request, person("lee"))["cache"] == "none"
        assert search(request, person("max", "staff"))["cache"] == "full"

    def test_who_could_not_ask_the_database_leaves_no_claim(
        self, shared: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask()
        before = set(django_cache.iter_keys("claim:*"))  # type: ignore[attr-defined]

        def lost(statement: str, parameters: Mapping[str, Any]) -> list[Any]:
            raise OperationalError("the connection is lost")

        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "brief_rows", lost)
            with pytest.raises(OperationalError):
                search(SearchRequest(query="wasps", collection="shared"), SYSTEM)
        assert set(django_cache.iter_keys("claim:*")) <= before  # type: ignore[attr-defined]


@pytest.mark.usefixtures("untried_models")
class TestDegraded:
    def test_without_redis_the_answer_is_the_same(self, shared: Collection, settings: Any, tmp_path: Path) -> None:
        expected = ask()
        settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": f"unix://{tmp_path}/none.sock?db=0"}}
        before = lookups("full")
        held = ask()
        assert (held["cache"], held["degraded"]) == ("full", [])
        assert lookups("full") - before == {"memory": 1}
        answer_memory.forget()
        for _ in range(2):
            answer = ask()
            assert (answer["cache"], answer["degraded"]) == ("none", ["cache"])
            assert without_circumstances(answer) == without_circumstances(expected)

    @pytest.fixture(autouse=True)
    def _redis_is_asked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache, "_skip_until", 0.0)

    def deploy(self, slot: Slot, kind: ModelKind, files: dict[str, bytes], parameters: dict[str, Any]) -> ModelVersion:
        """A version of which the files are gone or damaged after it went live."""
        model = versions.register_model(f"broken-{slot}", kind, "lightgbm" if kind == ModelKind.LTR else "onnxruntime")
        stored = {role: artifacts.put(content, role).sha256 for role, content in files.items()}
        version = versions.register_version(model, stored, parameters, {}, {})
        deployments.activate(slot, version, "shared", by=SYSTEM, force=True)
        view.expire()
        return version

    def test_a_ranker_that_is_no_model_is_replaced_by_the_simple_one(
        self, shared: Collection, broken_models: None
    ) -> None:
        simple = ModelVersion.objects.get(model__name="simple")
        deployments.activate(Slot.LTR, simple, "shared", by=SYSTEM)
        view.expire()
        expected = ids(ask(top_k=100))

        self.deploy(Slot.LTR, ModelKind.LTR, {"model": b"no model"}, {})
        for _ in range(2):
            answer = ask(top_k=100, explain=True)
            assert (answer["cache"], answer["degraded"], answer["ranker"]) == ("none", ["ltr"], "simple")
            assert "broken-ltr@1 can't be used" in answer["safeguard"]
            assert answer["models"]["ltr"] == "broken-ltr@1"
            assert ids(answer) == expected
            for result in answer["results"]:
                assert result["contributions"]["convex"] == pytest.approx(result["ltr_score"])
        alert = AlertEvent.objects.get(name="ranker-broken-broken-ltr")
        assert (alert.severity, alert.resolved_at, alert.count) == ("critical", None, 1)

    def test_a_ranker_that_is_put_right_is_used_without_a_restart(
        self, shared: Collection, broken_models: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = ModelVersion.objects.get(model__name="ltr-default-linear", number=1)
        deployments.activate(Slot.LTR, version, "shared", by=SYSTEM)
        view.expire()
        stored = Path(default_storage.path(f"artifacts/{version.artifacts['model'][:2]}/{version.artifacts['model']}"))
        content = stored.read_bytes()
        stored.write_bytes(b"damaged")
        try:
            assert ask()["degraded"] == ["ltr"]
        finally:
            stored.write_bytes(content)
        assert ask()["degraded"] == ["ltr"]  # it is left alone for a while
        monkeypatch.setattr(loaded, "RETRY_AFTER_S", 0.0)
        answer = ask()
        assert (answer["degraded"], answer["ranker"], answer["safeguard"]) == ([], "linear", None)
        assert AlertEvent.objects.get(name="ranker-broken-ltr-default-linear").resolved_at is not None

    def test_cached_scores_of_a_ranker_that_is_gone_are_shown_without_an_explanation(
        self, shared: Collection, broken_models: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask()
        rankers.forget()
        monkeypatch.setattr(rankers, "local_path", lambda sha256: Path("/nonexistent") / sha256)
        answer = ask(explain=True)
        assert (answer["cache"], answer["degraded"]) == ("feature", ["ltr"])
        assert "features" in answer["results"][0]
        assert "contributions" not in answer["results"][0]
        assert ask()["cache"] == "full"

    def broken_embedder(self) -> ModelVersion:
        sound = view.model(Slot.EMBEDDER, "shared")
        tokenizer = artifacts.local_path(sound.artifacts["tokenizer"]).read_bytes()
        files = {"model": b"no model", "tokenizer": tokenizer}
        return self.deploy(Slot.EMBEDDER, ModelKind.EMBEDDER, files, dict(sound.parameters))

    def test_without_the_embedder_words_alone_decide(self, shared: Collection, broken_models: None) -> None:
        self.broken_embedder()
        for _ in range(2):
            answer = ask("tax on income", top_k=100, explain=True)
            assert (answer["cache"], answer["degraded"], answer["ranker"]) == ("none", ["embed"], "simple")
            assert ids(answer) == ["tax", "vat"]
            assert [result["matched_by"] for result in answer["results"]] == [
                {"dense": None, "lexical": 1},
                {"dense": None, "lexical": 2},
            ]
            assert [result["distance"] for result in answer["results"]] == [1.0, 1.0]
        assert ask("quuxly")["results"] == []
        assert AlertEvent.objects.get(name="embedder-broken-broken-embedder").count == 1

    def test_health_says_which_model_is_broken(self, shared: Collection, broken_models: None, settings: Any) -> None:
        settings.RAG_DEFAULT_COLLECTION = "shared"
        assert check_live_models().state is State.OK
        self.deploy(Slot.LTR, ModelKind.LTR, {"model": b"no model"}, {})
        report = check_live_models()
        assert report.state is State.DEGRADED
        assert "broken-ltr@1" in report.detail
        self.broken_embedder()
        report = check_live_models()
        assert report.state is State.DEGRADED
        assert "broken-embedder@1" in report.detail


class TestOddities:
    @pytest.fixture
    def odd(self, db: None) -> Collection:
        return Collection.objects.create(slug="odd")

    def test_an_empty_collection_answers_nothing(self, odd: Collection) -> None:
        for query in ("bees", "the", "*", "😀"):
            answer = ask(query, "odd", explain=True)
            assert (answer["results"], answer["degraded"]) == ([], [])

    def test_one_document_is_found_by_any_query(self, odd: Collection) -> None:
        fill(odd, {"only": Text("The one document of this collection.")})
        for query in ("document", "something else", "the"):
            (result,) = ask(query, "odd")["results"]
            assert (result["ltr_score_norm"], result["conceptual_score_norm"], result["fused_score"]) == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize(
        "query",
        [
            "the and of",
            "the",
            "?",
            "пчёлы танцуют",
            "蜜蜂跳舞告诉同伴花的位置",
            "النحل يرقص",
            "मधुमक्खी",
            "🐝🌸 👩‍👩‍👧‍👦",
            "a & b | !c <-> d:*",
            "'; DROP TABLE rag_chunk; --",
            "bees' OR '1'='1",
            "%(groups)s %s {} {0} \\",
            "((((((((((",
            "a" * 8000,
            "bee " * 2000,
            "\u202e\u200d\ufeff\u0301",
            "\x01\x02\x7f",
            "<script>alert(1)</script>",
        ],
        ids=lambda query: ascii(query[:20]),
    )
    def test_any_text_gets_a_ranking(self, shared: Collection, query: str) -> None:
        answer = ask(query, top_k=100, explain=True)
        results = answer["results"]
        assert len(results) == len(DOCUMENTS)
        scores = [result["fused_score"] for result in results]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert Chunk.objects.filter(collection=shared).count() == len(DOCUMENTS)

    def test_words_in_another_script_are_found(self, odd: Collection) -> None:
        fill(odd, {"bees": Text("Пчёлы танцуют."), "rain": Text("Идёт дождь."), "art": Text("Déjà vu à Orléans.")})
        assert ids(ask("пчёлы", "odd"))[0] == "bees"
        assert ids(ask("ORLÉANS", "odd"))[0] == "art"

    def test_equal_documents_come_in_their_order(self, odd: Collection) -> None:
        chunks = fill(odd, {f"d{number}": Text("All documents say the same.") for number in range(300)})
        answer = ask("what do documents say", "odd", top_k=100)
        found = [result["chunk_id"] for result in answer["results"]]
        assert found == sorted(chunks.values())[:100]
        assert {result["fused_score"] for result in answer["results"]} == {0.5}

    def test_a_document_without_a_vector_is_found_by_its_words(self, odd: Collection) -> None:
        fill(odd, {"bare": Text("zebra crossing"), "zoo": Text("a zebra in the zoo"), "other": Text("horse riding")})
        DocEmbedding.objects.filter(chunk__document__document_id="bare").delete()
        answer = ask("zebra crossing", "odd")
        assert ids(answer).index("bare") < ids(answer).index("other")
        bare = answer["results"][ids(answer).index("bare")]
        assert bare["distance"] == 1.0
        assert bare["matched_by"] == {"dense": None, "lexical": 1}

    def test_a_removed_document_is_gone_at_once(self, shared: Collection) -> None:
        assert "waggle" in ids(ask())
        remove(shared, "waggle")
        answer = ask()
        assert answer["cache"] == "none"
        assert "waggle" not in ids(answer)


class TestSwitch:
    """Another model goes live while queries are answered."""

    @pytest.fixture(autouse=True)
    def _as_a_server(
        self, loaders: dict[Slot, serving.Loader], broken_models: None, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        monkeypatch.setattr(serving, "_loaders", {Slot.LTR: loaders[Slot.LTR]})
        yield
        serving.forget()

    def test_queries_go_on_with_the_ranker_before_until_the_new_one_is_warm(self, shared: Collection) -> None:
        before = ask()["models"]["ltr"]
        version = ModelVersion.objects.get(model__name="ltr-default", number=1)
        deployments.activate(Slot.LTR, version, "shared", by=SYSTEM)
        view.expire()
        assert ask("honey")["models"]["ltr"] == before
        serving.settle()
        assert ask("honey")["models"]["ltr"] == "ltr-default@1"
        assert report_of("ltr-default@1").state == LoadState.READY

    def test_a_ranker_that_is_damaged_leaves_the_one_before_in_service(
        self, shared: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raised: list[str] = []
        # The loading thread's alert would outlast the test: it writes outside of its transaction.
        monkeypatch.setattr(loaded, "raise_alert", lambda name, *rest: raised.append(name))
        before = ask()
        version = ModelVersion.objects.get(model__name="ltr-default", number=1)
        deployments.activate(Slot.LTR, version, "shared", by=SYSTEM)
        view.expire()
        stored = Path(default_storage.path(f"artifacts/{version.artifacts['model'][:2]}/{version.artifacts['model']}"))
        content = stored.read_bytes()
        stored.write_bytes(b"damaged")
        try:
            ask("honey")
            serving.settle()
            after = ask("honey")
        finally:
            stored.write_bytes(content)
        assert (after["models"]["ltr"], after["degraded"]) == (before["models"]["ltr"], [])
        assert raised == ["ranker-broken-ltr-default"]
        assert report_of("ltr-default@1").state == LoadState.FAILED
