"""The hot path's statements, against the real database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from ops import statements

pytestmark = pytest.mark.django_db


def raw() -> psycopg.Connection[Any]:
    connection.ensure_connection()
    found: psycopg.Connection[Any] = connection.connection
    return found


def prepared() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE name LIKE 'zenglow_%'")
        return {name for (name,) in cursor.fetchall()}


class TestRows:
    def test_parameters_go_by_name_and_as_often_as_they_are_written(self) -> None:
        rows = statements.fetch(
            raw(), "SELECT %(a)s::int + %(b)s::int, %(a)s::int % 4, '100 %%'", {"b": 2, "a": 7, "unused": 1}
        )
        assert rows == [(9, 3, "100 %")]

    @given(
        st.integers(-(2**63), 2**63 - 1),
        st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
        st.lists(st.integers(-(2**31), 2**31 - 1)),
    )
    def test_values_come_back_as_they_were_sent(self, number: int, text: str, several: list[int]) -> None:
        statement = "SELECT %(number)s::bigint, %(text)s::text, %(several)s::integer[], NULL::text"
        given = {"number": number, "text": text, "several": several}
        assert statements.fetch(raw(), statement, given) == [(number, text, several, None)]

    def test_they_agree_with_a_cursor(self) -> None:
        statement = "SELECT id, id * 1.5::float8, '{\"a\": [1]}'::jsonb, NULL FROM generate_series(1, 500) AS id"
        expected = psycopg.Cursor(raw()).execute(statement, binary=True).fetchall()
        assert statements.fetch(raw(), statement, {}) == expected

    def test_a_long_parameter_is_sent_whole(self) -> None:
        text = "x" * 20_000_000
        assert statements.fetch(raw(), "SELECT length(%(text)s::text)", {"text": text}) == [(len(text),)]

    def test_a_statement_is_prepared_once_for_each_kind_of_parameters(self) -> None:
        before = prepared()
        for number in (1, 2, 3):
            statements.fetch(raw(), "SELECT %(number)s::bigint AS once", {"number": number})
        assert len(prepared() - before) == 1

    def test_of_many_statements_those_prepared_first_make_room(self) -> None:
        for number in range(statements.MOST_PREPARED + 20):
            assert statements.fetch(raw(), f"SELECT {number}", {}) == [(number,)]
        assert len(prepared()) == statements.MOST_PREPARED
        assert statements.fetch(raw(), "SELECT 0", {}) == [(0,)]


class TestFaults:
    def test_an_error_is_psycopgs_and_the_connection_goes_on(self) -> None:
        for _ in range(2):
            with pytest.raises(psycopg.errors.DivisionByZero), transaction.atomic():
                statements.fetch(raw(), "SELECT 1 / %(zero)s::int", {"zero": 0})
        assert statements.fetch(raw(), "SELECT 1", {}) == [(1,)]

    def test_what_cannot_be_prepared_is_not_remembered(self) -> None:
        for _ in range(2):
            with pytest.raises(psycopg.errors.UndefinedTable), transaction.atomic():
                statements.fetch(raw(), "SELECT * FROM nowhere", {})

    @pytest.mark.django_db(transaction=True)
    def test_a_lost_server_is_djangos_operational_error(self) -> None:
        with psycopg.connect(raw().info.dsn, password=raw().info.password, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (raw().info.backend_pid,))
        with pytest.raises(OperationalError), connection.wrap_database_errors:
            statements.fetch(raw(), "SELECT 1", {})
        connection.close()
        assert statements.fetch(raw(), "SELECT 1", {}) == [(1,)]


class TestTransactions:
    @pytest.mark.django_db(transaction=True)
    def test_a_statement_that_is_the_first_of_a_transaction_is_within_it(self) -> None:
        with transaction.atomic():
            statements.fetch(raw(), "INSERT INTO auth_group (name) VALUES ('left') RETURNING id", {})
            transaction.set_rollback(True)
        assert statements.fetch(raw(), "SELECT name FROM auth_group WHERE name = 'left'", {}) == []


class TestBegin:
    def test_the_block_runs_while_postgresql_works(self) -> None:
        with statements.begin(raw(), "SELECT %(a)s::int", {"a": 5}) as rows:
            assert raw().pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE
            assert rows() == [(5,)]

    def test_rows_that_nobody_wants_are_not_in_the_way(self) -> None:
        with statements.begin(raw(), "SELECT 1", {}):
            pass
        with pytest.raises(KeyError), statements.begin(raw(), "SELECT 2", {}):
            raise KeyError
        with transaction.atomic(), statements.begin(raw(), "SELECT 3", {}) as rows:
            assert rows() == [(3,)]

    def test_another_thread_of_the_connection_waits_until_it_is_answered(self) -> None:
        shared = raw()
        with ThreadPoolExecutor(1) as threads:
            with statements.begin(shared, "SELECT 1 FROM pg_sleep(0.1)", {}) as rows:
                other = threads.submit(statements.fetch, shared, "SELECT 2", {})
                assert rows() == [(1,)]
                assert other.result() == [(2,)]
            with statements.begin(shared, "SELECT 3 FROM pg_sleep(0.1)", {}):
                other = threads.submit(statements.fetch, shared, "SELECT 4", {})
            assert other.result() == [(4,)]
            # Nor is it locked by what could not be sent.
            with pytest.raises(KeyError), statements.begin(shared, "SELECT %(missing)s", {}):
                pass
            assert threads.submit(statements.fetch, shared, "SELECT 5", {}).result() == [(5,)]

    def test_an_error_comes_when_the_rows_are_asked_for(self) -> None:
        with (
            pytest.raises(psycopg.errors.DivisionByZero),
            transaction.atomic(),
            statements.begin(raw(), "SELECT 1 / 0", {}) as rows,
        ):
            rows()
        assert statements.fetch(raw(), "SELECT 1", {}) == [(1,)]
