"""Which chunks a principal may find under the request's filters: one SQL condition, applied inside every retriever.

It is applied before ranking and cutting, never after: a filter that matches few chunks must still fill the list, and
what a principal may not read must leave no trace in ranks or counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Scalar = str | int | float | bool | None
Filters = Mapping[str, Scalar | Sequence[Scalar]]

# An own access list is answered by its index; where there is none, the collection's default decides, once.
_READABLE = """
    (d.access_groups && %(groups)s::varchar[]
     OR (d.access_groups = '{}' AND (
        SELECT c.default_access_groups = '{}' OR c.default_access_groups && %(groups)s::varchar[]
        FROM rag_collection c WHERE c.id = %(collection_id)s
     )))
"""

# One condition a key, so that the index on metadata can answer it.
_MATCHES = "d.metadata @> ANY(%(filter_{number:d})s::jsonb[])"


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Access groups and metadata filters of one request.

    ``groups`` is ``None`` when nothing is withheld. ``filters`` maps a metadata key to a value or to alternatives;
    a stored list matches when it holds the value.
    """

    groups: tuple[str, ...] | None
    filters: Filters

    @property
    def is_everything(self) -> bool:
        return self.groups is None and not self.filters

    @property
    def condition(self) -> str:
        """A ``WITH`` entry named ``eligible (chunk_id)``; it uses the parameters of `parameters`."""
        return f"eligible AS MATERIALIZED ({self._chunks})"

    @property
    def among(self) -> str:
        """As `condition`, of nothing but the chunks that the parameter ``chunk_ids`` lists."""
        return f"eligible AS ({self._chunks} AND chunk.id = ANY(%(chunk_ids)s))"

    def up_to(self, limit: str) -> str:
        """As `condition`, but it stops after one more than the parameter called ``limit`` says."""
        return f"eligible AS MATERIALIZED ({self._chunks} LIMIT %({limit})s + 1)"

    @property
    def test(self) -> str:
        """Whether the chunk of a row of ``doc_embeddings`` is eligible.

        A subquery that gives a value stays one: the planner can't make a join of it, which would sort all that is
        eligible instead of going along the vector index.
        """
        return f"""(
            SELECT {" AND ".join(self._conditions)}
            FROM rag_chunk chunk JOIN rag_document d ON d.id = chunk.document_id
            WHERE chunk.id = doc_embeddings.chunk_id
        )"""  # noqa: S608  (made of the constants above)

    @property
    def parameters(self) -> dict[str, object]:
        given: dict[str, object] = {"groups": list(self.groups or ())}
        for number, key in enumerate(self.filters):
            given[f"filter_{number}"] = [json.dumps(shape) for shape in self._alternatives(key)]
        return given

    @property
    def _chunks(self) -> str:
        return f"""
            SELECT chunk.id AS chunk_id
            FROM rag_document d JOIN rag_chunk chunk ON chunk.document_id = d.id
            WHERE d.collection_id = %(collection_id)s AND {" AND ".join(self._conditions) or "true"}
        """  # noqa: S608  (made of the constants above)

    @property
    def _conditions(self) -> list[str]:
        conditions = [] if self.groups is None else [_READABLE]
        return conditions + [_MATCHES.format(number=number) for number in range(len(self.filters))]

    def _alternatives(self, key: str) -> list[dict[str, object]]:
        """The metadata that satisfies a key's filter: the plain value, or a list that holds it."""
        value = self.filters[key]
        values = list(value) if isinstance(value, list | tuple) else [value]
        return [{key: shape} for one in values for shape in (one, [one])]
