from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.ingest.builder import DocumentBuilder
from rag.ingest.chunking import ChunkingSettings, CountTokens, chunk
from rag.ingest.parsers import parse
from rag.ingest.types import Block, BlockKind, ChunkDraft, ParsedDocument, ParseRequest


def count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def count_characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def count_bytes_with_special_tokens(texts: Sequence[str]) -> list[int]:
    return [len(text.encode()) + 2 for text in texts]


def count_word_pieces(texts: Sequence[str]) -> list[int]:
    """Like WordPiece: three characters a token, and one token for any word of more than 100 characters."""
    return [2 + sum(1 if len(word) > 100 else -(-len(word) // 3) for word in text.split()) for text in texts]


COUNTERS = [count_words, count_characters, count_bytes_with_special_tokens, count_word_pieces]
WORDS = ChunkingSettings(max_tokens=20, overlap_tokens=5, min_tokens=4)


def document_of(*blocks: tuple[BlockKind, str, int | None], page: int | None = None) -> ParsedDocument:
    builder = DocumentBuilder(ParseRequest(b"", "test.md", "text/markdown"))
    for kind, text, level in blocks:
        builder.add(kind, text, level=level, page=page)
    return builder.build(may_be_empty=True)


def markdown(text: str) -> ParsedDocument:
    return parse(ParseRequest(text.encode(), "test.md", ""))[0]


def assert_sound(
    document: ParsedDocument, chunks: list[ChunkDraft], sizes: ChunkingSettings, count: CountTokens
) -> None:
    covered = [False] * len(document.text)
    for ordinal, part in enumerate(chunks):
        assert part.ordinal == ordinal
        assert part.text == document.text[part.start : part.end]
        assert part.text.strip()
        assert part.text == part.text.rstrip()
        assert count([part.text])[0] <= sizes.max_tokens
        assert len(part.text) <= sizes.max_characters
        covered[part.start : part.end] = [True] * (part.end - part.start)
    for part, following in pairwise(chunks):
        assert part.start < following.start
        assert part.end < following.end
    missed = "".join(character for character, is_covered in zip(document.text, covered, strict=True) if not is_covered)
    assert not missed.strip()


texts = st.one_of(
    st.text(max_size=400),
    st.lists(st.sampled_from(["One. ", "word ", "e.g. ", "é", "\n", "x" * 60, "。", "  ", "a\u0301", "😀"])).map(
        "".join
    ),
).map(lambda text: unicodedata.normalize("NFC", text).replace("\x00", ""))
blocks = st.tuples(st.sampled_from(BlockKind), texts, st.integers(1, 6))
documents = st.lists(st.tuples(blocks, st.one_of(st.none(), st.integers(1, 3))), max_size=12)
sizes_strategy = st.builds(
    ChunkingSettings,
    max_tokens=st.integers(9, 60),
    overlap_tokens=st.integers(0, 8),
    min_tokens=st.integers(0, 20),
)


@given(documents, sizes_strategy, st.sampled_from(COUNTERS))
def test_it_keeps_every_promise_for_any_document(
    parts: list[tuple[tuple[BlockKind, str, int], int | None]], sizes: ChunkingSettings, count: CountTokens
) -> None:
    builder = DocumentBuilder(ParseRequest(b"", "test.md", "text/markdown"))
    for (kind, text, level), page in parts:
        builder.add(
            kind,
            text.encode("utf-8", "replace").decode(),
            level=level if kind is BlockKind.HEADING else None,
            page=page,
            symbol=("Class", f"method_{level}") if kind is BlockKind.CODE else (),
        )
    document = builder.build(may_be_empty=True)
    assert_sound(document, chunk(document, sizes, count), sizes, count)


@given(texts, st.data())
def test_it_covers_text_that_lies_outside_all_blocks(text: str, data: st.DataObject) -> None:
    if not text:
        return
    text = text.encode("utf-8", "replace").decode()
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    document = ParsedDocument(None, text, "text/plain", (Block(BlockKind.PARAGRAPH, start, end),))
    assert_sound(document, chunk(document, WORDS, count_characters), WORDS, count_characters)


def test_a_document_that_fits_is_exactly_one_chunk() -> None:
    document = markdown("# Title\n\nOne.\n\n## A\n\nTwo.\n\n## B\n\nThree.\n")
    (only,) = chunk(document, WORDS, count_words)
    assert only.text == document.text
    assert only.heading_path == ("Title",)


def test_a_document_without_text_has_no_chunks() -> None:
    assert chunk(ParsedDocument(None, "", "text/plain", ()), WORDS, count_words) == []
    assert chunk(ParsedDocument(None, " \n ", "text/plain", ()), WORDS, count_words) == []


def test_a_document_without_blocks_is_one_section() -> None:
    (only,) = chunk(ParsedDocument(None, "Two words", "text/plain", ()), WORDS, count_words)
    assert (only.text, only.heading_path, only.page) == ("Two words", (), None)


def test_sections_that_fit_are_chunks_of_their_own() -> None:
    words = " ".join(["word"] * 12)
    document = markdown(f"# Guide\n\n## Install\n\n{words}\n\n## Run\n\n{words}\n")
    chunks = chunk(document, WORDS, count_words)
    assert [part.heading_path for part in chunks] == [("Guide", "Install"), ("Guide", "Run")]
    assert chunks[0].text.startswith("Guide\n\nInstall\n\nword"), "a bare heading belongs to its first section"


def test_a_subtree_that_fits_stays_together() -> None:
    words = " ".join(["word"] * 15)
    document = markdown(f"# A\n\n{words}\n\n## A1\n\n{words}\n\n# B\n\nfive\n\n## B1\n\nsix\n\n## B2\n\nseven\n")
    chunks = chunk(document, WORDS, count_words)
    assert [part.heading_path for part in chunks] == [("A",), ("A", "A1"), ("B",)]
    assert chunks[-1].text == "B\n\nfive\n\nB1\n\nsix\n\nB2\n\nseven"


def test_small_neighbours_under_one_heading_are_joined() -> None:
    words = " ".join(["word"] * 14)
    document = markdown(f"# A\n\n## One\n\ntiny\n\n## Two\n\n{words}\n\n## Three\n\n{words}\n")
    chunks = chunk(document, WORDS, count_words)
    assert [part.heading_path for part in chunks] == [("A",), ("A", "Three")]


def test_a_long_section_is_parted_at_sentences_with_overlap() -> None:
    sentences = [f"Sentence {i} has five words." for i in range(9)]
    document = document_of(
        (BlockKind.HEADING, "Top", 1),
        (BlockKind.PARAGRAPH, " ".join(sentences), None),
    )
    chunks = chunk(document, WORDS, count_words)
    assert len(chunks) > 2
    for part, following in pairwise(chunks):
        overlap = document.text[following.start : part.end]
        assert overlap in sentences
        assert part.text.endswith("words.")
        assert following.text.startswith("Sentence")
    assert {part.heading_path for part in chunks} == {("Top",)}


def test_nothing_overlaps_between_sections_or_without_overlap() -> None:
    text = " ".join(f"Sentence {i} has five words." for i in range(9))
    document = markdown(f"# A\n\n{text}\n\n# B\n\n{text}\n")
    with_overlap = chunk(document, WORDS, count_words)
    first_of_b = next(i for i, part in enumerate(with_overlap) if part.heading_path == ("B",))
    assert with_overlap[first_of_b].text.startswith("B\n\nSentence 0")
    without = chunk(document, ChunkingSettings(max_tokens=20, overlap_tokens=0, min_tokens=4), count_words)
    assert all(part.end <= following.start for part, following in pairwise(without))


def test_chunks_prefer_to_end_with_a_paragraph() -> None:
    paragraph = "Three short words. Three more words. And three more."
    document = document_of(*[(BlockKind.PARAGRAPH, paragraph, None)] * 6)
    chunks = chunk(document, ChunkingSettings(max_tokens=20, overlap_tokens=0), count_words)
    assert [part.text for part in chunks] == [f"{paragraph}\n\n{paragraph}"] * 3


def test_long_code_is_parted_at_blank_lines_and_overlaps_from_one() -> None:
    pieces = [f"if a{i}:\n    do it now\n    and then\nelse:\n    stop it" for i in range(8)]
    document = document_of((BlockKind.CODE, "\n\n".join(pieces), None))
    chunks = chunk(document, ChunkingSettings(max_tokens=40, overlap_tokens=10, min_tokens=0), count_words)
    assert [part.text.split("\n\n") for part in chunks] == [pieces[:3], pieces[2:6], pieces[5:]]


def test_a_long_section_leaves_no_crumb_at_its_end() -> None:
    text = " ".join(f"Sentence {i} has five words." for i in range(9)) + " End."
    document = document_of((BlockKind.PARAGRAPH, text, None))
    chunks = chunk(document, ChunkingSettings(max_tokens=40, overlap_tokens=0, min_tokens=10), count_words)
    assert [len(part.text.split()) for part in chunks] == [25, 21]


def test_pages_are_not_mixed_and_each_chunk_knows_its_own() -> None:
    builder = DocumentBuilder(ParseRequest(b"", "test.pdf", "application/pdf"))
    for page in (1, 2, 3):
        builder.paragraph(f"Page {page}. " + " ".join(["word"] * 12), page)
    chunks = chunk(builder.build(), WORDS, count_words)
    assert [(part.page, part.text[:7]) for part in chunks] == [(1, "Page 1."), (2, "Page 2."), (3, "Page 3.")]


def test_code_is_parted_by_symbol_and_keeps_its_indentation() -> None:
    source = "class A:\n" + "".join(f"    def m{i}(self):\n        return {'a + ' * 12} 1\n\n" for i in range(3))
    document = parse(ParseRequest(source.encode(), "a.py", ""))[0]
    chunks = chunk(document, ChunkingSettings(max_tokens=36, overlap_tokens=0, min_tokens=4), count_words)
    assert [part.heading_path for part in chunks] == [("A", "m0"), ("A", "m1"), ("A", "m2")]
    assert chunks[1].text.startswith("    def m1(self):\n        return")


def test_a_megabyte_on_one_line_is_parted_in_linear_time() -> None:
    counted = 0

    def counter(texts: Sequence[str]) -> list[int]:
        nonlocal counted
        counted += sum(map(len, texts))
        return count_word_pieces(texts)

    sizes = ChunkingSettings()
    for text in ("x" * 1_000_000, "word " * 200_000, "." * 1_000_000, "a. " * 300_000, "漢字" * 300_000, "(" * 500_000):
        document = ParsedDocument(None, text, "text/plain", (Block(BlockKind.PARAGRAPH, 0, len(text)),))
        counted = 0
        assert_sound(document, chunk(document, sizes, counter), sizes, count_word_pieces)
        assert counted < 12 * len(text)


def test_tokens_are_counted_in_batches() -> None:
    calls = 0

    def counter(texts: Sequence[str]) -> list[int]:
        nonlocal calls
        calls += 1
        return count_words(texts)

    document = markdown("\n\n".join(f"# Heading {i}\n\n" + "Some words here. " * 20 for i in range(200)))
    chunks = chunk(document, WORDS, counter)
    assert len(chunks) > 500
    assert calls < 30


def test_a_chunk_never_starts_with_an_accent_torn_from_its_letter() -> None:
    text = "x\u0323\u0307" * 400
    document = ParsedDocument(None, text, "text/plain", (Block(BlockKind.PARAGRAPH, 0, len(text)),))
    for part in chunk(document, ChunkingSettings(max_tokens=16, overlap_tokens=0), count_characters):
        assert not unicodedata.combining(part.text[0])


def test_a_passage_that_had_to_be_halved_is_no_part_of_its_neighbour() -> None:
    # Characters don't add up: the spaces between sentences are in the passage and in no sentence.
    document = document_of((BlockKind.HEADING, "0:. 000. 000. 000", 1), (BlockKind.HEADING, "0", 2))
    sizes = ChunkingSettings(max_tokens=12, overlap_tokens=4, min_tokens=0)
    assert_sound(document, chunk(document, sizes, count_characters), sizes, count_characters)


def test_a_counter_that_no_character_satisfies_is_refused() -> None:
    document = document_of((BlockKind.PARAGRAPH, "word", None))
    with pytest.raises(ValueError, match="alone has more than the 20 tokens"):
        chunk(document, WORDS, lambda texts: [99 if text else 0 for text in texts])


@pytest.mark.parametrize(
    "arguments",
    [{"max_tokens": 7}, {"overlap_tokens": -1}, {"overlap_tokens": 220}, {"min_tokens": -1}],
)
def test_contradicting_sizes_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ChunkingSettings(**arguments)
