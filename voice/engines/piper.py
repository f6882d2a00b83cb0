"""What a Piper voice consists of, and the engine for one. See `voice.engines.piper_child`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from voice.engines.contracts import EngineMissingError
from voice.engines.speaking import SpeakingPool

NAME = "piper"
MODULE = "voice.engines.piper_child"
FILES = {"model": "voice.onnx", "config": "voice.onnx.json"}
"""By their role in the registry."""
MOST_SPEAKERS = 1000


@dataclass(frozen=True, slots=True)
class VoiceFile:
    """What a voice's JSON file says. ``speakers`` maps names to ids; empty for a voice of one."""

    sample_rate_hz: int
    speakers: dict[str, int]


def read_config(path: Path) -> VoiceFile:
    """Raises `EngineMissingError`: it is not there, or is no voice's."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rate, count = int(config["audio"]["sample_rate"]), int(config["num_speakers"])
        known = {str(name): int(number) for name, number in dict(config.get("speaker_id_map") or {}).items()}
    except OSError as error:
        raise EngineMissingError(f"The voice's file {path.name} can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EngineMissingError(f"{path.name} does not describe a Piper voice.") from error
    if not 8000 <= rate <= 48_000 or not 1 <= count <= MOST_SPEAKERS:
        raise EngineMissingError(f"{path.name} describes a voice of {count} speakers at {rate} Hz.")
    if count > 1 and not known:
        known = {f"speaker-{number}": number for number in range(count)}
    return VoiceFile(rate, dict(sorted(known.items(), key=lambda entry: entry[1])) if count > 1 else {})


def engine(name: str, folder: Path, *, size: int = 1) -> SpeakingPool:
    """A voice of one speaker is called ``name``, and one of several by their names. Raises `EngineMissingError`."""
    about = read_config(folder / FILES["config"])
    voices = list(about.speakers) or [name]
    arguments = json.dumps({"model": str(folder / FILES["model"]), "speakers": about.speakers})
    return SpeakingPool(NAME, MODULE, arguments, voices=voices, sample_rate_hz=about.sample_rate_hz, size=size)
