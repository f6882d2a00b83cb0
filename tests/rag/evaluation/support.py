"""Small judged collections: single subjects of the sample that ships."""

from __future__ import annotations

import json
from pathlib import Path

from rag.models import Collection, JudgedQuery, Judgement
from tests.rag.pipeline.support import Text, fill

SAMPLE = Path(__file__).resolve().parents[3] / "rag" / "evaluation" / "sample"


def sample(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


def judged_subject(slug: str, subject: str, queries: int = 12) -> Collection:
    """A subject's documents with the judgements of its first queries."""
    collection = Collection.objects.create(slug=slug)
    rows = [row for row in sample("corpus.jsonl") if row["_id"].startswith(f"{subject}-")]
    fill(collection, {row["_id"]: Text(row["text"], row["title"]) for row in rows})
    texts = {row["_id"]: row["text"] for row in sample("queries.jsonl") if row["_id"].startswith(f"q-{subject}-")}
    lines = (SAMPLE / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]
    judge(
        collection,
        dict(list(texts.items())[:queries]),
        [(query, document, int(grade)) for query, document, grade in (line.split("\t") for line in lines)],
    )
    return collection


def judge(collection: Collection, texts: dict[str, str], grades: list[tuple[str, str, int]]) -> None:
    """Add queries with judgements; grades of other queries are left out."""
    queries = {
        query_id: JudgedQuery.objects.create(collection=collection, query_id=query_id, text=text)
        for query_id, text in texts.items()
    }
    Judgement.objects.bulk_create(
        Judgement(query=queries[query_id], document_id=document_id, grade=grade)
        for query_id, document_id, grade in grades
        if query_id in queries
    )
