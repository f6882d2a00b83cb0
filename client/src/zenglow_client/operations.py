"""The one table of what this client calls: held to the server's OpenAPI document by a test."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from zenglow_client import models


@dataclass(frozen=True, slots=True)
class Operation:
    """``fields`` are the members of a JSON body; ``answer`` is what a good answer holds, ``None`` for nothing.

    ``is_repeatable``: doing it twice is doing it once, by its nature or by the ``Idempotency-Key`` that goes with it.
    """

    id: str
    method: str
    path: str
    answer: type[BaseModel] | None
    query: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    takes_idempotency_key: bool = False

    @property
    def is_repeatable(self) -> bool:
        return (
            self.takes_idempotency_key
            or self.method in {"GET", "DELETE"}
            or self.id in {"query2", "query", "give_feedback"}
        )


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PAGE = "limit cursor"
ABOUT_DOCUMENT = "title source external_url metadata access_groups"
COLLECTION_SETTINGS = (
    "title description text_configuration split_identifiers chunk_tokens chunk_overlap_tokens default_access_groups"
)
COLLECTION = "/rag/collections/{slug}"
DOCUMENT = f"{COLLECTION}/documents/{{document_id}}"
WEIGHTS = "/rag/fusion/weights"

SEARCH = Operation(
    "query2",
    "POST",
    "/rag/query2",
    models.SearchAnswer,
    fields=_names("query top_k offset collection filters group_by explain"),
)
ASK = Operation(
    "query",
    "POST",
    "/rag/query",
    models.AnswerText,
    fields=_names("query collection agent filters top_k history max_tokens temperature stop stream"),
)
LIST_COLLECTIONS = Operation("list_collections", "GET", "/rag/collections", models.CollectionPage, query=_names(PAGE))
GET_COLLECTION = Operation("get_collection", "GET", COLLECTION, models.Collection)
CREATE_COLLECTION = Operation(
    "create_collection",
    "POST",
    "/rag/collections",
    models.Collection,
    fields=_names(f"slug {COLLECTION_SETTINGS}"),
    takes_idempotency_key=True,
)
UPDATE_COLLECTION = Operation(
    "update_collection",
    "PATCH",
    COLLECTION,
    models.UpdatedCollection,
    fields=_names(COLLECTION_SETTINGS),
    takes_idempotency_key=True,
)
DELETE_COLLECTION = Operation("delete_collection", "DELETE", COLLECTION, None, query=_names("confirm"))
LIST_DOCUMENTS = Operation(
    "list_documents", "GET", "/rag/documents", models.DocumentPage, query=_names(f"collection state q {PAGE}")
)
INDEX_DOCUMENTS = Operation(
    "index_documents",
    "POST",
    "/rag/documents",
    models.IndexRun,
    fields=_names("collection documents"),
    takes_idempotency_key=True,
)
GET_DOCUMENT = Operation("get_document", "GET", DOCUMENT, models.Document)
PUT_DOCUMENT = Operation(
    "put_document",
    "PUT",
    DOCUMENT,
    models.IndexRun,
    fields=_names(f"text media_type {ABOUT_DOCUMENT}"),
    takes_idempotency_key=True,
)
DELETE_DOCUMENT = Operation("delete_document", "DELETE", DOCUMENT, None)
RESTORE_DOCUMENT = Operation(
    "restore_document", "POST", f"{DOCUMENT}/restore", models.IndexRun, takes_idempotency_key=True
)
REINDEX_DOCUMENT = Operation(
    "reindex_document", "POST", f"{DOCUMENT}/reindex", models.IndexRun, takes_idempotency_key=True
)
GET_INDEX_RUN = Operation(
    "get_index_run", "GET", "/rag/index-runs/{run_id}", models.IndexRunDetail, query=_names(f"state {PAGE}")
)
GIVE_FEEDBACK = Operation(
    "give_feedback",
    "POST",
    "/rag/feedback",
    models.Feedback,
    fields=_names("request_id chunk_id kind value position"),
)
GET_WEIGHTS = Operation("get_fusion_weights", "GET", WEIGHTS, models.DeployedWeights, query=_names("collection"))
PUT_WEIGHTS = Operation(
    "put_fusion_weights",
    "PUT",
    WEIGHTS,
    models.DeployedWeights,
    query=_names("collection"),
    fields=_names("ltr conceptual reason"),
)
ROLL_BACK_WEIGHTS = Operation(
    "roll_back_fusion_weights",
    "POST",
    f"{WEIGHTS}/rollback",
    models.DeployedWeights,
    query=_names("collection"),
    fields=_names("version reason"),
)
LIST_WEIGHTS = Operation(
    "list_fusion_weights_history",
    "GET",
    f"{WEIGHTS}/history",
    models.WeightsPage,
    query=_names(f"collection {PAGE}"),
)
LIST_SOURCES = Operation("list_sources", "GET", "/rag/sources", models.SourcePage, query=_names(PAGE))
GET_SOURCE = Operation("get_source", "GET", "/rag/sources/{name}", models.SourceDetail)
SYNC_SOURCE = Operation(
    "sync_source",
    "POST",
    "/rag/sources/{name}/sync",
    models.SourceDetail,
    fields=_names("dry_run may_be_empty"),
)
HEALTH = Operation("health_ready", "GET", "/health/ready", models.Ready)

OPERATIONS = tuple(value for value in list(globals().values()) if isinstance(value, Operation))
