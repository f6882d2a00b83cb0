from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.ingest.sentences import sentence_ends


def split(text: str) -> list[str]:
    start = 0
    sentences = []
    for end in sentence_ends(text, 0, len(text)):
        sentences.append(text[start:end].strip())
        start = end
    return sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "Stop." Then left.', ['He said "Stop."', "Then left."]),
        ("Dr. Smith met Mrs. Jones. They spoke.", ["Dr. Smith met Mrs. Jones.", "They spoke."]),
        ("See Fig. 3 and Sec. 2. Then go.", ["See Fig. 3 and Sec. 2.", "Then go."]),
        ("By J. R. Tolkien. A book.", ["By J. R. Tolkien.", "A book."]),
        ("Use it, e.g. here. Or not.", ["Use it, e.g. here.", "Or not."]),
        ("Apples, pears, etc. are fruit. Etc. is not.", ["Apples, pears, etc. are fruit.", "Etc. is not."]),
        ("It costs 3.50 in v2.1. Cheap.", ["It costs 3.50 in v2.1.", "Cheap."]),
        ("1. Open the lid. 2 more follow.", ["1. Open the lid.", "2 more follow."]),
        ("no capitals here .   the next one .", ["no capitals here .", "the next one ."]),
        ("これは文です。次の文です。", ["これは文です。", "次の文です。"]),
        ("Wait... what? Yes…\nNo.", ["Wait...", "what?", "Yes…", "No."]),
        ("Visit example.com/a.b today. Now.", ["Visit example.com/a.b today.", "Now."]),
    ],
)
def test_it_parts_sentences(text: str, expected: list[str]) -> None:
    assert split(text) == expected


@given(st.text())
def test_it_gives_ascending_offsets_up_to_the_end(text: str) -> None:
    ends = list(sentence_ends(text, 0, len(text)))
    assert ends == sorted(set(ends))
    assert ends[-1:] == ([len(text)] if text else [])
