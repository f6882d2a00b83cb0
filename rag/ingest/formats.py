"""The one table of the kinds of file that can be read, and how to tell which one a file is."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath

from rag.ingest.types import UnsupportedFormatError

PLAIN_TEXT = "text/plain"
MARKDOWN = "text/markdown"
HTML = "text/html"
RST = "text/x-rst"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSONL = "application/jsonl"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"
CODE = "text/x-source"


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file: its media type, the module under `rag.ingest.parsers` that reads it, its extensions.

    `language` is the tree-sitter grammar of source code, None where there is none.
    """

    media_type: str
    parser: str
    extensions: tuple[str, ...]
    language: str | None = None


# Source code and configuration without a grammar here: read as lines.
_OTHER_CODE = """
    .bash .bat .cfg .clj .cmake .conf .cs .css .dart .ex .exs .elm .erl .f90 .fish .fs .gradle .graphql
    .groovy .hs .ini .jl .json .json5 .kt .kts .less .lua .m .mk .ml .mm .nim .pas .php .pl .pm
    .properties .proto .ps1 .r .rb .sass .scala .scss .sh .sql .svelte .swift .tcl .tf .toml .vb .vim
    .vue .xml .yaml .yml .zig .zsh
"""

FORMATS: tuple[Format, ...] = (
    Format(MARKDOWN, "markdown", (".md", ".markdown", ".mdown", ".mkd", ".mdx")),
    Format(HTML, "html", (".html", ".htm", ".xhtml")),
    Format(RST, "rst", (".rst", ".rest")),
    Format(PLAIN_TEXT, "plain", (".txt", ".text", ".log", ".asc")),
    Format(CSV, "spreadsheet", (".csv",)),
    Format(TSV, "spreadsheet", (".tsv", ".tab")),
    Format(JSONL, "jsonl", (".jsonl", ".ndjson")),
    Format(PDF, "pdf", (".pdf",)),
    Format(DOCX, "docx", (".docx", ".docm")),
    Format(PPTX, "pptx", (".pptx", ".pptm")),
    Format(XLSX, "spreadsheet", (".xlsx", ".xlsm")),
    Format(EPUB, "epub", (".epub",)),
    Format("text/x-python", "code", (".py", ".pyi", ".pyw"), "python"),
    Format("text/javascript", "code", (".js", ".mjs", ".cjs", ".jsx"), "javascript"),
    Format("text/x-typescript", "code", (".ts", ".mts", ".cts"), "typescript"),
    Format("text/x-tsx", "code", (".tsx",), "tsx"),
    Format("text/x-go", "code", (".go",), "go"),
    Format("text/x-rust", "code", (".rs",), "rust"),
    Format("text/x-java", "code", (".java",), "java"),
    Format("text/x-c", "code", (".c", ".h"), "c"),
    Format("text/x-c++", "code", (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh"), "cpp"),
    Format(
        CODE,
        "code",
        tuple(_OTHER_CODE.split()),
    ),
)

# Files known by their whole name, in lower case.
_BY_NAME = {
    "readme": PLAIN_TEXT,
    "license": PLAIN_TEXT,
    "licence": PLAIN_TEXT,
    "copying": PLAIN_TEXT,
    "notice": PLAIN_TEXT,
    "authors": PLAIN_TEXT,
    "changelog": PLAIN_TEXT,
    "changes": PLAIN_TEXT,
    "contributing": PLAIN_TEXT,
    "news": PLAIN_TEXT,
    "todo": PLAIN_TEXT,
    "makefile": CODE,
    "gnumakefile": CODE,
    "dockerfile": CODE,
    "containerfile": CODE,
    "jenkinsfile": CODE,
    "vagrantfile": CODE,
    "procfile": CODE,
    "rakefile": CODE,
    "gemfile": CODE,
}

_BY_MEDIA_TYPE = {known.media_type: known for known in FORMATS}
_BY_EXTENSION = {extension: known for known in FORMATS for extension in known.extensions}

# Names that clients send for the same thing.
_MEDIA_TYPE_ALIASES = {
    "application/xhtml+xml": HTML,
    "text/x-markdown": MARKDOWN,
    "text/prs.fallenstein.rst": RST,
    "text/restructuredtext": RST,
    "application/csv": CSV,
    "application/x-ndjson": JSONL,
    "application/ndjson": JSONL,
    "application/json-lines": JSONL,
    "application/x-jsonlines": JSONL,
    "application/x-pdf": PDF,
    "application/javascript": "text/javascript",
    "application/typescript": "text/x-typescript",
    "application/json": CODE,
    "application/xml": CODE,
    "text/xml": CODE,
    "text/css": CODE,
    "application/yaml": CODE,
    "application/toml": CODE,
    "application/sql": CODE,
    "application/x-sh": CODE,
}

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

# First bytes of what cannot be read, with what its owner can do about it.
_UNREADABLE: tuple[tuple[bytes, str], ...] = (
    (
        _OLE,
        "is an old or password-protected Office file; remove the password or save it as DOCX, XLSX or PPTX",
    ),
    (b"{\\rtf", "is an RTF file; save it as DOCX or PDF"),
    (b"\x89PNG", "is an image; run text recognition on it and index the text"),
    (b"\xff\xd8\xff", "is an image; run text recognition on it and index the text"),
    (b"GIF8", "is an image; run text recognition on it and index the text"),
    (b"II*\x00", "is an image; run text recognition on it and index the text"),
    (b"MM\x00*", "is an image; run text recognition on it and index the text"),
    (b"\x1f\x8b", "is a compressed archive; unpack it and index the files"),
    (b"BZh", "is a compressed archive; unpack it and index the files"),
    (b"\xfd7zXZ", "is a compressed archive; unpack it and index the files"),
    (b"7z\xbc\xaf", "is a compressed archive; unpack it and index the files"),
    (b"Rar!", "is a compressed archive; unpack it and index the files"),
    (b"\x28\xb5\x2f\xfd", "is a compressed archive; unpack it and index the files"),
    (b"\x7fELF", "is a program, not a document; leave it out"),
    (b"MZ\x90", "is a program, not a document; leave it out"),
    (b"\xca\xfe\xba\xbe", "is a program, not a document; leave it out"),
    (b"SQLite format 3\x00", "is a database, not a document; export its tables as CSV"),
    (b"ID3", "is a sound recording; transcribe it and index the text"),
    (b"OggS", "is a sound recording; transcribe it and index the text"),
    (b"RIFF", "is a sound or image file; index a transcript instead"),
)

_SUPPORTED = "Markdown, HTML, text, reStructuredText, PDF, DOCX, PPTX, XLSX, CSV, EPUB, JSONL and source code"
_HTML_START = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S)
_CONTAINERS = frozenset({PDF, DOCX, PPTX, XLSX, EPUB})


def format_of(media_type: str) -> Format:
    """The format with this media type. Raises `UnsupportedFormatError`."""
    canonical = media_type.split(";")[0].strip().lower()
    known = _BY_MEDIA_TYPE.get(_MEDIA_TYPE_ALIASES.get(canonical, canonical))
    if known is None:
        raise UnsupportedFormatError(f"Files of type {canonical[:100]!r} cannot be read; supported are {_SUPPORTED}.")
    return known


def media_type_of_name(name: str) -> str | None:
    """The media type that a file's name alone suggests, or None."""
    path = PurePosixPath(name.replace("\\", "/").lower())
    known = _BY_EXTENSION.get(path.suffix)
    if known is not None:
        return known.media_type
    return _BY_NAME.get(path.name)


def detect(data: bytes, name: str, media_type: str | None = None) -> Format:
    """Which format `data` is in: by the given media type, else by the name's extension, else by content.

    A container format (PDF, ZIP based) is believed only if its content agrees, and content that is plainly
    one of them wins over a name or type that says text. Raises `UnsupportedFormatError`.
    """
    sniffed = _container_of(data)
    if sniffed is not None:
        return _BY_MEDIA_TYPE[sniffed]
    for magic, advice in _UNREADABLE:
        if data.startswith(magic):
            raise UnsupportedFormatError(f"{name} {advice}.")
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise UnsupportedFormatError(
            f"{name} is a ZIP archive without a document that can be read; unpack it and index the files."
        )
    declared = _declared(name, media_type)
    if declared is not None:
        if declared.media_type in _CONTAINERS and data:
            extension = declared.extensions[0]
            raise UnsupportedFormatError(
                f"{name} is not a {extension[1:].upper()} file in spite of its name; check that it is complete."
            )
        return declared
    if _HTML_START.match(data[:4096]):
        return _BY_MEDIA_TYPE[HTML]
    if _looks_like_text(data[:4096]):
        return _BY_MEDIA_TYPE[PLAIN_TEXT]
    raise UnsupportedFormatError(f"{name} is not a kind of file that can be read; supported are {_SUPPORTED}.")


def _declared(name: str, media_type: str | None) -> Format | None:
    """What the client or the name says. `application/octet-stream` and bare `text/plain` leave it to the
    name.
    """
    by_name = media_type_of_name(name)
    if media_type is not None:
        given = media_type.split(";")[0].strip().lower()
        if given not in {"", "application/octet-stream"} and not (given == PLAIN_TEXT and by_name):
            return format_of(media_type)
    return _BY_MEDIA_TYPE[by_name] if by_name else None


def _container_of(data: bytes) -> str | None:
    if b"%PDF-" in data[:1024]:
        return PDF
    if not data.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return None
    if "META-INF/container.xml" in names:
        return EPUB
    if "[Content_Types].xml" in names:
        for folder, media_type in (("word/", DOCX), ("ppt/", PPTX), ("xl/", XLSX)):
            if any(entry.startswith(folder) for entry in names):
                return media_type
    return None


def _looks_like_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    return controls == 0
