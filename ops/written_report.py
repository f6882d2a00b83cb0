"""A report in one HTML file that needs nothing else and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import mark_safe

STYLES = ("plots.css", "report.css")


def written_report(template: str, context: Mapping[str, Any]) -> str:
    """Render a template that has ``style``, ``policy`` and ``made_at`` besides its context.

    The content security policy allows the one style sheet that is in the file and nothing else: no script, no request.
    """
    style = "\n".join((settings.BASE_DIR / "static" / "css" / name).read_text(encoding="utf-8") for name in STYLES)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return render_to_string(
        template,
        {
            **context,
            "made_at": timezone.now(),
            "style": mark_safe(style),  # noqa: S308  (our own file)
            "policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        },
    )
