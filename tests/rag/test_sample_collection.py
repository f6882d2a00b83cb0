"""The sample collection that ships with the project keeps the properties its README states."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "rag" / "evaluation" / "sample"

# A word in more documents than this share says nothing about a subject ("with", "until"), so sharing it is no hint.
COMMON_SHARE = 0.1


class Document(NamedTuple):
    title: str
    text: str


class Collection(NamedTuple):
    documents: dict[str, Document]
    queries: dict[str, str]
    relevant: dict[str, set[str]]


def read_jsonl(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


def read_judgements() -> list[list[str]]:
    return [line.split("\t") for line in (SAMPLE / "qrels.tsv").read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def stems(text: str) -> set[str]:
    """First five letters of each word: cruder than a stemmer, it takes more words for the same one, not fewer."""
    return {word[:5] for word in words(text)}


def subject_of(identifier: str) -> str:
    return identifier.removeprefix("q-").rpartition("-")[0]


@pytest.fixture(scope="module")
def collection() -> Collection:
    relevant: dict[str, set[str]] = defaultdict(set)
    for query_id, document_id, _ in read_judgements()[1:]:
        relevant[query_id].add(document_id)
    return Collection(
        documents={row["_id"]: Document(row["title"], row["text"]) for row in read_jsonl("corpus.jsonl")},
        queries={row["_id"]: row["text"] for row in read_jsonl("queries.jsonl")},
        relevant=dict(relevant),
    )


@pytest.mark.parametrize(
    ("name", "fields", "id_pattern"),
    [
        ("corpus.jsonl", {"_id", "title", "text"}, r"[a-z]+-\d{2}"),
        ("queries.jsonl", {"_id", "text"}, r"q-[a-z]+-\d{2}"),
    ],
)
def test_it_has_complete_rows_with_unique_ids_in_the_stated_form(name: str, fields: set[str], id_pattern: str) -> None:
    rows = read_jsonl(name)

    assert all(row.keys() == fields for row in rows)
    assert [row for row in rows if any(not value or value != value.strip() for value in row.values())] == []
    assert [row["_id"] for row in rows if not re.fullmatch(id_pattern, row["_id"])] == []
    assert [key for key, count in Counter(row["_id"] for row in rows).items() if count > 1] == []


def test_it_judges_each_pair_at_most_once_and_only_as_relevant() -> None:
    header, *rows = read_judgements()

    assert header == ["query-id", "corpus-id", "score"]
    assert [row for row in rows if len(row) != 3 or row[2] != "1"] == []
    assert [pair for pair, count in Counter((row[0], row[1]) for row in rows).items() if count > 1] == []


def test_it_judges_every_query_and_refers_only_to_what_exists(collection: Collection) -> None:
    assert collection.relevant.keys() == collection.queries.keys()
    assert set().union(*collection.relevant.values()) == collection.documents.keys()


def test_it_is_large_enough_and_spread_over_subjects(collection: Collection) -> None:
    documents_per_subject = Counter(map(subject_of, collection.documents))
    queries_per_subject = Counter(map(subject_of, collection.queries))

    assert len(collection.documents) >= 165
    assert len(collection.queries) >= 70
    assert len(documents_per_subject) >= 8
    assert min(documents_per_subject.values()) >= 10
    assert queries_per_subject.keys() == documents_per_subject.keys()


def test_it_has_one_to_six_relevant_documents_per_query_all_of_its_subject(collection: Collection) -> None:
    counts = {query_id: len(documents) for query_id, documents in collection.relevant.items()}

    assert {query_id: count for query_id, count in counts.items() if not 1 <= count <= 6} == {}
    assert 2.0 <= sum(counts.values()) / len(counts) <= 3.0
    strays = [
        (query_id, document_id)
        for query_id, documents in collection.relevant.items()
        for document_id in documents
        if subject_of(query_id) != subject_of(document_id)
    ]
    assert strays == []


def test_it_has_documents_of_80_to_200_words(collection: Collection) -> None:
    lengths = {key: len(document.text.split()) for key, document in collection.documents.items()}

    assert {key: length for key, length in lengths.items() if not 80 <= length <= 200} == {}


def test_it_repeats_no_title_no_query_and_no_long_phrase(collection: Collection) -> None:
    titles = Counter(" ".join(words(document.title)) for document in collection.documents.values())
    queries = Counter(" ".join(words(text)) for text in collection.queries.values())
    phrase_owners: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for key, document in collection.documents.items():
        tokens = words(document.text)
        for start in range(len(tokens) - 7):
            phrase_owners[tuple(tokens[start : start + 8])].add(key)

    assert [title for title, count in titles.items() if count > 1] == []
    assert [query for query, count in queries.items() if count > 1] == []
    assert {phrase: owners for phrase, owners in phrase_owners.items() if len(owners) > 1} == {}


def test_it_has_paraphrases_that_share_no_content_word_with_any_answer(collection: Collection) -> None:
    stems_of = {key: stems(f"{title} {text}") for key, (title, text) in collection.documents.items()}
    counts = Counter(stem for document_stems in stems_of.values() for stem in document_stems)
    common = {stem for stem, count in counts.items() if count > COMMON_SHARE * len(stems_of)}
    paraphrases = [
        query_id
        for query_id, text in collection.queries.items()
        if not any((stems(text) - common) & stems_of[key] for key in collection.relevant[query_id])
    ]

    assert len(paraphrases) >= 10


def test_it_has_queries_made_of_terms_found_only_in_their_answer(collection: Collection) -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for key, document in collection.documents.items():
        for word in words(document.title + " " + document.text):
            owners[word].add(key)
    exact = [
        query_id
        for query_id, text in collection.queries.items()
        if len(words(text)) <= 3 and any(owners.get(word) == collection.relevant[query_id] for word in words(text))
    ]

    assert len(exact) >= 10
