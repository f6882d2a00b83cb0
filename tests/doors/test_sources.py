"""A source is looked at by the schedule of the running product: nobody asks for it."""

from __future__ import annotations

from typing import Any

from tests.doors.conftest import Product
from tests.serving import Answer


def test_a_source_that_is_due_is_looked_at_by_the_schedule(product: Product) -> None:
    (product.folder / "oolong.txt").write_text("Oolong tea is steeped at ninety degrees.")
    key = {"Authorization": f"Bearer {product.keys['admin']}"}
    place: dict[str, Any] = {"name": "shelf", "collection": "papers", "kind": "folder"}
    made = product.zenglow.call(
        "/rag/sources", place | {"location": str(product.folder), "interval_minutes": 60}, **key
    )
    assert made.status == 201, made.text

    def is_found(answer: Answer) -> bool:
        return "shelf/oolong.txt" in [one["document_id"] for one in answer.body["results"]]

    product.zenglow.eventually(lambda: product.zenglow.query("oolong tea", **key), is_found)
    kept = product.zenglow.call("/rag/sources/shelf", **key).body
    assert (kept["outcome"], kept["error"], kept["tally"]["found"]) == ("ok", "", 1)
