"""What every format in a ZIP container has in common: no bomb gets past, and XML is read without entities."""

from __future__ import annotations

import io
import zipfile

from lxml import etree

from rag.ingest.types import ParseError, ParseLimitError, ParseRequest

_MAX_ENTRIES = 20_000
_ENCRYPTED = 0x1


def open_archive(request: ParseRequest) -> zipfile.ZipFile:
    """The container, after its directory has been checked.

    The sizes checked are those the directory declares; `zipfile` never reads more of an entry than that, so they
    bound what the libraries that use it can unpack. Raises `ParseError` and `ParseLimitError` (size).
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(request.data))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ParseError(f"{request.name} is not complete ({error}); copy it again.") from None
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > _MAX_ENTRIES or unpacked > request.limits.unpacked_bytes:
        raise ParseLimitError(
            f"{request.name} unpacks to {unpacked / (1 << 20):,.0f} MB in {len(entries):,} parts, more than the "
            f"{request.limits.unpacked_bytes >> 20:,} MB allowed; split it up.",
            "size",
        )
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ParseError(f"{request.name} is protected by a password; save it without one.")
    return archive


def parse_xml(data: bytes) -> etree._Element:
    """The root of an XML document, its own entities not expanded, nothing fetched. Raises `XMLSyntaxError`."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    return etree.fromstring(data, parser)
