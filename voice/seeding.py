"""What the voice agent brings to a new installation: engines that need no file to be fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from models_registry import artifacts
from models_registry.models import ModelKind, ModelVersion, Slot
from models_registry.seeding import StepReporter
from models_registry.versions import register_model, register_version
from voice.recipes import SHIPPED_JUDGE

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
    found[Slot.INTERRUPTION] = _judge_of_interruptions()
    return found


def _judge_of_interruptions() -> ModelVersion:
    """The one that ships, trained by `manage.py voice train-interruptions`."""
    about = json.loads(SHIPPED_JUDGE.read_text(encoding="utf-8"))
    model = register_model(
        "interruption-default", ModelKind.INTERRUPTION, "logistic", "What speech over the agent's voice means."
    )
    artifact = artifacts.put(SHIPPED_JUDGE, "interruption.json")
    return register_version(model, {"model": artifact.sha256}, {}, about["metrics"], about["provenance"])
