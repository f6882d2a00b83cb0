"""Word documents, through mammoth, which maps styles to HTML structure; pages are not known until it is printed."""

from __future__ import annotations

import io
import zipfile

import mammoth

from rag.ingest.builder import DocumentBuilder
from rag.ingest.parsers.archive import open_archive, parse_xml
from rag.ingest.parsers.html import add_html
from rag.ingest.types import ParsedDocument, ParseRequest

_STYLE_MAP = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name='Code'] => pre:separator('\\n')
p[style-name='HTML Preformatted'] => pre:separator('\\n')
"""
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


def parse(request: ParseRequest) -> list[ParsedDocument]:
    with open_archive(request) as archive:
        title, metadata = core_properties(archive)
    converted = mammoth.convert_to_html(
        io.BytesIO(request.data),
        style_map=_STYLE_MAP,
        # Pictures hold no text, and mammoth must not read linked ones from disk.
        convert_image=lambda image: [],
        include_embedded_style_map=False,
    )
    builder = DocumentBuilder(request)
    add_html(builder, converted.value)
    return [builder.build(title, metadata)]


def core_properties(archive: zipfile.ZipFile) -> tuple[str | None, dict[str, str]]:
    """Title and author of an Office document, where its own program recorded them."""
    try:
        root = parse_xml(archive.read("docProps/core.xml"))
    except (KeyError, SyntaxError):  # lxml's XMLSyntaxError is one
        return None, {}
    author = (root.findtext(f"{_DUBLIN_CORE}creator") or "").strip()
    return root.findtext(f"{_DUBLIN_CORE}title"), {"author": author} if author else {}
