"""What the tests of single stages share."""

from __future__ import annotations

import pytest

from rag.models import EmbeddingSpace
from tests.rag.ingest_service.support import make_space


@pytest.fixture
def space(db: None) -> EmbeddingSpace:
    """A space of eight dimensions without an embedder."""
    return make_space("of one test")
