"""``POST /rag/feedback``."""

from __future__ import annotations

from typing import Any, cast

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ops.api.fields import StrictIntegerField, StrictSerializer
from ops.contracts.principal import Scope
from ops.requests import ApiRequest
from rag import feedback
from rag.models import Feedback, FeedbackKind


class NewFeedbackSerializer(StrictSerializer):
    request_id = serializers.UUIDField(help_text="Of the answer that showed the passage.")
    chunk_id = StrictIntegerField(help_text="The passage.")
    kind = serializers.ChoiceField(choices=FeedbackKind.choices)
    value = StrictIntegerField(
        required=False, help_text="A grade from 0 to 3 of a judgement, 1 or -1 of a vote; nothing for a click."
    )
    position = StrictIntegerField(required=False, help_text="Where you saw it, 0 first; checked when it is given.")


class FeedbackSerializer(serializers.Serializer[Feedback]):
    id = serializers.IntegerField()
    request_id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=FeedbackKind.choices)
    value = serializers.IntegerField()
    chunk_id = serializers.IntegerField()
    document_id = serializers.CharField()
    position = serializers.IntegerField()
    weight = serializers.FloatField(help_text="Inverse of the share of people who look at this position.")
    variant = serializers.CharField()


class FeedbackView(APIView):
    required_scopes = {"POST": Scope.FEEDBACK}

    @extend_schema(
        operation_id="give_feedback",
        tags=["search"],
        request=NewFeedbackSerializer,
        responses={200: FeedbackSerializer, 201: FeedbackSerializer},
    )
    def post(self, request: Request) -> Response:
        """Judge, click or vote on a passage that an answer showed you. The same again changes it and counts once."""
        body = NewFeedbackSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given: dict[str, Any] = dict(body.validated_data)
        given["kind"] = FeedbackKind(given["kind"])
        row, is_new = feedback.give(feedback.Given(**given), cast(ApiRequest, request).principal)
        return Response(FeedbackSerializer(row).data, status=201 if is_new else 200)
