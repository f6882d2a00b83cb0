"""The table of every route, for the checks that none is open by accident."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from ops.access import Requirement, declared_requirements


@dataclass(frozen=True, slots=True)
class Route:
    """One routed view. ``pattern`` is the whole path as declared, such as ``rag/documents/<int:id>``."""

    pattern: str
    view: Any
    app_name: str

    @property
    def requirements(self) -> Mapping[str, Requirement]:
        """What the view declares for each method; other methods are answered with 405."""
        return declared_requirements(self.view)


def routes(resolver: URLResolver | None = None, prefix: str = "", app_name: str = "") -> Iterator[Route]:
    """Every route below ``resolver`` (the whole site by default), in the order in which they are tried."""
    resolver = resolver or get_resolver()
    for entry in resolver.url_patterns:
        pattern = f"{prefix}{entry.pattern}"
        if isinstance(entry, URLPattern):
            yield Route(pattern, entry.callback, app_name)
        else:
            yield from routes(entry, pattern, entry.app_name or app_name)
