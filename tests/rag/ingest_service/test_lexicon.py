"""What a term is: names and their parts, PostgreSQL's lexemes, term ids."""

from __future__ import annotations

import re
import threading

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.lexicon import (
    MAX_TITLE_TOKENS,
    Passage,
    WordMemory,
    allocate_terms,
    decode_terms,
    encode_passages,
    heading_text,
    lexical_text,
    query_lexemes,
    term_ids,
    tokenize,
)
from rag.models import Collection, LexicalTerm, TextConfiguration
from tests.patience import PATIENCE_S

NAMES = {
    "userId": "userId user Id",
    "user_id": "userid user id",
    "__init__": "__init__",
    "HTTPServer": "HTTPServer HTTP Server",
    "parse_HTTPHeader2": "parseHTTPHeader2 parse HTTP Header2",
    "utf8 sha256": "utf8 sha256",
    "os.path": "os.path os path",
    "os.path.joinAll": "os.path.joinAll os path joinAll join All",
    "self.first_name = 3.14": "self.firstname self firstname first name 3.14 3 14",
    "rag/ingest/writer.py": "rag ingest writer.py writer py",
    "List<String> a-b": "List String a b",
    "été_chaud ÉtéChaud": "étéchaud été chaud ÉtéChaud Été Chaud",
    "x" * 200 + "Y": "x" * 200 + "Y",
    "": "",
    "___ ...": "___",
}


@pytest.mark.parametrize(("text", "expected"), NAMES.items())
def test_it_writes_a_name_and_its_parts(text: str, expected: str) -> None:
    assert lexical_text(text, split_identifiers=True) == expected


def test_it_leaves_prose_as_it_is() -> None:
    assert lexical_text("A <b>userId</b>, kept.", split_identifiers=False) == "A <b>userId</b>, kept."


@given(st.text(max_size=300))
def test_it_keeps_every_letter_and_digit_of_a_name(text: str) -> None:
    words = lexical_text(text, split_identifiers=True).split(" ")
    joined = "".join(words)
    assert {c for c in text if c.isalnum()} == {c for c in joined if c.isalnum()}
    assert all(words) or text == "" or words == [""]


@given(st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8}){1,4}", fullmatch=True))
def test_it_makes_both_ways_of_writing_a_name_meet(snake: str) -> None:
    first, *rest = snake.split("_")
    camel = first + "".join(part.capitalize() for part in rest)
    whole = lexical_text(snake, split_identifiers=True).split(" ")[0]
    assert whole == camel.lower()
    assert lexical_text(camel, split_identifiers=True).split(" ")[0].lower() == whole


@pytest.mark.django_db
class TestTokenize:
    def test_it_stems_and_leaves_gaps_for_stop_words(self) -> None:
        with connection.cursor() as cursor:
            assert tokenize(cursor, "english", ["the running dogs of a war", "", "Dogs"]) == [
                ["", "run", "dog", "", "", "war"],
                [],
                ["dog"],
            ]

    def test_it_counts_more_occurrences_than_a_tsvector_holds(self) -> None:
        with connection.cursor() as cursor:
            (lexemes,) = tokenize(cursor, "simple", ["word " * 1000])
        assert lexemes == ["word"] * 1000

    def test_it_numbers_more_positions_than_a_tsvector_has(self) -> None:
        words = [f"w{number}" for number in range(20_000)]
        with connection.cursor() as cursor:
            (lexemes,) = tokenize(cursor, "simple", [" ".join(words)])
        assert lexemes == words

    @pytest.mark.parametrize(
        "text",
        [
            "a" * 3_000_000,
            "é" * 70_000 + " tail",
            "nul\0byte",
            "lone \ud800 surrogate",
            "<" * 50_000,
            "a/" * 60_000,
            "x-" * 60_000,
            "\u0301" * 5000,
        ],
        ids=["one word of 3 MB", "long word", "nul", "surrogate", "tags", "path", "hyphens", "marks"],
    )
    def test_it_takes_hostile_text(self, text: str) -> None:
        with connection.cursor() as cursor:
            tokenize(cursor, "english", [text, lexical_text(text, split_identifiers=True)])

    @given(st.lists(st.text(max_size=200), max_size=5))
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    def test_it_gives_a_text_the_same_lexemes_alone_and_in_a_batch(self, texts: list[str]) -> None:
        with connection.cursor() as cursor:
            together = tokenize(cursor, "english", texts)
            assert together == [tokenize(cursor, "english", [text])[0] for text in texts]


@pytest.mark.django_db
class TestTerms:
    def test_it_encodes_headings_first_and_stop_words_as_zero(self) -> None:
        collection = Collection.objects.create(slug="c")
        with connection.cursor() as cursor:
            (terms,) = encode_passages(
                cursor,
                [Passage(heading_text("The Dogs", ["Of war"]), "Running the dogs")],
                collection_id=collection.id,
                configuration="english",
                split_identifiers=False,
            )
        ids = dict(LexicalTerm.objects.filter(collection=collection).values_list("term", "id"))
        assert set(ids) == {"dog", "war", "run"}
        assert terms.term_ids.tolist() == [0, ids["dog"], 0, ids["war"], ids["run"], 0, ids["dog"]]
        assert (terms.title_length, terms.count) == (4, 4)
        unique, counts = terms.frequencies()
        assert dict(zip(unique.tolist(), counts.tolist(), strict=True)) == {
            ids["dog"]: 2,
            ids["war"]: 1,
            ids["run"]: 1,
        }
        assert decode_terms(terms.to_bytes()).tolist() == terms.term_ids.tolist()
        assert terms.to_bytes()[4:8] == ids["dog"].to_bytes(4, "little")

    def test_it_trims_an_endless_title(self) -> None:
        collection = Collection.objects.create(slug="c")
        with connection.cursor() as cursor:
            (terms,) = encode_passages(
                cursor,
                [Passage("title " * 5000, "body")],
                collection_id=collection.id,
                configuration="english",
                split_identifiers=False,
            )
        assert terms.title_length == MAX_TITLE_TOKENS
        assert len(terms.term_ids) == MAX_TITLE_TOKENS + 1

    def test_it_reads_a_query_without_adding_terms(self) -> None:
        collection, other = (Collection.objects.create(slug=slug) for slug in ("c", "d"))
        with connection.cursor() as cursor:
            ids = allocate_terms(cursor, collection.id, ["dog"])
            allocate_terms(cursor, other.id, ["cat"])
            lexemes = query_lexemes(cursor, "the dogs and cats", configuration="english", split_identifiers=False)
            assert lexemes == ["", "dog", "", "cat"]
            assert term_ids(cursor, collection.id, lexemes) == {"dog": ids["dog"]}
        assert LexicalTerm.objects.count() == 2


PIECES = re.findall(
    r"\S+",
    r"""the on lift Flow aero-plane user_id don't U.S. e.g. C++ C# .net ../a /usr/lib a/b/ https://ex.com/a?b=c&d
    www.foo.org foo@bar.de &amp; & - -- --> + -5 +3.5 1e-5 10:30 2024-01-02 @ ' " ( ) [ ] = ~ # % $ | \ * . .. ... , ;
    : ! > < <b> </b> <!-- straße 日本語 Привет 🐝 ² ½ b2b -a-b-c a- _""",
)
SPACES = ["", "", " ", " ", "  ", "\t", "\n", "\f", "\v", "\0", "\x1c", "\u00a0", "\u2003", "\u200b", "\u0301"]
TEXTS = st.lists(st.tuples(st.sampled_from(SPACES), st.sampled_from(PIECES)), max_size=12).map(
    lambda parts: "".join(space + piece for space, piece in parts)
)


@pytest.mark.django_db
class TestWordMemory:
    memory = WordMemory(300)

    @given(st.lists(st.one_of(TEXTS, st.text(max_size=40)), max_size=20), st.sampled_from(TextConfiguration.values))
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def test_word_by_word_a_text_has_the_lexemes_that_it_has_as_a_whole(
        self, texts: list[str], configuration: str
    ) -> None:
        with connection.cursor() as cursor:
            for text, lexemes in zip(texts, tokenize(cursor, configuration, texts), strict=True):
                assert self.memory.tokenize(cursor, configuration, text) == lexemes, text

    def test_words_that_were_read_before_cost_no_query(self, django_assert_num_queries) -> None:
        memory = WordMemory(100)

        def read(configuration: str, text: str, queries: int) -> list[str]:
            with django_assert_num_queries(queries), connection.cursor() as cursor:
                return memory.tokenize(cursor, configuration, text)

        assert read("english", "the lifting of wings", 1) == ["", "lift", "", "wing"]
        assert read("english", "wings of the", 0) == ["wing"]
        assert read("simple", "wings of the", 1) == ["wings", "of", "the"]

    def test_it_forgets_when_it_is_full_and_never_keeps_a_pasted_document(self) -> None:
        memory = WordMemory(3)
        with connection.cursor() as cursor:
            for word in ("one", "two", "three", "four", "x" * 5000, "word " * 1000):
                memory.tokenize(cursor, "english", word)
        assert list(memory._known) == [("english", "four")]


@pytest.mark.django_db(transaction=True)
def test_it_allocates_each_term_once_under_concurrent_writers() -> None:
    collection = Collection.objects.create(slug="c")
    barrier = threading.Barrier(4)
    results: list[dict[str, int]] = []

    def write(start: int) -> None:
        try:
            barrier.wait(PATIENCE_S)
            for step in range(20):
                words = [f"w{number}" for number in range(start + step, start + step + 200)]
                with connection.cursor() as cursor:
                    results.append(allocate_terms(cursor, collection.id, words[::-1] if start % 2 else words))
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(results) == 80
    stored = dict(LexicalTerm.objects.values_list("term", "id"))
    assert len(stored) == 222
    assert all(stored[term] == number for ids in results for term, number in ids.items())
