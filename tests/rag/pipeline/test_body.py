"""The kept part of an answer: it comes back as it was, and stands in its envelope as if written there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.pipeline.body import Body, Shown, encode

TEXT = st.text(st.characters(codec="utf-8"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
WHOLE = st.integers(0, 2**31 - 1)
SHOWN = st.builds(Shown, WHOLE, WHOLE, TEXT, TEXT, WHOLE, WHOLE, st.floats(0, 1))
RESULTS = st.lists(st.dictionaries(TEXT, SCALARS, max_size=3), max_size=3)


@given(results=RESULTS, query=TEXT | st.just('"results":[],'), after=st.dictionaries(TEXT, SCALARS, max_size=3))
def test_within_an_envelope_it_reads_as_the_whole_answer(results: list, query: str, after: dict) -> None:
    body = Body.of(encode(results), [], "simple", None)
    envelope = {"query": query, "results": [], **{f"after_{name}": value for name, value in after.items()}, "last": 0}
    whole = json.loads(body.within(envelope))
    assert whole == {**envelope, "results": results}
    assert list(whole) == list(envelope)


@given(shown=st.lists(SHOWN, max_size=3))
def test_it_comes_back_from_the_cache_as_it_was(shown: list[Shown]) -> None:
    body = Body.of(b'[{"text":"\xc3\xa9"}]', shown, "linear", "Two words.")
    again = Body.from_bytes(body.to_bytes())
    assert len(again.shown) == len(shown)
    assert again.top_score == (shown[0].fused_score if shown else None)
    assert replace(again, shown=list(again.shown)) == body
    assert all(isinstance(one, Shown) for one in again.shown)
    assert again.to_bytes() == body.to_bytes()


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**40])
def test_whole_numbers_of_any_size_are_written_digit_by_digit(number: int) -> None:
    assert encode({"metadata": {"n": number}}) == b'{"metadata":{"n":%d}}' % number
