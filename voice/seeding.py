"""What the voice agent brings to a new installation: engines that need no file to be fetched."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from models_registry.models import ModelKind, ModelVersion, Slot
from models_registry.seeding import StepReporter
from models_registry.versions import register_model, register_version

PACKAGED = (
    (Slot.VAD, "silero-vad", ModelKind.VAD, "silero", "silero-vad", "Voice activity, by ONNX Runtime."),
    (
        Slot.STT,
        "pocketsphinx",
        ModelKind.STT,
        "pocketsphinx",
        "pocketsphinx",
        "English, with a collection's words.",
    ),
    (Slot.TTS, "espeak-ng", ModelKind.TTS, "espeak-ng", "espeakng-loader", "British English, in four voices."),
)


def seed_voice(report: StepReporter) -> Mapping[Slot, ModelVersion]:
    """Register the engines whose packages are installed, and name what is to be live where nothing is."""
    found: dict[Slot, ModelVersion] = {}
    for slot, name, kind, provider, package, description in PACKAGED:
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        model = register_model(name, kind, provider, description)
        found[slot] = register_version(model, {}, {"package": package, "version": installed}, {}, {})
    return found
