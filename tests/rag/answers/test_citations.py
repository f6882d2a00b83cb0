"""Citations in a stream: found however it is cut, invented ones dropped, everything else untouched."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rag.answers.citations import CitationParser, Cited, Text, closest
from rag.answers.context import passages_of
from rag.answers.contracts import Passage
from rag.answers.sentences import sentences_of, spans


def parse(pieces: list[str], known: set[int]) -> tuple[str, list[int], int]:
    parser = CitationParser(frozenset(known))
    found = [one for piece in pieces for one in parser.feed(piece)] + list(parser.finish())
    text = "".join(one.text if isinstance(one, Text) else f"<{one.number}>" for one in found)
    return text, [one.number for one in found if isinstance(one, Cited)], parser.removed


def test_known_numbers_are_citations_and_others_are_dropped_with_the_space_before_them() -> None:
    assert parse(["It is so [1]. And so [7]. [2, 3; 9]"], {1, 2, 3}) == ("It is so <1>. And so. <2><3>", [1, 2, 3], 2)


def test_other_brackets_are_text() -> None:
    text = "a[i] [x](y) [] [1.5] [12345] array[0"
    assert parse([text], {1}) == (text, [], 0)


@given(
    st.lists(
        st.sampled_from(["word ", "[1]", " [2]", "[", "]", "3", " ", "\n", "[9]", "[1,2]", "[[1]]", "é"]), max_size=20
    ),
    st.data(),
)
def test_how_a_text_is_cut_makes_no_difference(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(pieces, {1, 2}) == parse([text], {1, 2})


def test_each_row_of_a_table_and_each_item_of_a_list_stands_by_itself() -> None:
    text = "What it needs:\n\npackage | why\npytest | Runs the tests.\nfaker | Names\n\n- one\n- two\nThat is all."
    assert [text[start:end] for start, end in spans(text)] == [
        "What it needs:",
        "package | why",
        "pytest | Runs the tests.",
        "faker | Names",
        "- one",
        "- two\nThat is all.",
    ]


def test_the_quotes_of_a_docstring_are_not_part_of_what_it_says() -> None:
    text = 'x = 1.\n\n"""One worker has it. Another takes it over."""\n\n""" """'
    assert [text[start:end] for start, end in spans(text)] == ["x = 1.", "One worker has it.", "Another takes it over."]


@given(st.text(alphabet="ab .!?\n-|[1]", max_size=80))
def test_sentences_lie_in_their_text_in_order_and_miss_nothing_but_space(text: str) -> None:
    found = list(spans(text))
    assert all(text[start:end].strip() == text[start:end] and start < end for start, end in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
    assert "".join("".join(text[start:end].split()) for start, end in found) == "".join(text.split())


def result(chunk_id: int, text: str, start: int, document: str = "d") -> dict[str, object]:
    facts = {"title": "T", "source": "s", "external_url": None, "heading_path": [], "page": None, "fused_score": 0.5}
    return {
        "chunk_id": chunk_id,
        "document_id": document,
        "text": text,
        "start": start,
        "end": start + len(text),
    } | facts


def passages(*results: dict[str, object]) -> tuple[Passage, ...]:
    return passages_of(results, {int(str(one["chunk_id"])): 1 for one in results})


DOCUMENT = "One is first. Two is second. Three is third. Four is fourth."


def test_neighbours_become_one_passage_of_the_documents_very_characters() -> None:
    (joined,) = passages(result(2, DOCUMENT[14:28], 14), result(1, DOCUMENT[0:13], 0), result(3, DOCUMENT[20:44], 20))
    assert (joined.text, joined.start, joined.end) == (DOCUMENT[0:44], 0, 44)
    assert (joined.chunk_id, joined.chunk_ids) == (2, (2, 1, 3))


def test_duplicates_are_dropped_and_other_documents_stay_apart() -> None:
    found = passages(
        result(1, DOCUMENT[0:13], 0), result(2, "one  IS first.", 0, "copy"), result(3, DOCUMENT[14:28], 14, "other")
    )
    assert [passage.chunk_ids for passage in found] == [(1,), (3,)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=8))
def test_whatever_is_joined_stays_true_to_the_document(ranges: list[tuple[int, int]]) -> None:
    document = "".join(chr(0x4E00 + i) for i in range(80))
    results = [result(i, document[start : start + size], start) for i, (start, size) in enumerate(ranges)]
    for passage in passages(*results):
        shown = document[passage.start : passage.end]
        assert len(passage.text) == len(shown)
        assert all(one in {other, " "} for one, other in zip(passage.text, shown, strict=True))


def test_the_closest_sentence_is_the_one_with_most_of_the_words() -> None:
    passage = Passage(1, 1, (1,), 1, "d", "s", "T", (), None, None, DOCUMENT, 0, len(DOCUMENT), 1.0)
    found = closest("the third one, namely three", sentences_of(passage))
    assert found is not None
    assert found.text == "Three is third."
