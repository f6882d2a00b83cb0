"""BM25, in memory and inside PostgreSQL, against two others on the same tokens: the package bm25s, and the formula."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import bm25s
import numpy as np
import pytest

from rag.models import Collection, EmbeddingSpace
from rag.pipeline import lexical, processors
from rag.pipeline.bm25 import bm25_scores
from rag.pipeline.candidates import read_candidates
from rag.pipeline.database import hot_cursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.lexical import read_query, read_words, retrieve_lexical
from rag.pipeline.types import GAP, UNKNOWN, QueryTerms
from tests.rag.ingest_service.support import make_space
from tests.rag.pipeline.support import corpus_of, lexemes_of, put, remove, snapshot_of

SAMPLE = Path(__file__).resolve().parents[3] / "rag" / "evaluation" / "sample"
EVERYTHING = Eligibility(None, {})

Scorer = Callable[[Sequence[Sequence[str]], Sequence[str]], list[float]]

pytestmark = pytest.mark.django_db


def sample(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


QUERIES = [query["text"] for query in sample("queries.jsonl")]


@pytest.fixture(scope="module")
def indexed(module_transaction: None) -> tuple[Collection, EmbeddingSpace]:
    collection, space = Collection.objects.create(slug="sample"), make_space()
    for document in sample("corpus.jsonl"):
        # A document of several paragraphs is one of several chunks.
        put(collection, space, document["_id"], *document["text"].split("\n\n"), title=document["title"])
    return collection, space


def retrieve(collection: Collection, space: EmbeddingSpace, query: str, depth: int = 100) -> list[int]:
    snapshot = snapshot_of(collection, space, candidate_depth=depth)
    with hot_cursor() as cursor:
        found = retrieve_lexical(cursor, snapshot, EVERYTHING, read_query(cursor, snapshot, query))
    return found.tolist()


def by_formula(corpus: Sequence[Sequence[str]], query: Sequence[str]) -> list[float]:
    average = sum(map(len, corpus)) / len(corpus)
    scores = []
    for document in corpus:
        score = 0.0
        for term in query:
            df = sum(term in other for other in corpus)
            idf = math.log(1 + (len(corpus) - df + 0.5) / (df + 0.5))
            tf = document.count(term)
            score += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(document) / average))
        scores.append(score)
    return scores


def by_package(corpus: Sequence[Sequence[str]], query: Sequence[str]) -> list[float]:
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index([list(document) for document in corpus], show_progress=False)
    known = [term for term in query if term in index.vocab_dict]
    return index.get_scores(known).tolist() if known else [0.0] * len(corpus)


def assert_same_best(collection: Collection, space: EmbeddingSpace, queries: Sequence[str], scorer: Scorer) -> None:
    """The ten best by SQL have the ten highest scores, in falling order: the same up to ties."""
    corpus = corpus_of(collection)
    for text, terms in zip(queries, lexemes_of(collection, queries), strict=True):
        scores = dict(zip(corpus, scorer(list(corpus.values()), terms), strict=True))
        found = retrieve(collection, space, text)
        assert {chunk_id for chunk_id in found if scores[chunk_id] <= 0} == set()
        assert len(found) == min(100, sum(score > 0 for score in scores.values())), text
        best = sorted(scores.values(), reverse=True)[: min(10, len(found))]
        assert [scores[chunk_id] for chunk_id in found[:10]] == pytest.approx(best, rel=1e-5), text


class TestAgreement:
    @pytest.fixture(autouse=True, params=[64, 0], ids=["in memory", "by PostgreSQL"])
    def room(self, request: pytest.FixtureRequest, settings) -> None:
        settings.RAG_RESIDENT_POSTINGS_MB = request.param

    def test_it_agrees_with_the_package_on_every_sample_query(self, indexed) -> None:
        collection, space = indexed
        corpus = corpus_of(collection)
        index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        index.index(list(corpus.values()), show_progress=False)

        def scorer(_: Sequence[Sequence[str]], query: Sequence[str]) -> list[float]:
            return index.get_scores([term for term in query if term in index.vocab_dict]).tolist()

        assert_same_best(collection, space, QUERIES, scorer)

    def test_it_agrees_with_the_formula_written_out(self, indexed) -> None:
        assert_same_best(*indexed, QUERIES[::20], by_formula)

    def test_it_agrees_after_documents_were_added_changed_and_deleted(self, indexed) -> None:
        collection, space = indexed
        put(collection, space, "new-1", "A starter, a starter and another starter.", title="Starters")
        put(collection, space, "new-2", "Mites, varroa mites.", "The queen and her mites.")
        put(collection, space, "bake-01", "This is about sailing into a harbour now.", title="Changed")
        put(collection, space, "bees-01", "One paragraph.", "Then two, about swarms.", "Then three.")
        for document_id in ("sail-01", "tax-03", "new-2"):
            remove(collection, document_id)
        assert_same_best(collection, space, QUERIES[::4], by_package)
        assert_same_best(collection, space, ["starter", "varroa mites", "swarms"], by_formula)

    def test_it_counts_a_word_as_often_as_the_query_says_it(self, indexed) -> None:
        collection, space = indexed
        queries = ["yeast yeast yeast flour", "anchor anchor chain", "bees bee hive"]
        assert_same_best(collection, space, queries, by_formula)
        assert_same_best(collection, space, queries, by_package)

    def test_ties_go_to_the_older_chunk(self, space: EmbeddingSpace) -> None:
        collection = Collection.objects.create(slug="ties")
        chunks = [put(collection, space, name, "the same words")[0] for name in ("z", "a", "m")]
        assert retrieve(collection, space, "words") == sorted(chunks)

    def test_it_finds_no_more_than_the_depth(self, indexed) -> None:
        assert retrieve(*indexed, "bees", depth=10) == retrieve(*indexed, "bees")[:10]


class TestMaxScore:
    """Most postings are left unread, and nothing is lost by it: the scores found are those of reading them all."""

    DEPTH = 5

    @pytest.fixture
    def indexed(self, indexed, monkeypatch: pytest.MonkeyPatch, settings) -> tuple[Collection, EmbeddingSpace]:
        """However few postings there are, those that can be spared are."""
        monkeypatch.setattr(lexical, "MANY_POSTINGS", 0)
        settings.RAG_RESIDENT_POSTINGS_MB = 0
        return indexed

    def scores(self, indexed: tuple[Collection, EmbeddingSpace], query: str, eligibility: Eligibility) -> list[float]:
        """What was found, as scores by the formula."""
        collection, space = indexed
        snapshot = snapshot_of(collection, space, candidate_depth=self.DEPTH, groups=eligibility.groups)
        with hot_cursor() as cursor:
            terms = read_query(cursor, snapshot, query)
            found = retrieve_lexical(cursor, snapshot, eligibility, terms)
            nothing = np.zeros(space.dimension, dtype=np.float32)
            candidates = read_candidates(cursor, snapshot, np.empty(0, np.int64), found, nothing)
        by_id = dict(zip(candidates.chunk_ids.tolist(), bm25_scores(terms, candidates).tolist(), strict=True))
        return [by_id[chunk_id] for chunk_id in found.tolist()]

    @pytest.mark.parametrize("groups", [None, ()])
    def test_it_finds_what_reading_everything_finds(self, indexed, monkeypatch, groups) -> None:
        queries = [*QUERIES[::6], "bees honey queen the colony of a hive", "yeast yeast flour water salt"]
        spared = 0
        for query in queries:
            for filters in ({}, {"nothing": ["here"]}):
                eligibility = Eligibility(groups, filters)
                pruned = self.scores(indexed, query, eligibility)
                with monkeypatch.context() as patch:
                    patch.setattr(lexical, "MANY_POSTINGS", 10**9)
                    everything = self.scores(indexed, query, eligibility)
                assert pruned == pytest.approx(everything, rel=1e-6), query
                assert pruned == sorted(pruned, reverse=True)
                spared += len(pruned) == self.DEPTH
        assert spared

    def test_terms_are_spared_where_the_rare_ones_decide(self, space: EmbeddingSpace, monkeypatch, settings) -> None:
        monkeypatch.setattr(lexical, "MANY_POSTINGS", 0)
        settings.RAG_RESIDENT_POSTINGS_MB = 0
        collection = Collection.objects.create(slug="spared")
        for number in range(60):
            put(collection, space, f"d{number}", f"common {'rare ' * 3 if number < 15 else ''}word{number}")
        found = retrieve(collection, space, "rare common", depth=self.DEPTH)
        assert len(found) == self.DEPTH
        corpus = corpus_of(collection)
        assert all("rare" in corpus[chunk_id] for chunk_id in found)
        assert_same_best(collection, space, ["rare common", "common word3", "rare word59"], by_formula)


class TestAtOnce:
    """One statement that runs beside the embedder says what the steps say."""

    def both(
        self, indexed: tuple[Collection, EmbeddingSpace], query: str, eligibility: Eligibility = EVERYTHING
    ) -> tuple[QueryTerms, list[int] | None, QueryTerms, list[int]]:
        snapshot = snapshot_of(*indexed, groups=eligibility.groups)
        with hot_cursor() as cursor:
            with read_words(cursor, snapshot, eligibility, query) as words:
                terms, found = words()
            expected = read_query(cursor, snapshot, query)
            by_steps = retrieve_lexical(cursor, snapshot, eligibility, expected)
        return terms, None if found is None else found.tolist(), expected, by_steps.tolist()

    def test_it_reads_and_finds_what_the_steps_do(self, indexed) -> None:
        odd = ["", "the of", "unheardofword", "yeast yeast the yeast flour", "don't <b> & | ! ()", "x" * 900, "蜜蜂 🐝"]
        for query in [*QUERIES, *odd]:
            terms, found, expected, by_steps = self.both(indexed, query)
            assert found == by_steps, query
            for name in QueryTerms.__slots__:
                assert np.array_equal(getattr(terms, name), getattr(expected, name)), (query, name)

    def test_many_postings_and_long_queries_are_left_to_the_steps(self, indexed, monkeypatch) -> None:
        assert self.both(indexed, "yeast " * 400)[1] is None
        monkeypatch.setattr(lexical, "MANY_POSTINGS", 3)
        terms, found, expected, by_steps = self.both(indexed, "yeast flour bees")
        assert found is None
        assert by_steps
        assert terms.document_frequencies.tolist() == expected.document_frequencies.tolist()
        monkeypatch.setattr(lexical, "AT_ONCE_CHUNKS", 3)
        assert self.both(indexed, "yeast")[1] is None

    @pytest.mark.parametrize("eligibility", [Eligibility((), {}), Eligibility(None, {"year": 1999})])
    def test_what_is_withheld_or_filtered_is_left_to_the_steps(self, indexed, eligibility: Eligibility) -> None:
        terms, found, expected, _ = self.both(indexed, "yeast flour", eligibility)
        assert found is None
        assert terms.document_frequencies.tolist() == expected.document_frequencies.tolist()

    def test_while_other_searches_keep_the_processors_busy_it_is_left_to_the_steps(self, indexed) -> None:
        with ExitStack() as others:
            for _ in range(os.cpu_count() or 1):
                others.enter_context(lexical._under_way.one_more())
            terms, found, expected, by_steps = self.both(indexed, "yeast flour bees")
            assert found is None
            assert by_steps
            assert terms.document_frequencies.tolist() == expected.document_frequencies.tolist()
        assert self.both(indexed, "yeast flour bees")[1] == by_steps

    def test_web_processes_share_the_processors(self, settings, monkeypatch) -> None:
        monkeypatch.setattr(processors, "PROCESSORS", 8)
        settings.ZENGLOW_WEB_PROCESSES = 1
        assert [lexical._has_idle_processor(others) for others in (0, 3, 4)] == [True, True, False]
        settings.ZENGLOW_WEB_PROCESSES = 4
        assert [lexical._has_idle_processor(others) for others in (0, 1)] == [True, False]

    def test_the_connection_is_of_use_afterwards_whatever_happened_meanwhile(self, indexed) -> None:
        snapshot = snapshot_of(*indexed)
        with hot_cursor() as cursor:
            with pytest.raises(ZeroDivisionError), read_words(cursor, snapshot, EVERYTHING, "yeast"):
                raise ZeroDivisionError
            assert cursor.rows("SELECT 1", {}) == [(1,)]
            with read_words(cursor, snapshot, EVERYTHING, "yeast"):
                pass
            assert cursor.rows("SELECT 2", {}) == [(2,)]


class TestStatistics:
    def test_a_count_is_remembered_until_the_collection_changes(self, space: EmbeddingSpace) -> None:
        collection = Collection.objects.create(slug="remembered")
        put(collection, space, "a", "zebra crossing")

        def zebras() -> list[int]:
            with hot_cursor() as cursor:
                return read_query(cursor, snapshot_of(collection, space), "zebra").document_frequencies.tolist()

        assert zebras() == [1]
        counts = lexical.counted.of(collection.id, snapshot_of(collection, space).generation)
        assert list(counts.frequencies.values()) == [1]
        put(collection, space, "b", "another zebra")
        assert zebras() == [2]
        remove(collection, "a")
        assert zebras() == [1]

    def test_they_are_those_of_the_collection(self, indexed) -> None:
        collection, space = indexed
        corpus = list(corpus_of(collection).values())
        snapshot = snapshot_of(collection, space)
        with hot_cursor() as cursor:
            terms = read_query(cursor, snapshot, "the yeast and an unheardofword")
        assert [kind for kind in terms.term_ids.tolist() if kind <= 0] == [GAP, GAP, GAP, UNKNOWN]
        assert terms.document_frequencies.tolist() == [sum("yeast" in document for document in corpus)]
        assert terms.chunk_count == len(corpus)
        assert terms.average_length == pytest.approx(sum(map(len, corpus)) / len(corpus))

    def test_a_word_of_which_the_last_document_is_gone_is_unknown(self, space: EmbeddingSpace) -> None:
        collection = Collection.objects.create(slug="gone")
        put(collection, space, "a", "zebra crossing")
        put(collection, space, "b", "level crossing")
        remove(collection, "a")
        with hot_cursor() as cursor:
            terms = read_query(cursor, snapshot_of(collection, space), "zebra crossing")
        assert terms.term_ids[0] == UNKNOWN
        assert terms.document_frequencies.tolist() == [1]
        assert len(retrieve(collection, space, "zebra crossing")) == 1

    def test_one_collection_knows_nothing_of_another(self, space: EmbeddingSpace) -> None:
        first, second = (Collection.objects.create(slug=slug) for slug in ("first", "second"))
        (own,) = put(first, space, "d", "shared words of the first")
        for number in range(5):
            put(second, space, f"d{number}", "shared words of the second, shared again")
        assert retrieve(first, space, "shared words") == [own]
        with hot_cursor() as cursor:
            terms = read_query(cursor, snapshot_of(first, space), "shared second")
        assert terms.term_ids[1] == UNKNOWN
        assert (terms.document_frequencies.tolist(), terms.chunk_count) == ([1], 1)
        assert_same_best(second, space, ["shared words", "again"], by_formula)


class TestCode:
    FILES = {
        "a.py": "def parse_http_header(line): return line.splitAtColon()",
        "b.py": "class HTTPServer: pass  # serves the header",
        "c.py": "The running dogs of the war",
        "d.py": "parseHttpHeader(request.userId, user_id)",
        "e.py": "user identity and id",
    }

    @pytest.fixture
    def code(self, space: EmbeddingSpace) -> tuple[Collection, EmbeddingSpace]:
        collection = Collection.objects.create(slug="code", text_configuration="simple", split_identifiers=True)
        for name, text in self.FILES.items():
            put(collection, space, name, text)
        return collection, space

    def test_it_agrees_with_the_others_on_parts_of_names(self, code) -> None:
        queries = ["parse_http_header", "http", "header", "userId", "user id", "the dogs", "HTTPServer", "run"]
        assert_same_best(*code, queries, by_formula)
        assert_same_best(*code, queries, by_package)

    def test_both_ways_of_writing_a_name_find_both(self, code) -> None:
        for query in ("parse_http_header", "parseHttpHeader"):
            found = retrieve(*code, query)
            assert set(found[:2]) == {chunk for chunk, text in corpus_of(code[0]).items() if "parsehttpheader" in text}

    def test_it_neither_stems_nor_drops_words(self, code) -> None:
        assert retrieve(*code, "run") == []
        assert len(retrieve(*code, "the")) == 2
