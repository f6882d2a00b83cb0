from __future__ import annotations

from pathlib import Path

import pytest

from rag.ingest.beir import BeirError, BeirFolder, Judgement, Query, Summary

SAMPLE = Path(__file__).parents[3] / "rag" / "evaluation" / "sample"
CORPUS = '{"_id": "d1", "title": "T", "text": "One."}\n{"_id": "d2", "text": "", "metadata": {"year": 1}}\n'
QUERIES = '{"_id": "q1", "text": "what  is\\none"}\n'
JUDGEMENTS = "query-id\tcorpus-id\tscore\nq1\td1\t1\n"


def folder_of(
    folder: Path, corpus: str | bytes = CORPUS, queries: str = QUERIES, judgements: str = JUDGEMENTS
) -> BeirFolder:
    (folder / "corpus.jsonl").write_bytes(corpus if isinstance(corpus, bytes) else corpus.encode())
    (folder / "queries.jsonl").write_text(queries)
    (folder / "qrels.tsv").write_text(judgements)
    return BeirFolder(folder)


def test_it_streams_documents_queries_and_judgements(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    first, second = folder.documents()
    assert (first.identifier, first.title, first.text, first.media_type) == ("d1", "T", "One.", "text/plain")
    assert (second.identifier, second.title, second.text, second.metadata) == ("d2", None, "", {"year": 1})
    assert list(folder.queries()) == [Query("q1", "what is one")]
    assert list(folder.judgements()) == [Judgement("q1", "d1", 1)]
    assert folder.validate() == Summary(2, 1, 1, 1, 1)


def test_it_reads_no_more_than_it_is_asked_for(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, CORPUS + "broken")
    assert next(folder.documents()).identifier == "d1"


def test_weights_lie_beside_the_judgements(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "weights.tsv").write_text("query-id\tcorpus-id\tweight\nq1\td1\t0.25\n")
    assert list(folder.judgements()) == [Judgement("q1", "d1", 1, 0.25)]


@pytest.mark.parametrize("line", ["q1\td1", "q1\td1\t0", "q1\td1\t1.5", "q1\td1\tnan", "q1\td1\tsure"])
def test_a_fault_in_the_weights_is_named(tmp_path: Path, line: str) -> None:
    folder = folder_of(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "weights.tsv").write_text(f"{line}\n")
    with pytest.raises(BeirError, match=r"weights.tsv, line 1: write query-id"):
        list(folder.judgements())


def test_judgements_may_lie_where_beir_keeps_them_and_without_a_header(tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels.tsv").rename(tmp_path / "qrels/test.tsv")
    (tmp_path / "qrels/test.tsv").write_text("q1\td1\t2\r\n")
    assert list(BeirFolder(tmp_path).judgements()) == [Judgement("q1", "d1", 2)]


def test_the_collection_that_ships_is_valid() -> None:
    summary = BeirFolder(SAMPLE).validate()
    assert summary.documents >= 150
    assert summary.judged_queries >= 60


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BeirError, match="is not a folder; name one that holds"):
        BeirFolder(tmp_path / "nowhere")
    with pytest.raises(BeirError, match=r"lacks corpus\.jsonl and queries\.jsonl and qrels\.tsv"):
        BeirFolder(tmp_path)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (CORPUS + "{\n", r"^corpus\.jsonl, line 3: this is not JSON"),
        ("\n" + CORPUS + '{"text": "x"}', r"^corpus\.jsonl, line 4: there is no '_id' or 'id'"),
        (CORPUS.encode() + b'{"_id": "\xff"}', r"^corpus\.jsonl, line 3: byte 10 is not UTF-8"),
        (CORPUS + '{"_id": "d1", "text": "x"}', r"^corpus\.jsonl: records 1 and 3 have the id 'd1'"),
        (CORPUS + '{"_id": "x", "text": "", "metadata": ' + '{"a":' * 900 + "1" + "}" * 901, "nested too deeply"),
        ("", r"document 'd1' is not in corpus\.jsonl"),
    ],
)
def test_a_fault_in_the_corpus_is_named(tmp_path: Path, corpus: str | bytes, message: str) -> None:
    with pytest.raises(BeirError, match=message):
        folder_of(tmp_path, corpus).validate()


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ("[]", r"^queries\.jsonl, line 1: this is not a JSON object"),
        ('{"_id": "q1", "text": " "}', r"^queries\.jsonl, line 1: there is no 'text' with words in it"),
        ('{"_id": true, "text": "x"}', "'_id' must be a string or a whole number"),
        (QUERIES * 2, "records 1 and 2 have the id 'q1'"),
    ],
)
def test_a_fault_in_the_queries_is_named(tmp_path: Path, queries: str, message: str) -> None:
    with pytest.raises(BeirError, match=message):
        folder_of(tmp_path, queries=queries).validate()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", r"^qrels\.tsv, line 3: there are 2 columns; write query-id, corpus-id and score"),
        ("q1 d1 1", "there are 1 columns"),
        ("q1\td1\tgood", "the score 'good' is not a whole number from 0 up"),
        ("q1\td1\t-1", "the score '-1' is not a whole number"),
        ("q1\td1\tnan", "the score 'nan' is not a whole number"),
        ("q9\td1\t1", r"query 'q9' is not in queries\.jsonl"),
        ("q1\td9\t1", r"document 'd9' is not in corpus\.jsonl"),
        ("q1\td1\t0", "query 'q1' and document 'd1' are judged twice"),
    ],
)
def test_a_fault_in_the_judgements_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(BeirError, match=message):
        folder_of(tmp_path, judgements=f"{JUDGEMENTS}{line}\n").validate()


def test_an_endless_line_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(BeirError, match=r"line 1: it is longer than 32 MB"):
        next(folder_of(tmp_path, b'{"_id": "' + b"x" * (33 << 20)).documents())


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BeirError, match="there is nothing to import"):
        folder_of(tmp_path, "\n", judgements="").validate()
