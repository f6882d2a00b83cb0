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

_READABLE = """
    (CASE WHEN d.access_groups = '{}' THEN c.default_access_groups ELSE d.access_groups END = '{}'
     OR CASE WHEN d.access_groups = '{}' THEN c.default_access_groups ELSE d.access_groups END && %(groups)s::varchar[])
"""

_MATCHES = """
    NOT EXISTS (
        SELECT 1 FROM jsonb_array_elements(%(filters)s::jsonb) AS wanted
        WHERE NOT EXISTS (
            SELECT 1 FROM jsonb_array_elements(wanted) AS alternative WHERE d.metadata @> alternative
        )
    )
"""


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

    @property
    def _chunks(self) -> str:
        conditions = ["d.collection_id = %(collection_id)s"]
        if self.groups is not None:
            conditions.append(_READABLE)
        if self.filters:
            conditions.append(_MATCHES)
        return f"""
            SELECT chunk.id AS chunk_id
            FROM rag_document d
            JOIN rag_collection c ON c.id = d.collection_id
            JOIN rag_chunk chunk ON chunk.document_id = d.id
            WHERE {" AND ".join(conditions)}
        """  # noqa: S608  (made of the constants above)

    @property
    def parameters(self) -> dict[str, object]:
        return {"groups": list(self.groups or ()), "filters": json.dumps(self._alternatives())}

    def _alternatives(self) -> list[list[dict[str, object]]]:
        """For each key the documents that satisfy it: the plain value, or a list that holds it."""
        wanted = []
        for key, value in self.filters.items():
            values = list(value) if isinstance(value, list | tuple) else [value]
            wanted.append([{key: shape} for one in values for shape in (one, [one])])
        return wanted
