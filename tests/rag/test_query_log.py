"""What is kept of a search: its text as the operator wants it, what was shown, and how it went."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from models_registry.live import Reading
from ops.contracts.principal import LOOPBACK, SYSTEM, Principal, PrincipalKind, Scope
from ops.contracts.problems import NotFound, Unavailable
from ops.instrumentation.performance import performance_writer
from ops.instrumentation.snapshot import SNAPSHOT
from ops.models import AuditEvent, QueryPerformance
from rag import erasure, feedback, query_log, tasks
from rag.chat import conversations
from rag.models import (
    Collection,
    Conversation,
    Feedback,
    FeedbackKind,
    Impression,
    JudgedQuery,
    Message,
    Preference,
    QueryLog,
)
from rag.pipeline import search as pipeline
from rag.pipeline.search import SearchRequest, search
from rag.query_log import query_hmac
from tests.rag.pipeline.support import Text, fill, person

QUERY = "mail ada@example.org about the bees, card 4111 1111 1111 1111"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(autouse=True)
def _own_writers() -> Iterator[None]:
    """Writers that nothing is left in."""
    query_log._writer.cache_clear()
    performance_writer.cache_clear()
    yield
    query_log._writer.cache_clear()
    performance_writer.cache_clear()


@pytest.fixture
def collection() -> Collection:
    collection = Collection.objects.create(slug="logged")
    fill(collection, {name: Text(f"Passage {name} about bees.") for name in "abc"})
    return collection


def ask(query: str = QUERY, principal: Principal = SYSTEM, **given: Any) -> dict[str, Any]:
    return search(SearchRequest(query=query, collection="logged", **given), principal, request_id=str(uuid4()))


def flush() -> None:
    query_log._writer().flush()
    performance_writer().flush()


class TestQueryLog:
    def test_it_notes_what_was_asked_and_what_was_shown(self, collection: Collection) -> None:
        answer = ask(top_k=2, offset=1)
        flush()
        log = QueryLog.objects.get()
        assert log.request_id == UUID(answer["request_id"])
        assert log.collection == "logged"
        assert log.query == "mail [email] about the bees, card [card]"
        assert log.query_hmac == query_hmac(QUERY)
        assert (log.asked_by, log.user, log.result_count, log.degraded) == ("system", None, 2, [])
        assert log.snapshot["collection_id"] == collection.id
        assert log.snapshot["ranker_label"] == answer["models"]["ltr"]
        assert log.snapshot["weights_version"] == answer["fusion_weights_version"]
        shown = [
            (one.position, one.chunk_id, one.document_id, one.start, one.end, one.fused_score)
            for one in log.impressions.all()
        ]
        assert shown == [
            (position, result["chunk_id"], result["document_id"], *(result[n] for n in ("start", "end", "fused_score")))
            for position, result in enumerate(answer["results"], start=1)
        ]
        hashes = dict(collection.documents.values_list("document_id", "content_hash"))
        assert all(one.content_hash == hashes[one.document_id] for one in log.impressions.all())

    def test_an_answer_out_of_the_cache_is_noted_as_well(self, collection: Collection) -> None:
        first, second = ask(), ask()
        assert second["cache"] == "full"
        flush()
        logs = {str(log.request_id): log for log in QueryLog.objects.all()}
        assert set(logs) == {first["request_id"], second["request_id"]}
        shown = [list(log.impressions.values_list("position", "chunk_id", "content_hash")) for log in logs.values()]
        assert shown[0] == shown[1]
        assert len(shown[0]) == 3

    def test_the_text_is_kept_as_the_operator_says(self, collection: Collection, settings: Any) -> None:
        settings.RAG_QUERY_LOG = "clear"
        ask()
        settings.RAG_QUERY_LOG = "off"
        ask()
        flush()
        (log,) = QueryLog.objects.all()
        assert log.query == QUERY
        assert QueryPerformance.objects.count() == 2  # which holds no text

    @pytest.mark.parametrize(
        ("principal", "asked_by"),
        [
            (SYSTEM, "system"),
            (LOOPBACK, "anonymous"),
            (Principal(PrincipalKind.API_KEY, "abc123", frozenset({Scope.QUERY})), "key:abc123"),
        ],
        ids=["system", "anonymous", "key"],
    )
    def test_it_notes_who_asked(self, collection: Collection, principal: Principal, asked_by: str) -> None:
        ask(principal=principal)
        flush()
        assert QueryLog.objects.get().asked_by == asked_by
        key_prefix = "abc123" if principal.kind is PrincipalKind.API_KEY else None
        assert QueryPerformance.objects.get().key_prefix == key_prefix

    def test_what_a_person_asked_goes_with_the_person(self, collection: Collection) -> None:
        users = [User.objects.create_user(name) for name in ("kim", "lee")]
        for user in users:
            ask(principal=replace(person(user.username), user_id=user.pk))
        flush()
        assert {(log.asked_by, log.user_id) for log in QueryLog.objects.all()} == {
            (f"user:{user.pk}", user.pk) for user in users
        }
        users[0].delete()
        assert QueryLog.objects.get().user == users[1]
        assert Impression.objects.count() == 3

    def test_a_person_who_goes_before_the_rows_are_written_takes_nobody_elses_along(
        self, collection: Collection
    ) -> None:
        kim, lee = (User.objects.create_user(name) for name in ("kim", "lee"))
        for user in (kim, lee):
            ask(principal=replace(person(user.username), user_id=user.pk))
        ask()
        kim.delete()
        flush()
        assert {log.asked_by for log in QueryLog.objects.all()} == {f"user:{lee.pk}", "system"}

    def test_a_batch_that_comes_twice_is_written_once(
        self, collection: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask()
        ask()
        write = query_log._write

        def breaks_after_the_commit(rows: Any) -> None:
            write(rows)
            raise OperationalError("the connection is lost")

        monkeypatch.setattr(query_log._writer(), "_write", breaks_after_the_commit)
        with pytest.raises(OperationalError):
            query_log._writer().flush()
        monkeypatch.setattr(query_log._writer(), "_write", write)
        assert query_log._writer().flush() == 2
        assert QueryLog.objects.count() == 2
        assert Impression.objects.count() == 6

    def test_old_queries_are_forgotten_with_what_they_showed(self, collection: Collection, settings: Any) -> None:
        settings.RAG_QUERY_LOG_RETENTION_DAYS = 10
        answers = [ask() for _ in range(3)]
        flush()
        now = timezone.now()
        for answer, age in zip(answers, (timedelta(days=11), timedelta(days=9), timedelta(0)), strict=True):
            QueryLog.objects.filter(request_id=answer["request_id"]).update(occurred_at=now - age)
        tasks.purge_query_log()
        kept = {str(log.request_id) for log in QueryLog.objects.all()}
        assert kept == {answer["request_id"] for answer in answers[1:]}
        assert Impression.objects.count() == 6
        assert query_log.purge(now + timedelta(days=30)) == 2

    def test_queries_are_purged_in_many_small_steps(
        self, collection: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query_log, "_ROWS_PER_DELETE", 2)
        for _ in range(5):
            ask()
        flush()
        assert query_log.purge(timezone.now() + timedelta(days=1000)) == 5


NOTHING = dict.fromkeys(("searches", "judged_queries", "feedback", "preferences", "messages", "conversations"), 0)
OF_NOTHING_ELSE = "0 judged queries, 0 feedback, 0 preferences, 0 messages, 0 conversations"
ONE_SEARCH = f"1 searches, {OF_NOTHING_ELSE}"
TWO_SEARCHES = f"2 searches, {OF_NOTHING_ELSE}"


def compare_answers(principal: Principal, question: str) -> Conversation:
    """A conversation with two answers to one question, and a verdict on them."""
    panes = {"left": "extractive", "right": "extractive"}
    conversation = conversations.ask(principal, question, panes, collection="logged").conversation
    conversations.vote(conversation, 1, "tie", principal)
    return conversation


def judge_first(query: str, principal: Principal) -> None:
    """Grade the first passage that a search shows, which makes a judged query of what was asked."""
    answer = ask(query, principal)
    flush()
    given = feedback.Given(UUID(answer["request_id"]), answer["results"][0]["chunk_id"], FeedbackKind.JUDGEMENT, 3)
    feedback.give(given, principal)


class TestErasing:
    @pytest.fixture
    def askers(self, collection: Collection) -> list[User]:
        users = [User.objects.create_user(name) for name in ("kim", "lee")]
        for user in (*users, users[0]):
            ask(principal=replace(person(user.username), user_id=user.pk))
        ask(principal=Principal(PrincipalKind.API_KEY, "abc123", frozenset({Scope.QUERY})))
        ask(principal=LOOPBACK)
        return users

    def test_everything_that_one_person_asked_goes_and_nothing_else(self, askers: list[User]) -> None:
        flush()
        for log in QueryLog.objects.exclude(user=None):
            shown = log.impressions.first()
            assert shown is not None
            said = {"kind": FeedbackKind.CLICK, "value": 1, "weight": 1.0, "variant": "stable", "position": 0}
            place = {name: getattr(shown, name) for name in ("chunk_id", "document_id", "content_hash", "start", "end")}
            Feedback.objects.create(
                **said, **place, request_id=log.pk, query=log.query, query_hmac=log.query_hmac, by=log.asked_by
            )
        ask(principal=replace(person("kim"), user_id=askers[0].pk))
        erased = erasure.erase(f"user:{askers[0].pk}", SYSTEM)
        assert erased["searches"] == 3  # what still waits to be written included
        assert set(QueryLog.objects.values_list("asked_by", flat=True)) == {
            *(f"user:{askers[1].pk}", "key:abc123", "anonymous")
        }
        assert Impression.objects.count() == 9
        event = AuditEvent.objects.get(action="query_log.erase")
        assert (event.actor, event.target, event.details) == (
            "system",
            f"user:{askers[0].pk}",
            NOTHING | {"searches": 3, "feedback": 2},
        )
        assert Feedback.objects.get().by == f"user:{askers[1].pk}"
        assert User.objects.filter(pk=askers[0].pk).exists()

    def test_what_a_person_said_in_conversations_goes_and_the_conversations_of_others_stay(
        self, askers: list[User]
    ) -> None:
        kim, lee = (replace(person(user.username), user_id=user.pk) for user in askers)
        compare_answers(kim, "Is my hive sick?")
        kept = compare_answers(lee, "How do bees dance?")
        spoken = NOTHING | {"searches": 2, "preferences": 1, "messages": 3, "conversations": 1}
        flush()
        assert erasure.count(kim.log_name) == spoken
        assert erasure.erase(kim.log_name, SYSTEM) == spoken
        assert erasure.count(kim.log_name) == NOTHING
        assert Conversation.objects.get() == kept
        assert (Message.objects.count(), Preference.objects.get().question) == (3, "How do bees dance?")
        assert AuditEvent.objects.get(action="query_log.erase").details == spoken

    def test_queries_judged_by_a_persons_feedback_go_unless_somebody_else_asked_and_judged_the_same(
        self, collection: Collection
    ) -> None:
        kim, lee = (
            replace(
                person(user.username, scopes=(Scope.QUERY, Scope.FEEDBACK)),
                user_id=user.pk,
            )
            for user in (User.objects.create_user(name) for name in ("kim", "lee"))
        )
        judge_first("is my hive sick", kim)
        for principal in (kim, lee):
            judge_first("bees", principal)
        JudgedQuery.objects.create(collection=collection, query_id="q1", text="is my hive sick")  # of a test collection
        feedback.judge(collection, SYSTEM)
        assert set(JudgedQuery.objects.values_list("text", flat=True)) == {"is my hive sick", "bees"}
        erased = erasure.erase(kim.log_name, SYSTEM)
        assert (erased["judged_queries"], erased["feedback"]) == (1, 2)
        left = set(JudgedQuery.objects.values_list("query_id", "text"))
        assert left == {("q1", "is my hive sick"), (feedback.query_id_of("bees"), "bees")}
        assert erasure.erase(lee.log_name, SYSTEM)["judged_queries"] == 1
        assert JudgedQuery.objects.get().query_id == "q1"

    @pytest.mark.parametrize(
        ("arguments", "gone"), [(("--key", "abc123"), "key:abc123"), (("--anonymous",), "anonymous")]
    )
    def test_a_command_erases_what_a_key_or_nobody_known_asked(
        self, askers: list[User], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], gone: str
    ) -> None:
        flush()
        call_command("querylog", "erase", *arguments, "--dry-run")
        assert capsys.readouterr().out == f"{ONE_SEARCH} of {gone} would be erased.\n"
        assert QueryLog.objects.count() == 5
        call_command("querylog", "erase", *arguments)
        assert capsys.readouterr().out == f"{ONE_SEARCH} of {gone} erased.\n"
        assert gone not in set(QueryLog.objects.values_list("asked_by", flat=True))

    def test_a_command_lists_who_asked_and_erases_a_person_by_name(
        self, askers: list[User], capsys: pytest.CaptureFixture[str]
    ) -> None:
        flush()
        call_command("querylog", "list")
        assert f"user:{askers[0].pk}" in capsys.readouterr().out
        call_command("querylog", "erase", "--user", "kim")
        assert capsys.readouterr().out == f"{TWO_SEARCHES} of user:{askers[0].pk} erased.\n"
        call_command("querylog", "purge")
        assert capsys.readouterr().out == "0 searches purged.\n"
        with pytest.raises(CommandError, match="There is no user 'nobody'") as refusal:
            call_command("querylog", "erase", "--user", "nobody")
        assert refusal.value.returncode == 2

    def test_the_admin_erases_everything_of_whom_was_picked(self, askers: list[User], admin_client: Client) -> None:
        flush()
        picked = QueryLog.objects.filter(asked_by=f"user:{askers[0].pk}").first()
        assert picked is not None
        response = admin_client.post(
            "/admin/rag/querylog/", {"action": "erase_askers", "_selected_action": [str(picked.pk)]}, follow=True
        )
        assert f"Erased {TWO_SEARCHES} of user:{askers[0].pk}." in response.content.decode()
        assert QueryLog.objects.count() == 3


class TestKeyedHash:
    def test_it_tells_queries_apart_without_telling_them(self) -> None:
        assert query_hmac("bees") == query_hmac("bees")
        assert query_hmac("bees") != query_hmac("bee")
        assert re.fullmatch("[0-9a-f]{64}", query_hmac("bees"))

    def test_another_installation_has_another_one(self, settings: Any) -> None:
        own = query_hmac("bees")
        query_log._keyed.cache_clear()
        settings.SECRET_KEY = "another"
        try:
            assert query_hmac("bees") != own
        finally:
            query_log._keyed.cache_clear()


class TestPerformance:
    def test_a_row_says_how_the_query_went(self, collection: Collection) -> None:
        answer = ask()
        flush()
        row = QueryPerformance.objects.get()
        assert str(row.request_id) == answer["request_id"]
        assert (row.query_hmac, row.collection, row.variant, row.mode) == (
            *(query_hmac(QUERY), "logged", "stable", "pgvector"),
        )
        assert (row.cache, row.status, row.degraded, row.result_count) == ("none", 200, [], 3)
        assert row.top_score == answer["results"][0]["fused_score"]
        for name, duration_ms in answer["timings"].items():
            assert getattr(row, name) == pytest.approx(duration_ms)
        assert row.weights_version == answer["fusion_weights_version"]
        assert (row.embedder_version, row.ltr_version) == tuple(answer["models"].values())

    def test_cache_hits_and_empty_answers_are_rows_too(self, collection: Collection) -> None:
        Collection.objects.create(slug="empty")
        search(SearchRequest(query="bees", collection="empty"), SYSTEM)
        ask()
        ask()
        ask(explain=True)
        flush()
        rows = QueryPerformance.objects.order_by("id").values_list("cache", "result_count", "top_score")
        assert [row[:2] for row in rows] == [("none", 0), ("none", 3), ("full", 3), ("feature", 3)]
        assert [row[2] is None for row in rows] == [True, False, False, False]

    def test_stages_that_did_not_run_have_no_duration(self, collection: Collection) -> None:
        ask()
        ask()
        flush()
        first, second = QueryPerformance.objects.order_by("id")
        assert None not in {first.embed_ms, first.retrieval_ms, first.feature_ms, first.ltr_ms, first.fusion_ms}
        assert {second.embed_ms, second.retrieval_ms, second.feature_ms, second.ltr_ms, second.fusion_ms} == {None}
        assert second.pipeline_ms > 0

    def test_a_failed_query_is_counted_with_the_stages_that_ran(
        self, collection: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any) -> None:
            raise OperationalError("the server closed the connection")

        monkeypatch.setattr(pipeline, "retrieve", fails)
        before = SNAPSHOT.totals()["query_errors"]
        with pytest.raises(OperationalError):
            ask()
        flush()
        row = QueryPerformance.objects.get()
        assert (row.status, row.cache, row.collection, row.query_hmac) == (503, "none", "logged", query_hmac(QUERY))
        assert row.embed_ms > 0
        assert row.pipeline_ms > row.retrieval_ms > 0
        assert row.fusion_ms is None
        assert SNAPSHOT.totals()["query_errors"] == before + 1
        assert not QueryLog.objects.exists()

    def test_what_the_caller_got_wrong_is_no_failure(self, collection: Collection) -> None:
        with pytest.raises(NotFound):
            search(SearchRequest(query="bees", collection="nowhere"), SYSTEM)
        flush()
        assert not QueryPerformance.objects.exists()

    def test_a_server_without_models_fails(self, collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing_live(reading: Reading, collection: str) -> None:
            raise Unavailable("No fusion weights are live.")

        monkeypatch.setattr(Reading, "weights", nothing_live)
        with pytest.raises(Unavailable):
            ask()
        flush()
        assert QueryPerformance.objects.get().status == 503
