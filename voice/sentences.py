"""Sentences, as soon as each is complete, of text that is still being written."""

from __future__ import annotations

import re
from collections.abc import Iterator

END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?:\s?\[\d{1,3}\])*(?=\s+[^\s\[])|\n\s*\n|\n(?=\s*(?:[-*+]|\d{1,3}[.)])\s))")
NO_END = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|incl|no|fig|dr|mr|mrs|st|[A-Za-z])|(?:^|\s)\d{1,3})\.$", re.IGNORECASE
)
"""What a full stop does not end: abbreviations, initials, the number of a list item."""
LONGEST = 400
"""Characters after which a sentence without an end is cut at its last comma or space."""
CUT = re.compile(r"[,;:]\s|\s")


class Sentences:
    """Takes pieces of text, and gives the sentences that they complete. Joined they are the text that was taken."""

    def __init__(self) -> None:
        self._rest = ""

    def take(self, piece: str) -> Iterator[str]:
        self._rest += piece
        while (end := self._end()) is not None:
            sentence, self._rest = self._rest[:end], self._rest[end:]
            yield sentence

    def finish(self) -> Iterator[str]:
        """What is left when no more comes."""
        yield from self.take("")
        if self._rest:
            sentence, self._rest = self._rest, ""
            yield sentence

    def _end(self) -> int | None:
        for match in END.finditer(self._rest):
            if match.end() > LONGEST:
                break
            if not NO_END.search(self._rest[: match.end()]) and self._rest[: match.end()].strip():
                return match.end()
        if len(self._rest) <= LONGEST:
            return None
        cuts = [match.end() for match in CUT.finditer(self._rest, 0, LONGEST)]
        return cuts[-1] if cuts else LONGEST
