"""JSON Lines: each line is a document with an id of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Never

from rag.ingest.builder import DocumentBuilder, check_text_size
from rag.ingest.encoding import clean, decode
from rag.ingest.formats import PLAIN_TEXT
from rag.ingest.parsers.plain import add_plain_text
from rag.ingest.types import EmptyDocumentError, ParsedDocument, ParseError, ParseRequest


def parse(request: ParseRequest) -> list[ParsedDocument]:
    """The documents of all lines; one without text is kept, with an empty `text`, for its owner to be told."""
    documents: list[ParsedDocument] = []
    line_of: dict[str, int] = {}
    characters = 0
    for number, line in enumerate(decode(request.data, request.name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{request.name}, line {number}"
        document = document_of(record_of(line, where), where, request)
        identifier = document.identifier or ""
        if identifier in line_of:
            raise ParseError(f"{where}: line {line_of[identifier]} has the id {identifier!r} too; make it unique.")
        line_of[identifier] = number
        characters += len(document.text)
        check_text_size(characters, request)
        documents.append(document)
    if not documents:
        raise EmptyDocumentError(f"{request.name} is empty; add one JSON object a line or leave it out.")
    return documents


def record_of(line: str, where: str) -> dict[str, Any]:
    """The object on one line; `where` names the line in messages. Raises `ParseError`, as do the others below."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise ParseError(f"{where}: the JSON is nested too deeply; flatten it.") from None
    except ValueError as error:
        raise ParseError(f"{where}: this is not JSON ({error}); write one JSON object a line.") from None
    if not isinstance(record, dict):
        raise ParseError(f'{where}: this is not a JSON object; write one object a line, such as {{"_id": …}}.')
    return record


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value")


def document_of(record: dict[str, Any], where: str, request: ParseRequest) -> ParsedDocument:
    """The document of one record, as plain text; its text may be empty."""
    fields = request.jsonl
    identifier = identifier_of(record, fields.identifier, where)
    title = _optional_string(record, fields.title, where)
    text = _optional_string(record, fields.text, where)
    if text is None and title is None:
        raise ParseError(f"{where}: there is neither {fields.text!r} nor {fields.title!r}; add a field with text.")
    metadata = record.get(fields.metadata) or {}
    if not isinstance(metadata, dict):
        raise ParseError(f"{where}: {fields.metadata!r} must be an object, not {_kind(metadata)}.")
    builder = DocumentBuilder(replace(request, media_type=PLAIN_TEXT))
    add_plain_text(builder, text or "")
    try:
        return builder.build(title, metadata, identifier=identifier, may_be_empty=True)
    except RecursionError:
        raise ParseError(f"{where}: {fields.metadata!r} is nested too deeply; flatten it.") from None


def identifier_of(record: dict[str, Any], names: Sequence[str], where: str) -> str:
    """The record's own id: the first of the fields `names` that is there."""
    for name in names:
        value = record.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ParseError(f"{where}: {name!r} must be a string or a whole number, not {_kind(value)}.")
        identifier = clean(str(value)).strip()
        if identifier:
            return identifier
    raise ParseError(f"{where}: there is no {' or '.join(map(repr, names))}; give each document an id.")


def _optional_string(record: dict[str, Any], name: str, where: str) -> str | None:
    value = record.get(name)
    if value is None or isinstance(value, str):
        return value
    raise ParseError(f"{where}: {name!r} must be a string, not {_kind(value)}.")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "null")
