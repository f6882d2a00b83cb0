"""Which words of a passage are marked, and which part of it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.pages.highlight import CODE_SNIPPET_CHARACTERS, SNIPPET_CHARACTERS, Snippet, matching_words, segments, snippet


def marked(text: str, query: str, *, configuration: str = "english", split_identifiers: bool = False) -> list[str]:
    words = matching_words([text], query, configuration=configuration, split_identifiers=split_identifiers)
    return [segment.text for segment in segments(text, words) if segment.is_match]


@pytest.mark.django_db
class TestMatchingWords:
    def test_it_marks_words_of_the_same_stem(self) -> None:
        assert marked("Indexes are indexed by a clerk.", "indexing") == ["Indexes", "indexed"]

    def test_it_never_marks_stop_words(self) -> None:
        assert marked("The cat and the hat", "the cat") == ["cat"]

    def test_it_ignores_case_and_keeps_the_spelling_of_the_text(self) -> None:
        assert marked("REDIS stopped. Redis started.", "redis") == ["REDIS", "Redis"]

    def test_it_uses_the_stems_of_the_collection(self) -> None:
        assert marked("Häuser am See", "Haus", configuration="german") == ["Häuser"]
        assert marked("Houses by the lake", "house", configuration="simple") == []

    def test_it_finds_the_parts_of_identifiers_where_the_collection_splits_them(self) -> None:
        assert marked("def readQuery(userId)", "query", split_identifiers=True) == ["readQuery"]
        assert marked("def readQuery(userId)", "query") == []

    def test_it_marks_the_part_of_a_snake_case_name(self) -> None:
        assert marked("read_query()", "query", split_identifiers=True) == ["query"]

    def test_it_takes_any_text(self) -> None:
        assert marked("a\x00b <script> '\"; DROP", "script") == ["script"]
        assert marked("", "script") == []
        assert marked("text", "") == []


@given(st.text(), st.sets(st.text(min_size=1)))
def test_it_keeps_the_text_whole_whatever_is_marked(text: str, words: set[str]) -> None:
    assert "".join(segment.text for segment in segments(text, words)) == text


class TestSnippet:
    def test_it_shows_a_short_passage_whole(self) -> None:
        assert snippet("  A short\n passage. ", set(), is_code=False) == Snippet("A short passage.")

    def test_it_shows_the_beginning_when_nothing_matches(self) -> None:
        text = "beginning " + "filler " * 200
        shown = snippet(text, set(), is_code=False)
        assert shown.text.startswith("beginning filler")
        assert (shown.cut_before, shown.cut_after) == (False, True)

    def test_it_shows_the_part_with_the_most_different_matches(self) -> None:
        text = "lamp " + "filler " * 200 + "the oil lamp burns " + "filler " * 200
        shown = snippet(text, {"lamp", "oil", "burns"}, is_code=False)
        assert shown.is_cut
        assert "oil lamp burns" in shown.text

    def test_it_cuts_code_between_lines(self) -> None:
        lines = [f"    line_{number} = {number}" for number in range(200)]
        lines[120] = "    needle = 1"
        shown = snippet("\n".join(lines), {"needle"}, is_code=True)
        assert shown.is_cut
        assert "    needle = 1" in shown.text.split("\n")
        assert set(shown.text.split("\n")) <= set(lines)


@given(st.text(alphabet="ab \n", max_size=3000), st.booleans())
def test_a_snippet_is_a_part_of_the_passage_and_bounded(text: str, is_code: bool) -> None:
    shown = snippet(text, {"ab", "b"}, is_code=is_code)
    whole = text if is_code else " ".join(text.split())
    assert shown.text in whole
    assert len(shown.text) <= (CODE_SNIPPET_CHARACTERS if is_code else SNIPPET_CHARACTERS)
    assert shown.is_cut or shown.text == whole
