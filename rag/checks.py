"""System checks of retrieval.

rag.E001  the retrieval mode lacks its settings
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags, register

NEEDED = {"supabase_rpc": ("SUPABASE_URL", "SUPABASE_KEY")}
"""Settings that a mode can't work without."""


@register(Tags.compatibility)
def retrieval_mode_is_configured(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    mode = settings.RAG_RETRIEVAL_MODE
    missing = [name for name in NEEDED.get(mode, ()) if not getattr(settings, name)]
    if not missing:
        return []
    return [
        checks.Error(
            f"RAG_RETRIEVAL_MODE={mode} needs {' and '.join(missing)}.",
            hint="Set what is missing, or another mode.",
            id="rag.E001",
        )
    ]
