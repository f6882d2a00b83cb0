"""``POST /rag/query``: the same retrieval as ``query2`` plus an answer with citations, whole or as it is written."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast
from uuid import UUID

from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ops.api.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
)
from ops.api.rendering import JSONRenderer
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import InvalidRequest
from ops.requests import ApiRequest
from rag.answers import relay, service, wire
from rag.answers.contracts import AnswerRequest, Turn
from rag.api.search_serializers import FiltersField

EVENT_STREAM = "text/event-stream"

ANSWER_COST = 5.0
"""Tokens of the rate limit that an answer costs: it takes about as long as so many searches."""


_turns = threading.BoundedSemaphore(6)
"""Questions whose passages are looked for at once. Those of more threads would only keep each other, and the answers
that are being written, from the interpreter: `bench.answers_soak` shows it."""


class EventStreamRenderer(BaseRenderer):
    """Stands for the streamed form in content negotiation; problems are JSON in both forms."""

    media_type = EVENT_STREAM
    format = "sse"
    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        rendered: bytes = JSONRenderer().render(data)
        return rendered


ROLES = ("user", "assistant")


class TurnSerializer(StrictSerializer):
    role = serializers.ChoiceField(choices=ROLES)
    content = StrictCharField(allow_blank=True, trim_whitespace=False)


class AnswerRequestSerializer(StrictSerializer):
    """Bounds that depend on settings are checked by the service, for every way in alike."""

    query = StrictCharField(allow_blank=True, trim_whitespace=False, help_text="The question, in words.")
    collection = StrictCharField(required=False, help_text="Slug; without it the agent's, or RAG_DEFAULT_COLLECTION.")
    agent = StrictCharField(required=False, help_text="Slug of an agent; GET /registry/agents lists them.")
    filters = FiltersField(required=False, help_text="Metadata key to a value, or to a list of alternatives.")
    top_k = StrictIntegerField(required=False, min_value=1, help_text="Passages to look at.")
    history = TurnSerializer(many=True, required=False, help_text="What was said before, oldest first.")
    max_tokens = StrictIntegerField(required=False, min_value=1)
    temperature = StrictFloatField(required=False, min_value=0, max_value=2)
    stop = serializers.ListField(child=StrictCharField(trim_whitespace=False), required=False)
    stream = StrictBooleanField(required=False, help_text="Answer with events, as `Accept: text/event-stream` does.")


class PassageSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField(help_text="What the answer cites it by.")
    chunk_id = serializers.IntegerField()
    chunk_ids = serializers.ListField(child=serializers.IntegerField(), help_text="Neighbours that were joined.")
    pk = serializers.IntegerField(help_text="Of the document, in its pages' addresses.")
    document_id = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # a serializer attribute of that name means nothing here
    title = serializers.CharField()
    heading_path = serializers.ListField(child=serializers.CharField())
    page = serializers.IntegerField(allow_null=True)
    external_url = serializers.CharField(allow_null=True)
    text = serializers.CharField()
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    score = serializers.FloatField(help_text="The fused score, 0 to 1.")


class CitationSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    at = serializers.IntegerField(help_text="Character of the answer at which its marker begins.")
    chunk_id = serializers.IntegerField()
    pk = serializers.IntegerField()
    document_id = serializers.CharField()
    title = serializers.CharField()
    page = serializers.IntegerField(allow_null=True)
    start = serializers.IntegerField(help_text="Characters of the document's text.")
    end = serializers.IntegerField()
    quote = serializers.CharField()


class SentenceSerializer(serializers.Serializer[Any]):
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    citations = serializers.ListField(child=serializers.IntegerField())
    support = serializers.FloatField(allow_null=True, help_text="0 to 1; null where nothing is claimed.")
    is_supported = serializers.BooleanField()


class UsageSerializer(serializers.Serializer[Any]):
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()


FINISH_REASONS = ("stop", "length", "abstained", "tool_calls", "stopped", "error")


class AnswerSerializer(serializers.Serializer[Any]):
    request_id = serializers.UUIDField()
    query = serializers.CharField()
    standalone_query = serializers.CharField(help_text="What was searched for: a follow-up with what it leaves out.")
    collection = serializers.CharField()
    agent = serializers.CharField()
    model = serializers.CharField(help_text="Which model answered.")
    text = serializers.CharField()
    sentences = SentenceSerializer(many=True)
    citations = CitationSerializer(many=True)
    passages = PassageSerializer(many=True)
    finish_reason = serializers.ChoiceField(choices=FINISH_REASONS)
    confidence = serializers.FloatField()
    removed_citations = serializers.IntegerField(help_text="Numbers that the model made up.")
    usage = UsageSerializer()
    timings_ms = serializers.DictField(child=serializers.FloatField())
    fallbacks = serializers.ListField(child=serializers.CharField(), help_text="Why models before it did not answer.")
    degraded = serializers.ListField(child=serializers.CharField())
    tool_calls = serializers.ListField(child=serializers.DictField())


class QueryView(APIView):
    """An answer from the documents, with numbered citations."""

    required_scopes = {"POST": Scope.QUERY}
    rate_costs = {"POST": ANSWER_COST}
    renderer_classes = [JSONRenderer, EventStreamRenderer]

    @extend_schema(
        operation_id="query",
        tags=["answers"],
        request=AnswerRequestSerializer,
        responses={
            (200, "application/json"): AnswerSerializer,
            (200, EVENT_STREAM): OpenApiResponse(
                response=str,
                description="Server-sent events: `retrieval`, then `token`, `citation` and `tool_call`, then `done` "
                "(the whole answer) or `error`.",
            ),
        },
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Answer a question from a collection."""
        asked = cast(ApiRequest, request)
        body = AnswerRequestSerializer(data=asked.data)
        body.is_valid(raise_exception=True)
        given: dict[str, Any] = dict(body.validated_data)
        streams = given.pop("stream", False) or asked.accepted_renderer.format == EventStreamRenderer.format
        given["history"] = tuple(Turn(**turn) for turn in given.get("history", ()))
        given["stop"] = tuple(given.get("stop", ()))
        question = AnswerRequest(**given)
        relay.ensure_room()
        facts = {"request_id": asked.request_id, "headers": asked.headers, "cookies": asked.COOKIES}
        if not streams:
            found = service.answer(question, asked.principal, **facts)  # type: ignore[arg-type]
            return Response(wire.answer_json(found))
        with _turns:
            prepared = service.prepare(question, asked.principal, **facts)  # type: ignore[arg-type]
        return event_stream(_begun(question, asked.principal, prepared))


class AnswerEventsView(APIView):
    """The events of an answer again: for a minute, for whoever asked."""

    required_scopes = {"GET": Scope.QUERY}
    renderer_classes = [JSONRenderer, EventStreamRenderer]

    @extend_schema(
        operation_id="answer_events",
        tags=["answers"],
        parameters=[
            OpenApiParameter(
                "Last-Event-ID", int, OpenApiParameter.HEADER, description="Number of the last event that arrived."
            )
        ],
        responses={(200, EVENT_STREAM): OpenApiResponse(response=str, description="As `POST /rag/query` streams.")},
    )
    def get(self, request: Request, request_id: UUID) -> HttpResponseBase:
        """Go on with an answer whose connection broke."""
        principal = cast(ApiRequest, request).principal
        last = request.headers.get("Last-Event-ID", "0")
        if not (last.isascii() and last.isdigit() and len(last) < 10):
            fault = "The number of the last event that arrived."
            raise InvalidRequest(f"Last-Event-ID: {fault}", errors={"Last-Event-ID": fault})
        relay.ensure_kept(str(request_id), principal)
        return event_stream(relay.follow_together(str(request_id), principal, int(last)))


class AnswerView(APIView):
    required_scopes = {"DELETE": Scope.QUERY}

    @extend_schema(operation_id="stop_answer", tags=["answers"], responses={202: None})
    def delete(self, request: Request, request_id: UUID) -> Response:
        """Stop an answer that is being written. What there is until then stays."""
        relay.stop_from_thread(str(request_id), cast(ApiRequest, request).principal)
        return Response(status=202)


async def _begun(
    question: AnswerRequest, principal: Principal, prepared: service.Prepared
) -> AsyncGenerator[Sequence[relay.Event], None]:
    relay.start(question, principal, request_id=prepared.request_id, prepared=prepared)
    async with aclosing(relay.follow_together(prepared.request_id, principal)) as found:
        async for events in found:
            yield events


def event_stream(events: AsyncGenerator[Sequence[relay.Event], None]) -> StreamingHttpResponse:
    """Events as server-sent events, each sent as soon as it is there."""
    response = StreamingHttpResponse(_encoded(events), content_type=f"{EVENT_STREAM}; charset=utf-8")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx would collect them
    return response


async def _encoded(found: AsyncGenerator[Sequence[relay.Event], None]) -> AsyncIterator[bytes]:
    async with aclosing(found) as open_:
        async for events in open_:
            yield b"".join(encode_event(str(number), name, data) for number, name, data in events)


def encode_event(identifier: str, name: str, data: Any) -> bytes:
    """One server-sent event: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"id: {identifier}\nevent: {name}\ndata: {text}\n\n".encode()
