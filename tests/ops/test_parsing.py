from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings
from rest_framework.test import APIRequestFactory

from ops.api.parsing import MAX_DEPTH, StrictJSONParser, parse_json
from ops.contracts.problems import InvalidRequest, TooLarge, UnsupportedMedia

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="ascii", min_codepoint=32)), inner),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_it_reads_whatever_json_can_hold(value: Any, ensure_ascii: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ensure_ascii).encode()) == value


@given(st.binary() | st.text('{}[]"\\u0dN1eE,:. ').map(str.encode))
def test_it_answers_any_bytes_with_a_value_or_a_problem(body: bytes) -> None:
    try:
        value = parse_json(body)
    except InvalidRequest:
        return
    json.dumps(value, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "line 1, column 2"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "too large"),
        (b"9" * 5000, "too long"),
        (b'["a\\u0000b"]', "NUL"),
        (b'{"a\\u0000": 1}', "NUL"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'["\xff"]', "UTF-8: byte 2"),
        ('["é"]'.encode("latin-1"), "UTF-8"),
        ('["a"]'.encode("utf-16"), "UTF-8"),
        (b'["\x00"]', "not JSON"),
        (b"[" * 100_000, "nested"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"),
        (b'{"a":' * 80 + b"1" + b"}" * 80, "nested"),
    ],
)
def test_it_says_what_is_wrong_with_a_body(body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    assert words in caught.value.detail


def test_it_reads_the_deepest_nesting_that_is_allowed() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_it_reads_a_byte_order_mark_and_paired_surrogates() -> None:
    assert parse_json(b'\xef\xbb\xbf["\\ud83d\\ude00"]') == ["\U0001f600"]


def parsed(body: bytes, media_type: str, **headers: str) -> Any:
    request = APIRequestFactory().post("/", body, content_type=media_type, **headers)  # type: ignore[arg-type]
    return StrictJSONParser().parse(io.BytesIO(body), media_type, {"request": request})


def test_it_reads_utf8_only() -> None:
    for accepted in ("application/json", "application/json; charset=utf-8", 'application/json; charset="UTF-8"'):
        assert parsed(b"{}", accepted) == {}
    with pytest.raises(UnsupportedMedia):
        parsed(b"{}", "application/json; charset=latin-1")


@pytest.mark.parametrize("declared", [None, "1"])
def test_it_reads_no_further_than_the_limit_whatever_the_header_says(settings: Settings, declared: str | None) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    headers = {} if declared is None else {"CONTENT_LENGTH": declared}
    assert parsed(b'"12345678"', "application/json", **headers) == "12345678"
    with pytest.raises(TooLarge):
        parsed(b'"123456789"', "application/json", **headers)
