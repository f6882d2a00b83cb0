"""Reads test collections in BEIR layout, as streams: `corpus.jsonl`, `queries.jsonl`, and `qrels.tsv`.

The judgements may also lie where BEIR's own collections keep them, in `qrels/test.tsv`. How sure each is may be told in
`qrels/weights.tsv`, which other readers of the layout leave alone. Every fault names its file and line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rag.ingest.encoding import clean
from rag.ingest.formats import JSONL
from rag.ingest.parsers import jsonl
from rag.ingest.types import IngestError, ParsedDocument, ParseRequest

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
JUDGEMENTS = ("qrels.tsv", "qrels/test.tsv")
WEIGHTS = "qrels/weights.tsv"
_MAX_LINE_BYTES = 32 << 20
_COLUMNS = "query-id, corpus-id and score, parted by tabs"


class BeirError(IngestError):
    """The folder is not a test collection in BEIR layout; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Query:
    identifier: str
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """How relevant a document is to a query: 0 is not at all. ``weight``: how sure that is, above 0 and at most 1."""

    query_id: str
    document_id: str
    grade: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a valid folder holds. `empty_documents` have neither title nor text, as some of the classics do."""

    documents: int
    empty_documents: int
    queries: int
    judged_queries: int
    judgements: int


class BeirFolder:
    """One collection on disk. Raises `BeirError` at once if a file is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise BeirError(f"{folder} is not a folder; name one that holds {CORPUS}, {QUERIES} and {JUDGEMENTS[0]}.")
        judgements = next((folder / name for name in JUDGEMENTS if (folder / name).is_file()), None)
        missing = [name for name in (CORPUS, QUERIES) if not (folder / name).is_file()]
        if judgements is None:
            missing.append(JUDGEMENTS[0])
        if missing or judgements is None:
            raise BeirError(f"{folder} lacks {' and '.join(missing)}, so it is no BEIR collection; check the path.")
        self._judgements_path = judgements

    def documents(self) -> Iterator[ParsedDocument]:
        """The corpus in its order, each document with its `identifier`; the text of some may be empty."""
        request = ParseRequest(b"", CORPUS, JSONL)
        for where, line in _lines(self.folder / CORPUS):
            try:
                yield jsonl.document_of(jsonl.record_of(line, where), where, request)
            except BeirError:
                raise
            except IngestError as error:
                raise BeirError(str(error)) from None

    def queries(self) -> Iterator[Query]:
        for where, line in _lines(self.folder / QUERIES):
            try:
                record = jsonl.record_of(line, where)
                identifier = jsonl.identifier_of(record, ("_id", "id"), where)
            except IngestError as error:
                raise BeirError(str(error)) from None
            text = record.get("text")
            if not isinstance(text, str) or not clean(text).strip():
                raise BeirError(f"{where}: there is no 'text' with words in it; give each query one.")
            yield Query(identifier, " ".join(clean(text).split()))

    def judgements(self) -> Iterator[Judgement]:
        weights = self._weights()
        for i, (where, line) in enumerate(_lines(self._judgements_path)):
            cells = [clean(cell).strip() for cell in line.split("\t")]
            if i == 0 and cells[-1].lower() in {"score", "relevance", "grade"}:
                continue
            if len(cells) != 3 or not cells[0] or not cells[1]:
                raise BeirError(f"{where}: there are {len(cells)} columns; write {_COLUMNS}.")
            try:
                grade = float(cells[2])
            except ValueError:
                grade = -1.0
            if grade < 0 or not grade.is_integer():
                raise BeirError(f"{where}: the score {cells[2][:20]!r} is not a whole number from 0 up.")
            yield Judgement(cells[0], cells[1], int(grade), weights.get((cells[0], cells[1]), 1.0))

    def _weights(self) -> dict[tuple[str, str], float]:
        """By query and document; empty without the file."""
        found: dict[tuple[str, str], float] = {}
        path = self.folder / WEIGHTS
        for i, (where, line) in enumerate(_lines(path) if path.is_file() else ()):
            cells = [clean(cell).strip() for cell in line.split("\t")]
            if i == 0 and cells[-1].lower() == "weight":
                continue
            try:
                query_id, document_id, text = cells
                weight = float(text)
            except ValueError:
                weight = 0.0
            if not 0 < weight <= 1:
                raise BeirError(f"{where}: write query-id, corpus-id and a weight in (0, 1], parted by tabs.")
            found[query_id, document_id] = weight
        return found

    def validate(self) -> Summary:
        """Reads everything once. Raises `BeirError` at the first fault: also ids that are double or unknown."""
        documents: dict[str, int] = {}
        empty = 0
        for line, document in enumerate(self.documents(), start=1):
            identifier = document.identifier or ""
            _refuse_double(documents, identifier, line, CORPUS)
            empty += not document.text and not document.title
        queries: dict[str, int] = {}
        for line, query in enumerate(self.queries(), start=1):
            _refuse_double(queries, query.identifier, line, QUERIES)
        name = self._judgements_path.name
        pairs: set[tuple[str, str]] = set()
        for judgement in self.judgements():
            if judgement.query_id not in queries:
                raise BeirError(f"{name}: query {judgement.query_id!r} is not in {QUERIES}; leave it out.")
            if judgement.document_id not in documents:
                raise BeirError(f"{name}: document {judgement.document_id!r} is not in {CORPUS}; leave it out.")
            pair = (judgement.query_id, judgement.document_id)
            if pair in pairs:
                raise BeirError(f"{name}: query {pair[0]!r} and document {pair[1]!r} are judged twice; keep one.")
            pairs.add(pair)
        if not documents:
            raise BeirError(f"{CORPUS} is empty; there is nothing to import.")
        judged = {query_id for query_id, _ in pairs}
        return Summary(len(documents), empty, len(queries), len(judged), len(pairs))


def _refuse_double(known: dict[str, int], identifier: str, number: int, name: str) -> None:
    if identifier in known:
        raise BeirError(f"{name}: records {known[identifier]} and {number} have the id {identifier!r}; make it unique.")
    known[identifier] = number


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, with its place for messages."""
    with path.open("rb") as file:
        number = 0
        while data := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path.name}, line {number}"
            if len(data) > _MAX_LINE_BYTES:
                raise BeirError(f"{where}: it is longer than {_MAX_LINE_BYTES >> 20} MB; shorten the document.")
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise BeirError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8.") from None
            if line.strip():
                yield where, line
