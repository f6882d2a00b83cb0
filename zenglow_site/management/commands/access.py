"""``manage.py access``: who may call what, as a page."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ops.access_table import Row, http_rows, reference_page, socket_rows
from zenglow_site.routing import websocket_urlpatterns

PAGE = "docs/reference/access.md"


def rows() -> list[Row]:
    """Every route of the site, websockets included."""
    return [*http_rows(), *socket_rows(websocket_urlpatterns)]


class Command(BaseCommand):
    help = f"Write {PAGE}: every route and websocket, with the scopes that open it."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="Write nothing; fail when the page is not up to date.")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        path = settings.BASE_DIR / PAGE
        text = reference_page(rows())
        if not check:
            path.write_text(text, encoding="utf-8")
            self.stdout.write(f"Wrote {PAGE}")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise CommandError(f"{PAGE} is not up to date. Run manage.py access and look at the difference.")
