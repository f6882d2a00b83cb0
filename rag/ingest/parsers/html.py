"""HTML: what a reader sees of the main content, with its structure; never scripts, menus and page furniture.

Parsed by libxml2 (lxml), which fetches nothing here, expands no entity of a document's own, and limits the depth.
"""

from __future__ import annotations

import re

from lxml import etree

from rag.ingest.builder import DocumentBuilder
from rag.ingest.encoding import decode
from rag.ingest.types import BlockKind, ParsedDocument, ParseRequest

_SKIPPED_TAGS = """
    script style noscript template head svg iframe object embed applet audio video canvas map
    button select textarea input datalist progress meter nav footer aside
"""
_INLINE_TAGS = """
    a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark nobr q rp rt ruby s samp
    small span strike strong sub sup time tt u var wbr math annotation semantics
"""
_SKIPPED = frozenset(_SKIPPED_TAGS.split())
_INLINE = frozenset(_INLINE_TAGS.split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
_WHITE_SPACE = re.compile(r"[ \t\r\n\f]+")
_INVISIBLE_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_DECLARED_CHARSET = re.compile(rb"<(?:meta[^>]*?charset\s*=|\?xml[^>]*?encoding\s*=)\s*[\"']?([\w.:-]+)", re.I)
_SKIPPED_ROLES = frozenset({"navigation", "search", "contentinfo", "complementary", "banner"})
# A page's own <main> is believed if it holds at least this share of the text.
_MAIN_SHARE = 0.2


def parse(request: ParseRequest) -> list[ParsedDocument]:
    declared = _DECLARED_CHARSET.search(request.data[:4096])
    charset = declared.group(1).decode("ascii", "replace") if declared else None
    root = _tree(decode(request.data, request.name, charset))
    builder = DocumentBuilder(request)
    title = None
    metadata: dict[str, str] = {}
    if root is not None:
        title_element = root.find(".//title")
        title = "".join(title_element.itertext()) if title_element is not None else None
        if root.get("lang"):
            metadata["language"] = root.get("lang")
        _Reader(builder).read(_main_content(root))
        if builder.is_empty:  # a page of nothing but furniture
            _Reader(builder, skipped=frozenset({"script", "style", "template", "head"})).read(root)
    return [builder.build(title, metadata)]


def add_html(builder: DocumentBuilder, html: str) -> None:
    """Append the content of an HTML fragment."""
    root = _tree(html)
    if root is not None:
        _Reader(builder).read(root)


def _tree(html: str) -> etree._Element | None:
    parser = etree.HTMLParser(
        encoding="utf-8",
        no_network=True,
        recover=True,
        remove_comments=True,
        remove_pis=True,
        huge_tree=False,
    )
    try:
        return etree.fromstring(html.encode("utf-8", "replace"), parser)
    except etree.ParserError:  # nothing but white space and comments
        return None


def _main_content(root: etree._Element) -> etree._Element:
    candidates = root.xpath(".//main | .//*[@role='main']") or root.xpath(".//article")
    if len(candidates) == 1:
        everything = sum(map(len, root.itertext()))
        if sum(map(len, candidates[0].itertext())) >= _MAIN_SHARE * everything:
            return candidates[0]
    return root


class _Reader:
    """Walks a tree once, without recursion, and hands blocks to the builder."""

    def __init__(self, builder: DocumentBuilder, skipped: frozenset[str] = _SKIPPED) -> None:
        self._builder = builder
        self._skipped = skipped
        self._inline: list[str] = []
        self._pre_depth = 0
        # Open lists: the next number of an ordered one, None of a bulleted one.
        self._lists: list[int | None] = []
        self._list_lines: list[str] = []
        self._marker: str | None = None
        # The data table being read.
        self._table: etree._Element | None = None
        self._rows: list[list[str]] = []
        self._cell: list[str] | None = None

    def read(self, root: etree._Element) -> None:
        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            tag = element.tag
            if event == "start":
                if self._is_skipped(element, tag):
                    walker.skip_subtree()
                    # Its "end" still comes, and with it the text behind it.
                    continue
                self._start(element, tag)
                self._add_text(element.text)
            else:
                if not self._is_skipped(element, tag):
                    self._end(element, tag)
                if element is not root:
                    self._add_text(element.tail)
        self._flush()
        self._flush_list()

    def _is_skipped(self, element: etree._Element, tag: str) -> bool:
        if tag in self._skipped or element.get("hidden") is not None or element.get("aria-hidden") == "true":
            return True
        if element.get("role") in _SKIPPED_ROLES or element.get("class") == "headerlink":
            return True
        style = element.get("style")
        return style is not None and _INVISIBLE_STYLE.search(style) is not None

    def _start(self, element: etree._Element, tag: str) -> None:
        if tag in _INLINE:
            return
        if tag == "br":
            self._inline.append("\n")
            return
        self._flush()
        if tag == "pre":
            self._pre_depth += 1
        elif tag in _LISTS:
            self._lists.append(_first_number(element) if tag == "ol" else None)
        elif tag == "li":
            self._marker = self._next_marker()
        elif tag in {"dd", "dt"}:
            self._marker = "" if tag == "dt" else "  "
        elif tag == "table" and self._table is None and _is_data_table(element):
            self._flush_list()
            self._table = element
            self._rows = []
        elif self._table is not None and tag == "tr":
            self._rows.append([])
        elif self._table is not None and tag in {"td", "th"}:
            self._cell = []
        elif tag in _HEADINGS:
            self._flush_list()

    def _end(self, element: etree._Element, tag: str) -> None:
        if tag in _INLINE or tag == "br":
            return
        if tag in _HEADINGS and self._table is None:
            heading = self._take_inline()
            self._builder.heading(heading.rstrip(" ¶"), _HEADINGS[tag])
            return
        self._flush(is_code=tag == "pre")
        if tag == "pre":
            self._pre_depth -= 1
        elif tag in _LISTS and self._lists:
            self._lists.pop()
            self._marker = None
            if not self._lists:
                self._flush_list()
        elif tag == "li":
            self._marker = None
        elif tag == "dl":
            self._marker = None
            if not self._lists:
                self._flush_list()
        elif element is self._table:
            self._builder.add(BlockKind.TABLE, "\n".join(" | ".join(row) for row in self._rows if any(row)))
            self._table = None
        elif self._table is not None and tag in {"td", "th"} and self._cell is not None:
            if not self._rows:
                self._rows.append([])
            self._rows[-1].append(" ".join(self._cell))
            self._cell = None

    def _add_text(self, text: str | None) -> None:
        if text:
            self._inline.append(text if self._pre_depth else _WHITE_SPACE.sub(" ", text))

    def _take_inline(self) -> str:
        text = "".join(self._inline)
        self._inline.clear()
        return text

    def _flush(self, *, is_code: bool = False) -> None:
        text = self._take_inline()
        if not text.strip():
            return
        if self._cell is not None:
            self._cell.append(" ".join(text.split()))
        elif self._lists or self._marker is not None:
            self._add_list_lines(text)
        else:
            self._flush_list()
            if self._pre_depth or is_code:
                self._builder.add(BlockKind.CODE, text)
            else:
                self._builder.paragraph("\n".join(line.strip() for line in text.split("\n")))

    def _add_list_lines(self, text: str) -> None:
        indent = "  " * max(len(self._lists) - 1, 0)
        for line in text.split("\n"):
            if not line.strip():
                continue
            body = line.rstrip() if self._pre_depth else line.strip()
            if self._marker is None:
                self._list_lines.append(f"{indent}  {body}")
            else:
                self._list_lines.append(f"{indent}{self._marker}{body}")
                self._marker = None

    def _flush_list(self) -> None:
        if self._list_lines:
            self._builder.add(BlockKind.LIST, "\n".join(self._list_lines))
            self._list_lines = []

    def _next_marker(self) -> str:
        if not self._lists or self._lists[-1] is None:
            return "- "
        number = self._lists[-1]
        self._lists[-1] = number + 1
        return f"{number}. "


def _first_number(element: etree._Element) -> int:
    start = element.get("start", "1")
    return int(start) if re.fullmatch(r"-?\d{1,9}", start) else 1


def _is_data_table(table: etree._Element) -> bool:
    """Not one that only lays out a page: those hold tables, headings and lists."""
    return next(table.iterdescendants("table", "h1", "h2", "h3", "pre", "ul", "ol"), None) is None
