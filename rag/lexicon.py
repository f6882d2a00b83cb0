"""The one place for lexical text: what a term is, at indexing time and at query time.

PostgreSQL's text search configuration splits, stems and drops stop words; here its output becomes a row of term ids,
one a position. Documents and queries go through the same functions, so they can't disagree.

PostgreSQL keeps at most 255 positions of a lexeme and no position above 16,383. Texts that come near are read in
pieces, so that frequencies stay true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rag.pipeline.types import GAP, Int32Array

LEXICAL_VERSION = 1
"""Part of every content hash: raise it when the same text would give other terms."""

MAX_TITLE_TOKENS = 512
MAX_BODY_TOKENS = 32_000
"""Most tokens of a chunk's title and headings, and of its text; together they fit the frequency's smallint."""

MAX_QUERY_TOKENS = 1000
"""Most tokens of a query that are looked up: the first ones. It bounds what a pasted document costs."""

# A text of this many characters can't have more positions than PostgreSQL counts, nor more bytes than it takes.
_PIECE_CHARACTERS = 16_000
# Each occurrence of a lexeme takes two characters or more, so here none can occur 255 times.
_FINE_PIECE_CHARACTERS = 500
_MAX_POSITIONS = 255
# Longer runs are encoded data, not names.
_MAX_IDENTIFIER_CHARACTERS = 128

# White space to PostgreSQL in every locale. Others stay within a word, which PostgreSQL then splits as it does.
_WORD = re.compile(r"[^ \t\n\r\f\v]+")
_MARKUP = "<"

_NAME = re.compile(r"\w+(?:\.\w+)*")


class Cursor(Protocol):
    """What is needed of a database cursor: Django's and psycopg's both have it."""

    def execute(self, query: Any, params: Any = None, /) -> Any: ...

    def fetchall(self) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Passage:
    """What is indexed of a chunk: `heading` is its document's title and its heading path."""

    heading: str
    body: str


@dataclass(frozen=True, slots=True)
class Terms:
    """A chunk as term ids.

    term_ids: int32, shape (positions,), heading first; `GAP` where a stop word stood.
    title_length: how many of them come from the heading.
    """

    term_ids: Int32Array
    title_length: int

    @property
    def count(self) -> int:
        """Positions that hold a term: the document length of BM25."""
        return int(np.count_nonzero(self.term_ids))

    def frequencies(self) -> tuple[Int32Array, Int32Array]:
        """``(term ids, ascending; how often each occurs)``, both int32, shape (terms,)."""
        unique_ids, counts = np.unique(self.term_ids[self.term_ids != GAP], return_counts=True)
        return unique_ids, counts.astype(np.int32)

    def to_bytes(self) -> bytes:
        """Little-endian int32, as `Chunk.tokens` holds them."""
        return self.term_ids.astype("<i4").tobytes()


def heading_text(title: str, heading_path: Sequence[str]) -> str:
    """The heading of a chunk for `Passage`: the title, then each heading, on lines of their own."""
    return "\n".join(part for part in (title, *heading_path) if part)


def decode_terms(tokens: bytes | memoryview) -> Int32Array:
    """`Chunk.tokens` as int32, shape (positions,); read-only."""
    return np.frombuffer(tokens, dtype="<i4").astype(np.int32, copy=False)


def lexical_text(text: str, split_identifiers: bool) -> str:
    """The text that PostgreSQL reads: `text` itself or, for code, its names with their parts beside them.

    >>> lexical_text("os.path.joinAll(user_id)", split_identifiers=True)
    'os.path.joinAll os path joinAll join All userid user id'

    A name is written as one word without underscores, so that ``user_id`` and ``userId`` find each other; then come
    its parts. Everything between names becomes a space, as PostgreSQL would take ``<int>`` for a tag and a path for
    one word.
    """
    if not split_identifiers:
        return text
    return " ".join(word for match in _NAME.finditer(text) for word in _with_parts(match.group()))


def _with_parts(name: str) -> list[str]:
    """``name`` and what it is made of: the members of a dotted name, then the parts of each."""
    if len(name) > _MAX_IDENTIFIER_CHARACTERS:
        return [name]
    members = [parts for member in name.split(".") if (parts := _parts(member))]
    if sum(len(parts) for parts in members) <= 1:
        return [name]
    words = [".".join("".join(parts) for parts in members)]
    for parts in members:
        if len(parts) > 1 and len(members) > 1:
            words.append("".join(parts))
        words += parts
    return words


def _parts(member: str) -> list[str]:
    """The words of a camelCase or snake_case name: ``HTTPServer_v2`` gives HTTP, Server, v2."""
    parts = []
    for word in member.split("_"):
        start = 0
        for i in range(1, len(word)):
            before, here = word[i - 1], word[i]
            begins_word = here.isupper() and (not before.isupper() or (i + 1 < len(word) and word[i + 1].islower()))
            if begins_word:
                parts.append(word[start:i])
                start = i
        if word:
            parts.append(word[start:])
    return parts


def tokenize(cursor: Cursor, configuration: str, texts: Sequence[str]) -> list[list[str]]:
    """The lexemes of each text, one a position, "" where a stop word stood. One round trip for the whole batch.

    Takes any text: a NUL or a lone surrogate, which PostgreSQL can't store, counts as a space.
    """
    pieces = [list(_pieces(text, _PIECE_CHARACTERS)) for text in texts]
    lexemes, saturated = _read(cursor, configuration, pieces)
    if saturated:
        fine = [list(_pieces(texts[index], _FINE_PIECE_CHARACTERS)) for index in saturated]
        for index, exact in zip(saturated, _read(cursor, configuration, fine)[0], strict=True):
            lexemes[index] = exact
    return lexemes


def _read(
    cursor: Cursor, configuration: str, pieces_of_texts: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[int]]:
    """The lexemes of each text, and the indices of the texts in which PostgreSQL dropped positions."""
    owners = [owner for owner, pieces in enumerate(pieces_of_texts) for _ in pieces]
    flat = [piece for pieces in pieces_of_texts for piece in pieces]
    lexemes: list[list[str]] = [[] for _ in pieces_of_texts]
    if not flat:
        return lexemes, []
    cursor.execute(
        """
        SELECT piece.number, found.lexeme, found.positions
        FROM unnest(%s::text[]) WITH ORDINALITY AS piece(body, number),
             unnest(to_tsvector(%s::regconfig, piece.body)) AS found
        """,
        (flat, configuration),
    )
    of_piece: list[list[str]] = [[] for _ in flat]
    saturated: set[int] = set()
    for number, lexeme, positions in cursor.fetchall():
        row = of_piece[number - 1]
        if positions[-1] > len(row):
            row.extend([""] * (positions[-1] - len(row)))
        for position in positions:
            row[position - 1] = lexeme
        if len(positions) >= _MAX_POSITIONS:
            saturated.add(owners[number - 1])
    for owner, row in zip(owners, of_piece, strict=True):
        lexemes[owner].extend(row)
    return lexemes, sorted(saturated)


def _pieces(text: str, size: int) -> Iterator[str]:
    """`text` in pieces of at most `size` characters, cut at the last white space where there is one."""
    text = text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    start = 0
    while len(text) - start > size:
        cut = max(text.rfind(" ", start, start + size), text.rfind("\n", start, start + size))
        end = cut + 1 if cut > start else start + size
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def allocate_terms(cursor: Cursor, collection_id: int, lexemes: Iterable[str]) -> dict[str, int]:
    """The term id of each lexeme in the collection, new ones added.

    Call it outside of a transaction: then the new terms are committed at once. All writers add in the same order, so
    none can wait for another in a circle.
    """
    wanted = sorted(set(lexemes) - {""})
    found = term_ids(cursor, collection_id, wanted)
    missing = [lexeme for lexeme in wanted if lexeme not in found]
    if missing:
        cursor.execute(
            """
            INSERT INTO rag_lexicalterm (collection_id, term)
            SELECT %s, missing.term FROM unnest(%s::text[]) WITH ORDINALITY AS missing(term, number)
            ORDER BY missing.number
            ON CONFLICT (collection_id, term) DO NOTHING
            """,
            (collection_id, missing),
        )
        found |= term_ids(cursor, collection_id, missing)
    return found


def term_ids(cursor: Cursor, collection_id: int, lexemes: Sequence[str]) -> dict[str, int]:
    """The ids of those of the lexemes that the collection has."""
    if not lexemes:
        return {}
    cursor.execute(
        "SELECT term, id FROM rag_lexicalterm WHERE collection_id = %s AND term = ANY(%s)",
        (collection_id, list(lexemes)),
    )
    return dict(cursor.fetchall())


def encode_passages(
    cursor: Cursor,
    passages: Sequence[Passage],
    *,
    collection_id: int,
    configuration: str,
    split_identifiers: bool,
) -> list[Terms]:
    """Each passage as term ids, new terms added to the collection. Call it outside of a transaction.

    Heading and body beyond `MAX_TITLE_TOKENS` and `MAX_BODY_TOKENS` are left out.
    """
    texts = [lexical_text(part, split_identifiers) for passage in passages for part in (passage.heading, passage.body)]
    lexemes = tokenize(cursor, configuration, texts)
    headings = [row[:MAX_TITLE_TOKENS] for row in lexemes[0::2]]
    bodies = [row[:MAX_BODY_TOKENS] for row in lexemes[1::2]]
    ids = allocate_terms(cursor, collection_id, {lexeme for row in (*headings, *bodies) for lexeme in row})
    ids[""] = GAP
    return [
        Terms(np.array([ids[lexeme] for lexeme in (*heading, *body)], dtype=np.int32), len(heading))
        for heading, body in zip(headings, bodies, strict=True)
    ]


class WordMemory:
    """The lexemes of words that were read before, by text search configuration. For any thread.

    A word is what stands between white space, at which PostgreSQL's parser begins anew unless it is in markup. What it
    makes of a word holds as long as the server runs: other dictionaries would need all documents to be indexed again.
    """

    MOST_CHARACTERS = 4000
    """A longer text is read as a whole: it is a document that was pasted, whose words hardly come again."""
    MOST_IN_A_WORD = 40

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}

    def tokenize(self, cursor: Cursor, configuration: str, text: str) -> list[str]:
        """As the function `tokenize` of one text; words that are new are read in one round trip."""
        words = _WORD.findall(text) if self._is_made_of_words(text) else []
        if not words or max(map(len, words)) > self.MOST_IN_A_WORD:
            return tokenize(cursor, configuration, [text])[0]
        known = self._known
        found = {word: known.get((configuration, word)) for word in words}
        missing = [word for word, lexemes in found.items() if lexemes is None]
        if missing:
            read = self._read(cursor, configuration, missing)
            found |= read
            if len(known) + len(read) > self._capacity:
                known.clear()
            known.update(((configuration, word), lexemes) for word, lexemes in read.items())
        row = [lexeme for word in words for lexeme in found[word] or ()]
        # As PostgreSQL, which says nothing of stop words behind the last term.
        while row and not row[-1]:
            row.pop()
        return row

    def _is_made_of_words(self, text: str) -> bool:
        # At the very beginning of a text, and there alone, two full stops are a path.
        return len(text) <= self.MOST_CHARACTERS and _MARKUP not in text and text[:1].isalnum()

    @staticmethod
    def _read(cursor: Cursor, configuration: str, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        # Behind a space, as in a text, and before something that is no stop word, so that those at its end are counted.
        rows = tokenize(cursor, configuration, [f" {word} {_NO_STOP_WORD}" for word in words])
        return {word: tuple(row[:-1]) for word, row in zip(words, rows, strict=True)}


_NO_STOP_WORD = "zzzz"
_words = WordMemory(50_000)
"""Of this process: 12 MB of ordinary words, 50 MB of the longest compounds."""


def query_lexemes(cursor: Cursor, query: str, *, configuration: str, split_identifiers: bool) -> list[str]:
    """The query's lexemes, one a position, "" for a stop word. Only the first `MAX_QUERY_TOKENS` are read."""
    return _words.tokenize(cursor, configuration, lexical_text(query, split_identifiers))[:MAX_QUERY_TOKENS]
