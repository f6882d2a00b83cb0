"""``/rag/conversations``: a caller's own conversations, to be listed, read, exported, shared, judged and deleted."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ops.api.fields import StrictBooleanField, StrictCharField, StrictIntegerField, StrictSerializer
from ops.contracts.principal import Principal, Scope
from ops.requests import ApiRequest
from rag.chat import conversations
from rag.models import Conversation, Verdict


class ConversationSerializer(serializers.Serializer[Conversation]):
    id = serializers.UUIDField()
    title = serializers.CharField()
    collection = serializers.CharField()
    share_id = serializers.UUIDField(allow_null=True, help_text="Others read it at `/shared/{share_id}/`.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ConversationListSerializer(serializers.Serializer[Any]):
    conversations = ConversationSerializer(many=True)


class TurnAnswerSerializer(serializers.Serializer[Any]):
    request_id = serializers.UUIDField()
    agent = serializers.CharField()
    state = serializers.CharField(help_text="`writing`, `done`, `stopped` or `failed`.")
    failure = serializers.CharField()
    answer = serializers.DictField(allow_null=True, help_text="As `POST /rag/query` answers.")


class ConversationTurnSerializer(serializers.Serializer[Any]):
    turn = serializers.IntegerField()
    question = serializers.CharField()
    answers = serializers.DictField(child=TurnAnswerSerializer(), help_text="By pane: `left`, `right`.")
    verdict = serializers.ChoiceField(choices=Verdict.choices, allow_null=True)


class ConversationDetailSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    title = serializers.CharField()
    collection = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    turns = ConversationTurnSerializer(many=True)


class ConversationChangeSerializer(StrictSerializer):
    title = StrictCharField(required=False, max_length=200)
    shared = StrictBooleanField(required=False, help_text="Whether others may read it under its address.")


class NewVerdictSerializer(StrictSerializer):
    turn = StrictIntegerField(min_value=1)
    verdict = serializers.ChoiceField(choices=Verdict.choices)


class VerdictSerializer(serializers.Serializer[Any]):
    turn = serializers.IntegerField()
    verdict = serializers.ChoiceField(choices=Verdict.choices)


def _principal(request: Request) -> Principal:
    return cast(ApiRequest, request).principal


class ConversationsView(APIView):
    required_scopes = {"GET": Scope.QUERY}

    @extend_schema(
        operation_id="list_conversations",
        tags=["conversations"],
        parameters=[OpenApiParameter("q", str, description="Words that are said in it.")],
        responses=ConversationListSerializer,
    )
    def get(self, request: Request) -> Response:
        """Your conversations, the latest first; at most a hundred."""
        found = conversations.conversations_of(_principal(request), request.query_params.get("q", ""))
        return Response(ConversationListSerializer({"conversations": found[: conversations.PAGE]}).data)


class ConversationView(APIView):
    required_scopes = {"GET": Scope.QUERY, "PATCH": Scope.QUERY, "DELETE": Scope.QUERY}

    @extend_schema(operation_id="get_conversation", tags=["conversations"], responses=ConversationDetailSerializer)
    def get(self, request: Request, conversation_id: UUID) -> Response:
        """A whole conversation, with every answer and its sources: this is its export, too."""
        found = conversations.own(conversation_id, _principal(request))
        response = Response(conversations.export(found))
        response["Content-Disposition"] = f'attachment; filename="conversation-{found.pk}.json"'
        return response

    @extend_schema(
        operation_id="update_conversation",
        tags=["conversations"],
        request=ConversationChangeSerializer,
        responses=ConversationSerializer,
    )
    def patch(self, request: Request, conversation_id: UUID) -> Response:
        """Name it anew, share it, or end that."""
        found = conversations.own(conversation_id, _principal(request))
        body = ConversationChangeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        if "title" in body.validated_data:
            found.title = body.validated_data["title"]
            found.save(update_fields=["title"])
        if "shared" in body.validated_data:
            conversations.share(found, _principal(request), shared=body.validated_data["shared"])
        return Response(ConversationSerializer(found).data)

    @extend_schema(operation_id="delete_conversation", tags=["conversations"], responses={204: None})
    def delete(self, request: Request, conversation_id: UUID) -> Response:
        """Delete it with all its answers. It can't be undone."""
        conversations.delete(conversations.own(conversation_id, _principal(request)), _principal(request))
        return Response(status=204)


class VerdictView(APIView):
    required_scopes = {"POST": Scope.FEEDBACK}

    @extend_schema(
        operation_id="give_verdict",
        tags=["conversations"],
        request=NewVerdictSerializer,
        responses={200: VerdictSerializer},
    )
    def post(self, request: Request, conversation_id: UUID) -> Response:
        """Say which of a turn's two answers was better. The same again changes it."""
        principal = _principal(request)
        body = NewVerdictSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        found = conversations.own(conversation_id, principal)
        row = conversations.vote(found, body.validated_data["turn"], body.validated_data["verdict"], principal)
        return Response(VerdictSerializer(row).data)
