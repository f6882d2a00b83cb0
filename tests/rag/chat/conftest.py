"""The same few documents, in conversations."""

from tests.rag.answers.conftest import bees

__all__ = ["bees"]
