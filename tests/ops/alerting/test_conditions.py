from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ops.alerting.conditions import LONGEST_GAP, Comparison, Condition, Phase, Situation, advance

START = datetime(2030, 1, 1, tzinfo=UTC)
ABOVE = Condition(Comparison.ABOVE, threshold=10, clear_threshold=8, for_s=60)

conditions = st.builds(
    lambda comparison, threshold, margin, for_s: Condition(
        comparison, threshold, threshold - margin if comparison is Comparison.ABOVE else threshold + margin, for_s
    ),
    st.sampled_from(Comparison),
    st.integers(0, 10),
    st.integers(0, 3),
    st.sampled_from([0, 15, 60, 300]),
)
scripts = st.lists(st.tuples(st.integers(1, 120), st.none() | st.integers(-5, 15)), max_size=40)
"""Seconds since the last reading, and what was read."""


def play(
    condition: Condition, script: list[tuple[int, float | None]]
) -> list[tuple[datetime, float | None, Situation]]:
    situation, at, played = Situation(), START, []
    for seconds, value in script:
        at += timedelta(seconds=seconds)
        situation = advance(condition, situation, at, value)
        played.append((at, value, situation))
    return played


class TestProperties:
    @settings(deadline=None)
    @given(conditions, scripts)
    def test_it_fires_only_when_every_reading_was_bad_for_long_enough_without_a_gap(
        self, condition: Condition, script: list[tuple[int, float | None]]
    ) -> None:
        played = play(condition, script)
        for place, (at, _, situation) in enumerate(played):
            if situation.phase is not Phase.FIRING or (place and played[place - 1][2].phase is Phase.FIRING):
                continue
            bad_since = at
            for earlier in range(place, -1, -1):
                then, value, _ = played[earlier]
                if value is None or not condition.is_bad(value) or bad_since - then > LONGEST_GAP:
                    break
                bad_since = then
            assert at - bad_since >= timedelta(seconds=condition.for_s)

    @settings(deadline=None)
    @given(conditions, scripts)
    def test_it_ends_only_on_the_good_side_of_the_margin(
        self, condition: Condition, script: list[tuple[int, float | None]]
    ) -> None:
        before = Phase.OK
        for _, value, situation in play(condition, script):
            if before is Phase.FIRING:
                over = value is None or condition.is_over(value)
                assert situation.phase is (Phase.OK if over else Phase.FIRING)
            before = situation.phase

    @settings(deadline=None)
    @given(conditions, scripts)
    def test_a_reading_that_was_seen_already_changes_nothing(
        self, condition: Condition, script: list[tuple[int, float | None]]
    ) -> None:
        for at, value, situation in play(condition, script):
            assert advance(condition, situation, at, value) == situation
            assert advance(condition, situation, at - timedelta(seconds=1), 999) == situation


def phases(*script: tuple[int, float | None]) -> list[str]:
    return [situation.phase.value for _, _, situation in play(ABOVE, list(script))]


def test_it_waits_then_fires_then_ends_beyond_the_margin() -> None:
    assert phases((15, 11), (30, 12), (30, 11), (15, 9), (15, 8)) == ["pending", "pending", "firing", "firing", "ok"]


def test_one_good_reading_starts_the_waiting_anew() -> None:
    assert phases((15, 11), (45, 9), (15, 11), (59, 11), (1, 11)) == ["pending", "ok", "pending", "pending", "firing"]


def test_nobody_knows_what_was_in_a_gap() -> None:
    assert phases((15, 11), (600, 11), (60, 11)) == ["pending", "pending", "firing"]


def test_a_missed_evaluation_does_not_delay_it() -> None:
    assert phases((15, 11), (75, 11)) == ["pending", "firing"]


def test_it_ends_when_nothing_happens_any_more() -> None:
    assert phases((15, 11), (60, 11), (15, None)) == ["pending", "firing", "ok"]


def test_it_fires_at_once_without_a_waiting_time() -> None:
    condition = Condition(Comparison.BELOW, 0.5, 0.5, 0)
    assert [one.phase for _, _, one in play(condition, [(15, 0.4), (15, 0.5)])] == [Phase.FIRING, Phase.OK]
