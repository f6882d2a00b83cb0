"""Cuts a document into passages along its structure.

The text is seen as leaves: what stands under one heading (or belongs to one code symbol) on one page. Then:

1. The largest part of the heading tree that fits is one chunk, so a document that fits is exactly one.
2. Neighbours under the same heading of which one is smaller than `min_tokens` are joined while they fit.
3. A leaf that does not fit is filled up sentence by sentence (line by line in code, tables and lists) in
   chunks of even size, preferring paragraph ends, and each repeats the last sentences of the one before.
4. What has no such boundary (a megabyte on one line) is halved near its middle, at white space where there
   is some.

A chunk is always one contiguous range of the text. The time taken is linear in the text, and tokens are
counted in batches of strings that are never longer than `ChunkingSettings.max_characters`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import accumulate, groupby

from rag.ingest.sentences import sentence_ends
from rag.ingest.types import Block, BlockKind, ChunkDraft, ParsedDocument

CountTokens = Callable[[Sequence[str]], list[int]]
"""Number of tokens of each text; it may include a constant number of special tokens per text."""

# WordPiece counts a "word" of more than 100 characters as one unknown token, so tokens alone don't bound a
# chunk. Prose has 4 to 6 characters a token and indented code up to about 10.
_CHARACTERS_PER_TOKEN = 20
_COUNT_BATCH = 512
# How far from the middle a cut may move to fall on white space, as a share of the piece's length.
_CUT_WINDOW = 0.25
# More white space than this at the start of a line is not the indentation of code.
_MAX_INDENTATION = 64

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ChunkingSettings:
    """Sizes in tokens of the embedder. Raises ValueError if they contradict each other.

    No chunk has more than `max_tokens`; up to `overlap_tokens` (and never more than half a chunk) are repeated between
    neighbours of one section; smaller pieces than `min_tokens` are joined with a neighbour. `version` is stored with
    each chunk.
    """

    max_tokens: int = 220
    overlap_tokens: int = 32
    min_tokens: int = 40
    version: int = 1

    def __post_init__(self) -> None:
        if self.max_tokens < 8:
            raise ValueError(f"max_tokens must be at least 8, not {self.max_tokens}.")
        if not 0 <= self.overlap_tokens < self.max_tokens:
            raise ValueError(
                f"overlap_tokens must be at least 0 and less than max_tokens ({self.max_tokens}), "
                f"not {self.overlap_tokens}."
            )
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens must be at least 0, not {self.min_tokens}.")

    @property
    def max_characters(self) -> int:
        return self.max_tokens * _CHARACTERS_PER_TOKEN


@dataclass(slots=True)
class _Leaf:
    """What stands under one heading path on one page: `text[start:end]`."""

    path: tuple[str, ...]
    page: int | None
    start: int
    end: int
    blocks: list[Block]
    # Without special tokens; infinite where the leaf is too long to be counted whole.
    tokens: float = math.inf

    @property
    def is_heading_only(self) -> bool:
        return all(block.kind is BlockKind.HEADING for block in self.blocks)


@dataclass(frozen=True, slots=True)
class _Group:
    """Leaves `first` up to, not including, `last`: one chunk, or one leaf too large for it."""

    first: int
    last: int
    tokens: float


@dataclass(frozen=True, slots=True)
class _Atom:
    """A sentence or line, or a piece of one that was too long; `tokens` without special tokens."""

    start: int
    end: int
    starts_sentence: bool
    ends_block: bool
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Passage:
    path: tuple[str, ...]
    page: int | None
    start: int
    end: int


def chunk(document: ParsedDocument, settings: ChunkingSettings, count_tokens: CountTokens) -> list[ChunkDraft]:
    """Passages of `document` in order; together they cover all its text but white space.

    Each has at most `settings.max_tokens` by `count_tokens`. A document without text gives an empty list.
    Raises ValueError if even a single character has more tokens than allowed.
    """
    counter = _Counter(document.text, settings, count_tokens)
    leaves = _leaves(document)
    _count_leaves(leaves, counter)
    groups = _join_small(_largest_fitting(leaves, counter), leaves, settings, counter)
    passages = _fit(list(_passages(groups, leaves, settings, counter)), counter)
    return [
        ChunkDraft(ordinal, document.text[part.start : part.end], part.path, part.page, part.start, part.end)
        for ordinal, part in enumerate(passages)
    ]


class _Counter:
    """Counts the tokens of spans of one text, in batches, each span once."""

    def __init__(self, text: str, settings: ChunkingSettings, count_tokens: CountTokens) -> None:
        self.text = text
        self.max_tokens = settings.max_tokens
        self.max_characters = settings.max_characters
        self._count_tokens = count_tokens
        self._known: dict[Span, int] = {}
        # Special tokens that the counter adds to every text.
        self.per_text = count_tokens([""])[0]

    def count(self, spans: Sequence[Span]) -> list[int]:
        """Tokens of each span, special tokens included."""
        missing = [span for span in dict.fromkeys(spans) if span not in self._known]
        for i in range(0, len(missing), _COUNT_BATCH):
            batch = missing[i : i + _COUNT_BATCH]
            counts = self._count_tokens([self.text[start:end] for start, end in batch])
            self._known.update(zip(batch, counts, strict=True))
        return [self._known[span] for span in spans]

    def may_be_counted(self, start: int, end: int) -> bool:
        return end - start <= self.max_characters

    def fits(self, tokens: float, start: int, end: int) -> bool:
        """Whether `tokens`, special ones not included, and the characters of the span make one chunk."""
        return tokens + self.per_text <= self.max_tokens and self.may_be_counted(start, end)


def _strip(text: str, start: int, end: int) -> Span:
    """The span without white space at its ends, save the indentation of its first line."""
    body = text[start:end]
    first = start + len(body) - len(body.lstrip())
    last = start + len(body.rstrip())
    if last <= first:
        return start, start
    line = max(text.rfind("\n", start, first) + 1, start)
    is_indented = first - line <= _MAX_INDENTATION and (line == 0 or text[line - 1] == "\n")
    return (line if is_indented else first), last


def _leaves(document: ParsedDocument) -> list[_Leaf]:
    """Tiles the text: whatever lies between blocks belongs to the block before it."""
    if not document.blocks:
        if not document.text.strip():
            return []
        whole = Block(BlockKind.PARAGRAPH, 0, len(document.text))
        return [_Leaf((), None, 0, len(document.text), [whole])]
    leaves: list[_Leaf] = []
    headings: list[tuple[int, str]] = []
    starts = [0, *(block.start for block in document.blocks[1:]), len(document.text)]
    for block, start, end in zip(document.blocks, starts, starts[1:], strict=False):
        is_heading = block.kind is BlockKind.HEADING
        if is_heading:
            level = block.level or 1
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, document.text[block.start : block.end]))
        path = (*(title for _, title in headings), *block.symbol)
        current = leaves[-1] if leaves else None
        tiled = replace(block, start=start, end=end)
        if current is not None and not is_heading and (current.path, current.page) == (path, block.page):
            current.blocks.append(tiled)
            current.end = end
        elif current is not None and current.is_heading_only and path[: len(current.path)] == current.path:
            # A heading without text of its own belongs to the first section below it.
            current.blocks.append(tiled)
            current.path, current.end = path, end
        else:
            leaves.append(_Leaf(path, block.page, start, end, [tiled]))
    return leaves


def _count_leaves(leaves: Sequence[_Leaf], counter: _Counter) -> None:
    stripped = [(leaf, _strip(counter.text, leaf.start, leaf.end)) for leaf in leaves]
    countable = [(leaf, span) for leaf, span in stripped if counter.may_be_counted(*span)]
    for (leaf, _), tokens in zip(countable, counter.count([span for _, span in countable]), strict=True):
        leaf.tokens = max(tokens - counter.per_text, 0)


def _largest_fitting(leaves: Sequence[_Leaf], counter: _Counter) -> Iterator[_Group]:
    """Divides the heading tree from the top until each part fits or is one leaf."""
    undivided = [(0, len(leaves), 0)] if leaves else []
    while undivided:
        first, last, depth = undivided.pop()
        tokens = sum(leaf.tokens for leaf in leaves[first:last])
        if last - first == 1 or counter.fits(tokens, leaves[first].start, leaves[last - 1].end):
            yield _Group(first, last, tokens)
            continue
        parts: list[tuple[int, int, int]] = []
        for below, indices in groupby(range(first, last), key=lambda i: leaves[i].path[depth : depth + 1]):
            run = list(indices)
            if below:
                parts.append((run[0], run[-1] + 1, depth + 1))
            else:  # pages of one section
                parts.extend((i, i + 1, depth) for i in run)
        undivided.extend(reversed(parts))


def _join_small(
    groups: Iterable[_Group], leaves: Sequence[_Leaf], settings: ChunkingSettings, counter: _Counter
) -> list[_Group]:
    joined: list[_Group] = []
    for group in groups:
        before = joined[-1] if joined else None
        if before is not None and min(before.tokens, group.tokens) < settings.min_tokens:
            tokens = before.tokens + group.tokens
            if _are_neighbours(leaves[before.last - 1].path, leaves[group.first].path) and counter.fits(
                tokens, leaves[before.first].start, leaves[group.last - 1].end
            ):
                joined[-1] = _Group(before.first, group.last, tokens)
                continue
        joined.append(group)
    return joined


def _are_neighbours(path: tuple[str, ...], following: tuple[str, ...]) -> bool:
    """Whether two sections are siblings, or one stands directly under the other or under its siblings."""
    return len(_common_prefix([path, following])) >= min(len(path), len(following)) - 1


def _common_path(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The path that all leaves of a chunk stand under; where they form one line down the tree, its lowest
    point.
    """
    longest = max(paths, key=len)
    if all(longest[: len(path)] == path for path in paths):
        return longest
    return _common_prefix(paths)


def _common_prefix(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    lowest, highest = min(paths), max(paths)
    shared = 0
    for one, other in zip(lowest, highest, strict=False):
        if one != other:
            break
        shared += 1
    return lowest[:shared]


def _passages(
    groups: Sequence[_Group], leaves: Sequence[_Leaf], settings: ChunkingSettings, counter: _Counter
) -> Iterator[_Passage]:
    too_large = {
        group.first: leaves[group.first]
        for group in groups
        if not counter.fits(group.tokens, leaves[group.first].start, leaves[group.last - 1].end)
    }
    atoms = _atoms(too_large, counter)
    for group in groups:
        members = leaves[group.first : group.last]
        path = _common_path([leaf.path for leaf in members])
        if group.first in too_large:
            spans = list(_pack(atoms[group.first], settings, counter))
        else:
            spans = [_strip(counter.text, members[0].start, members[-1].end)]
        for start, end in spans:
            if start < end:
                yield _Passage(path, members[0].page, start, end)


def _atoms(leaves: dict[int, _Leaf], counter: _Counter) -> dict[int, list[_Atom]]:
    """Sentences and lines of each leaf, in order, none with more tokens or characters than a chunk may
    have.
    """
    finished: dict[int, list[_Atom]] = {index: [] for index in leaves}
    pending = [
        (index, atom)
        for index, leaf in leaves.items()
        for block in leaf.blocks
        for atom in _whole_atoms(block, counter)
    ]
    while pending:
        countable = [item for item in pending if counter.may_be_counted(item[1].start, item[1].end)]
        too_long = [item for item in pending if not counter.may_be_counted(item[1].start, item[1].end)]
        counts = counter.count([(atom.start, atom.end) for _, atom in countable])
        for (index, atom), tokens in zip(countable, counts, strict=True):
            if tokens <= counter.max_tokens:
                finished[index].append(replace(atom, tokens=max(tokens - counter.per_text, 0)))
            else:
                too_long.append((index, atom))
        pending = [(index, half) for index, atom in too_long for half in _halve_atom(atom, counter)]
    for atoms in finished.values():
        atoms.sort(key=lambda atom: atom.start)
    return finished


def _whole_atoms(block: Block, counter: _Counter) -> Iterator[_Atom]:
    spans: list[Span] = []
    position = block.start
    for end in _ends(counter.text, block):
        start, stop = _strip(counter.text, position, end)
        if start < stop:
            spans.append((start, stop))
        position = end
    for i, (start, stop) in enumerate(spans):
        if block.kind is BlockKind.CODE:
            # A blank line parts code like paragraphs part prose; what overlaps begins with one.
            starts = i == 0 or "\n\n" in counter.text[spans[i - 1][1] : start]
            ends = i == len(spans) - 1 or "\n\n" in counter.text[stop : spans[i + 1][0]]
            yield _Atom(start, stop, starts_sentence=starts, ends_block=ends)
        else:
            yield _Atom(start, stop, starts_sentence=True, ends_block=i == len(spans) - 1)


def _ends(text: str, block: Block) -> Iterable[int]:
    """Where a block may be parted: sentences, lines of code and of tables, in lists both."""
    if block.kind in {BlockKind.PARAGRAPH, BlockKind.HEADING}:
        return sentence_ends(text, block.start, block.end)
    lines = _line_ends(text, block.start, block.end)
    if block.kind is not BlockKind.LIST:
        return lines
    return merge(lines, sentence_ends(text, block.start, block.end))


def _line_ends(text: str, start: int, end: int) -> Iterator[int]:
    while (newline := text.find("\n", start, end)) >= 0:
        start = newline + 1
        yield start
    if start < end:
        yield end


def _halve_atom(atom: _Atom, counter: _Counter) -> Iterator[_Atom]:
    middle = _cut(counter, atom.start, atom.end)
    first = _strip(counter.text, atom.start, middle)
    second = _strip(counter.text, middle, atom.end)
    if first[0] < first[1]:
        yield replace(atom, start=first[0], end=first[1], ends_block=False)
    if second[0] < second[1]:
        yield replace(atom, start=second[0], end=second[1], starts_sentence=False)


def _cut(counter: _Counter, start: int, end: int) -> int:
    """Where to part a span that has no better boundary: the line end or white space nearest its middle,
    else there.
    """
    if end - start < 2:
        raise ValueError(
            f"The character {counter.text[start:end]!r} alone has more than the {counter.max_tokens} tokens of a chunk."
        )
    middle = (start + end) // 2
    window = int((end - start) * _CUT_WINDOW)
    for separator in ("\n", " ", "\t"):
        before = counter.text.rfind(separator, max(middle - window, start + 1), middle)
        after = counter.text.find(separator, middle, min(middle + window, end - 1))
        found = [position for position in (before, after) if position >= 0]
        if found:
            return min(found, key=lambda position: abs(position - middle))
    while middle < end - 1 and unicodedata.combining(counter.text[middle]):
        middle += 1  # a letter keeps its accents
    return middle


def _pack(atoms: Sequence[_Atom], settings: ChunkingSettings, counter: _Counter) -> Iterator[Span]:
    """Spans of neighbouring atoms, each within the budget, of even size, with overlap."""
    budget = max(settings.max_tokens - counter.per_text, 1)
    overlap_budget = min(settings.overlap_tokens, budget // 2)
    remaining = list(accumulate((atom.tokens for atom in reversed(atoms)), initial=0))[::-1]
    rest_of_block = _rest_of_block(atoms)
    # Chunks of even size rather than full ones with a crumb at the end.
    target = math.ceil(remaining[0] / max(math.ceil(remaining[0] / (budget - overlap_budget)), 1))
    begin = next_atom = overlap = 0
    while next_atom < len(atoms):
        first_new = next_atom
        new = 0
        while next_atom < len(atoms):
            atom = atoms[next_atom]
            room = budget - overlap - new
            if atom.tokens > room or not counter.may_be_counted(atoms[begin].start, atom.end):
                break
            is_block_start = next_atom > first_new and atoms[next_atom - 1].ends_block
            finishes_block = rest_of_block[next_atom] <= room
            leaves_crumb = remaining[next_atom] < settings.min_tokens and remaining[next_atom] <= room
            if new >= target and not leaves_crumb and (is_block_start or not finishes_block):
                break
            if is_block_start and new * 2 >= target and not finishes_block:
                break
            new += atom.tokens
            next_atom += 1
        if next_atom == first_new:  # the overlap leaves no room
            begin, overlap = next_atom, 0
            continue
        yield atoms[begin].start, atoms[next_atom - 1].end
        begin, overlap = _overlap(atoms, begin, next_atom, overlap_budget)


def _rest_of_block(atoms: Sequence[_Atom]) -> list[int]:
    """For each atom the tokens from it to the end of its block."""
    rest = [0] * len(atoms)
    for i in range(len(atoms) - 1, -1, -1):
        following = 0 if atoms[i].ends_block or i + 1 == len(atoms) else rest[i + 1]
        rest[i] = atoms[i].tokens + following
    return rest


def _overlap(atoms: Sequence[_Atom], begin: int, end: int, budget: int) -> tuple[int, int]:
    """Where the chunk after `atoms[begin:end]` begins, and how many tokens it repeats: whole sentences
    only.
    """
    best = (end, 0)
    tokens = 0
    for i in range(end - 1, begin, -1):
        tokens += atoms[i].tokens
        if tokens > budget:
            break
        if atoms[i].starts_sentence:
            best = (i, tokens)
    return best


def _fit(passages: list[_Passage], counter: _Counter) -> list[_Passage]:
    """Counts every passage as a whole, since tokens don't quite add up, and halves those that are too
    large.
    """
    fitting: list[_Passage] = []
    while passages:
        counts = counter.count([(part.start, part.end) for part in passages])
        too_large: list[_Passage] = []
        for part, tokens in zip(passages, counts, strict=True):
            (fitting if tokens <= counter.max_tokens else too_large).append(part)
        passages = []
        for part in too_large:
            middle = _cut(counter, part.start, part.end)
            for start, end in (
                _strip(counter.text, part.start, middle),
                _strip(counter.text, middle, part.end),
            ):
                if start < end:
                    passages.append(replace(part, start=start, end=end))
    ordered: list[_Passage] = []
    for part in sorted(fitting, key=lambda part: (part.start, -part.end)):
        # Half a passage may lie within the overlap of the next one.
        if not ordered or part.end > ordered[-1].end:
            ordered.append(part)
    return ordered
