"""The routes below ``/v1``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from django.http import HttpResponseBase, StreamingHttpResponse
from django.urls import reverse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api.queries import principal_of
from ops.api.rendering import JSONRenderer
from ops.contracts.principal import Scope
from ops.contracts.problems import InvalidRequest
from ops.requests import ApiRequest
from rag.answers import service
from rag.answers.contracts import Answer, Citation
from rag.api.answers import ANSWER_COST, EVENT_STREAM, EventStreamRenderer
from rag.openai_api import chat, embeddings, models
from rag.openai_api.errors import ErrorBodySerializer
from rag.openai_api.serializers import (
    ChatRequestSerializer,
    CompletionSerializer,
    EmbeddingListSerializer,
    EmbeddingsRequestSerializer,
    OpenAIModelListSerializer,
    OpenAIModelSerializer,
)

TAGS = ["openai"]


class OpenAIView(APIView):
    """A route whose errors are OpenAI's."""

    problem_schema = (ErrorBodySerializer, "application/json")


class ModelsView(OpenAIView):
    required_scopes = {"GET": Scope.QUERY}

    @extend_schema(operation_id="openai_list_models", tags=TAGS, responses=OpenAIModelListSerializer)
    def get(self, request: Request) -> Response:
        """What can be named as `model`: agents, alone or on a collection (`agent@collection`), and the embedder."""
        listed = [_model(one) for one in models.listed(principal_of(request))]
        return Response({"object": "list", "data": listed})


class ModelView(OpenAIView):
    required_scopes = {"GET": Scope.QUERY}

    @extend_schema(operation_id="openai_get_model", tags=TAGS, responses=OpenAIModelSerializer)
    def get(self, request: Request, name: str) -> Response:
        """One of them."""
        return Response(_model(models.find(name, principal_of(request))))


class ChatView(OpenAIView):
    required_scopes = {"POST": Scope.QUERY}
    rate_costs = {"POST": ANSWER_COST}
    renderer_classes = [JSONRenderer, EventStreamRenderer]

    @extend_schema(
        operation_id="openai_chat",
        tags=TAGS,
        request=ChatRequestSerializer,
        responses={
            (200, "application/json"): CompletionSerializer,
            (200, EVENT_STREAM): OpenApiResponse({"type": "string"}, "With `stream`: `chat.completion.chunk` objects."),
        },
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Answer from the documents. Citations are annotations; `zenglow` holds what OpenAI has no place for."""
        body = ChatRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given: dict[str, Any] = dict(body.validated_data)
        asked = cast(ApiRequest, request)
        agent, collection = models.agent_and_collection(given["model"])
        asks = chat.question(given, agent, collection)

        def link(answer: Answer, cited: Citation) -> str:
            passage = next((one for one in answer.passages if one.number == cited.number), None)
            if passage is not None and passage.external_url:
                return passage.external_url
            page = reverse("document", args=[cited.pk])
            return request.build_absolute_uri(f"{page}?start={cited.start}&end={cited.end}#passage")

        if not given.get("stream"):
            answer = service.answer(asks, asked.principal, request_id=asked.request_id)
            return Response(chat.completion(answer, given["model"], link))
        # What is wrong with the question is refused as such, before anything is streamed.
        prepared = service.prepare(asks, asked.principal, request_id=asked.request_id)
        include_usage = bool((given.get("stream_options") or {}).get("include_usage"))
        chunks = chat.Chunks(asked.request_id, given["model"], link, include_usage=include_usage)
        response = StreamingHttpResponse(_events(prepared, chunks), content_type=f"{EVENT_STREAM}; charset=utf-8")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
        return response


class EmbeddingsView(OpenAIView):
    required_scopes = {"POST": Scope.QUERY}
    rate_costs = {"POST": 5.0}

    @extend_schema(
        operation_id="openai_embeddings",
        tags=TAGS,
        request=EmbeddingsRequestSerializer,
        responses=EmbeddingListSerializer,
    )
    def post(self, request: Request) -> Response:
        """Unit vectors of texts, by the embedder that searches use."""
        body = EmbeddingsRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given: dict[str, Any] = dict(body.validated_data)
        texts = embeddings.inputs_of(given["input"])
        embedder = models.embedder_of(given["model"])
        dimensions = given.get("dimensions", embedder.space.dimension)
        if dimensions != embedder.space.dimension:
            fault = f"The vectors of {given['model']} have {embedder.space.dimension} numbers."
            raise InvalidRequest(f"dimensions: {fault}", errors={"dimensions": fault})
        return Response(
            embeddings.embed(
                embedder,
                texts,
                as_query=given.get("input_type") == "query",
                as_base64=given.get("encoding_format") == "base64",
                model=given["model"],
            )
        )


async def _events(prepared: service.Prepared, chunks: chat.Chunks) -> AsyncIterator[bytes]:
    """The stream. When whoever asked leaves, it is closed, and with it what writes."""
    yield chat.framed(chunks.first())
    async with aclosing(service.stream_prepared(prepared)) as events:
        async for event in events:
            for chunk in chunks.of(event):
                yield chat.framed(chunk)
    yield chat.LAST


def _model(named: models.Named) -> dict[str, Any]:
    return {"id": named.id, "object": "model", "created": named.created, "owned_by": models.OWNER}
