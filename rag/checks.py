"""System checks of retrieval.

rag.E001  the retrieval mode lacks its settings
rag.E002  the retrieval mode lacks its client library
rag.E003  Milvus Lite's file is not named as one
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags, register

from rag import supabase_key
from rag.conf import NEEDED_BY_MODE
from rag.milvus import store


@register(Tags.compatibility)
def retrieval_mode_is_configured(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    mode = settings.RAG_RETRIEVAL_MODE
    missing = [
        name
        for name in NEEDED_BY_MODE.get(mode, ())
        if not (supabase_key.is_available() if name == supabase_key.NAME else getattr(settings, name))
    ]
    if missing:
        message = f"RAG_RETRIEVAL_MODE={mode} needs {' and '.join(missing)}."
        return [checks.Error(message, hint="Set what is missing, or another mode.", id="rag.E001")]
    return _milvus_faults() if mode == "milvus" else []


def _milvus_faults() -> list[CheckMessage]:
    if not store.is_installed():
        message = "RAG_RETRIEVAL_MODE=milvus needs the Milvus client."
        return [checks.Error(message, hint=store.INSTALL, id="rag.E002")]
    if store.configured(timeout_s=1).is_lite and not settings.MILVUS_URI.endswith(".db"):
        message = "MILVUS_URI is neither an address nor a file of Milvus Lite."
        hint = "Write https://host:port for a server; a file's name ends in .db."
        return [checks.Error(message, hint=hint, id="rag.E003")]
    return []
