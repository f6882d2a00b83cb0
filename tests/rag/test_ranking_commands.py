"""The commands about ranking: what they print, what they leave, how they refuse."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from models_registry import artifacts, deployments, versions, weights
from models_registry.live import view
from models_registry.models import ModelKind, ModelVersion, Slot
from ops.contracts.principal import SYSTEM
from ops.models import AuditEvent
from rag.evaluation.rows import ROWS
from rag.evaluation.run import judged_set
from rag.models import Collection, EvaluationRun, IndexRun, RunState
from rag.pipeline.features import FEATURES
from rag.pipeline.ltr import load_ranker
from rag.pipeline.search import SearchRequest, search
from rag.recipes import ltr
from tests.rag.evaluation.support import judge, judged_subject
from tests.rag.pipeline.support import Text, fill

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(scope="module")
def judged(module_transaction: None, embedded_stack: object) -> list[Collection]:
    view.expire()
    return [judged_subject("bees", "bees"), judged_subject("bake", "bake")]


def run(name: str, *arguments: Any) -> str:
    out = io.StringIO()
    call_command(name, *map(str, arguments), stdout=out, stderr=io.StringIO())
    return out.getvalue()


def refused(name: str, *arguments: Any) -> str:
    """The one line that a command ends with; nothing is printed beside it."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(name, *map(str, arguments), stdout=out, stderr=io.StringIO())
    assert caught.value.returncode == 2
    assert out.getvalue() == ""
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


class TestSearch:
    def test_it_shows_passages_with_scores_and_timings(self, judged: list[Collection]) -> None:
        answer = search(SearchRequest(query="varroa mites", collection="bees", top_k=2), SYSTEM)
        lines = run("search", "varroa mites", "--collection", "bees", "--top-k", "2").splitlines()
        assert lines[0].split() == ["#", "fused", "ltr", "conceptual", "passage"]
        first = answer["results"][0]
        shown = [f"{first[name]:.3f}" for name in ("fused_score", "ltr_score_norm", "conceptual_score_norm")]
        assert lines[1].split()[:4] == ["1", *shown]
        text = "\n".join(lines)
        for result in answer["results"]:
            assert result["title"].split()[0] in text
        assert f"ranker {answer['models']['ltr']}" in text
        assert "cache full" in " ".join(text.split())
        assert "fusion" in lines[-1]

    def test_it_prints_the_answer_as_json(self, judged: list[Collection]) -> None:
        answer = json.loads(run("search", "varroa mites", "--collection", "bees", "--json", "--explain"))
        assert answer["query"] == "varroa mites"
        assert list(answer["results"][0]["contributions"]) == [*FEATURES, "base"]

    def test_it_explains_in_a_compact_table(self, judged: list[Collection]) -> None:
        text = run("search", "varroa mites", "--collection", "bees", "--top-k", "1", "--explain")
        request = SearchRequest(query="varroa mites", collection="bees", top_k=1, explain=True)
        (result,) = search(request, SYSTEM)["results"]
        rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
        assert "part" in rows["feature"]
        for name, part in result["contributions"].items():
            assert (name in rows) == (part != 0)
            if part and name != "base":
                assert rows[name][:2] == [f"{result['features'][name]:.3f}", f"{part:+.3f}"]
                assert set("".join(rows[name][2:])) <= {"█" if part > 0 else "░"}
        parts = [name for name in rows if name in result["contributions"]]
        assert parts == sorted(parts, key=lambda name: -abs(result["contributions"][name]))
        assert rows["LTR"] == ["score", f"{result['ltr_score']:+.3f}"]
        (dense, lexical) = result["matched_by"].values()
        assert f"found by dense at rank {dense}, lexical at rank {lexical}" in text
        assert f"fused {result['fused_score']:.3f}: ltr " in text
        assert f"= {result['fused_parts']['conceptual']:.3f}" in text

    def test_text_that_looks_like_markup_is_shown_as_it_is(self, judged: list[Collection]) -> None:
        fill(Collection.objects.create(slug="odd"), {"a": Text("[red]alert[/red] [link=x]", "[bold]Title")})
        text = run("search", "alert [/nonsense]", "--collection", "odd")
        assert "[bold]Title" in text
        assert "[red]alert[/red] [link=x]" in text

    def test_it_says_how_to_fill_an_empty_collection(self) -> None:
        Collection.objects.create(slug="empty")
        assert "manage.py index PATH --collection empty" in " ".join(
            run("search", "x", "--collection", "empty").split()
        )

    def test_while_documents_are_being_indexed_it_does_not_ask_for_more(self) -> None:
        collection = Collection.objects.create(slug="empty")
        IndexRun.objects.create(collection=collection, origin="command", state=RunState.RUNNING)
        text = " ".join(run("search", "x", "--collection", "empty").split())
        assert "documents are being indexed there. Search again in a moment." in text
        assert "manage.py index" not in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["x", "--collection", "nowhere"], "no collection 'nowhere'"),
            (["", "--collection", "bees"], "at least one word"),
            (["x" * 100_001, "--collection", "bees"], "At most 100000 characters"),
            (["x", "--collection", "bees", "--top-k", "0"], "From 1 to 100"),
            (["x\udcff", "--collection", "bees"], "not text"),
            (["x", "--collection", "\udcff"], "not text"),
        ],
        ids=lambda value: ascii(value)[:30],
    )
    def test_bad_input_is_one_line(self, judged: list[Collection], arguments: list[str], message: str) -> None:
        assert message in refused("search", *arguments)


class TestEvaluate:
    def test_it_prints_a_row_for_each_ranking_of_each_collection(self, judged: list[Collection]) -> None:
        text = run("evaluate", "--collection", "bees", "--collection", "bake")
        runs = list(EvaluationRun.objects.order_by("id"))
        assert [stored.collection for stored in runs] == ["bees", "bake"]
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
        expected = [
            [row, *(f"{stored.metrics[row][name]:.4f}" for name in ("ndcg@10", "recall@100", "mrr@10"))]
            for stored in runs
            for row in ROWS
        ]
        assert cells == expected
        assert "bees · 12 queries" in text
        macro = {row: sum(stored.metrics[row]["ndcg@10"] for stored in runs) / 2 for row in ROWS}
        assert f"pipeline {macro['pipeline']:.4f}" in text
        best = max(macro["rrf"], macro["convex"])
        assert f"{macro['pipeline'] / best:.3f}" in text
        assert "n-sample" not in text

    def test_it_prints_json(self, judged: list[Collection]) -> None:
        (figures,) = json.loads(run("evaluate", "--collection", "bees", "--json"))
        stored = EvaluationRun.objects.get()
        assert figures["id"] == stored.id
        assert (figures["collection"], figures["queries"], figures["in_sample"]) == ("bees", 12, False)
        assert figures["ranker"] == view.model(Slot.LTR, "bees").label
        assert figures["embedder"] == view.model(Slot.EMBEDDER, "bees").label
        assert figures["weights"] == dict(zip(("ltr", "conceptual"), view.weights("bees").normalized, strict=True))
        assert figures["metrics"] == stored.metrics
        assert figures["dataset_sha256"] == judged_set("bees").sha256
        (against_simple,) = figures["comparisons"]
        simple = max(("rrf", "convex"), key=lambda row: stored.metrics[row]["ndcg@10"])
        assert (against_simple["a"]["row"], against_simple["b"]["row"]) == (simple, "pipeline")
        assert "queries" not in against_simple

    def test_it_says_whether_the_pipeline_really_beats_the_better_fusion(self, judged: list[Collection]) -> None:
        text = " ".join(run("evaluate", "--collection", "bees", "--label", "before tuning").split())
        stored = EvaluationRun.objects.get()
        assert stored.label == "before tuning"
        assert f"evaluation {stored.id} · before tuning" in text
        assert re.search(
            r"pipeline against (rrf|convex): [+-]0\.\d{4} ndcg@10 .*p = \d\.\d{4}, \d+ wins, \d+ losses", text
        )

    def test_it_compares_with_an_earlier_run_of_the_same_judgements(self, judged: list[Collection]) -> None:
        run("evaluate", "--collection", "bees")
        run("evaluate", "--collection", "bake")
        bees, bake = EvaluationRun.objects.order_by("id")
        text = run("evaluate", "--collection", "bees", "--baseline-run", bees.id)
        newest = EvaluationRun.objects.order_by("id").last()
        assert newest is not None
        assert (
            f"#{newest.id} against #{bees.id}: +0.0000 ndcg@10 (+0.0%), p = 1.0000, 0 wins, 0 losses, 12 ties" in text
        )
        assert "measured on different judgements" in refused(
            "evaluate", "--collection", "bees", "--baseline-run", bake.id
        )
        assert "There is no evaluation 0" in refused("evaluate", "--collection", "bees", "--baseline-run", 0)
        assert "one --baseline-run for each" in refused(
            *("evaluate", "--collection", "bees", "--collection", "bake", "--baseline-run", bees.id)
        )
        assert EvaluationRun.objects.count() == 3

    def test_it_writes_a_report_or_refuses_before_the_work(self, judged: list[Collection], tmp_path: Path) -> None:
        run("evaluate", "--collection", "bees", "--html", tmp_path / "report.html")
        report = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert f"{EvaluationRun.objects.get().metrics['pipeline']['ndcg@10']:.4f}" in report
        assert "can't be written" in refused("evaluate", "--collection", "bees", "--html", tmp_path / "no" / "folder")
        assert EvaluationRun.objects.count() == 1

    def test_it_says_what_each_part_of_the_ranking_is_worth(self, judged: list[Collection]) -> None:
        both = ("evaluate", "--collection", "bees", "--collection", "bake", "--ablate")
        text = run(*both)
        assert "Ablation: the linear ranker, trained on the other collections" in text.splitlines()
        figures = json.loads(run(*both, "--json"))
        assert [one["collection"] for one in figures["runs"]] == ["bees", "bake"]
        assert next(iter(figures["ablation"])) == ltr.FULL
        for row in figures["ablation"].keys() - {ltr.FULL}:
            assert f"{row} against {ltr.FULL}" in text
        assert "name at least two" in refused("evaluate", "--collection", "bees", "--ablate")
        assert "name at least two" in refused(*both[:3], "--collection", "bees", "--ablate")

    def test_in_sample_figures_are_labelled(self, judged: list[Collection]) -> None:
        shipped = ModelVersion.objects.filter(model__name="ltr-default-linear").order_by("-number")[0]
        dataset = {"collection": "bees", "sha256": judged_set("bees").sha256}
        version = versions.register_version(
            versions.register_model("known", ModelKind.LTR, "linear"),
            shipped.artifacts,
            shipped.parameters,
            {},
            {"datasets": [dataset]},
        )
        deployments.activate(Slot.LTR, version, by=SYSTEM)
        view.expire()
        text = run("evaluate", "--collection", "bees", "--collection", "bake")
        bees, bake = text.split("bake · ")
        assert "In-sample" in bees
        assert "In-sample" not in bake
        assert "(in-sample)" in bake  # the mean has a part of it
        assert json.loads(run("evaluate", "--collection", "bees", "--json"))[0]["in_sample"] is True

    def test_a_collection_that_finds_nothing_is_no_fault(self) -> None:
        for slug in ("one", "two"):
            judge(Collection.objects.create(slug=slug), {"q": "bees"}, [("q", "a", 1)])
        text = run("evaluate", "--collection", "one", "--collection", "two")
        assert "pipeline 0.0000" in text

    def test_an_unknown_or_unjudged_collection_is_refused(self, judged: list[Collection]) -> None:
        Collection.objects.create(slug="unjudged")
        for slug in ("nowhere", "unjudged"):
            assert f"'{slug}' has no judged queries" in refused("evaluate", "--collection", slug)
        assert not EvaluationRun.objects.exists()


class TestEvaluations:
    def test_the_newest_are_listed_first(self, judged: list[Collection]) -> None:
        assert "no evaluation yet" in run("evaluations", "list")
        run("evaluate", "--collection", "bees", "--label", "first")
        run("evaluate", "--collection", "bake", "--label", "second")
        rows = [line.split() for line in run("evaluations", "list").splitlines()[1:]]
        assert [row[-1] for row in rows] == ["second", "first"]
        assert [row["label"] for row in json.loads(run("evaluations", "list", "--json", "--collection", "bees"))] == [
            "first"
        ]
        assert len(run("evaluations", "list", "--limit", "1").splitlines()) == 2
        assert "at least 1" in refused("evaluations", "list", "--limit", "0")

    def test_one_is_shown_with_what_decided_it(self, judged: list[Collection]) -> None:
        run("evaluate", "--collection", "bees")
        stored = EvaluationRun.objects.get()
        text = run("evaluations", "show", stored.id)
        for part in ("bees · 12 queries", stored.ranker, stored.embedder, stored.dataset_sha256, "median ms"):
            assert part in text
        shown = json.loads(run("evaluations", "show", stored.id, "--json"))
        assert (shown["per_query"], shown["snapshot"]) == (stored.per_query, stored.snapshot)
        assert "no evaluation 999" in refused("evaluations", "show", 999)

    def test_two_are_compared_query_by_query(self, judged: list[Collection]) -> None:
        run("evaluate", "--collection", "bees")
        weights.change(weights.propose(0, 1), "bees", by=SYSTEM)
        view.expire()
        run("evaluate", "--collection", "bees", "--label", "cosine alone")
        before, after = EvaluationRun.objects.order_by("id")
        text = run("evaluations", "compare", before.id, after.id)
        found = json.loads(run("evaluations", "compare", before.id, after.id, "--json"))
        test = found["measures"]["ndcg@10"]
        assert f"#{after.id} against #{before.id}: {test['difference']:+.4f} ndcg@10" in text
        worst = found["queries"][-1]
        assert worst["delta"] < 0
        assert f"{worst['query_id']}: {worst['text']}"[:60] in text
        assert test["wins"] + test["losses"] + test["ties"] == len(found["queries"]) == 12
        by_row = json.loads(run("evaluations", "compare", before.id, after.id, "--row-a", "dense", "--json"))
        assert by_row["measures"]["ndcg@10"]["difference"] == 0

    def test_runs_over_different_judgements_are_not_compared(self, judged: list[Collection]) -> None:
        run("evaluate", "--collection", "bees", "--collection", "bake")
        bees, bake = EvaluationRun.objects.order_by("id")
        message = refused("evaluations", "compare", bees.id, bake.id)
        assert f"Evaluations {bees.id} and {bake.id} can't be compared" in message
        assert "different judgements" in message

    def test_what_is_deleted_can_be_seen_before_and_is_audited(self, judged: list[Collection]) -> None:
        run("evaluate", "--collection", "bees")
        stored = EvaluationRun.objects.get()
        assert run("evaluations", "delete", stored.id, "--dry-run").startswith("Would delete")
        assert EvaluationRun.objects.count() == 1
        assert run("evaluations", "delete", stored.id).startswith("Deleted")
        assert not EvaluationRun.objects.exists()
        event = AuditEvent.objects.get(action="evaluation.delete")
        assert (event.actor, event.target) == ("system", str(stored.id))


@pytest.fixture(scope="module")
def trained(judged: list[Collection], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the command printed, and where it wrote."""
    folder = tmp_path_factory.mktemp("models") / "new"
    view.expire()
    return run("train", "--collection", "bees", "--collection", "bake", "--output", folder, "--name", "own"), folder


class TestTrain:
    def test_it_prints_every_figure_for_what_it_is(self, trained: tuple[str, Path]) -> None:
        text, _ = trained
        for title in ("Zero-shot", "5-fold", "In-sample", "linear against convex", "lightgbm against linear"):
            assert title in text
        assert {
            "Zero-shot: each collection by rankers that never saw it",
            "5-fold: each fifth of the queries by rankers trained on the rest",
            "In-sample: not to be compared with anything",
        } <= set(text.splitlines()), "a title stands on one line, however narrow its table is"
        assert str(trained[1]) in "".join(text.split())

    def test_it_writes_models_that_load_and_say_where_they_come_from(self, trained: tuple[str, Path]) -> None:
        _, folder = trained
        names = {path.stem for path in folder.glob("*.json")}
        left_out = {name: name.removesuffix("-linear").removeprefix("ltr-without-") for name in names}
        assert {"own", "own-linear"} <= names
        assert {"bees", "bake"} <= set(left_out.values())
        for name in names:
            sidecar = json.loads((folder / f"{name}.json").read_text())
            assert load_ranker(sidecar["kind"], (folder / sidecar["file"]).read_bytes()).kind == sidecar["kind"]
            trained_on = {dataset["collection"] for dataset in sidecar["provenance"]["datasets"]}
            assert trained_on == {"bees", "bake"} - {left_out[name]}
            assert min(sidecar["fusion_weights"].values()) >= 0.2 - 1e-9
        own = json.loads((folder / "own.json").read_text())["provenance"]["datasets"]
        assert {dataset["sha256"] for dataset in own} == {judged_set(slug).sha256 for slug in ("bees", "bake")}

    def test_what_it_made_can_be_put_live_and_is_then_in_sample(self, trained: tuple[str, Path]) -> None:
        _, folder = trained
        sidecar = json.loads((folder / "own.json").read_text())
        version = versions.register_version(
            versions.register_model("own", ModelKind.LTR, sidecar["kind"]),
            {"model": artifacts.put(folder / sidecar["file"], "own").sha256},
            {"feature_schema_version": sidecar["feature_schema_version"]},
            {},
            sidecar["provenance"],
        )
        deployments.activate(Slot.LTR, version, "bees", by=SYSTEM)
        weights.change(weights.propose(**sidecar["fusion_weights"]), "bees", by=SYSTEM)
        view.expire()
        (figures,) = json.loads(run("evaluate", "--collection", "bees", "--json"))
        assert (figures["ranker"], figures["in_sample"]) == ("own@1", True)
        expected = sidecar["metrics"]["in_sample_ndcg@10"][sidecar["kind"]]["bees"]
        assert figures["metrics"]["pipeline"]["ndcg@10"] == pytest.approx(expected, abs=0.002)

    def test_bad_input_is_one_line(self, judged: list[Collection], tmp_path: Path) -> None:
        assert "'nowhere' has no judged queries" in refused("train", "--collection", "nowhere")
        (tmp_path / "file").write_text("")
        train = ("train", "--collection", "bees", "--output")
        assert "file" in refused(*train, tmp_path / "file")
        for name in ("../escaped", "", "a/b", ".hidden"):
            assert "name of a file" in refused(*train, tmp_path, "--name", name)
        assert "twice" in refused("train", "--collection", "bees", "--collection", "bees")
        assert not list(tmp_path.glob("*.json"))

    def test_too_few_judgements_are_refused(self, judged: list[Collection]) -> None:
        few = Collection.objects.create(slug="few")
        fill(few, {"a": Text("Bees dance."), "b": Text("Mites bite.")})
        judge(few, {"q1": "bees", "q2": "mites"}, [("q1", "a", 1), ("q2", "b", 0)])
        assert "has 1 queries with a relevant document; training takes at least 5" in refused(
            "train", "--collection", "few"
        )
