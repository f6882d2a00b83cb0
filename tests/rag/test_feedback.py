"""Feedback on what was shown: who may give it, that it counts once, and the judgements made of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from models_registry import guardian, rollouts, statistics, weights
from models_registry.live import view
from models_registry.models import RolloutKey
from models_registry.rollouts import Plan
from ops.contracts.principal import SYSTEM, Principal, PrincipalKind, Scope
from ops.contracts.problems import Forbidden, InvalidRequest, NotFound
from rag import feedback, query_log
from rag.evaluation.run import judged_set
from rag.feedback import LARGEST_WEIGHT, Given, give, propensity_weight
from rag.ingest.beir import BeirFolder
from rag.ingest.folders import BeirOffers
from rag.models import Collection, Document, Feedback, FeedbackKind, JudgedQuery, Judgement, QueryLog
from rag.pipeline.search import SearchRequest, search
from rag.recipes.judged import read_collection
from rag.recipes.ltr import JudgedCollection, prepare
from tests.rag.api.conftest import ClientOf, client_of, post
from tests.rag.pipeline.support import Text, fill

__all__ = ["client_of"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]

ADA = Principal(PrincipalKind.API_KEY, "ada", frozenset({Scope.QUERY, Scope.FEEDBACK}))
BEN = Principal(PrincipalKind.API_KEY, "ben", frozenset({Scope.QUERY, Scope.FEEDBACK}))


@pytest.fixture(autouse=True)
def _own_writer() -> Iterator[None]:
    query_log._writer.cache_clear()
    yield
    query_log._writer.cache_clear()


@pytest.fixture
def collection(db: None) -> Collection:
    view.expire()
    made = Collection.objects.create(slug="c")
    fill(made, {name: Text(f"A passage on {name} and bees.") for name in ("honey", "mites", "queens", "wax")})
    return made


def ask(principal: Principal = ADA, **more: Any) -> dict[str, Any]:
    return search(SearchRequest("bees", collection="c"), principal, **more)


def click(answer: dict[str, Any], position: int = 0, principal: Principal = ADA) -> tuple[Feedback, bool]:
    return on(answer, position, FeedbackKind.CLICK, principal)


def on(
    answer: dict[str, Any],
    position: int,
    kind: FeedbackKind,
    principal: Principal = ADA,
    value: int | None = None,
    seen_at: int | None = None,
) -> tuple[Feedback, bool]:
    chunk_id = answer["results"][position]["chunk_id"]
    return give(Given(UUID(answer["request_id"]), chunk_id, kind, value, seen_at), principal)


class TestGiving:
    def test_a_click_is_kept_with_its_position_weight_and_query(self, collection: Collection) -> None:
        answer = ask()
        row, is_new = click(answer, 2)
        shown = answer["results"][2]
        assert is_new
        assert (row.document_id, row.position, row.weight) == (shown["document_id"], 2, 3.0)
        assert (row.query, row.collection, row.variant, row.by) == ("bees", "c", "stable", "key:ada")

    def test_the_same_again_counts_once_and_a_vote_can_be_changed(self, collection: Collection) -> None:
        answer = ask()
        assert [click(answer)[1] for _ in range(3)] == [True, False, False]
        on(answer, 0, FeedbackKind.VOTE, value=1)
        changed, is_new = on(answer, 0, FeedbackKind.VOTE, value=-1)
        assert (changed.value, is_new) == (-1, False)
        assert Feedback.objects.count() == 2

    def test_only_what_this_principal_was_shown_can_be_judged(self, collection: Collection) -> None:
        answer = ask()
        with pytest.raises(NotFound):
            click(answer, principal=BEN)
        chunk_id = answer["results"][0]["chunk_id"]
        with pytest.raises(NotFound):
            give(Given(uuid4(), chunk_id, FeedbackKind.CLICK), ADA)
        for unknown in (0, -1, 10**30):
            with pytest.raises(NotFound):
                give(Given(UUID(answer["request_id"]), unknown, FeedbackKind.CLICK), ADA)
        assert not Feedback.objects.exists()

    def test_an_answer_that_is_written_while_it_is_looked_for_is_found(
        self, collection: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, looks = feedback._find_impression, []

        def look(*given: Any) -> Any:
            looks.append(real(*given))
            if len(looks) == 1:
                query_log.flush()  # as the writer's thread may at any moment
            return looks[-1]

        monkeypatch.setattr(feedback, "_find_impression", look)
        assert click(ask())[1]
        assert looks[0] is None

    def test_it_needs_the_scope(self, collection: Collection) -> None:
        reader = Principal(PrincipalKind.API_KEY, "ada", frozenset({Scope.QUERY}))
        with pytest.raises(Forbidden):
            click(ask(reader), principal=reader)

    @pytest.mark.parametrize(
        ("kind", "value"), [("vote", 0), ("vote", None), ("judgement", 4), ("judgement", -1), ("click", 2)]
    )
    def test_a_value_that_means_nothing_is_refused(self, collection: Collection, kind: str, value: int | None) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            on(ask(), 0, FeedbackKind(kind), value=value)
        assert set(refusal.value.errors) == {"value"}

    def test_a_position_that_is_not_where_it_was_shown_is_refused(self, collection: Collection) -> None:
        with pytest.raises(InvalidRequest, match="shown elsewhere"):
            on(ask(), 1, FeedbackKind.CLICK, seen_at=0)
        assert on(ask(), 1, FeedbackKind.CLICK, seen_at=1)[1]

    @given(st.integers(0, 10_000))
    def test_lower_positions_weigh_more_up_to_a_bound(self, position: int) -> None:
        assert 1 <= propensity_weight(position) <= propensity_weight(position + 1) <= LARGEST_WEIGHT


class TestRollouts:
    def test_clicks_and_votes_count_for_the_variant_that_was_shown(self, collection: Collection, settings: Any) -> None:
        settings.REGISTRY_REFRESH_INTERVAL_MS = 0
        statistics.forget()
        plan = Plan(steps=(50,), key=RolloutKey.HEADER, key_name="V")
        candidate = weights.create_version(weights.propose(0, 1), by=SYSTEM)
        rollout = rollouts.start(candidate, plan=plan, by=SYSTEM)
        answer = ask(headers={"V": "canary"})
        for position in (0, 1):  # two clicks on one answer are one answer that was clicked on
            click(answer, position)
        on(answer, 0, FeedbackKind.VOTE, value=-1)
        assert click(ask(headers={"V": "stable"}))[0].variant == "stable"
        statistics.recorder().flush()
        standing = guardian.standing_of(rollout)
        assert [standing.canary[name] for name in ("clicked", "votes", "down")] == [1, 1, 1]
        assert [standing.stable[name] for name in ("clicked", "votes", "down")] == [1, 0, 0]
        statistics.forget()


class TestJudgements:
    def test_what_was_judged_beats_votes_and_votes_beat_clicks(self, collection: Collection) -> None:
        for principal in (ADA, BEN, SYSTEM):
            answer = ask(principal)
            names = [result["document_id"] for result in answer["results"]]
            click(answer, 3, principal)
        on(answer, 0, FeedbackKind.JUDGEMENT, principal=SYSTEM, value=3)
        on(answer, 1, FeedbackKind.VOTE, principal=SYSTEM, value=1)
        on(answer, 2, FeedbackKind.VOTE, principal=SYSTEM, value=-1)
        labels = {name: label.grade for name, label in feedback.graded("c")["bees"].items()}
        assert labels == dict(sorted(zip(names, (3, 1, 0, 1), strict=True)))

    def test_a_click_further_down_says_more(self, collection: Collection) -> None:
        """One click in ten at the first place is little; one in ten at the fourth stands for four."""
        for number in range(10):
            answer = ask()
            if number == 0:
                click(answer, 0)
                click(answer, 3)
            query_log.flush()
        labels = feedback.graded("c")["bees"]
        names = [result["document_id"] for result in answer["results"]]
        assert labels[names[0]] == (0, 1.0)
        assert labels[names[3]] == (1, 0.4)

    def test_the_weights_of_clicks_reach_what_the_recipe_learns(self, collection: Collection) -> None:
        """Of four showings the second passage was clicked on in two, the fourth in one: 2 · 2 / 4 and 1 · 4 / 4 make
        both as sure as can be; the first was clicked on twice, which is 2 · 1 / 4.
        """
        for number in range(4):
            answer = ask()
            for position, times in ((0, 2), (1, 2), (3, 1)):
                if number < times:
                    click(answer, position)
            query_log.flush()
        on(answer, 2, FeedbackKind.JUDGEMENT, value=3)
        feedback.judge(collection, SYSTEM)
        (query,) = read_collection("c", lambda done, total: None).queries
        (group,) = prepare(JudgedCollection("c", "", [query]))
        keys = dict(Document.objects.values_list("document_id", "id"))
        gains = dict(zip(group.document_ids.tolist(), group.gains.tolist(), strict=True))
        names = [result["document_id"] for result in answer["results"]]
        assert [gains[keys[name]] for name in names[:4]] == [0.5, 1.0, 3.0, 1.0]
        assert sorted(query.weights.values()) == [0.5, 1.0, 1.0, 1.0]

    def test_other_weights_are_another_dataset(self, collection: Collection) -> None:
        on(ask(), 0, FeedbackKind.VOTE, value=1)
        feedback.judge(collection, SYSTEM)
        before = judged_set("c").sha256
        Judgement.objects.update(weight=0.5)
        assert judged_set("c").sha256 != before
        Judgement.objects.update(weight=1.0)
        assert judged_set("c").sha256 == before

    def test_they_become_judged_queries_that_replace_their_forerunners_alone(self, collection: Collection) -> None:
        other = JudgedQuery.objects.create(collection=collection, query_id="7", text="tax")
        on(ask(), 0, FeedbackKind.VOTE, value=1)
        for _ in range(2):
            assert feedback.judge(collection, SYSTEM) == (1, 1)
        assert JudgedQuery.objects.filter(pk=other.pk).exists()
        assert Judgement.objects.get(query__text="bees").grade == 1

    def test_an_export_is_a_beir_collection(self, collection: Collection, tmp_path: Path) -> None:
        on(ask(), 0, FeedbackKind.JUDGEMENT, value=2)
        output = io.StringIO()
        call_command("feedback", "export", "c", str(tmp_path / "out"), stdout=output)
        summary = BeirFolder(tmp_path / "out").validate()
        assert (summary.documents, summary.queries, summary.judgements) == (4, 1, 1)
        assert "1 queries with 1 judgements" in output.getvalue()
        with pytest.raises(InvalidRequest, match="no empty folder"):
            feedback.export(collection, tmp_path / "out")

    def test_an_export_takes_the_weights_along_and_an_import_brings_them_back(
        self, collection: Collection, tmp_path: Path
    ) -> None:
        for number in range(5):
            answer = ask()
            if number < 2:
                click(answer, 0)
            query_log.flush()
        feedback.export(collection, tmp_path / "out")
        name = answer["results"][0]["document_id"]
        header, *lines = (tmp_path / "out" / "qrels" / "weights.tsv").read_text().splitlines()
        assert header == "query-id\tcorpus-id\tweight"
        assert f"{feedback.query_id_of('bees')}\t{name}\t0.4" in lines
        assert len(lines) == 4, "that nobody clicked on the others says something too"
        BeirOffers(tmp_path / "out").replace_judgements(Collection.objects.create(slug="copy"))
        copied = Judgement.objects.get(query__collection__slug="copy", document_id=name)
        assert (copied.grade, copied.weight) == (1, 0.4)

    def test_it_outlives_the_query_log(self, collection: Collection) -> None:
        on(ask(), 0, FeedbackKind.VOTE, value=1)
        QueryLog.objects.all().delete()
        assert feedback.graded("c")


class TestApi:
    def test_feedback_over_http(self, collection: Collection, client_of: ClientOf) -> None:
        api = client_of(Scope.QUERY, Scope.FEEDBACK)
        answer = post(api, "/rag/query2", {"query": "bees", "collection": "c"}).json()
        body = {"request_id": answer["request_id"], "chunk_id": answer["results"][0]["chunk_id"], "kind": "click"}
        assert [post(api, "/rag/feedback", body).status_code for _ in range(2)] == [201, 200]
        assert post(api, "/rag/feedback", body | {"kind": "shout"}).status_code == 400
        assert post(client_of(Scope.FEEDBACK), "/rag/feedback", body).status_code == 404
        assert post(client_of(Scope.QUERY), "/rag/feedback", body).status_code == 403

    def test_an_operator_sees_it(self, collection: Collection, admin_client: Client) -> None:
        click(ask())
        assert "bees" in admin_client.get("/admin/rag/feedback/").content.decode()
