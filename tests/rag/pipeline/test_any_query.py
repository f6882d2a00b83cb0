"""Whatever is asked, wherever: a ranking or a refusal that says why, never an error of ours."""

from __future__ import annotations

import io
import json
import math
from typing import Any
from urllib.parse import quote

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import InvalidRequest
from rag.lexicon import MAX_QUERY_TOKENS
from rag.models import Chunk, Collection, Document, LexicalTotals
from rag.pipeline.search import SearchRequest, search
from tests.rag.pipeline.support import Text, fill

DOCUMENTS = {
    "bees": Text("Bees dance in figures of eight.", "Bees"),
    "tax": Text("Income tax is due in January.", "Tax"),
    "пчёлы": Text("Пчёлы танцуют. 蜜蜂跳舞。 النحل يرقص मधुमक्खी", "Scripts"),
}

ODD = {
    "one stop word": "the",
    "Chinese": "蜜蜂跳舞告诉同伴花的位置",
    "Arabic": "النحل يرقص",
    "Cyrillic": "пчёлы танцуют",
    "Devanagari": "मधुमक्खी नृत्य",
    "right to left marks": "\u202ebees\u202c \u200fdance\u200e",
    "emoji": "🐝🌸 👩‍👩‍👧‍👦 🏳️‍🌈",
    "SQL": "'; DROP TABLE rag_chunk; --",
    "text search operators": "a & b | !c <-> d:* (((",
    "text search quotes": "'bees':1A \\' \" <2>",
    "placeholders": "%(groups)s %s %% {} {0} $1 :name ?",
    "control characters": "bees\x01\x02\x7f\x1b[31m dance",
    "zero width": "\u200b\ufeff\u0301",
    "private use": "\ue000\U0010ffff",
    "markup": "<script>alert(1)</script> {{ 7*7 }} {% load x %}",
    "long word": "a" * 9000,
}
NOT_TEXT = {"NUL": "bees\x00dance", "half a pair": "bees \ud800 dance", "other half": "\udfff"}

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(scope="module")
def shared(module_transaction: None, embedded_stack: object) -> Collection:
    view.expire()
    collection = Collection.objects.create(slug="odd")
    fill(collection, DOCUMENTS)
    return collection


@pytest.fixture
def client() -> Client:
    """A browser or a program on this machine while keys are off."""
    return Client(SERVER_NAME="127.0.0.1")


def ask(query: str, collection: str = "odd", **given: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = search(SearchRequest(query, collection=collection, **given), SYSTEM)["results"]
    return results


def assert_sensible(results: list[dict[str, Any]]) -> None:
    """Everything is there once, in order of finite scores, ties in order of ids."""
    assert {result["document_id"] for result in results} == set(DOCUMENTS)
    keys = [(-result["fused_score"], result["chunk_id"]) for result in results]
    assert keys == sorted(keys)
    for result in results:
        scores = [value for name, value in result.items() if name.endswith(("_score", "_norm", "distance"))]
        assert len(scores) == 6
        assert all(map(math.isfinite, scores))


@pytest.mark.parametrize("query", ODD.values(), ids=ODD.keys())
class TestOddText:
    def test_over_http(self, shared: Collection, client: Client, query: str) -> None:
        body = {"query": query, "collection": "odd", "explain": True}
        response = client.post("/rag/query2", json.dumps(body), content_type="application/json")
        assert response.status_code == 200, response.content
        assert_sensible(response.json()["results"])

    def test_on_the_page(self, shared: Collection, client: Client, query: str) -> None:
        response = client.get(f"/search/?collection=odd&explain=1&q={quote(query)}")
        assert response.status_code == 200
        assert "<script>alert(1)" not in response.content.decode()

    def test_from_the_shell(self, shared: Collection, query: str) -> None:
        out = io.StringIO()
        call_command("search", query, "--collection", "odd", "--json", stdout=out)
        assert_sensible(json.loads(out.getvalue())["results"])


@pytest.mark.parametrize("query", NOT_TEXT.values(), ids=NOT_TEXT.keys())
class TestWhatIsNoText:
    def test_over_http(self, shared: Collection, client: Client, query: str) -> None:
        body = json.dumps({"query": query, "collection": "odd"})
        response = client.post("/rag/query2", body, content_type="application/json")
        assert response.status_code == 400, response.content
        assert response["Content-Type"] == "application/problem+json"

    def test_on_the_page(self, shared: Collection, client: Client, query: str) -> None:
        escaped = quote(query.encode("utf-8", "surrogatepass"))
        response = client.get(f"/search/?collection=odd&q={escaped}")
        assert response.status_code in {200, 400}  # half a pair is no UTF-8, so the page never sees it as such
        assert response["Content-Type"].startswith("text/html")

    def test_from_the_shell(self, shared: Collection, query: str) -> None:
        with pytest.raises(CommandError, match="not text") as refused:
            call_command("search", query, "--collection", "odd", stdout=io.StringIO())
        assert refused.value.returncode == 2


FRAGMENTS = ["bees", "the", "'", '"', "&", "|", "!", "(", ")", ":*", "<->", "<2>", "\\", "%s", "--", "\x00", "\ud800"]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(" ".join)))
def test_any_text_is_ranked_or_refused(shared: Collection, query: str) -> None:
    if query.split() and not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in query):
        assert_sensible(ask(query, explain=True))
    else:
        with pytest.raises(InvalidRequest) as refused:
            ask(query)
        assert set(refused.value.errors) == {"query"}


class TestLongQuery:
    def test_ten_thousand_words_are_ranked_by_their_beginning(self, shared: Collection) -> None:
        filler = " ".join(f"word{number}" for number in range(10_000))
        assert ask(f"income tax {filler}")[0]["document_id"] == "tax"
        first, *_ = ask(f"{filler} income tax", explain=True)
        assert first["matched_by"]["lexical"] is None
        assert_sensible(ask("bees " * 10_000))
        assert ask("bees " * 10_000)[0]["document_id"] == "bees"

    def test_the_words_up_to_the_bound_count(self, shared: Collection) -> None:
        found = ask(" ".join(["zzz"] * (MAX_QUERY_TOKENS - 1) + ["income", "dance"]))
        ranks = {result["document_id"]: result["matched_by"]["lexical"] for result in found}
        assert (ranks["tax"], ranks["bees"]) == (1, None)


def test_ten_thousand_equal_documents_take_no_more_than_the_candidates() -> None:
    collection = Collection.objects.create(slug="equal")
    text = Text("Every page of it says the same.")
    needle = fill(collection, {"same": text, "needle": Text("One page has a needle.")})["needle"]
    copy_document(collection, "same", 9_999)
    results = ask("what does every page say", "equal", top_k=100)
    # Of equal passages those with the lowest ids are the candidates, in their order.
    found = [result["chunk_id"] for result in results if result["chunk_id"] != needle]
    chunks = Chunk.objects.filter(collection=collection).exclude(id=needle).order_by("id")
    assert chunks.count() == 10_000
    assert found == list(chunks.values_list("id", flat=True)[: len(found)])
    assert len(found) >= 99
    scores = [result["fused_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert ask("needle", "equal")[0]["document_id"] == "needle"
    assert ask("every page", "equal", offset=200, top_k=100) == []  # twice the depth is all there can be
    grouped = ask("every page", "equal", group_by="document", top_k=100)
    assert len({result["document_id"] for result in grouped}) == len(grouped) >= 99


def copy_document(collection: Collection, document_id: str, copies: int) -> None:
    """Add copies of an indexed document of one chunk, as rows."""
    original = Document.objects.get(collection=collection, document_id=document_id)
    (chunk,) = Chunk.objects.filter(document=original)

    def columns(model: Any, table: str = "") -> str:
        names = [field.column for field in model._meta.concrete_fields if not field.primary_key]
        return ", ".join(table + connection.ops.quote_name(name) for name in names if name != "document_id")

    made = "rag_chunk AS made JOIN rag_document AS copy ON copy.id = made.document_id"
    where = f"made.collection_id = {collection.id} AND copy.document_id LIKE 'copy-%' AND old.chunk_id = {chunk.id}"
    with connection.cursor() as cursor:
        for statement in (
            f"INSERT INTO rag_document (document_id, {columns(Document)}) "
            f"SELECT 'copy-' || number, {columns(Document)} "
            f"FROM rag_document, generate_series(1, {copies}) AS number WHERE id = {original.id}",
            f"INSERT INTO rag_chunk (document_id, {columns(Chunk)}) SELECT copy.id, {columns(Chunk, 'old.')} "
            f"FROM rag_chunk AS old, rag_document AS copy WHERE old.id = {chunk.id} "
            f"AND copy.collection_id = {collection.id} AND copy.document_id LIKE 'copy-%'",
            "INSERT INTO doc_embeddings (chunk_id, space_id, collection_id, embedding) "
            "SELECT made.id, old.space_id, old.collection_id, old.embedding "
            f"FROM doc_embeddings AS old, {made} WHERE {where}",
            "INSERT INTO rag_posting (term_id, chunk_id, frequency, chunk_length) "
            "SELECT old.term_id, made.id, old.frequency, old.chunk_length "
            f"FROM rag_posting AS old, {made} WHERE {where}",
        ):
            cursor.execute(statement)
    LexicalTotals.objects.create(collection=collection, chunks=copies, tokens=copies * chunk.token_count)
