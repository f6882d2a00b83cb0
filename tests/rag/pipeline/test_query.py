"""What can be asked: the text as it is ranked, and the bounds of everything else."""

from __future__ import annotations

import unicodedata
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.contracts.problems import InvalidRequest
from rag.pipeline.query import MAX_ALTERNATIVES, MAX_FILTERS, SearchRequest, normalize_query, validate

REQUEST = SearchRequest(query="bees", collection="c", top_k=10)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize_query(text)
    assert normalize_query(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == once.strip()
    assert not any(character.isspace() and character != " " for character in once)
    assert "  " not in once


@given(st.text(), st.sampled_from(["NFC", "NFD"]), st.sampled_from([" ", "\n", "\t ", "\u00a0", "\u2003\r\n"]))
def test_spellings_of_the_same_text_are_normalised_alike(text: str, form: Any, space: str) -> None:
    words = text.split()
    spelt = space + space.join(unicodedata.normalize(form, word) for word in words) + space
    assert normalize_query(spelt) == normalize_query(" ".join(words))


@given(st.text(st.characters(max_codepoint=127)))
def test_nothing_but_white_space_is_changed_in_plain_text(text: str) -> None:
    assert normalize_query(text).split() == text.split()


@pytest.mark.parametrize("text", ["BEES", "Straße", "ﬁne", "①", "a\u200db", "İ"])
def test_case_and_look_alikes_are_left_alone(text: str) -> None:
    assert normalize_query(text) == text


def faults(**given: Any) -> set[str]:
    try:
        validate(replace(REQUEST, **given))
    except InvalidRequest as refused:
        return {name for name, fault in refused.errors.items() if fault and name in refused.detail}
    return set()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"query": ""}, {"query"}),
        ({"query": " \n\u00a0\u2028 "}, {"query"}),
        ({"query": "x" * 100_000}, set()),
        ({"query": " x" * 50_000}, set()),
        ({"query": "x" * 100_001}, {"query"}),
        ({"query": "a\x00b"}, {"query"}),
        ({"query": "a\ud800"}, {"query"}),
        ({"query": "\U0010ffff"}, set()),
        ({"top_k": None}, set()),
        ({"top_k": 0}, {"top_k"}),
        ({"top_k": -1}, {"top_k"}),
        ({"top_k": 1}, set()),
        ({"top_k": 100}, set()),
        ({"top_k": 101}, {"top_k"}),
        ({"top_k": 10**30}, {"top_k"}),
        ({"offset": -1}, {"offset"}),
        ({"offset": 200}, set()),
        ({"offset": 201}, {"offset"}),
        ({"group_by": "chunk"}, {"group_by"}),
        ({"group_by": "document"}, set()),
        ({"collection": "a\x00"}, {"collection"}),
        ({"collection": "\ud800"}, {"collection"}),
        ({"filters": {"a": "b", "c": 1, "d": 0.5, "e": True, "f": None, "g": ["b", 1, None], "": ""}}, set()),
        ({"filters": {"a": []}}, {"filters.a"}),
        ({"filters": {"a": {}, "b": [[1]], "c": object(), "d": 1}}, {"filters.a", "filters.b", "filters.c"}),
        ({"filters": {"a": float("nan"), "b": [float("inf")]}}, {"filters.a", "filters.b"}),
        ({"filters": {"a": "\x00", "b": ["\ud800"]}}, {"filters.a", "filters.b"}),
        ({"filters": {"a\x00": 1}}, {"filters.a\x00"}),
        ({"filters": {"a": ["x"] * MAX_ALTERNATIVES}}, set()),
        ({"filters": {"a": ["x"] * (MAX_ALTERNATIVES + 1)}}, {"filters.a"}),
        ({"filters": {str(number): 1 for number in range(MAX_FILTERS)}}, set()),
        ({"filters": {str(number): 1 for number in range(MAX_FILTERS + 1)}}, {"filters"}),
        ({"query": "", "top_k": 0, "offset": -1, "filters": {"a": []}}, {"query", "top_k", "offset", "filters.a"}),
    ],
    ids=lambda value: ascii(value)[:40] if isinstance(value, dict) else "",
)
def test_every_fault_is_named(given: dict[str, Any], expected: set[str]) -> None:
    assert faults(**given) == expected


def test_the_bounds_are_those_of_the_settings(settings: Any) -> None:
    settings.RAG_TOP_K_MAX, settings.RAG_QUERY_MAX_CHARACTERS, settings.RAG_CANDIDATE_DEPTH = 5, 20, 3
    assert faults(top_k=6, query="x" * 21, offset=7) == {"top_k", "query", "offset"}
    assert faults(top_k=5, query="x" * 20, offset=6) == set()


def test_what_is_not_said_gets_its_default(settings: Any) -> None:
    settings.RAG_TOP_K_DEFAULT, settings.RAG_DEFAULT_COLLECTION = 7, "house"
    assert validate(SearchRequest(query=" bees ")) == SearchRequest(query="bees", collection="house", top_k=7)
    assert validate(REQUEST) == REQUEST


def test_what_is_said_is_kept_whatever_it_is() -> None:
    said = SearchRequest("bees", "apiary", 3, 2, {"year": 1999}, "document", explain=True)
    plain = SearchRequest("bees")
    assert all(getattr(said, field.name) != getattr(plain, field.name) for field in fields(said)[1:]), "a new field"
    assert validate(said) == said
