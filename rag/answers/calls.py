"""What a call of a model that writes says of itself to metrics, statistics and traces."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ops.contracts.model_calls import OWN, ModelCall, model_call
from rag.answers.backends.base import Backend, Generation, Piece
from rag.answers.contracts import EXTRACTIVE


def generation_call(
    model: str, operation: str, backend: Backend, generation: Generation
) -> AbstractContextManager[ModelCall]:
    """Stands around the writing; ``model`` is its reference, such as ``ollama/mistral:7b``."""
    return model_call(
        "llm",
        model,
        operation,
        items=1,
        provider=OWN if backend.name == EXTRACTIVE else backend.name,
        temperature=generation.temperature,
        max_tokens=generation.max_tokens,
    )


def note_end(call: ModelCall, piece: Piece) -> None:
    """Take over what the last piece tells; a piece before it tells nothing."""
    if piece.finish_reason is not None:
        call.finish_reason = piece.finish_reason
    if piece.usage is not None:
        call.tokens, call.output_tokens = piece.usage.prompt_tokens, piece.usage.completion_tokens
