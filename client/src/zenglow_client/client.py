"""The typed client: one method for each operation of the server that programs need."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, TypeVar, cast
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from zenglow_client import models, operations, settings
from zenglow_client.errors import ServerAwayError, UnexpectedAnswerError, api_error
from zenglow_client.operations import Operation
from zenglow_client.transport import VERSION, Patience, Transport

AnswerT = TypeVar("AnswerT", bound=BaseModel)
Scalar = str | int | float | bool | None
Filters = Mapping[str, Scalar | Sequence[Scalar]]

DEFAULT_TIMEOUT_S = 60.0
FIRST_LOOK_S = 0.2
LONGEST_LOOK_S = 2.0


class _NamedText(TypedDict):
    document_id: str
    text: str


class DocumentText(_NamedText, total=False):
    """A document as text, for `ZenGlow.index`."""

    title: str
    source: str
    external_url: str | None
    metadata: Mapping[str, Any]
    access_groups: Sequence[str]
    media_type: str


class Turn(TypedDict):
    """Something that was said before the question; ``role`` is ``user`` or ``assistant``."""

    role: str
    content: str


class ZenGlow:
    """A ZenGlow server.

    ``url`` and ``api_key`` come from ``ZENGLOW_URL`` and ``ZENGLOW_API_KEY`` or from what ``zenglow login`` kept where
    they are not given. Every method raises errors of `zenglow_client.errors` alone. To be closed, best by ``with``.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        patience: Patience | None = None,
    ) -> None:
        chosen = settings.load(url, api_key)
        self.url = chosen.url
        headers = {"User-Agent": f"zenglow-client/{VERSION}"}
        if chosen.api_key:
            headers["Authorization"] = f"Bearer {chosen.api_key}"
        client = httpx.Client(base_url=chosen.url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=10.0))
        self.patience = patience or Patience()
        self._transport = Transport(client, self.patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # --- search ----

    def search(
        self,
        query: str,
        *,
        collection: str | None = None,
        top_k: int | None = None,
        offset: int | None = None,
        filters: Filters | None = None,
        group_by: Literal["document"] | None = None,
        explain: bool | None = None,
    ) -> models.SearchAnswer:
        """Passages, best first. ``filters``: metadata key to a value, or to a list of alternatives."""
        body = _given(
            query=query,
            collection=collection,
            top_k=top_k,
            offset=offset,
            filters=filters,
            group_by=group_by,
            explain=explain,
        )
        return self._call(operations.SEARCH, models.SearchAnswer, body=body)

    def ask(
        self,
        query: str,
        *,
        collection: str | None = None,
        agent: str | None = None,
        filters: Filters | None = None,
        top_k: int | None = None,
        history: Sequence[Turn] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
    ) -> models.AnswerText:
        """An answer from the documents, with numbered citations."""
        body = _question(query, collection, agent, filters, top_k, history, max_tokens, temperature, stop)
        return self._call(operations.ASK, models.AnswerText, body=body)

    @contextmanager
    def ask_streaming(
        self,
        query: str,
        *,
        collection: str | None = None,
        agent: str | None = None,
        filters: Filters | None = None,
        top_k: int | None = None,
        history: Sequence[Turn] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
    ) -> Iterator[Iterator[str | models.AnswerText]]:
        """The same as it is written: pieces of text, then the whole answer. Leaving the block ends it on the server.

        with zenglow.ask_streaming("how warm should green tea be?") as pieces:
            for piece in pieces: ...
        """
        body = _question(query, collection, agent, filters, top_k, history, max_tokens, temperature, stop)
        operation = operations.ASK
        with self._transport.stream(operation.method, operation.path, json=body | {"stream": True}) as response:
            yield _pieces(response)

    def give_feedback(
        self,
        request_id: uuid.UUID | str,
        chunk_id: int,
        kind: models.FeedbackKind,
        value: int | None = None,
        *,
        position: int | None = None,
    ) -> models.Feedback:
        """Judge (0 to 3), vote on (1 or -1) or click a passage that the answer ``request_id`` showed."""
        body = _given(request_id=str(request_id), chunk_id=chunk_id, kind=kind, value=value, position=position)
        return self._call(operations.GIVE_FEEDBACK, models.Feedback, body=body)

    # --- collections ----

    def collections(self) -> Iterator[models.Collection]:
        """Those that you may touch, by slug."""
        for page in self._pages(operations.LIST_COLLECTIONS, models.CollectionPage):
            yield from page.results

    def collection(self, slug: str) -> models.Collection:
        return self._call(operations.GET_COLLECTION, models.Collection, {"slug": slug})

    def create_collection(
        self,
        slug: str,
        *,
        title: str | None = None,
        description: str | None = None,
        text_configuration: str | None = None,
        split_identifiers: bool | None = None,
        chunk_tokens: int | None = None,
        chunk_overlap_tokens: int | None = None,
        default_access_groups: Sequence[str] | None = None,
    ) -> models.Collection:
        """Make a collection. What is not given is the server's default."""
        body = _given(
            slug=slug,
            title=title,
            description=description,
            text_configuration=text_configuration,
            split_identifiers=split_identifiers,
            chunk_tokens=chunk_tokens,
            chunk_overlap_tokens=chunk_overlap_tokens,
            default_access_groups=default_access_groups,
        )
        return self._call(operations.CREATE_COLLECTION, models.Collection, body=body)

    def update_collection(
        self,
        slug: str,
        *,
        title: str | None = None,
        description: str | None = None,
        text_configuration: str | None = None,
        split_identifiers: bool | None = None,
        chunk_tokens: int | None = None,
        chunk_overlap_tokens: int | None = None,
        default_access_groups: Sequence[str] | None = None,
    ) -> models.UpdatedCollection:
        """Change settings. Those that decide how documents are indexed start a run over all of them."""
        body = _given(
            title=title,
            description=description,
            text_configuration=text_configuration,
            split_identifiers=split_identifiers,
            chunk_tokens=chunk_tokens,
            chunk_overlap_tokens=chunk_overlap_tokens,
            default_access_groups=default_access_groups,
        )
        return self._call(operations.UPDATE_COLLECTION, models.UpdatedCollection, {"slug": slug}, body=body)

    def delete_collection(self, slug: str, *, confirm: str) -> None:
        """Delete a collection with all its documents, for good. ``confirm`` repeats the slug."""
        self._send(operations.DELETE_COLLECTION, {"slug": slug}, query={"confirm": confirm})

    # --- documents ----

    def documents(
        self, *, collection: str | None = None, state: models.DocumentState | None = None, q: str | None = None
    ) -> Iterator[models.DocumentSummary]:
        """Those that you may read, the last added first. ``q``: part of the id, the title or the source."""
        query = _given(collection=collection, state=state, q=q)
        for page in self._pages(operations.LIST_DOCUMENTS, models.DocumentPage, query=query):
            yield from page.results

    def document(self, slug: str, document_id: str) -> models.Document:
        return self._call(operations.GET_DOCUMENT, models.Document, {"slug": slug, "document_id": document_id})

    def index(self, documents: Sequence[DocumentText], *, collection: str | None = None) -> models.IndexRun:
        """Index texts. What is unchanged costs nothing; `follow` sees the run through."""
        body = _given(collection=collection, documents=[dict(document) for document in documents])
        return self._call(operations.INDEX_DOCUMENTS, models.IndexRun, body=body)

    def put_document(
        self,
        slug: str,
        document_id: str,
        text: str,
        *,
        title: str | None = None,
        source: str | None = None,
        external_url: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        access_groups: Sequence[str] | None = None,
        media_type: str | None = None,
    ) -> models.IndexRun:
        """Add a document, or replace it."""
        body = _given(
            text=text,
            title=title,
            source=source,
            external_url=external_url,
            metadata=metadata,
            access_groups=access_groups,
            media_type=media_type,
        )
        place = {"slug": slug, "document_id": document_id}
        return self._call(operations.PUT_DOCUMENT, models.IndexRun, place, body=body)

    def upload(
        self,
        file: Path,
        *,
        collection: str | None = None,
        document_id: str | None = None,
        title: str | None = None,
        source: str | None = None,
        external_url: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        access_groups: Sequence[str] | None = None,
    ) -> models.IndexRun:
        """Index a file of any kind that the server reads. Its name is its id where none is given.

        Raises ``OSError`` for a file that can't be read.
        """
        form = _given(
            collection=collection,
            document_id=document_id,
            title=title,
            source=source,
            external_url=external_url,
            metadata=None if metadata is None else json.dumps(metadata),
            access_groups=None if access_groups is None else list(access_groups),
        )
        response = self._send(operations.INDEX_DOCUMENTS, data=form, files=[("files", (file.name, file.read_bytes()))])
        return _read(models.IndexRun, response)

    def delete_document(self, slug: str, document_id: str) -> None:
        """Take a document out of the search at once. For a time it can be restored."""
        self._send(operations.DELETE_DOCUMENT, {"slug": slug, "document_id": document_id})

    def restore_document(self, slug: str, document_id: str) -> models.IndexRun:
        return self._call(operations.RESTORE_DOCUMENT, models.IndexRun, {"slug": slug, "document_id": document_id})

    def reindex_document(self, slug: str, document_id: str) -> models.IndexRun:
        return self._call(operations.REINDEX_DOCUMENT, models.IndexRun, {"slug": slug, "document_id": document_id})

    def index_run(
        self, run_id: uuid.UUID | str, *, state: str | None = None, limit: int | None = None
    ) -> models.IndexRunDetail:
        """How far a run is, with the first page of documents that became ``state``."""
        query = _given(state=state, limit=limit)
        return self._call(operations.GET_INDEX_RUN, models.IndexRunDetail, {"run_id": str(run_id)}, query=query)

    def follow(self, run: models.IndexRun) -> Iterator[models.IndexRun]:
        """The run as it goes on, until it is over; the last one says how it ended."""
        pause_s = FIRST_LOOK_S
        while not run.is_over:
            self.patience.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)
            run = self.index_run(run.id, limit=1)
            yield run

    # --- fusion weights ----

    def weights(self, collection: str | None = None) -> models.DeployedWeights:
        """The live weights: a collection's own, else the global ones."""
        return self._call(operations.GET_WEIGHTS, models.DeployedWeights, query=_given(collection=collection))

    def set_weights(
        self, ltr: float, conceptual: float, *, reason: str = "", collection: str | None = None
    ) -> models.DeployedWeights:
        """Put a new version live. Raises `BadRequestError` (412) when somebody else changes them at the same moment."""
        body = {"ltr": ltr, "conceptual": conceptual, "reason": reason}
        return self._change_weights(operations.PUT_WEIGHTS, body, collection)

    def roll_back_weights(
        self, version: int | None = None, *, reason: str = "", collection: str | None = None
    ) -> models.DeployedWeights:
        """Put back what was live before the last change, or a version."""
        return self._change_weights(operations.ROLL_BACK_WEIGHTS, _given(version=version, reason=reason), collection)

    def weights_history(self, collection: str | None = None) -> Iterator[models.DeployedWeights]:
        """What was live when, by whom and why; newest first."""
        query = _given(collection=collection)
        for page in self._pages(operations.LIST_WEIGHTS, models.WeightsPage, query=query):
            yield from page.results

    # --- sources ----

    def sources(self) -> Iterator[models.Source]:
        """The places that are looked at by a schedule, by name."""
        for page in self._pages(operations.LIST_SOURCES, models.SourcePage):
            yield from page.results

    def source(self, name: str) -> models.SourceDetail:
        return self._call(operations.GET_SOURCE, models.SourceDetail, {"name": name})

    def sync_source(self, name: str, *, dry_run: bool = False, may_be_empty: bool = False) -> models.SourceDetail:
        """Have a worker look at once; `source` then says how far it is. 409 while somebody looks."""
        body = {"dry_run": dry_run, "may_be_empty": may_be_empty}
        return self._call(operations.SYNC_SOURCE, models.SourceDetail, {"name": name}, body=body)

    # --- the server itself ----

    def ready(self) -> models.Ready:
        """Whether the server can answer. Raises `ServerError` (503) when it can't."""
        return self._call(operations.HEALTH, models.Ready)

    # --- how ----

    def _change_weights(
        self, operation: Operation, body: Mapping[str, Any], collection: str | None
    ) -> models.DeployedWeights:
        query = _given(collection=collection)
        current = self._send(operations.GET_WEIGHTS, query=query)
        response = self._send(operation, query=query, body=body, headers={"If-Match": current.headers["ETag"]})
        return _read(models.DeployedWeights, response)

    def _pages(
        self, operation: Operation, answer: type[AnswerT], query: Mapping[str, Any] | None = None
    ) -> Iterator[AnswerT]:
        """The pages of a list. The next one's cursor is taken from its address; a proxy may have changed the rest."""
        asked = dict(query or {})
        while True:
            page = self._call(operation, answer, query=asked)
            yield page
            following = cast("str | None", getattr(page, "next", None))
            if following is None:
                return
            asked |= {"cursor": dict(parse_qsl(urlsplit(following).query))["cursor"]}

    def _call(
        self,
        operation: Operation,
        answer: type[AnswerT],
        place: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> AnswerT:
        return _read(answer, self._send(operation, place, query=query, body=body))

    def _send(
        self,
        operation: Operation,
        place: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        # An id may hold slashes, which the server reads as part of it.
        path = operation.path.format(**{name: quote(value, safe="/") for name, value in (place or {}).items()})
        sent = dict(headers or {})
        if operation.takes_idempotency_key:
            sent["Idempotency-Key"] = str(uuid.uuid4())
        if body is not None:
            options["json"] = body
        return self._transport.send(
            operation.method,
            path,
            is_repeatable=operation.is_repeatable,
            params=dict(query or {}),
            headers=sent,
            **options,
        )


def _question(
    query: str,
    collection: str | None,
    agent: str | None,
    filters: Filters | None,
    top_k: int | None,
    history: Sequence[Turn] | None,
    max_tokens: int | None,
    temperature: float | None,
    stop: Sequence[str] | None,
) -> dict[str, Any]:
    return _given(
        query=query,
        collection=collection,
        agent=agent,
        filters=filters,
        top_k=top_k,
        history=None if history is None else list(history),
        max_tokens=max_tokens,
        temperature=temperature,
        stop=None if stop is None else list(stop),
    )


def _pieces(response: httpx.Response) -> Iterator[str | models.AnswerText]:
    """What a stream of events says. Raises `ZenGlowError` for an error event, and for a stream that breaks off."""
    try:
        for name, data in events_of(response.iter_lines()):
            if name == "token":
                yield str(data["text"])
            elif name == "done":
                yield models.AnswerText.model_validate(data)
                return
            elif name == "error":
                problem = data.get("problem") or {}
                raise api_error(int(problem.get("status", 500)), problem, None)
    except httpx.TransportError as error:
        raise ServerAwayError("The connection broke in the middle of the answer.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedAnswerError(f"The stream can't be read ({error}).") from None
    raise ServerAwayError("The answer broke off before its end.")


def events_of(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The name and JSON of each server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    name = ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield name, json.loads("\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _given(**values: Any) -> dict[str, Any]:
    """Without what was left out, which the server decides."""
    return {name: value for name, value in values.items() if value is not None}


def _read(answer: type[AnswerT], response: httpx.Response) -> AnswerT:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise UnexpectedAnswerError(
            f"{response.request.url} did not answer as a ZenGlow server does ({place}: {fault['msg']})."
        ) from None
