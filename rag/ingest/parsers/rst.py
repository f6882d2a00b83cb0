"""reStructuredText, through docutils, with Sphinx's own roles and directives read for their text.

Nothing is included from other files, no raw output passes, and no configuration file is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from docutils import nodes
from docutils.core import publish_doctree

from rag.ingest.builder import DocumentBuilder
from rag.ingest.encoding import clean, decode
from rag.ingest.types import BlockKind, ParsedDocument, ParseRequest

_SETTINGS = {
    "_disable_config": True,
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "doctitle_xform": False,
    "docinfo_xform": False,
    "syntax_highlight": "none",
    "input_encoding": "unicode",
    # Errors (3) stay in the tree, which is where directives that docutils does not know are found; none stops it.
    "report_level": 3,
    "halt_level": 6,
    "warning_stream": False,
    "line_length_limit": 1_000_000,
}
# :role:`text` and :role:`text <target>` of roles that docutils does not know.
_ROLE = re.compile(r":[\w.+:-]+:`[~!]?([^`<]+?)\s*(?:<[^`>]*>)?`\Z", re.S)
_DIRECTIVE = re.compile(r"\.\.\s+([\w.+:-]+)::[ \t]*([^\n]*)(.*)\Z", re.S)
_OPTION_LINE = re.compile(r":[\w-]+:(?:\s|\Z)")
# Directives of which nothing is text for a reader, and those that hold code.
_SILENT_DIRECTIVE_NAMES = """
    toctree index literalinclude include raw highlight tabularcolumns default-domain currentmodule py:currentmodule
    module py:module graphviz digraph inheritance-diagram
"""
_CODE_DIRECTIVE_NAMES = """
    code-block sourcecode code doctest testcode testoutput prompt console
"""
_SILENT_DIRECTIVES = frozenset(_SILENT_DIRECTIVE_NAMES.split())
_CODE_DIRECTIVES = frozenset(_CODE_DIRECTIVE_NAMES.split())
_MAX_DIRECTIVE_DEPTH = 6

_SILENT_NODES = (
    nodes.comment,
    nodes.substitution_definition,
    nodes.target,
    nodes.pending,
    nodes.raw,
    nodes.label,
    nodes.image,
    nodes.meta,
)
_CODE_NODES = (nodes.literal_block, nodes.doctest_block, nodes.math_block)
_LIST_NODES = (
    nodes.bullet_list,
    nodes.enumerated_list,
    nodes.definition_list,
    nodes.field_list,
    nodes.option_list,
)


def parse(request: ParseRequest) -> list[ParsedDocument]:
    builder = DocumentBuilder(request)
    for node in _tree(clean(decode(request.data, request.name))).children:
        _add(builder, node, level=1, depth=0)
    return [builder.build()]


def _tree(source: str) -> nodes.document:
    return publish_doctree(source, settings_overrides=_SETTINGS)


def _add(builder: DocumentBuilder, node: nodes.Node, level: int, depth: int) -> None:
    if isinstance(node, nodes.section):
        for child in node.children:
            _add(builder, child, level + 1 if isinstance(child, nodes.section) else level, depth)
    elif isinstance(node, nodes.title | nodes.subtitle):
        is_section = isinstance(node.parent, nodes.section)
        (builder.heading(_text(node), level) if is_section else builder.paragraph(_text(node)))
    elif isinstance(node, _CODE_NODES):
        builder.add(BlockKind.CODE, node.astext())
    elif isinstance(node, _LIST_NODES):
        builder.add(BlockKind.LIST, "\n".join(_lines(node, depth)))
    elif isinstance(node, nodes.table):
        builder.add(BlockKind.TABLE, "\n".join(_lines(node, depth)))
    elif isinstance(node, nodes.system_message):
        _add_unknown_directive(builder, node, level, depth)
    elif isinstance(node, nodes.line_block):
        builder.paragraph("\n".join(_lines(node, depth)))
    elif isinstance(node, nodes.TextElement):
        if not isinstance(node, _SILENT_NODES):
            builder.paragraph(_text(node))
    elif not isinstance(node, _SILENT_NODES):
        for child in node.children:
            _add(builder, child, level, depth)


def _add_unknown_directive(builder: DocumentBuilder, message: nodes.system_message, level: int, depth: int) -> None:
    found = _unknown_directive(message, depth)
    if found is None:
        return
    argument, content, is_code = found
    builder.paragraph(argument)
    if is_code:
        builder.add(BlockKind.CODE, content)
    elif content:
        for node in _tree(content).children:
            _add(builder, node, level + 1, depth + 1)


def _unknown_directive(message: nodes.system_message, depth: int) -> tuple[str, str, bool] | None:
    """Argument and content of the directive that docutils could not read, and whether the content is code."""
    block = next((child for child in message.children if isinstance(child, nodes.literal_block)), None)
    match = _DIRECTIVE.match(block.astext()) if block is not None else None
    if match is None:
        return None
    name, argument, body = match.groups()
    if name in _SILENT_DIRECTIVES:
        return None
    lines = dedent(body).strip("\n").split("\n")
    while lines and _OPTION_LINE.match(lines[0]):
        lines.pop(0)
    content = "\n".join(lines).strip("\n")
    is_code = name in _CODE_DIRECTIVES
    return ("" if is_code else argument), content, is_code or depth >= _MAX_DIRECTIVE_DEPTH


def _text(node: nodes.Node) -> str:
    """The words of a paragraph or title, unknown roles reduced to their text."""
    if isinstance(node, nodes.Text):
        return str(node)
    if isinstance(node, nodes.problematic):
        role = _ROLE.match(node.astext())
        return role.group(1) if role else node.astext()
    if isinstance(node, nodes.image):
        return str(node.get("alt", ""))
    if isinstance(node, nodes.raw):
        return ""
    return "".join(map(_text, node.children))


def _lines(node: nodes.Node, depth: int) -> Iterator[str]:
    """A block inside a list or table, as lines."""
    if isinstance(node, _LIST_NODES):
        yield from _list_lines(node, depth)
    elif isinstance(node, nodes.row):
        yield " | ".join(
            " ".join(" ".join(line for child in entry.children for line in _lines(child, depth)).split())
            for entry in node.children
        )
    elif isinstance(node, nodes.system_message):
        found = _unknown_directive(node, depth)
        if found is not None:
            argument, content, is_code = found
            yield from filter(None, [argument])
            if is_code:
                yield from content.split("\n")
            elif content:
                for child in _tree(content).children:
                    yield from _lines(child, depth + 1)
    elif isinstance(node, _CODE_NODES):
        yield from node.astext().split("\n")
    elif isinstance(node, nodes.TextElement):
        if not isinstance(node, _SILENT_NODES):
            yield from _text(node).split("\n")
    elif not isinstance(node, _SILENT_NODES):
        for child in node.children:
            yield from _lines(child, depth)


def _list_lines(node: Any, depth: int) -> Iterator[str]:
    for number, item in enumerate(node.children, start=int(node.get("start", 1))):
        if isinstance(item, nodes.definition_list_item | nodes.field | nodes.option_list_item):
            heads = [line for child in item.children[:-1] for line in _lines(child, depth)]
            bodies = list(_lines(item.children[-1], depth)) if item.children else []
            if isinstance(item, nodes.field) and bodies:
                heads, bodies = [f"{' '.join(heads)}: {bodies[0]}"], bodies[1:]
            yield from heads
            yield from (f"  {line}" for line in bodies)
        else:
            marker = f"{number}. " if isinstance(node, nodes.enumerated_list) else "- "
            for i, line in enumerate(line for child in item.children for line in _lines(child, depth)):
                yield f"{marker if i == 0 else '  '}{line}"
