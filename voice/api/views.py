"""``/leonardo/*``: the voice agent over plain HTTP."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, cast

from django.conf import settings
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import loading, processes, serving
from models_registry.live import view as live_view
from models_registry.models import GLOBAL_SCOPE, Slot
from ops.contracts.principal import Scope
from ops.contracts.problems import Unavailable
from ops.requests import ApiRequest
from rag.answers import service, wire
from rag.answers.contracts import AnswerRequest, Turn
from rag.api.answers import ANSWER_COST, AnswerSerializer
from voice import installed, sessions, sounds, utterances
from voice.api.serializers import (
    STYLES,
    AnalyzedSerializer,
    AnalyzeQuerySerializer,
    ListenQuerySerializer,
    SpeakSerializer,
    StatusSerializer,
    ThinkSerializer,
    TranscriptSerializer,
)
from voice.engines.contracts import Style

TAGS = ["voice"]
SOUND_TYPES = ("audio/wav", "audio/ogg", "audio/webm", "audio/mpeg", "audio/flac", "application/octet-stream")
MEDIA = {"wav": "audio/wav", "opus": "audio/ogg"}
SOUND_BODY = dict.fromkeys(SOUND_TYPES, OpenApiTypes.BINARY)
SPEECH_COST = 2.0


class SoundParser(BaseParser):
    """Leaves the body where it is; what it really holds is seen from its first bytes."""

    media_type = "audio/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        return stream


class BytesParser(SoundParser):
    media_type = "application/octet-stream"


class SpeakView(APIView):
    required_scopes = {"POST": Scope.VOICE}
    rate_costs = {"POST": SPEECH_COST}

    @extend_schema(
        operation_id="speak",
        tags=TAGS,
        request=SpeakSerializer,
        responses={
            (200, media): OpenApiResponse(OpenApiTypes.BINARY, description=about)
            for media, about in (
                ("audio/wav", "Mono, 16 bits."),
                ("audio/ogg", "Opus."),
                ("audio/L16", "Mono PCM of 16 bits, little endian, streamed; the rate is in the media type."),
            )
        },
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Say a text."""
        body = SpeakSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked: dict[str, Any] = body.validated_data
        speech = utterances.speak(
            asked["text"], voice=asked.get("voice", ""), style=Style(asked.get("manner", settings.VOICE_STYLE))
        )
        audio = asked.get("audio", "wav")
        if audio == "pcm":
            media = f"audio/L16;rate={speech.rate_hz};channels=1"
            return StreamingHttpResponse(speech.pieces, content_type=media)
        return HttpResponse(utterances.as_file(speech, audio), content_type=MEDIA[audio])


class ListenView(APIView):
    required_scopes = {"POST": Scope.VOICE}
    rate_costs = {"POST": SPEECH_COST}
    parser_classes = [SoundParser, BytesParser]

    @extend_schema(
        operation_id="listen",
        tags=TAGS,
        parameters=[ListenQuerySerializer],
        request=SOUND_BODY,
        responses=TranscriptSerializer,
    )
    def post(self, request: Request) -> Response:
        """What is said in a sound file: WAV, Ogg, WebM, MP3 or FLAC."""
        query = ListenQuerySerializer(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        heard = utterances.listen(_sound(request), query.validated_data.get("collection"), _principal(request))
        return Response(TranscriptSerializer(heard).data)


class ThinkView(APIView):
    required_scopes = {"POST": Scope.VOICE}
    rate_costs = {"POST": ANSWER_COST}

    @extend_schema(operation_id="think", tags=TAGS, request=ThinkSerializer, responses=AnswerSerializer)
    def post(self, request: Request) -> Response:
        """Answer a question from a collection, with citations. The same as `/rag/query`, for those with voice alone."""
        asked = cast(ApiRequest, request)
        body = ThinkSerializer(data=asked.data)
        body.is_valid(raise_exception=True)
        given: dict[str, Any] = dict(body.validated_data)
        given["history"] = tuple(Turn(**turn) for turn in given.get("history", ()))
        given["stop"] = tuple(given.get("stop", ()))
        found = service.answer(AnswerRequest(**given), asked.principal, request_id=asked.request_id)
        return Response(wire.answer_json(found))


class AnalyzeView(APIView):
    required_scopes = {"POST": Scope.VOICE}
    rate_costs = {"POST": ANSWER_COST + 2 * SPEECH_COST}
    parser_classes = [SoundParser, BytesParser]

    @extend_schema(
        operation_id="analyze",
        tags=TAGS,
        parameters=[AnalyzeQuerySerializer],
        request=SOUND_BODY,
        responses=AnalyzedSerializer,
    )
    def post(self, request: Request) -> Response:
        """Listen to a question, answer it, and say the answer."""
        asked = cast(ApiRequest, request)
        query = AnalyzeQuerySerializer(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        options: dict[str, Any] = query.validated_data
        collection = options.get("collection")
        heard = utterances.listen(_sound(request), collection, asked.principal)
        question = AnswerRequest(heard["text"], collection=collection, agent=options.get("agent"))
        found = service.answer(question, asked.principal, request_id=asked.request_id)
        style = Style(options.get("manner", settings.VOICE_STYLE))
        speech = utterances.speak(found.text, voice=options.get("voice", ""), style=style)
        audio = options.get("audio", "wav")
        return Response(
            {
                "transcript": TranscriptSerializer(heard).data,
                "answer": wire.answer_json(found),
                "spoken": speech.text,
                "audio_format": audio,
                "audio": b64encode(utterances.as_file(speech, audio)).decode(),
            }
        )


class StatusView(APIView):
    required_scopes = {"GET": Scope.VOICE}

    @extend_schema(operation_id="voice_status", tags=TAGS, responses=StatusSerializer)
    def get(self, request: Request) -> Response:
        """What hears and speaks, and how much room there is."""
        body = {
            "engines": [_engine(slot) for slot in (Slot.VAD, Slot.STT, Slot.TTS, Slot.INTERRUPTION)],
            "voices": installed.voices(),
            "manners": STYLES,
            "formats": list(sounds.FORMATS),
            "sessions": sessions.open_everywhere(),
            "capacity": sessions.capacity(),
        }
        return Response(StatusSerializer(body).data)


def _principal(request: Request) -> Any:
    return cast(ApiRequest, request).principal


def _sound(request: Request) -> bytes:
    """The body, up to a byte more than is read."""
    body = request.data  # refuses other media types
    data: bytes = body.read(settings.VOICE_UPLOAD_MAX_BYTES + 1) if hasattr(body, "read") else b""
    return data


def _engine(slot: Slot) -> dict[str, Any]:
    try:
        live = live_view.model(slot, GLOBAL_SCOPE)
    except Unavailable as error:
        state = loading.LoadState.UNLOADED.value
        return {"slot": slot.value, "model": None, "state": state, "detail": str(error)}
    report = processes.report_of(live.label)
    state, detail = report.state, report.error or ""
    if state is loading.LoadState.UNLOADED and serving.starts_on_demand(slot, live.provider):
        state, detail = loading.LoadState.IDLE, "It starts when somebody first speaks."
    elif state is loading.LoadState.FAILED and slot in installed.ON_DEMAND:
        detail += f" Until it can be used, {' or '.join(installed.ON_DEMAND[slot])} takes its place."
    return {"slot": slot.value, "model": live.label, "state": state.value, "detail": detail}
