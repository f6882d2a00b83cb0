"""The live embedder's vectors, in the forms that OpenAI's clients ask for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from ops.contracts.problems import InvalidRequest, Unavailable
from rag.pipeline.embed import Embedder, EmbeddingError

MAX_INPUTS = 256
MAX_CHARACTERS = 1_000_000
"""Of all inputs together: about what one core embeds in a minute."""


def inputs_of(given: Any) -> list[str]:
    """One text or several. Raises `InvalidRequest`."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise _refused("A text, or a list of texts, none of them empty; lists of tokens can't be embedded here.")
    if len(texts) > MAX_INPUTS:
        raise _refused(f"At most {MAX_INPUTS} texts at once, not {len(texts)}.")
    if sum(map(len, texts)) > MAX_CHARACTERS:
        raise _refused(f"At most {MAX_CHARACTERS} characters at once.")
    return texts


def embed(embedder: Embedder, texts: Sequence[str], *, as_query: bool, as_base64: bool, model: str) -> dict[str, Any]:
    """The body of ``POST /v1/embeddings``: unit vectors, in the order of ``texts``. Raises `Unavailable`.

    ``as_query`` uses the prompt for queries where the model has one; without it, that for documents.
    """
    try:
        vectors = embedder.embed_queries(texts) if as_query else embedder.embed_documents(texts)
        tokens = sum(embedder.count_tokens(texts))
    except EmbeddingError as error:
        raise Unavailable(str(error), retry_after_s=5) from error
    plain = [
        base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode() if as_base64 else vector.tolist()
        for vector in vectors
    ]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(plain)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _refused(fault: str) -> InvalidRequest:
    return InvalidRequest(f"input: {fault}", errors={"input": fault})
