"""Models that `manage.py voices fetch` knows by name: where they lie on a hub, and what they are good for.

Whisper models in CTranslate2's format, and the British voices of Piper. Others are fetched by OWNER/REPOSITORY.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from models_registry.models import ModelKind
from voice.engines import piper, whisper

PIPER_REPOSITORY = "rhasspy/piper-voices"


@dataclass(frozen=True, slots=True)
class Known:
    """A model on a hub. ``files`` maps roles to paths in the repository; ``folder`` is the part of it to look into."""

    name: str
    kind: ModelKind
    provider: str
    repository: str
    revision: str
    folder: str
    files: dict[str, str]
    needed: tuple[str, ...]
    about: str
    size_mb: int = 0


def _whisper(name: str, repository: str, size_mb: int, about: str) -> Known:
    return Known(
        name=f"whisper-{name}",
        kind=ModelKind.STT,
        provider=whisper.NAME,
        repository=repository,
        revision="main",
        folder="",
        files=whisper.FILES,
        needed=whisper.NEEDED,
        about=about,
        size_mb=size_mb,
    )


def _piper(speaker: str, quality: str, about: str, size_mb: int = 63) -> Known:
    name = f"en_GB-{speaker}-{quality}"
    folder = f"en/en_GB/{speaker}/{quality}"
    return Known(
        name=name,
        kind=ModelKind.TTS,
        provider=piper.NAME,
        repository=PIPER_REPOSITORY,
        revision="main",
        folder=folder,
        files={"model": f"{folder}/{name}.onnx", "config": f"{folder}/{name}.onnx.json"},
        needed=tuple(piper.FILES),
        about=about,
        size_mb=size_mb,
    )


KNOWN = {
    one.name: one
    for one in (
        _whisper("tiny.en", "Systran/faster-whisper-tiny.en", 75, "English; a spoken turn on two cores"),
        _whisper("base.en", "Systran/faster-whisper-base.en", 145, "English; wants four cores"),
        _whisper("small.en", "Systran/faster-whisper-small.en", 484, "English; wants a large machine or a GPU"),
        _whisper("medium.en", "Systran/faster-whisper-medium.en", 1530, "English; wants a GPU"),
        _whisper("tiny", "Systran/faster-whisper-tiny", 75, "99 languages"),
        _whisper("base", "Systran/faster-whisper-base", 145, "99 languages"),
        _whisper("small", "Systran/faster-whisper-small", 484, "99 languages"),
        _whisper("medium", "Systran/faster-whisper-medium", 1530, "99 languages; wants a GPU"),
        _whisper("large-v3", "Systran/faster-whisper-large-v3", 3090, "99 languages; wants a GPU"),
        _whisper("distil-large-v3", "Systran/faster-distil-whisper-large-v3", 1510, "English; wants a GPU"),
        _piper("alba", "medium", "Scottish, a woman"),
        _piper("alan", "medium", "a man"),
        _piper("alan", "low", "a man, quicker and plainer"),
        _piper("cori", "medium", "a woman"),
        _piper("cori", "high", "a woman, slower and finer", 114),
        _piper("jenny_dioco", "medium", "a woman"),
        _piper("northern_english_male", "medium", "Northern English, a man"),
        _piper("southern_english_female", "low", "Southern English, a woman"),
        _piper("semaine", "medium", "four speakers"),
        _piper("vctk", "medium", "109 speakers of many accents"),
    )
}

OTHER = re.compile(r"(?P<repository>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,100}))?")


def find(name: str) -> Known | None:
    """By its name here, or OWNER/REPOSITORY[@REVISION] of a converted Whisper model; ``None`` for neither."""
    if name in KNOWN:
        return KNOWN[name]
    other = OTHER.fullmatch(name)
    if other is None or ".." in name:
        return None
    repository = other["repository"]
    return Known(
        name=repository.partition("/")[2],
        kind=ModelKind.STT,
        provider=whisper.NAME,
        repository=repository,
        revision=other["revision"] or "main",
        folder="",
        files=whisper.FILES,
        needed=whisper.NEEDED,
        about="",
    )
