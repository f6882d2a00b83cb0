"""What a Whisper model consists of, and the engine for one. See `voice.engines.whisper_child`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voice.engines.decoding import DecodingPool

NAME = "faster-whisper"
MODULE = "voice.engines.whisper_child"
FILES = {
    "model": "model.bin",
    "config": "config.json",
    "tokenizer": "tokenizer.json",
    "preprocessor": "preprocessor_config.json",
    "vocabulary": "vocabulary.json",
    "vocabulary_text": "vocabulary.txt",
}
"""By their role in the registry: a model that CTranslate2's converter made."""
NEEDED = ("model", "config", "tokenizer")
PARAMETERS: Mapping[str, Any] = {"device": "auto", "compute_type": "auto", "beam_size": 1, "language": ""}
"""What a version may choose. ``language`` empty: each time what the model takes it for."""


def engine(folder: Path, parameters: Mapping[str, Any], *, size: int = 1) -> DecodingPool:
    chosen = {name: parameters.get(name, usual) for name, usual in PARAMETERS.items()}
    threads = max((os.cpu_count() or 1) // size, 1)
    options = json.dumps({"folder": str(folder), "threads": threads} | chosen)
    return DecodingPool(NAME, MODULE, options, size=size)
