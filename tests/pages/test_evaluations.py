"""The pages of evaluations, and the written report."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import lxml.html
import pytest
from celery import current_app
from django.contrib.auth.models import User
from django.test import Client

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.models import AuditEvent
from rag.evaluation import background
from rag.evaluation.figures import comparison_figures, figures_of
from rag.evaluation.report import report_html
from rag.evaluation.stored import compare_runs
from rag.models import Collection, EvaluationRun, EvaluationState
from tests.pages.conftest import AddDocuments, SignIn
from tests.pages.html import assert_inert, one, parse, text_of
from tests.rag.evaluation.support import judge

pytestmark = pytest.mark.django_db

ATTACK = "\"'><script>alert(1)</script>"

PIPELINE = {"q1": 1.0, "q2": 0.2, "q3": 0.4, "q4": 0.4}
CONVEX = {"q1": 0.5, "q2": 0.3, "q3": 0.4, "q4": 0.4}


def stored(pipeline: dict[str, float] = PIPELINE, **columns: Any) -> EvaluationRun:
    per_query = {
        row: {name: {"ndcg@10": good, "recall@100": 1.0, "mrr@10": good} for name, good in values.items()}
        for row, values in (("convex", CONVEX), ("pipeline", pipeline))
    }
    metrics = {
        row: {name: sum(of[name] for of in values.values()) / len(values) for name in values["q1"]}
        for row, values in per_query.items()
    }
    given = {
        "collection": "bees",
        "dataset_sha256": "a" * 64,
        "snapshot": {
            "ranker_label": "ranker@1",
            "space": {"label": "embedder@1"},
            "ltr_weight": 0.8,
            "conceptual_weight": 0.2,
            "weights_version": 1,
        },
        "metrics": metrics,
        "per_query": per_query,
        "total": 4,
        "done": 4,
    }
    return EvaluationRun.objects.create(**given | columns)


class TestFigures:
    def test_bars_are_as_long_as_their_means(self) -> None:
        ndcg, recall, _ = figures_of(stored()).measures
        assert [(row.row, row.bar.width) for row in ndcg.rows] == [("convex", "40"), ("pipeline", "50")]
        assert [row.bar.width for row in recall.rows] == ["100", "100"]

    def test_deltas_fall_and_stand_on_zero(self) -> None:
        run = stored()
        figures = comparison_figures(compare_runs(run, run, row_a="convex"))
        assert [query.query_id for query in figures.comparison.queries] == ["q1", "q3", "q4", "q2"]
        best, worst = figures.plot.bars
        assert (best.kind, best.x, best.y, best.height) == ("more", "0", "0", "50")
        # −0.1 of at most 0.5 either way, hanging from the middle.
        assert (worst.kind, worst.x, worst.y, worst.height) == ("less", "3", "50", "10")
        assert [query.query_id for query in figures.won] == ["q1"]
        assert [query.query_id for query in figures.lost] == ["q2"]

    def test_a_histogram_counts_every_query(self) -> None:
        convex, pipeline = figures_of(stored()).spreads
        assert convex.counts == [0, 0, 0, 1, 2, 1, 0, 0, 0, 0]
        assert pipeline.counts == [0, 0, 1, 0, 2, 0, 0, 0, 0, 1]
        assert pipeline.median == pytest.approx(0.4)
        assert [column.height for column in pipeline.columns] == ["0", "0", "50", "0", "100", "0", "0", "0", "0", "50"]


class TestPages:
    def test_the_list_leads_to_each_and_to_two_compared(self, visitor: Client) -> None:
        first, second = stored(label="before"), stored({**PIPELINE, "q2": 0.6}, label=ATTACK)
        response = visitor.get("/evaluations/")
        assert_inert(response)
        page = parse(response)
        names = [link.get("href") for link in page.cssselect("a.name")]
        assert names == [f"/evaluations/{second.pk}/", f"/evaluations/{first.pk}/"]
        assert "0.5000" in page.text_content()
        response = visitor.get("/evaluations/compare/", {"run": [second.pk, first.pk]})
        assert_inert(response)
        heading = one(parse(response), "h1").text_content()
        assert heading == f"{ATTACK} against before"
        measures, _ = parse(response).cssselect("table.plot-table")
        assert "+0.100" in measures.cssselect("tbody tr")[0].text_content()
        assert "1 won" in text_of(response)

    def test_one_evaluation_is_shown_with_its_plots(self, visitor: Client) -> None:
        response = visitor.get(f"/evaluations/{stored().pk}/")
        assert_inert(response)
        page = parse(response)
        assert len(page.cssselect("table.plot-table caption")) == 3
        assert "1 queries won, 2 tied, 1 lost" in one(page, "svg.high").get("aria-label")
        assert "ranker@1" in page.text_content()
        assert "In-sample" not in page.text_content()

    def test_in_sample_figures_say_so(self, visitor: Client) -> None:
        run = stored(in_sample=True)
        for address in ("/evaluations/", f"/evaluations/{run.pk}/"):
            assert "In-sample" in text_of(visitor.get(address))

    def test_a_new_one_is_asked_for_and_followed(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"dance": "Bees dance to show flowers.", "mites": "Mites weaken a hive."}, collection="bees")
        collection = Collection.objects.get(slug="bees")
        judge(collection, {"q": "why do bees dance"}, [("q", "dance", 1)])
        assert one(parse(visitor.get("/evaluations/")), "select[name=collection] option").get("value") == "bees"
        response = visitor.post("/evaluations/", {"collection": "bees", "label": "mine"})
        run = EvaluationRun.objects.get()
        assert (response.status_code, response.headers["Location"]) == (302, f"/evaluations/{run.pk}/")
        page = parse(visitor.get(f"/evaluations/{run.pk}/"))
        assert one(page, "#evaluation").get("hx-trigger") == "every 1s"
        assert "0 of 1 queries" in page.text_content()
        background.perform(run.pk)
        assert one(parse(visitor.get(f"/evaluations/{run.pk}/")), "#evaluation").get("hx-get") is None
        current_app.control.purge()

    def test_what_cannot_be_done_is_told_above_the_list(self, visitor: Client) -> None:
        run, other = stored(), stored(dataset_sha256="b" * 64)
        for chosen in ([], [run.pk], ["x", "y"], [run.pk, other.pk, other.pk + 1]):
            response = visitor.get("/evaluations/compare/", {"run": chosen})
            assert response.status_code == 400
            assert "Choose two evaluations" in text_of(response)
        response = visitor.get("/evaluations/compare/", {"run": [run.pk, other.pk]})
        assert (response.status_code, "different judgements" in text_of(response)) == (422, True)
        response = visitor.post("/evaluations/", {"collection": "nowhere"})
        assert (response.status_code, "no judged queries" in text_of(response)) == (404, True)

    def test_a_failed_one_says_why(self, visitor: Client) -> None:
        run = stored(state=EvaluationState.FAILED, failure="The embedder can't be used.", metrics={}, per_query={})
        assert "The embedder can't be used." in text_of(visitor.get(f"/evaluations/{run.pk}/"))

    def test_only_who_may_read_the_registry_sees_them(self, sign_in: SignIn) -> None:
        client = sign_in()
        assert client.get("/evaluations/").status_code == 403
        assert "/evaluations/" not in client.get("/search/").content.decode()

    def test_the_foot_of_every_page_leads_there(self, visitor: Client) -> None:
        assert one(parse(visitor.get("/search/")), "footer a[href='/evaluations/']").text == "Evaluations"


class TestReport:
    def test_it_loads_nothing_and_may_not(self) -> None:
        run = stored(label=ATTACK)
        page = lxml.html.document_fromstring(report_html([(run, None)]))
        for element in page.iter():
            if isinstance(element.tag, str):
                assert element.tag not in {"script", "link", "img", "iframe", "object"}
                assert not {"src", "href", "style"} & set(element.attrib), element.tag
        style = one(page, "style").text
        assert "@import" not in style
        assert "url(" not in style
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = one(page, "meta[http-equiv]").get("content")
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")

    def test_it_has_each_run_with_its_baseline_and_the_means(self) -> None:
        before, after = stored(), stored({**PIPELINE, "q2": 0.6}, in_sample=True)
        other = stored(collection="papers", dataset_sha256="b" * 64)
        page = lxml.html.document_fromstring(report_html([(after, before), (other, None)]))
        text = " ".join(page.text_content().split())
        assert f"Against evaluation {before.pk}" in text
        rows = [[cell.text for cell in row] for row in page.cssselect("table")[0].cssselect("tbody tr")]
        assert rows == [["convex", "0.4000", "0.4000", "0.4000"], ["pipeline", "0.6000", "0.5000", "0.5500"]]
        assert text.count("In-sample") == 3  # the run, and both comparisons with it
        assert len(page.cssselect("article")) == 2


class TestAdmin:
    @pytest.fixture
    def admin(self) -> Client:
        client = Client()
        client.force_login(User.objects.create_superuser("ada"))
        return client

    def act(self, admin: Client, action: str, *runs: EvaluationRun, **more: str) -> Any:
        selected = {"action": action, "_selected_action": [run.pk for run in runs]}
        return admin.post("/admin/rag/evaluationrun/", selected | more)

    def test_one_is_shown_with_the_same_plots(self, admin: Client) -> None:
        run = stored(in_sample=True)
        assert "0.5000" in text_of(admin.get("/admin/rag/evaluationrun/"))
        page = parse(admin.get(f"/admin/rag/evaluationrun/{run.pk}/change/"))
        assert len(page.cssselect(".figures svg.tall")) == 2
        assert "In-sample" in page.text_content()
        waiting = stored(state=EvaluationState.PENDING, metrics={}, per_query={})
        assert admin.get(f"/admin/rag/evaluationrun/{waiting.pk}/change/").status_code == 200

    def test_two_selected_are_compared(self, admin: Client) -> None:
        first, second = stored(), stored({**PIPELINE, "q2": 0.6})
        assert "+0.100" in text_of(self.act(admin, "compare", first, second))
        response = self.act(admin, "compare", first)
        assert response.status_code == 302
        assert "exactly two" in text_of(admin.get(response.headers["Location"]))

    def test_deleting_goes_through_the_service(self, admin: Client) -> None:
        run = stored()
        assert self.act(admin, "delete_selected", run, post="yes").status_code == 302
        assert not EvaluationRun.objects.exists()
        assert AuditEvent.objects.get(action="evaluation.delete").actor == "user:ada"


def test_a_key_without_the_scope_cannot_start_one(stranger: Client) -> None:
    key = keys.create_key("reader", [Scope.REGISTRY_READ], actor=SYSTEM).text
    response = stranger.post("/evaluations/", {"collection": "bees"}, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 403
