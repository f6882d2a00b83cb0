"""What was sent to be played, and how far it has been heard.

Positions are samples since the session began. A client acknowledges how far it has played; between acknowledgements,
and for a client that sends none, it is taken to play in real time. What is heard is never more than what was sent.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from voice.gate import level_of

MOST_AHEAD_MS = 4000
"""Sound that is sent before it is due: enough for a hiccup of the network, little to throw away."""
GRACE_MS = 15_000
"""How long after its end a sound may go unacknowledged; then it counts as heard."""


@dataclass(frozen=True, slots=True)
class SentSentence:
    """A sentence of the answer in the stream: samples ``start`` to ``end``, which grows while it is sent.

    ``key`` is whatever its owner knows it by.
    """

    key: Any
    index: int
    text: str
    start: int
    end: int


@dataclass(slots=True)
class Playback:
    rate_hz: int
    acknowledges: bool
    sent: int = 0
    acknowledged: int = 0
    _heard_at_ms: float = 0.0
    _last_ms: float = 0.0
    _sentences: list[SentSentence] = field(default_factory=list)
    _levels: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=4096))

    @property
    def sentence_in_sending(self) -> SentSentence | None:
        """The one that was begun last."""
        return self._sentences[-1] if self._sentences else None

    def begin_sentence(self, key: Any, index: int, text: str) -> SentSentence:
        sentence = SentSentence(key, index, text, self.sent, self.sent)
        self._sentences.append(sentence)
        return sentence

    def send(self, pcm: bytes, now_ms: float) -> int:
        """Note that ``pcm`` of the last sentence goes out; its position."""
        position = self.sent
        if self.heard(now_ms) >= self.sent:
            # Nothing was playing: the clock of what is heard starts now.
            self._heard_at_ms = now_ms
            self.acknowledged = self.sent
        self.sent += len(pcm) // 2
        self._levels.append((self.sent, level_of(pcm)))
        last = self._sentences[-1]
        self._sentences[-1] = replace(last, end=self.sent)
        self._last_ms = now_ms + (self.sent - self.acknowledged) * 1000 / self.rate_hz
        return position

    def acknowledge(self, position: int, now_ms: float) -> None:
        """The client has played up to ``position``. Going back, and what was never sent, is ignored."""
        if self.acknowledged <= position <= self.sent:
            self.acknowledged, self._heard_at_ms = position, now_ms

    def heard(self, now_ms: float) -> int:
        """The position that is being heard."""
        played = self.acknowledged + int((now_ms - self._heard_at_ms) * self.rate_hz / 1000)
        return max(min(played, self.sent), self.acknowledged)

    def ahead_ms(self, now_ms: float) -> float:
        """How much was sent that is yet to be heard. Without acknowledgements of a client that sends them it stands,
        until all of it should have been heard `GRACE_MS` ago.
        """
        waits = self.acknowledges and now_ms <= self._last_ms + GRACE_MS
        reached = self.acknowledged if waits else self.heard(now_ms)
        return (self.sent - reached) * 1000 / self.rate_hz

    def is_over(self, now_ms: float) -> bool:
        """Whether all that was sent was heard."""
        if not self.acknowledges:
            return self.heard(now_ms) >= self.sent
        return self.acknowledged >= self.sent or now_ms > self._last_ms + GRACE_MS

    def level_db(self, now_ms: float) -> float | None:
        """The level of what is being heard, ``None`` for nothing. The loudest of the last 300 ms: rooms have echoes."""
        position = self.heard(now_ms)
        if position >= self.sent:
            return None
        window = 300 * self.rate_hz // 1000
        near = [level for end, level in self._levels if position - window <= end <= position + window]
        return max(near, default=None)

    def stop(self, now_ms: float) -> tuple[int, list[SentSentence]]:
        """Nothing more of what was sent will be heard. The position that was, and all sentences since the last."""
        position = self.heard(now_ms)
        heard = list(self._sentences)
        self.acknowledged = self.sent
        self._heard_at_ms = now_ms
        self._sentences.clear()
        self._levels.clear()
        return position, heard

    def sentence_at(self, now_ms: float) -> SentSentence | None:
        """The sentence that is being heard."""
        position = self.heard(now_ms)
        return next((one for one in reversed(self._sentences) if one.start <= position), None)
