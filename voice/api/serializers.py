"""Shapes of ``/leonardo/*``."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from ops.api.fields import StrictCharField, StrictSerializer
from rag.api.answers import AnswerRequestSerializer, AnswerSerializer
from voice.engines.contracts import Style

STYLES = [style.value for style in Style]
AUDIO_FORMATS = ("wav", "opus", "pcm")
LONGEST_SPOKEN = 5000


class SpeakSerializer(StrictSerializer):
    text = StrictCharField(max_length=LONGEST_SPOKEN, help_text="What to say. Citations and Markdown are not read.")
    voice = StrictCharField(required=False, help_text="GET /leonardo/status lists them.")
    manner = serializers.ChoiceField(choices=STYLES, required=False)
    audio = serializers.ChoiceField(
        choices=AUDIO_FORMATS,
        required=False,
        help_text="`wav` (the default), `opus` in Ogg, or `pcm`: sent sentence by sentence as it is spoken.",
    )


class ThinkSerializer(AnswerRequestSerializer):
    stream = None  # type: ignore[assignment]  # /rag/query streams


class WordSerializer(serializers.Serializer[Any]):
    text = serializers.CharField()
    start_ms = serializers.IntegerField()
    end_ms = serializers.IntegerField()
    confidence = serializers.FloatField()


class TranscriptSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(allow_blank=True)
    language = serializers.CharField()
    confidence = serializers.FloatField(help_text="The engine's own, 0 to 1.")
    words = WordSerializer(many=True)
    audio_ms = serializers.IntegerField()
    processing_ms = serializers.FloatField(help_text="From the file to the transcript.")
    engine = serializers.CharField(help_text="`name@version`.")


class ListenQuerySerializer(StrictSerializer):
    collection = StrictCharField(required=False, help_text="Whose words are expected.")


class AnalyzeQuerySerializer(ListenQuerySerializer):
    agent = StrictCharField(required=False, help_text="Slug of the agent that answers.")
    voice = StrictCharField(required=False)
    manner = serializers.ChoiceField(choices=STYLES, required=False)
    audio = serializers.ChoiceField(choices=("wav", "opus"), required=False)


class AnalyzedSerializer(serializers.Serializer[Any]):
    transcript = TranscriptSerializer()
    answer = AnswerSerializer()
    spoken = serializers.CharField(help_text="The answer as it is said.")
    audio_format = serializers.ChoiceField(choices=("wav", "opus"))
    audio = serializers.CharField(help_text="The sound of it, in Base64.")


class EngineSerializer(serializers.Serializer[Any]):
    slot = serializers.CharField()
    model = serializers.CharField(allow_null=True, help_text="`name@version`; null when none is live.")
    state = serializers.CharField(help_text="In this process: idle, loading, ready, failed, draining or unloaded.")
    detail = serializers.CharField(allow_blank=True, help_text="What to know about the state: why it failed, say.")


class StatusSerializer(serializers.Serializer[Any]):
    engines = EngineSerializer(many=True)
    voices = serializers.ListField(child=serializers.CharField())
    manners = serializers.ListField(child=serializers.CharField())
    formats = serializers.ListField(child=serializers.CharField(), help_text="Sound files that are read.")
    sessions = serializers.IntegerField(help_text="Spoken conversations of this process.")
    capacity = serializers.IntegerField()
