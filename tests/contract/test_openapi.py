"""The OpenAPI document is committed, and up to date."""

from __future__ import annotations

from pathlib import Path

from django.core.management import call_command

SNAPSHOT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "openapi.yaml"
COMMAND = "manage.py spectacular --validate --fail-on-warn --file docs/reference/openapi.yaml"


def test_the_committed_document_describes_the_routes_that_there_are(tmp_path: Path) -> None:
    generated = tmp_path / "openapi.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(generated))
    is_current = SNAPSHOT.is_file() and SNAPSHOT.read_text("utf-8") == generated.read_text("utf-8")
    assert is_current, f"The API has changed. Look at the difference after `.venv/bin/python {COMMAND}`, and commit it."
