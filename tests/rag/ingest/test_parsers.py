"""What each format gives: structure, pages, titles; and how the format is told."""

from __future__ import annotations

import contextlib
import datetime
import io
import unicodedata

import openpyxl
import pptx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.ingest import formats
from rag.ingest.parsers import parse
from rag.ingest.types import (
    BlockKind,
    EmptyDocumentError,
    IngestError,
    JsonlFields,
    ParsedDocument,
    ParseError,
    ParseLimitError,
    ParseLimits,
    ParseRequest,
    UnsupportedFormatError,
)
from tests.rag.ingest import samples


def parse_one(data: bytes | str, name: str, media_type: str = "") -> ParsedDocument:
    content = data.encode() if isinstance(data, str) else data
    (document,) = parse(ParseRequest(content, name, media_type))
    return document


def outline(document: ParsedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


class TestText:
    def test_paragraphs_are_what_blank_lines_part(self) -> None:
        document = parse_one("One\nline.\n\n\n  Two.\n", "a.txt")
        assert outline(document) == [("paragraph", "One\nline."), ("paragraph", "Two.")]
        assert document.title is None

    def test_lines_that_start_like_items_are_a_list(self) -> None:
        assert outline(parse_one("- one\n- two\n\n1. a\n2) b", "a.txt")) == [
            ("list", "- one\n- two"),
            ("list", "1. a\n2) b"),
        ]

    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "iso-8859-1"]
    )
    def test_it_reads_the_usual_encodings(self, encoding: str) -> None:
        text = "Żółć" if encoding.startswith("utf") else "Déjà vu, façade, naïve café"
        text += ": the quick brown fox jumps over the lazy dog. " * 20
        assert parse_one(text.encode(encoding), "a.txt").text == text.strip()

    def test_text_is_composed_and_printable(self) -> None:
        document = parse_one("cafe\u0301 a\u00a0b\u00adc\u200bd\x07e\r\nnext\u2028line", "a.txt")
        assert document.text == "café a bcd e\nnext\nline"

    @pytest.mark.parametrize("data", [b"", b" \n\t\n", b"\xef\xbb\xbf", b"\xff\xfe", "\ufeff \u200b".encode()])
    def test_no_text_is_said_so(self, data: bytes) -> None:
        with pytest.raises(EmptyDocumentError, match=r"a\.txt (is empty|holds no text); add text to it"):
            parse_one(data, "a.txt")

    def test_a_nul_byte_is_named_with_its_line(self) -> None:
        with pytest.raises(ParseError, match="NUL byte in line 1001"):
            parse_one(b"line six\n" * 1000 + b"a\x00b", "a.txt")

    @pytest.mark.parametrize(
        "data", [bytes(range(256)) * 8, b"\x00\x01\x02" * 100, b"\x80\x81\xfe\xff\x00" * 50, b"\xff\xfe\x00\xd8a"]
    )
    def test_binary_content_in_a_text_file_is_refused(self, data: bytes) -> None:
        with pytest.raises(ParseError, match=r"save it"):
            parse_one(data, "a.txt")

    @given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-16", "replace"))))
    def test_any_bytes_give_storable_text_or_a_readable_error(self, data: bytes) -> None:
        for name in ("a.txt", "a.md", "a.html", "a.csv", "a.py", "a.sh", "a.jsonl", "noname"):
            try:
                documents = parse(ParseRequest(data, name, ""))
            except IngestError as error:
                message = str(error)
                documents = []
            else:
                message = "."
            assert message.endswith(".")
            assert "\n" not in message
            for document in documents:
                assert_storable(document)

    @given(st.text(max_size=300))
    def test_any_text_gives_storable_text(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        for name in ("a.txt", "a.md", "a.html", "a.rst"):
            with contextlib.suppress(IngestError):
                assert_storable(parse_one(data, name))


def assert_storable(document: ParsedDocument) -> None:
    for text in (document.text, document.title or "", document.identifier or ""):
        assert "\x00" not in text
        assert text == unicodedata.normalize("NFC", text)
        text.encode("utf-8")


class TestMarkdown:
    def test_it_keeps_structure_and_drops_markup(self) -> None:
        document = parse_one(
            "# The *guide*\n\nSee [the site](http://x.org) and ![a picture](p.png) in `code`.\nSecond line.\n\n"
            "> Quoted\n\n```python\ndef f():\n    pass\n```\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n"
            "<div>From <b>HTML</b></div>\n\n<!-- hidden -->\n",
            "a.md",
        )
        assert outline(document) == [
            ("heading", "The guide"),
            ("paragraph", "See the site and a picture in code.\nSecond line."),
            ("paragraph", "Quoted"),
            ("code", "def f():\n    pass"),
            ("table", "a | b\n1 | 2"),
            ("paragraph", "From HTML"),
        ]
        assert document.title == "The guide"

    def test_lists_keep_their_numbers_and_nesting(self) -> None:
        document = parse_one(
            "3. three\n4. four\n   - inner\n     more\n\n     para\n   ```\n   x = 1\n   ```\n", "a.md"
        )
        assert outline(document) == [
            ("list", "3. three\n4. four\n  - inner\n    more\n    para\n  x = 1"),
        ]

    def test_front_matter_gives_the_title_and_is_no_text(self) -> None:
        document = parse_one('---\ntitle: "My page"\ntags: [a]\n---\n# Other\n\nText.\n', "a.md")
        assert (document.title, document.text) == ("My page", "Other\n\nText.")

    def test_deep_nesting_loses_no_text(self) -> None:
        assert "innermost" in parse_one("> " * 60 + "innermost", "a.md").text


class TestHtml:
    def test_it_reads_the_main_content_with_its_structure(self) -> None:
        document = parse_one(
            """<!doctype html><html lang="en"><head><title>My &amp; page</title><style>x{}</style></head><body>
            <nav>menu</nav><main><h1>Head<a class="headerlink">¶</a></h1> intro <b>bo</b>ld<br>next
            <p>para <a href=x>link</a>.</p>tail<ul><li>one<ul><li>sub</li></ul></li><li><p>two</p></li></ul>
            <ol start=3><li>c<li>d</ol><dl><dt>Term</dt><dd>Def</dd></dl>
            <table><caption>Cap</caption><tr><th>a</th><th>b</th></tr>
            <tr><td>1</td><td><p>x</p><p>y</p></td></tr></table>
            <pre>def f():\n    pass</pre><div hidden>no</div><script>alert(1)</script>end</main>
            <footer>foo</footer></body></html>""",
            "a.html",
        )
        assert outline(document) == [
            ("heading", "Head"),
            ("paragraph", "intro bold\nnext"),
            ("paragraph", "para link."),
            ("paragraph", "tail"),
            ("list", "- one\n  - sub\n- two"),
            ("list", "3. c\n4. d"),
            ("list", "Term\n  Def"),
            ("paragraph", "Cap"),
            ("table", "a | b\n1 | x y"),
            ("code", "def f():\n    pass"),
            ("paragraph", "end"),
        ]
        assert (document.title, document.metadata) == ("My & page", {"language": "en"})

    def test_a_table_that_lays_out_a_page_is_no_table(self) -> None:
        document = parse_one("<table><tr><td><h2>Title</h2><p>Text.</p></td></tr></table>", "a.html")
        assert outline(document) == [("heading", "Title"), ("paragraph", "Text.")]

    def test_a_page_of_nothing_but_menus_still_has_its_text(self) -> None:
        assert parse_one("<html><nav>Only a menu</nav></html>", "a.html").text == "Only a menu"

    @pytest.mark.parametrize("head", ["<meta charset=cp1250>", '<meta content="text/html; charset=cp1250">'])
    def test_it_believes_a_declared_charset(self, head: str) -> None:
        data = f"<html><head>{head}</head><p>Zażółć gęślą jaźń</p></html>".encode("cp1250")
        assert parse_one(data, "a.html").text == "Zażółć gęślą jaźń"

    def test_entities_of_its_own_are_not_read(self) -> None:
        document = parse_one('<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">]><p>a &x; &copy; b</p>', "a.html")
        assert "root:" not in document.text
        assert "©" in document.text

    @pytest.mark.parametrize("tag", ["div", "b", "ul><li", "table><tr><td", "blockquote", "font"])
    def test_deep_nesting_neither_crashes_nor_loses_what_comes_first(self, tag: str) -> None:
        document = parse_one(f"<p>First.</p>{f'<{tag}>' * 20_000}deep", "a.html")
        assert document.text.startswith("First.")


class TestRst:
    def test_it_keeps_structure_and_reads_sphinx(self) -> None:
        document = parse_one(
            "Title\n=====\n\nSee :ref:`the guide <guide>` and :py:class:`~a.b.C`.\n\n.. toctree::\n   a\n\n"
            ".. versionadded:: 3.2\n   Some *content*.\n\n.. code-block:: python\n   :caption: x\n\n   f()\n\n"
            ".. py:function:: foo(a, b)\n   :module: x\n\n   Does things.\n\n"
            "   .. py:method:: bar()\n\n      Inner.\n\n"
            "Sub\n---\n\n- item\n\n  more\n\n#. one\n\nTerm\n   definition\n\n:field: value\n\n"
            "== ==\na  b\n== ==\n1  2\n== ==\n",
            "a.rst",
        )
        assert outline(document) == [
            ("heading", "Title"),
            ("paragraph", "See the guide and a.b.C."),
            ("paragraph", "3.2"),
            ("paragraph", "Some content."),
            ("code", "f()"),
            ("paragraph", "foo(a, b)"),
            ("paragraph", "Does things."),
            ("paragraph", "bar()"),
            ("paragraph", "Inner."),
            ("heading", "Sub"),
            ("list", "- item\n  more"),
            ("list", "1. one"),
            ("list", "Term\n  definition"),
            ("list", "field: value"),
            ("table", "a | b\n1 | 2"),
        ]
        assert [block.level for block in document.blocks if block.kind is BlockKind.HEADING] == [1, 2]

    @pytest.mark.parametrize(
        "directive",
        [".. include:: /etc/passwd", ".. raw:: html\n   :file: /etc/passwd", ".. csv-table::\n   :file: /etc/passwd"],
    )
    def test_it_includes_no_file(self, directive: str) -> None:
        assert parse_one(f"Text.\n\n{directive}\n", "a.rst").text == "Text."


class TestJsonl:
    def test_each_line_is_a_document(self) -> None:
        data = b'{"_id": "a", "title": "T", "text": "One.\\n\\nTwo.", "metadata": {"k": [1, null]}}\n'
        data += b'\n{"id": 7, "text": ""}\n'
        first, second = parse(ParseRequest(data, "a.jsonl", ""))
        assert (first.identifier, first.title, first.text) == ("a", "T", "One.\n\nTwo.")
        assert first.metadata == {"k": [1, None]}
        assert len(first.blocks) == 2
        assert (second.identifier, second.title, second.text, second.blocks) == ("7", None, "", ())

    def test_the_fields_can_be_named(self) -> None:
        fields = JsonlFields(identifier=("key",), title="name", text="body", metadata="extra")
        data = b'{"key": "k", "name": "N", "body": "B", "extra": {"x": 1}, "text": "no"}'
        (document,) = parse(ParseRequest(data, "a.jsonl", "", jsonl=fields))
        assert (document.identifier, document.title, document.text) == ("k", "N", "B")
        assert document.metadata == {"x": 1}

    def test_nothing_unstorable_gets_through(self) -> None:
        data = rb'{"_id": "a\u0000b", "text": "x\u0000y \ud800 z", "metadata": {"\u0000k": ["\ud800", 1e999]}}'
        (document,) = parse(ParseRequest(data, "a.jsonl", ""))
        assert (document.identifier, document.text) == ("a b", "x y   z")
        assert document.metadata == {" k": [" ", None]}

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "line 2: this is not JSON"),
            ("[1]", "line 2: this is not a JSON object"),
            ('{"text": "x"}', "line 2: there is no '_id' or 'id'"),
            ('{"_id": ["x"], "text": "x"}', "line 2: '_id' must be a string or a whole number, not a list"),
            ('{"_id": "b"}', "line 2: there is neither 'text' nor 'title'"),
            ('{"_id": "b", "text": 1}', "line 2: 'text' must be a string, not a number"),
            ('{"_id": "b", "text": "x", "metadata": [1]}', "line 2: 'metadata' must be an object, not a list"),
            ('{"_id": "b", "text": NaN}', "line 2: this is not JSON"),
            ('{"_id": "a", "text": "x"}', "line 2: line 1 has the id 'a' too"),
            ('{"_id": "b", "text": ' + "[" * 100_000, "line 2: the JSON is nested too deeply"),
        ],
    )
    def test_a_bad_line_is_named(self, line: str, message: str) -> None:
        with pytest.raises(ParseError, match=message):
            parse(ParseRequest(f'{{"_id": "a", "text": "ok"}}\n{line}\n'.encode(), "a.jsonl", ""))

    def test_the_documents_together_are_bounded(self) -> None:
        data = b"\n".join(b'{"_id": %d, "text": "0123456789"}' % i for i in range(20))
        with pytest.raises(ParseLimitError, match="more than 100 characters") as caught:
            parse(ParseRequest(data, "a.jsonl", "", ParseLimits(text_characters=100)))
        assert caught.value.kind == "size"


class TestSpreadsheets:
    def test_a_row_names_its_columns(self) -> None:
        document = parse_one("name;price\nApple;1,5\n\nPear;\n", "a.csv")
        assert outline(document) == [("table", "name | price\nname: Apple; price: 1,5\nname: Pear")]

    def test_without_a_header_the_cells_are_shown_as_they_are(self) -> None:
        assert parse_one("1,2\n3,4\n", "a.csv").text == "1 | 2\n3 | 4"

    def test_quoted_cells_may_hold_anything(self) -> None:
        assert parse_one('a\tb\n"x\ny"\t"q ""z"""\n', "a.tsv").text == 'a | b\na: x y; b: q "z"'

    def test_a_workbook_has_a_heading_for_each_sheet(self) -> None:
        workbook = openpyxl.Workbook()
        first = workbook.active
        assert first is not None
        first.title = "Fruit"
        first.append(["name", "since", "count"])
        first.append(["Apple", datetime.date(2024, 5, 1), 3.0])
        first.append([])
        first.append(["Pear", datetime.time(9, 30), 2.5, "ripe"])
        workbook.create_sheet("Empty")
        workbook.properties.title = "Stock"
        buffer = io.BytesIO()
        workbook.save(buffer)
        document = parse_one(buffer.getvalue(), "a.xlsx")
        assert document.title == "Stock"
        assert outline(document) == [
            ("heading", "Fruit"),
            (
                "table",
                "name | since | count\nname: Apple; since: 2024-05-01; count: 3\n"
                "name: Pear; since: 09:30:00; count: 2.5; ripe",
            ),
            ("heading", "Empty"),
        ]


class TestPdf:
    def test_it_keeps_pages(self) -> None:
        document = parse_one(
            samples.pdf([["One."], [], ["Three (3)."]], information={"Title": "T", "Author": "A"}), "a.pdf"
        )
        assert [(block.page, document.text[block.start : block.end]) for block in document.blocks] == [
            (1, "One."),
            (3, "Three (3)."),
        ]
        assert (document.title, document.metadata) == ("T", {"author": "A"})

    def test_short_lines_that_end_a_sentence_end_a_paragraph(self) -> None:
        long = "This line is about as long as all the others on it"
        document = parse_one(samples.pdf([[long, "and ends here.", long, long]]), "a.pdf")
        assert [text for _, text in outline(document)] == [f"{long}\nand ends here.", f"{long}\n{long}"]

    def test_the_outline_gives_the_headings(self) -> None:
        document = parse_one(
            samples.pdf(
                [["1 Introduction", "Words."], ["Results of the", "long study", "More."], ["Other"]],
                outline=[("Introduction", 0), ("Results of the Long Study", 1), ("Not there", 2)],
            ),
            "a.pdf",
        )
        assert document.title is None
        assert [text for kind, text in outline(document) if kind == "heading"] == [
            "1 Introduction",
            "Results of the long study",
        ]

    def test_running_titles_and_page_numbers_go(self) -> None:
        pages = [["The Book", f"Content {word}.", f"Page {i}"] for i, word in enumerate(["a", "b", "c", "d", "e"])]
        document = parse_one(samples.pdf(pages), "a.pdf")
        assert document.text == "\n\n".join(f"Content {word}." for word in "abcde")

    def test_pictures_of_text_are_said_so(self) -> None:
        with pytest.raises(EmptyDocumentError, match="OCR"):
            parse_one(samples.pdf([[], []]), "a.pdf")

    def test_too_many_pages_are_refused(self) -> None:
        with pytest.raises(ParseLimitError, match="4 pages, more than 3") as caught:
            parse(ParseRequest(samples.pdf([["x"]] * 4), "a.pdf", "", ParseLimits(pages=3)))
        assert caught.value.kind == "pages"

    @pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.7\n1 0 obj\n<< /Type", b"%PDF-1.4 garbage" * 100])
    def test_half_a_file_is_refused(self, data: bytes) -> None:
        with pytest.raises(ParseError, match="not a complete PDF"):
            parse_one(data, "a.pdf")


class TestOffice:
    def test_a_word_file_keeps_headings_lists_and_tables(self) -> None:
        table = (
            "<w:tbl>"
            + "".join(
                "<w:tr>" + "".join(f"<w:tc>{samples.word_paragraph(cell)}</w:tc>" for cell in row) + "</w:tr>"
                for row in (("a", "b"), ("1", "2"))
            )
            + "</w:tbl>"
        )
        document = parse_one(
            samples.docx(
                samples.word_paragraph("The title", "Title")
                + samples.word_paragraph("Part", "heading2")
                + samples.word_paragraph("Some <text> & more.")
                + table,
                title="Recorded",
                author="Jo",
            ),
            "a.docx",
        )
        assert outline(document) == [
            ("heading", "The title"),
            ("heading", "Part"),
            ("paragraph", "Some <text> & more."),
            ("table", "a | b\n1 | 2"),
        ]
        assert (document.title, document.metadata) == ("Recorded", {"author": "Jo"})

    def test_a_slide_is_a_page(self) -> None:
        presentation = pptx.Presentation()
        for number in (1, 2):
            slide = presentation.slides.add_slide(presentation.slide_layouts[1])
            slide.shapes.title.text = f"Slide {number}"
            frame = slide.placeholders[1].text_frame
            frame.text = "First"
            inner = frame.add_paragraph()
            inner.text, inner.level = "Second", 1
        group = slide.shapes.add_group_shape()
        group.shapes.add_textbox(0, 0, 10, 10).text_frame.text = "Grouped"
        cells = slide.shapes.add_table(1, 2, 0, 0, 10, 10).table
        cells.cell(0, 0).text, cells.cell(0, 1).text = "x", "y"
        slide.notes_slide.notes_text_frame.text = "Say this."
        buffer = io.BytesIO()
        presentation.save(buffer)
        document = parse_one(buffer.getvalue(), "a.pptx")
        assert [(block.page, *entry) for block, entry in zip(document.blocks, outline(document), strict=True)] == [
            (1, "heading", "Slide 1"),
            (1, "list", "- First\n  - Second"),
            (2, "heading", "Slide 2"),
            (2, "list", "- First\n  - Second"),
            (2, "paragraph", "Grouped"),
            (2, "table", "x | y"),
            (2, "paragraph", "Say this."),
        ]

    def test_a_book_is_read_in_its_order(self) -> None:
        document = parse_one(samples.epub(["<h1>One</h1><p>a</p>", "<h1>Two</h1><p>b&#160;c</p>"]), "a.epub")
        assert outline(document) == [("heading", "One"), ("paragraph", "a"), ("heading", "Two"), ("paragraph", "b c")]
        assert (document.title, document.metadata) == ("A Book", {"author": "Jo Writer", "language": "en"})

    def test_a_protected_book_is_said_so(self) -> None:
        with pytest.raises(ParseError, match="protected against copying"):
            parse_one(samples.epub(["<p>a</p>"], encrypted="OEBPS/text/part%201.xhtml"), "a.epub")

    @pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.xlsx", "a.epub"])
    def test_a_file_that_is_cut_off_is_refused(self, name: str) -> None:
        with pytest.raises(UnsupportedFormatError, match=r"check that it is complete|without a document"):
            parse_one(samples.docx("")[:-100], name)

    def test_a_file_that_lacks_a_part_is_refused(self) -> None:
        for extension, folder in (("docx", "word"), ("pptx", "ppt"), ("xlsx", "xl")):
            data = samples.archive({"[Content_Types].xml": "<x/>", f"{folder}/x.xml": "<x/>"})
            with pytest.raises(ParseError, match=r"save it again in the program that made it\.$"):
                parse_one(data, f"a.{extension}")
        container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        container += '<rootfile full-path="OEBPS/book.opf"/></container>'
        book = samples.archive({"META-INF/container.xml": container})
        with pytest.raises(ParseError, match=r"lacks its part 'OEBPS/book\.opf'"):
            parse_one(book, "a.epub")


class TestCode:
    @pytest.mark.parametrize(
        ("name", "source", "symbols"),
        [
            (
                "a.py",
                "import x\n\n\n# About f\n@wraps\ndef f():\n    return 1\n\n\nclass A:\n    '''Doc.\n    '''\n"
                "    def m(self): pass\n"
                "    class B:\n        async def n(self): pass\n\nz = 1\n",
                [(), ("f",), ("A",), ("A", "m"), ("A", "B", "n"), ()],
            ),
            (
                "a.js",
                "import x from 'y';\nexport function f() {}\nexport default class A {\n  x = 1;\n  m() {}\n}\n"
                "const g = () => 1;\n"
                "const k = 1;\n",
                [(), ("f",), ("A",), ("A", "m"), ("g",), ()],
            ),
            (
                "a.ts",
                "interface I { a: string }\nabstract class A<T> {\n  private x = 1;\n  @dec()\n"
                "  m(): T { return 'é'; }\n}\nnamespace N { export function inner() {} }\nenum E { X }\n",
                [("I",), ("A",), ("A", "m"), ("N", "inner"), ("E",)],
            ),
            ("a.tsx", "export const Button = (p: P) => <b>{p.x}</b>;\n", [("Button",)]),
            (
                "a.go",
                "package main\n\n// T is\ntype T[K any] struct{ a int }\n\nfunc (t *T[K]) Run() error { return nil }\n"
                "func main() {}\n",
                [(), ("T",), ("T", "Run"), ("main",)],
            ),
            (
                "a.rs",
                "use a::b;\n#[derive(Debug)]\nstruct S { a: i32 }\nimpl<T> Tr for S<T> {\n    /// doc\n"
                "    fn m(&self) {}\n"
                "    fn n() {}\n}\nmod tests {\n    fn t() {}\n}\n",
                [(), ("S",), ("S", "m"), ("S", "n"), ("tests", "t")],
            ),
            (
                "A.java",
                "package p;\n/** c */\npublic class A {\n  int x;\n  @Override public void m() {}\n  A() {}\n"
                "  enum E { X; void q() {} }\n}\n",
                [(), ("A",), ("A", "m"), ("A", "A"), ("A", "E", "q")],
            ),
            (
                "a.c",
                "#include <x.h>\nstruct s { int a; };\nstatic int *f(void) { return 0; }\nint x;\n",
                [(), ("s",), ("f",), ()],
            ),
            (
                "a.hpp",
                "#ifndef A_H\n#define A_H\nnamespace ns {\ntemplate <class T> class Foo {\n public:\n"
                "  int bar(int a) { return a; }\n};\n"
                "int *Foo::baz(int x) { return 0; }\n}\n#endif\n",
                [(), ("ns", "Foo"), ("ns", "Foo", "bar"), ("ns", "Foo", "baz"), ()],
            ),
            ("a.rb", "def f\n  1\nend\n", [()]),
        ],
    )
    def test_it_is_parted_at_definitions(self, name: str, source: str, symbols: list[tuple[str, ...]]) -> None:
        document = parse_one(source, name)
        assert document.text == source.strip("\n")
        assert [block.symbol for block in document.blocks] == symbols
        covered = "".join(document.text[block.start : block.end] for block in document.blocks)
        assert "".join(covered.split()) == "".join(source.split())
        assert document.title == name

    def test_comments_and_decorators_stay_with_what_they_describe(self) -> None:
        document = parse_one("x = 'é'\n\n# Far away\n\n# About f\n@wraps\ndef f(): pass\n", "a.py")
        assert outline(document) == [("code", "x = 'é'\n\n# Far away"), ("code", "# About f\n@wraps\ndef f(): pass")]

    def test_broken_and_deeply_nested_source_still_has_its_text(self) -> None:
        for source in ("def f(:\n  return (((\nclass", "(" * 20_000, "class A:\n" * 500, "{" * 20_000 + "}" * 20_000):
            for name in ("a.py", "a.js", "a.cpp", "a.rs"):
                assert parse_one(source, name).text == source.strip("\n")


class TestDetection:
    @pytest.mark.parametrize(
        ("name", "media_type", "expected"),
        [
            ("a.md", "", formats.MARKDOWN),
            ("A.MARKDOWN", "application/octet-stream", formats.MARKDOWN),
            ("a.md", "text/plain", formats.MARKDOWN),
            ("a.txt", "text/markdown; charset=utf-8", formats.MARKDOWN),
            ("README", "", formats.PLAIN_TEXT),
            ("docs\\Makefile", "", formats.CODE),
            ("upload", "text/x-markdown", formats.MARKDOWN),
            ("upload", "", formats.PLAIN_TEXT),
            ("a.toml", "", formats.CODE),
        ],
    )
    def test_type_then_extension_then_content(self, name: str, media_type: str, expected: str) -> None:
        assert parse_one("Some text", name, media_type).media_type == expected

    def test_content_that_is_plainly_something_else_wins(self) -> None:
        assert parse_one(samples.pdf([["x"]]), "a.txt").media_type == formats.PDF
        assert parse_one(samples.docx(samples.word_paragraph("x")), "a.zip").media_type == formats.DOCX
        assert parse_one(" <!-- c --><!DOCTYPE HTML><p>x", "upload").media_type == formats.HTML

    @pytest.mark.parametrize(
        ("data", "name", "message"),
        [
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "a.doc", "old or password-protected Office file"),
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "a.txt", "is an image"),
            (b"\x7fELF" + bytes(100), "tool", "is a program"),
            (b"plain", "a.docx", "is not a DOCX file"),
            (b"plain", "a.pdf", "check that it is complete"),
            (bytes(range(256)), "a.xyz", "is not a kind of file"),
            (samples.archive({"x.txt": "x"}), "a.zip", "ZIP archive without a document"),
        ],
    )
    def test_what_cannot_be_read_is_said_so(self, data: bytes, name: str, message: str) -> None:
        with pytest.raises(UnsupportedFormatError, match=message):
            parse_one(data, name)

    def test_an_unknown_type_is_named(self) -> None:
        with pytest.raises(UnsupportedFormatError, match="'video/mp4' cannot be read; supported are Markdown"):
            parse_one(b"x", "a.md", "video/mp4")
