"""Small files of each binary format, made here so that none has to be kept in the repository."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WORD_NAMESPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"


def pdf(
    pages: Sequence[Sequence[str]],
    *,
    outline: Sequence[tuple[str, int]] = (),
    information: Mapping[str, str] | None = None,
    streams: Sequence[bytes] | None = None,
) -> bytes:
    """A PDF with lines of text (ASCII) on each page; `outline` holds titles and page indices.

    `streams` are deflated content streams that take the place of the lines.
    """
    objects: list[bytes] = []

    def add(body: bytes) -> int:
        objects.append(body)
        return len(objects)

    catalog, tree, font = add(b""), add(b""), add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    numbers: list[int] = []
    for i, lines in enumerate(pages):
        if streams is None:
            drawn = "".join(
                f"BT /F1 12 Tf 72 {720 - 20 * row} Td ({_escaped(line)}) Tj ET\n" for row, line in enumerate(lines)
            )
            stream = zlib.compress(drawn.encode("latin-1"))
        else:
            stream = streams[i]
        content = add(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream))
        numbers.append(
            add(
                b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
                b"/Resources << /Font << /F1 %d 0 R >> >> >>" % (tree, content, font)
            )
        )
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    objects[tree - 1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(numbers))
    extra = b""
    if outline:
        root = add(b"")
        first = len(objects) + 1
        for i, (title, page) in enumerate(outline):
            following = b"/Next %d 0 R " % (first + i + 1) if i + 1 < len(outline) else b""
            add(
                b"<< /Title (%s) /Parent %d 0 R %s/Dest [%d 0 R /Fit] >>"
                % (_escaped(title).encode("latin-1"), root, following, numbers[page])
            )
        objects[root - 1] = b"<< /Type /Outlines /First %d 0 R /Last %d 0 R /Count %d >>" % (
            first,
            first + len(outline) - 1,
            len(outline),
        )
        extra = b" /Outlines %d 0 R" % root
    objects[catalog - 1] = b"<< /Type /Catalog /Pages %d 0 R%s >>" % (tree, extra)
    entries = b" ".join(
        b"/%s (%s)" % (key.encode(), _escaped(value).encode("latin-1")) for key, value in (information or {}).items()
    )
    info = add(b"<< %s >>" % entries)

    output = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(output))
        output += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(output)
    output += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    output += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    output += b"trailer\n<< /Size %d /Root %d 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        catalog,
        info,
        table,
    )
    return bytes(output)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def archive(parts: Mapping[str, bytes | str], *, stored_first: str | None = None) -> bytes:
    """A ZIP file with these parts, the one named `stored_first` uncompressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as container:
        for name, content in parts.items():
            method = zipfile.ZIP_STORED if name == stored_first else zipfile.ZIP_DEFLATED
            container.writestr(name, content, method)
    return buffer.getvalue()


def docx(body: str, *, title: str = "", author: str = "", document_type: str = "", **parts: bytes | str) -> bytes:
    """A Word file whose document body is this WordprocessingML."""
    return archive(
        {
            "[Content_Types].xml": (
                '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
                '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
                '<Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" '
                'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>'
                "</Types>"
            ),
            "_rels/.rels": (
                f'<?xml version="1.0"?><Relationships xmlns="{_RELATIONSHIPS}">'
                f'<Relationship Id="r1" Type="{_OFFICE_DOCUMENT}" Target="word/document.xml"/></Relationships>'
            ),
            "docProps/core.xml": (
                '<?xml version="1.0"?><cp:coreProperties '
                'xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
                f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{escape(title)}</dc:title>'
                f"<dc:creator>{escape(author)}</dc:creator></cp:coreProperties>"
            ),
            "word/styles.xml": (
                f'<?xml version="1.0"?><w:styles xmlns:w="{_WORD_NAMESPACE}">'
                + "".join(
                    f'<w:style w:type="paragraph" w:styleId="{name.replace(" ", "")}">'
                    f'<w:name w:val="{name}"/></w:style>'
                    for name in ("heading 1", "heading 2", "Title")
                )
                + "</w:styles>"
            ),
            "word/_rels/document.xml.rels": (
                f'<?xml version="1.0"?><Relationships xmlns="{_RELATIONSHIPS}"><Relationship Id="s1" '
                'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" '
                'Target="styles.xml"/></Relationships>'
            ),
            "word/document.xml": (
                f'<?xml version="1.0"?>{document_type}<w:document xmlns:w="{_WORD_NAMESPACE}">'
                f"<w:body>{body}</w:body></w:document>"
            ),
            **parts,
        }
    )


def word_paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{escape(text)}</w:t></w:r></w:p>"


def epub(chapters: Sequence[str], *, encrypted: str = "", title: str = "A Book") -> bytes:
    """A book of XHTML bodies. The chapters' files are named against their order, as books' are."""
    names = [f"text/part {len(chapters) - i}.xhtml" for i in range(len(chapters))]
    items = "".join(
        f'<item id="c{i}" href="{name.replace(" ", "%20")}" media-type="application/xhtml+xml"/>'
        for i, name in sorted(enumerate(names), key=lambda entry: entry[1])
    )
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(chapters)))
    parts: dict[str, bytes | str] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": (
            '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">'
            '<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
            "</container>"
        ),
        "OEBPS/book.opf": (
            '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
            f'<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title>'
            "<dc:creator>Jo Writer</dc:creator><dc:language>en</dc:language></metadata>"
            f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
        ),
    }
    if encrypted:
        parts["META-INF/encryption.xml"] = (
            '<?xml version="1.0"?><encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<EncryptedData xmlns="http://www.w3.org/2001/04/xmlenc#"><CipherData>'
            f'<CipherReference URI="{encrypted}"/></CipherData></EncryptedData></encryption>'
        )
    for name, body in zip(names, chapters, strict=True):
        parts[f"OEBPS/{name}"] = (
            '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
            f"<body>{body}</body></html>"
        )
    return archive(parts, stored_first="mimetype")
