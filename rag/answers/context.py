"""From search results to numbered passages: duplicates dropped, neighbours of one document joined, cut to a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rag.answers.contracts import Passage

MAX_GAP = 2
"""Characters between two chunks, such as a line's end, that are joined across."""


@dataclass(slots=True)
class _Run:
    """Chunks of one document that follow each other, as they were found."""

    first: Mapping[str, Any]
    chunk_ids: list[int]
    text: str
    start: int
    end: int


def passages_of(results: Sequence[Mapping[str, Any]], pks: Mapping[int, int]) -> tuple[Passage, ...]:
    """The passages in the order of their best chunk. ``pks``: chunk id to its document's row; others are left out.

    Joining is exact: ``text`` stays ``document.text[start:end]``, but for a gap of white space, whose characters
    become spaces.
    """
    runs: list[_Run] = []
    seen: set[str] = set()
    for result in results:
        folded = " ".join(result["text"].split()).casefold()
        if result["chunk_id"] not in pks or not folded or folded in seen:
            continue
        seen.add(folded)
        neighbour = next((run for run in runs if _touches(run, result)), None)
        if neighbour is None:
            runs.append(_Run(result, [result["chunk_id"]], result["text"], result["start"], result["end"]))
        else:
            _join(neighbour, result)
    return tuple(_passage(number, run, pks) for number, run in enumerate(runs, start=1))


def fit(
    passages: Sequence[Passage], budget_tokens: int, count_tokens: Callable[[Sequence[str]], list[int]]
) -> tuple[Passage, ...]:
    """As many of the first passages as ``budget_tokens`` holds, at least the beginning of one.

    A passage that would go beyond is left out, and smaller ones after it are still taken; the numbers stay.
    """
    if not passages:
        return ()
    taken: list[Passage] = []
    left = budget_tokens
    for passage, tokens in zip(passages, count_tokens([passage.text for passage in passages]), strict=True):
        if tokens <= left:
            taken.append(passage)
            left -= tokens
    if not taken:
        first = passages[0]
        (tokens,) = count_tokens([first.text])
        characters = max(len(first.text) * max(budget_tokens, 1) // max(tokens, 1), 1)
        taken.append(replace(first, text=first.text[:characters], end=first.start + characters))
    return tuple(taken)


def _touches(run: _Run, result: Mapping[str, Any]) -> bool:
    if run.first["document_id"] != result["document_id"] or run.first["page"] != result["page"]:
        return False
    return bool(result["start"] <= run.end + MAX_GAP and run.start <= result["end"] + MAX_GAP)


def _join(run: _Run, result: Mapping[str, Any]) -> None:
    run.chunk_ids.append(result["chunk_id"])
    text, start, end = result["text"], result["start"], result["end"]
    if start < run.start:
        before = text[: run.start - start]
        run.text = before + " " * (run.start - start - len(before)) + run.text
        run.start = start
    if end > run.end:
        after = text[max(run.end - start, 0) :]
        run.text += " " * max(start - run.end, 0) + after
        run.end = end


def _passage(number: int, run: _Run, pks: Mapping[int, int]) -> Passage:
    first = run.first
    return Passage(
        number=number,
        chunk_id=first["chunk_id"],
        chunk_ids=tuple(run.chunk_ids),
        pk=pks[first["chunk_id"]],
        document_id=first["document_id"],
        source=first["source"],
        title=first["title"] or first["source"] or first["document_id"],
        heading_path=tuple(first["heading_path"]),
        page=first["page"],
        external_url=first["external_url"],
        text=run.text,
        start=run.start,
        end=run.end,
        score=first["fused_score"],
    )
