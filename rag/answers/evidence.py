"""What an answer can be made of and is held against: the passages' sentences, their stems, and an embedder."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag.answers.contracts import Passage
from rag.answers.sentences import Quotable, Stemmer, Stems, sentences_of
from rag.pipeline.embed import Embedder, EmbeddingError
from rag.pipeline.types import Float32Array

logger = logging.getLogger(__name__)

MAX_SENTENCES = 400
"""Most sentences of all passages together; what comes after them is neither quoted nor compared."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """``sentences`` in the order of their passages; ``stems[i]`` are those of ``sentences[i]``.

    ``weights``: of each stem of the query, its inverse document frequency among the sentences (smoothed, Robertson and
    Spärck Jones 1976), so that what every sentence says counts little.
    """

    query: str
    query_stems: Stems
    passages: tuple[Passage, ...]
    sentences: tuple[Quotable, ...]
    stems: tuple[Stems, ...]
    weights: dict[str, float]
    embedder: Embedder | None
    stemmer: Stemmer

    def coverage(self, stems: Stems) -> float:
        """The weighted share of the query's stems among ``stems``, in [0, 1]; 0 for a query of stop words."""
        whole = sum(self.weights.values())
        return sum(self.weights[stem] for stem in self.query_stems & stems) / whole if whole else 0.0

    def embed(self, texts: Sequence[str]) -> Float32Array | None:
        """Unit vectors, shape (texts, dimension); ``None`` while the embedder can't be used."""
        if self.embedder is None or not texts:
            return None
        try:
            return self.embedder.embed_documents(texts)
        except EmbeddingError as error:
            logger.warning("Sentences are compared by their words alone: %s", error)
            return None

    def embed_query(self) -> Float32Array | None:
        """Shape (dimension,)."""
        if self.embedder is None:
            return None
        try:
            vector: Float32Array = self.embedder.embed_queries([self.query])[0]
            return vector
        except EmbeddingError as error:
            logger.warning("Sentences are compared by their words alone: %s", error)
            return None


CARRIED = 0.5
"""Weight of a word that a follow-up only takes from earlier questions, against one of its own."""


def gather(
    query: str, passages: Sequence[Passage], stemmer: Stemmer, embedder: Embedder | None, asked: str | None = None
) -> Evidence:
    """The evidence of ``passages`` for ``query``, of which ``asked`` are the asker's own words.

    Costs one query of the database.
    """
    sentences = [sentence for passage in passages for sentence in sentences_of(passage)][:MAX_SENTENCES]
    query_stems, own_stems, *stems = stemmer([query, asked or query, *(sentence.text for sentence in sentences)])
    frequencies = Counter(stem for own in stems for stem in own)
    weights = {
        stem: math.log(1 + (len(sentences) - frequencies[stem] + 0.5) / (frequencies[stem] + 0.5))
        * (1.0 if stem in own_stems else CARRIED)
        for stem in sorted(query_stems)
    }
    return Evidence(query, query_stems, tuple(passages), tuple(sentences), tuple(stems), weights, embedder, stemmer)


def cosines(vectors: Float32Array, vector: Float32Array) -> Float32Array:
    """Of unit vectors, float32, shape (n,), within [0, 1]: what points away counts as unrelated."""
    found: Float32Array = np.clip(vectors @ vector, 0.0, 1.0)
    return found
