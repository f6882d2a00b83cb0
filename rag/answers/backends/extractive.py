"""The answerer that needs no model: it quotes the selected sentences word for word, each with its citation."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence

from rag.answers.backends.base import BackendRefusedError, Generation, ModelInfo, Piece
from rag.answers.contracts import EXTRACTIVE, Usage
from rag.answers.sentences import Quotable

CHARACTERS_PER_TOKEN = 4
MAX_SENTENCE_CHARACTERS = 400
"""A longer sentence is trimmed to the part around the query's words, marked by …."""

_WORD = re.compile(r"[^\W_]+")
_WORDS = re.compile(r"\S+\s*")
_ENDS = (".", "!", "?", "…", "。", "！", "？", '."', ".”", ".)")


class ExtractiveBackend:
    name = EXTRACTIVE

    async def stream(self, generation: Generation) -> AsyncGenerator[Piece, None]:
        """The best sentence first, then the others in the order of their passages."""
        evidence = generation.evidence
        if evidence is None:
            raise BackendRefusedError("Without passages there is nothing to quote.")
        budget = generation.max_tokens * CHARACTERS_PER_TOKEN
        written = 0
        is_cut = False
        ordered = in_order(generation.selected.sentences)
        for position, sentence in enumerate(ordered):
            text = trimmed(sentence.text, evidence.query)
            if written and written + len(text) > budget:
                is_cut = True
                break
            stopped = _before_stop(text, generation.stop)
            shown = stopped[: max(budget, 1)]
            for word in _WORDS.findall(shown):
                yield Piece(word, is_literal=True)
            written += len(shown)
            is_cut = len(shown) < len(stopped)
            if len(shown) < len(text):
                break
            yield Piece(" ", is_literal=True)
            yield Piece(cites=sentence.passage.number)
            if position + 1 < len(ordered):
                yield Piece(" " if text.endswith(_ENDS) else "\n\n", is_literal=True)
        usage = Usage(
            sum(len(one.text) for one in evidence.sentences) // CHARACTERS_PER_TOKEN,
            written // CHARACTERS_PER_TOKEN,
        )
        yield Piece(finish_reason="length" if is_cut else "stop", usage=usage)

    async def models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo(EXTRACTIVE),)

    async def window(self, model: str) -> int | None:
        return None

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        return [len(text) // CHARACTERS_PER_TOKEN + 1 for text in texts]


def in_order(sentences: Sequence[Quotable]) -> list[Quotable]:
    """The best sentence with those of its passage, as they stand there; then the other passages, best first."""
    if not sentences:
        return []
    passages = {sentence.passage.number: i for i, sentence in reversed(list(enumerate(sentences)))}
    best, *rest = sentences
    return [best, *sorted(rest, key=lambda one: (passages[one.passage.number], one.start))]


def trimmed(text: str, query: str) -> str:
    """``text`` with its white space folded; a long one as the part around the query's first word in it."""
    folded = " ".join(text.split())
    if len(folded) <= MAX_SENTENCE_CHARACTERS:
        return folded
    wanted = {word.casefold() for word in _WORD.findall(query) if len(word) > 3}
    first = next((match.start() for match in _WORD.finditer(folded) if match.group().casefold() in wanted), 0)
    start = max(min(first - MAX_SENTENCE_CHARACTERS // 3, len(folded) - MAX_SENTENCE_CHARACTERS), 0)
    start = folded.find(" ", start) + 1 if start else 0
    end = min(start + MAX_SENTENCE_CHARACTERS, len(folded))
    end = folded.rfind(" ", start, end) if end < len(folded) else end
    return f"{'…' if start else ''}{folded[start:end]}{'…' if end < len(folded) else ''}"


def _before_stop(text: str, stop: Sequence[str]) -> str:
    ends = [position for one in stop if one and (position := text.find(one)) >= 0]
    return text[: min(ends)] if ends else text
