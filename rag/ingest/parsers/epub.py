"""EPUB books: the chapters in reading order, each an HTML page."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote

from lxml import etree

from rag.ingest.builder import DocumentBuilder
from rag.ingest.parsers.archive import open_archive, parse_xml
from rag.ingest.parsers.html import add_html
from rag.ingest.types import ParsedDocument, ParseError, ParseRequest

_CONTAINER = {"c": "urn:oasis:names:tc:opendocument:xmlns:container"}
_PACKAGE = {"o": "http://www.idpf.org/2007/opf", "dc": "http://purl.org/dc/elements/1.1/"}
_ENCRYPTION = {"e": "http://www.w3.org/2001/04/xmlenc#"}
_CHAPTER_TYPES = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml"})


def parse(request: ParseRequest) -> list[ParsedDocument]:
    builder = DocumentBuilder(request)
    with open_archive(request) as archive:
        package_path = _package_path(archive, request)
        package = parse_xml(_read(archive, package_path, request))
        encrypted = _encrypted_paths(archive)
        for path in _chapter_paths(package, package_path):
            if path in encrypted:
                raise ParseError(f"{request.name} is protected against copying; index an unprotected edition.")
            add_html(builder, _read(archive, path, request).decode("utf-8", "replace"))
    metadata = {
        key: text
        for key, name in (("author", "creator"), ("language", "language"))
        if (text := (package.findtext(f".//dc:{name}", namespaces=_PACKAGE) or "").strip())
    }
    return [builder.build(package.findtext(".//dc:title", namespaces=_PACKAGE), metadata)]


def _package_path(archive: zipfile.ZipFile, request: ParseRequest) -> str:
    container = parse_xml(_read(archive, "META-INF/container.xml", request))
    rootfile = container.find(".//c:rootfile", _CONTAINER)
    path = rootfile.get("full-path") if rootfile is not None else None
    if not path:
        raise ParseError(f"{request.name} names no package file, so it is no complete EPUB; export it again.")
    return str(path)


def _chapter_paths(package: etree._Element, package_path: str) -> Iterator[str]:
    folder = posixpath.dirname(package_path)
    items = {
        item.get("id"): posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        for item in package.iterfind(".//o:manifest/o:item", _PACKAGE)
        if item.get("media-type") in _CHAPTER_TYPES
    }
    for reference in package.iterfind(".//o:spine/o:itemref", _PACKAGE):
        path = items.pop(reference.get("idref"), None)  # each chapter once
        if path is not None:
            yield path


def _encrypted_paths(archive: zipfile.ZipFile) -> frozenset[str]:
    try:
        root = parse_xml(archive.read("META-INF/encryption.xml"))
    except (KeyError, SyntaxError):
        return frozenset()
    references = root.iterfind(".//e:CipherReference", _ENCRYPTION)
    return frozenset(unquote(reference.get("URI", "")) for reference in references)


def _read(archive: zipfile.ZipFile, path: str, request: ParseRequest) -> bytes:
    try:
        return archive.read(path)
    except KeyError:
        raise ParseError(f"{request.name} lacks its part {path!r}, so it is incomplete; export it again.") from None
