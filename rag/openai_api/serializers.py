"""The shapes of ``/v1``. Fields that we don't know are left out of account, as OpenAI's clients send many."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ops.api.fields import StrictBooleanField, StrictCharField, StrictFloatField, StrictIntegerField
from rag.api.search_serializers import FiltersField

MAX_MESSAGES = 1000
MAX_TOOLS = 128
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

TEXT_OR_TEXTS = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


@extend_schema_field(TEXT_OR_TEXTS)
class StopField(serializers.Field[Any, Any, Any, Any]):
    """A text or a list of texts at which the answer ends."""

    def to_internal_value(self, data: Any) -> tuple[str, ...]:
        texts = [data] if isinstance(data, str) else data
        if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(text, str) and text for text in texts):
            raise serializers.ValidationError("A text, or a list of at most 4 texts.")
        return tuple(texts)

    def to_representation(self, value: Any) -> Any:
        return value


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string"},
            {
                "type": "array",
                "items": {"type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}}},
            },
            {"type": "null"},
        ]
    }
)
class ContentField(serializers.JSONField):
    """Read by `rag.openai_api.chat`."""


class MessageSerializer(serializers.Serializer[Any]):
    role = serializers.ChoiceField(choices=ROLES)
    content = ContentField(required=False, allow_null=True)


class StreamOptionsSerializer(serializers.Serializer[Any]):
    include_usage = StrictBooleanField(required=False)


class ChatRequestSerializer(serializers.Serializer[Any]):
    model = StrictCharField(max_length=200, help_text="An agent, or agent@collection; GET /v1/models lists them.")
    messages = MessageSerializer(many=True, allow_empty=False, max_length=MAX_MESSAGES)  # type: ignore[call-arg]
    stream = StrictBooleanField(required=False, allow_null=True)
    stream_options = StreamOptionsSerializer(required=False, allow_null=True)
    temperature = StrictFloatField(required=False, allow_null=True, min_value=0, max_value=2)
    max_tokens = StrictIntegerField(required=False, allow_null=True, min_value=1)
    max_completion_tokens = StrictIntegerField(required=False, allow_null=True, min_value=1)
    stop = StopField(required=False, allow_null=True)
    n = StrictIntegerField(required=False, allow_null=True, min_value=1, max_value=1, help_text="One answer at a time.")
    tools = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        allow_null=True,
        max_length=MAX_TOOLS,
        help_text="Passed on to a model that takes tools.",
    )
    tool_choice = serializers.JSONField(required=False, allow_null=True)
    collection = StrictCharField(required=False, allow_null=True, help_text="Not OpenAI's: the collection to ask.")
    filters = FiltersField(required=False, allow_null=True, help_text="Not OpenAI's: conditions on metadata.")


@extend_schema_field(TEXT_OR_TEXTS)
class InputField(serializers.JSONField):
    """Read by `rag.openai_api.embeddings`."""


class EmbeddingsRequestSerializer(serializers.Serializer[Any]):
    model = StrictCharField(max_length=200, help_text="The live embedder; GET /v1/models lists it.")
    input = InputField(help_text="A text, or several.")
    encoding_format = serializers.ChoiceField(choices=("float", "base64"), required=False)
    dimensions = StrictIntegerField(required=False, min_value=1, help_text="Only the model's own number.")
    input_type = serializers.ChoiceField(
        choices=("document", "query"), required=False, help_text="Not OpenAI's: which prompt of the model to use."
    )


class OpenAIModelSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.CharField(help_text="model")
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


class OpenAIModelListSerializer(serializers.Serializer[Any]):
    object = serializers.CharField(help_text="list")
    data = OpenAIModelSerializer(many=True)  # type: ignore[assignment]


class UrlCitationSerializer(serializers.Serializer[Any]):
    start_index = serializers.IntegerField(help_text="Where the marker [n] begins in the text.")
    end_index = serializers.IntegerField()
    title = serializers.CharField()
    url = serializers.CharField(help_text="Opens the passage.")


class AnnotationSerializer(serializers.Serializer[Any]):
    type = serializers.CharField(help_text="url_citation")
    url_citation = UrlCitationSerializer()


class AnswerMessageSerializer(serializers.Serializer[Any]):
    role = serializers.CharField(help_text="assistant")
    content = serializers.CharField(allow_null=True)
    refusal = serializers.CharField(allow_null=True)
    annotations = AnnotationSerializer(many=True)
    tool_calls = serializers.ListField(child=serializers.DictField(), required=False)


class ChoiceSerializer(serializers.Serializer[Any]):
    index = serializers.IntegerField()
    message = AnswerMessageSerializer()
    logprobs = serializers.JSONField(allow_null=True)
    finish_reason = serializers.CharField(help_text="stop, length or tool_calls")


class ChatUsageSerializer(serializers.Serializer[Any]):
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class CompletionSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.CharField(help_text="chat.completion")
    created = serializers.IntegerField()
    model = serializers.CharField()
    choices = ChoiceSerializer(many=True)
    usage = ChatUsageSerializer()
    zenglow = serializers.DictField(help_text="Passages, support and timings, as POST /rag/query has them.")


@extend_schema_field({"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]})
class VectorField(serializers.JSONField):
    """Numbers, or little-endian float32 in base64."""


class EmbeddingSerializer(serializers.Serializer[Any]):
    object = serializers.CharField(help_text="embedding")
    index = serializers.IntegerField()
    embedding = VectorField()


class EmbeddingUsageSerializer(serializers.Serializer[Any]):
    prompt_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class EmbeddingListSerializer(serializers.Serializer[Any]):
    object = serializers.CharField(help_text="list")
    data = EmbeddingSerializer(many=True)  # type: ignore[assignment]
    model = serializers.CharField()
    usage = EmbeddingUsageSerializer()
