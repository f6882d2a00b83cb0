"""Source code: its text as it is, parted at functions, methods and classes by its syntax tree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PurePosixPath

from tree_sitter import Language, Node, Parser

from rag.ingest.builder import check_text_size, clean_title
from rag.ingest.encoding import clean, decode
from rag.ingest.formats import format_of
from rag.ingest.types import Block, BlockKind, EmptyDocumentError, ParsedDocument, ParseRequest

_MAX_DEPTH = 8
_MAX_NAME_CHARACTERS = 200
_WORD = re.compile(r"\w")
_CLOSING = re.compile(r"[ \t;,)]*")
_RECEIVER = re.compile(r"(\w+)(?:\[[^\]]*\])?\s*\)\s*$")
# Nodes that stand before the definition they belong to.
_ANNOTATIONS = frozenset({"attribute_item", "decorator"})
_FUNCTION_VALUES = frozenset(
    {"arrow_function", "function_expression", "function", "generator_function", "class", "class_expression"}
)

# In place of a field's name: the wrapped definition has none and comes last.
_LAST_CHILD = "*"

Boundary = tuple[int, tuple[str, ...]]
"""Where in the text a piece begins, and the symbol it belongs to."""
Piece = tuple[int, int, tuple[str, ...]]
"""Start, end and symbol."""


@dataclass(frozen=True, slots=True)
class _Grammar:
    """What matters of a language's syntax tree.

    `definitions` are kept whole. `containers` hold definitions in the field named. `wrappers` add something to the
    definition in the field named (decorators, `export`). `transparent` nodes hold definitions without a name of their
    own.
    """

    module: str
    definitions: frozenset[str]
    containers: Mapping[str, str] = field(default_factory=dict)
    wrappers: Mapping[str, str] = field(default_factory=dict)
    transparent: frozenset[str] = frozenset()
    function: str = "language"


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


_JAVASCRIPT = _Grammar(
    "tree_sitter_javascript",
    _names("function_declaration generator_function_declaration method_definition lexical_declaration"),
    {"class_declaration": "body"},
    {"export_statement": "declaration"},
)
_TYPESCRIPT = _Grammar(
    "tree_sitter_typescript",
    _JAVASCRIPT.definitions
    | _names(
        "interface_declaration type_alias_declaration enum_declaration abstract_method_signature function_signature"
    ),
    {"class_declaration": "body", "abstract_class_declaration": "body", "internal_module": "body", "module": "body"},
    {"export_statement": "declaration"},
    transparent=_names("ambient_declaration expression_statement"),
    function="language_typescript",
)
_C_CONDITIONALS = _names("preproc_ifdef preproc_if preproc_else preproc_elif linkage_specification declaration_list")

_GRAMMARS: Mapping[str, _Grammar] = {
    "python": _Grammar(
        "tree_sitter_python",
        _names("function_definition"),
        {"class_definition": "body"},
        {"decorated_definition": "definition"},
    ),
    "javascript": _JAVASCRIPT,
    "typescript": _TYPESCRIPT,
    "tsx": _Grammar(
        _TYPESCRIPT.module,
        _TYPESCRIPT.definitions,
        _TYPESCRIPT.containers,
        _TYPESCRIPT.wrappers,
        _TYPESCRIPT.transparent,
        "language_tsx",
    ),
    "go": _Grammar("tree_sitter_go", _names("function_declaration method_declaration type_declaration")),
    "rust": _Grammar(
        "tree_sitter_rust",
        _names("function_item struct_item enum_item union_item macro_definition function_signature_item"),
        {"impl_item": "body", "trait_item": "body", "mod_item": "body"},
    ),
    "java": _Grammar(
        "tree_sitter_java",
        _names(
            "method_declaration constructor_declaration compact_constructor_declaration annotation_type_declaration"
        ),
        {
            "class_declaration": "body",
            "interface_declaration": "body",
            "enum_declaration": "body",
            "record_declaration": "body",
        },
        transparent=_names("enum_body_declarations"),
    ),
    "c": _Grammar(
        "tree_sitter_c",
        _names("function_definition struct_specifier enum_specifier union_specifier type_definition"),
        transparent=_C_CONDITIONALS,
    ),
    "cpp": _Grammar(
        "tree_sitter_cpp",
        _names("function_definition enum_specifier union_specifier type_definition"),
        {"namespace_definition": "body", "class_specifier": "body", "struct_specifier": "body"},
        {"template_declaration": _LAST_CHILD},
        transparent=_C_CONDITIONALS,
    ),
}


def parse(request: ParseRequest) -> list[ParsedDocument]:
    decoded = clean(decode(request.data, request.name))
    text = "\n".join(line.rstrip() for line in decoded.split("\n")).strip("\n")
    if not text.strip():
        raise EmptyDocumentError(f"{request.name} holds no text; add text to it or leave it out.")
    check_text_size(len(text), request)
    language = format_of(request.media_type).language
    boundaries = list(_boundaries(text, _GRAMMARS[language])) if language else []
    return [
        ParsedDocument(
            title=clean_title(PurePosixPath(request.name).name),
            text=text,
            media_type=request.media_type,
            blocks=tuple(_blocks(text, boundaries)),
        )
    ]


def _blocks(text: str, boundaries: Sequence[Boundary]) -> Iterator[Block]:
    """Tiles the text. A piece without a word (a closing brace) belongs to the one before it."""
    pieces: list[Piece] = []
    begin = 0
    starts = [(0, ()), *((_piece_start(text, position), symbol) for position, symbol in boundaries)]
    ends = [*(start for start, _ in starts[1:]), len(text)]
    for (_, symbol), end in zip(starts, ends, strict=True):
        if end <= begin:
            continue
        if _WORD.search(text, begin, end) or not pieces:
            pieces.append((begin, end, symbol))
        else:
            pieces[-1] = (pieces[-1][0], end, pieces[-1][2])
        begin = end
    for start, end, symbol in _heads_joined(text, pieces):
        body = text[start:end].strip("\n")
        if body.strip():
            first = text.index(body[0], start)
            yield Block(BlockKind.CODE, first, first + len(body.rstrip()), symbol=symbol)


def _heads_joined(text: str, pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Joins the one line that opens a class or module with the first definition in it."""
    begin: int | None = None
    for (start, end, symbol), following in zip(pieces, [*pieces[1:], None], strict=True):
        first = start if begin is None else begin
        is_inside = following is not None and symbol and following[2][: len(symbol)] == symbol != following[2]
        if is_inside and "\n" not in text[first:end].strip():
            begin = first
        else:
            yield first, end, symbol
            begin = None


def _piece_start(text: str, position: int) -> int:
    """The start of the line if a piece is the first thing on it, else behind what closes the piece before it."""
    line = text.rfind("\n", 0, position) + 1
    if not text[line:position].strip():
        return line
    closing = _CLOSING.match(text, position)
    return closing.end() if closing else position


def _boundaries(text: str, grammar: _Grammar) -> Iterator[Boundary]:
    """In order: where each definition begins, and where what holds it goes on."""
    source = text.encode()
    language = Language(getattr(import_module(grammar.module), grammar.function)())
    tree = Parser(language).parse(source)
    found = list(_definitions(tree.root_node, grammar, ()))
    offsets = _character_offsets(source, sorted({position for position, _ in found}))
    for position, symbol in found:
        yield offsets[position], symbol


def _definitions(node: Node, grammar: _Grammar, path: tuple[str, ...]) -> Iterator[Boundary]:
    """Boundaries in bytes of the definitions directly inside `node`, and of those inside them."""
    comment: Node | None = None
    previous = node
    for child in node.named_children:
        if "comment" in child.type or child.type in _ANNOTATIONS:
            if comment is None or _rows_between(previous, child) > 1:
                comment = child
            previous = child
            continue
        start = comment.start_byte if comment is not None and _rows_between(previous, child) <= 1 else child.start_byte
        comment = None
        inner = _unwrap(child, grammar)
        if inner.type in grammar.transparent:
            if len(path) < _MAX_DEPTH:
                yield from _definitions(inner, grammar, path)
            continue
        body_field = grammar.containers.get(inner.type)
        name = _name(inner) if body_field or inner.type in grammar.definitions else None
        if name is None:
            continue
        symbol = (*path, *name)
        yield start, symbol
        body = inner.child_by_field_name(body_field) if body_field else None
        if body is not None and len(symbol) < _MAX_DEPTH:
            yield from _definitions(body, grammar, symbol)
        yield child.end_byte, path


def _unwrap(node: Node, grammar: _Grammar) -> Node:
    while (wrapped_field := grammar.wrappers.get(node.type)) is not None:
        children = node.named_children
        inner = node.child_by_field_name(wrapped_field)
        if wrapped_field == _LAST_CHILD and children:
            inner = children[-1]
        if inner is None:
            break
        node = inner
    return node


def _name(node: Node) -> tuple[str, ...] | None:
    """The name of a definition, with the type it belongs to where the syntax says so; None where it has none."""
    if node.type in {"lexical_declaration", "variable_declaration"}:
        return _name_of_function_value(node)
    if node.type == "type_declaration":  # Go: type Name struct { … }
        specification = node.named_children[0] if node.named_children else None
        return _text_of(specification.child_by_field_name("name")) if specification is not None else None
    if node.type == "impl_item":
        implemented = _text_of(node.child_by_field_name("type"))
        return (implemented[0].split("<")[0].strip(),) if implemented else None
    if node.type == "method_declaration" and (receiver := node.child_by_field_name("receiver")) is not None:
        owner = _RECEIVER.search(_decoded(receiver))
        own = _text_of(node.child_by_field_name("name"))
        return (owner.group(1), *own) if owner and own else own
    name = node.child_by_field_name("name")
    declarator = node
    while name is None:  # C: the name lies inside pointers, arrays and parameters
        following = declarator.child_by_field_name("declarator")
        if following is None:
            return _text_of(declarator) if declarator is not node else None
        declarator = following
        name = declarator.child_by_field_name("name") if declarator.type != "qualified_identifier" else declarator
    return _text_of(name)


def _name_of_function_value(declaration: Node) -> tuple[str, ...] | None:
    """`const name = () => …` defines a function; `const name = 1` does not."""
    for declarator in declaration.named_children:
        value = declarator.child_by_field_name("value")
        if value is not None and value.type in _FUNCTION_VALUES:
            return _text_of(declarator.child_by_field_name("name"))
    return None


def _text_of(node: Node | None) -> tuple[str, ...] | None:
    if node is None:
        return None
    name = " ".join(_decoded(node).split())[:_MAX_NAME_CHARACTERS]
    return tuple(filter(None, name.split("::"))) or None


def _decoded(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _rows_between(node: Node, following: Node) -> int:
    # The end of a line comment may lie at the start of the next row.
    return following.start_point[0] - node.end_point[0] + (node.end_point[1] == 0)


def _character_offsets(source: bytes, positions: Sequence[int]) -> dict[int, int]:
    """Character offset of each of the ascending byte positions."""
    offsets: dict[int, int] = {}
    done_bytes = done_characters = 0
    for position in positions:
        done_characters += len(source[done_bytes:position].decode("utf-8", "replace"))
        done_bytes = position
        offsets[position] = done_characters
    return offsets
