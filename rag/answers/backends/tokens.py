"""How many tokens a model makes of a text, where its server can't count: learnt from what it reports of prompts."""

from __future__ import annotations

from collections.abc import Sequence

FIRST_GUESS = 3.0
"""Characters a token. English prose has about 4 with today's tokenizers, code and other languages fewer."""
SAFETY = 0.95
WEIGHT = 0.2
LEAST_CHARACTERS = 400
"""Of a prompt, before its report says anything about prose: special tokens weigh more in a short one."""
BOUNDS = (1.0, 6.0)

_characters_per_token: dict[str, float] = {}


def estimate(model: str, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, rather too many than too few."""
    ratio = _characters_per_token.get(model, FIRST_GUESS) * SAFETY
    return [int(len(text) / ratio) + 1 for text in texts]


def learn(model: str, characters: int, tokens: int) -> None:
    """A prompt of so many characters was so many tokens."""
    if characters < LEAST_CHARACTERS or tokens <= 0:
        return
    seen = min(max(characters / tokens, BOUNDS[0]), BOUNDS[1])
    known = _characters_per_token.get(model)
    _characters_per_token[model] = seen if known is None else (1 - WEIGHT) * known + WEIGHT * seen
