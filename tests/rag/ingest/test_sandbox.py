"""Hostile files and faults of the parsing process itself: each costs one readable error, and the next file is read."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import openpyxl
import psutil
import pytest

from rag.ingest import formats
from rag.ingest.sandbox import Sandbox, SandboxError, parse_bytes
from rag.ingest.types import (
    EmptyDocumentError,
    IngestError,
    JsonlFields,
    ParseError,
    ParseLimitError,
    ParseLimits,
    ParseRequest,
    UnsupportedFormatError,
)
from tests.patience import PATIENCE_S, eventually
from tests.rag.ingest import samples

PATIENT = ParseLimits(wall_s=PATIENCE_S, cpu_s=60)

# What a parser with a fault, or in the hands of an attacker, may do.
MISBEHAVIOUR = """
import os, resource, signal, socket, subprocess, sys, time
from rag.ingest.types import ParsedDocument, ParseError

HEAVY = ("django", "torch", "numpy", "pandas", "multiprocessing")

def parse(request):
    what, *arguments = request.data.decode().split()
    text = globals()[what](*arguments)
    return [ParsedDocument(None, str(text), "text/plain", ())]

def pid(): return os.getpid()
def loop():
    while True: pass
def sleep(): time.sleep(3600)
def allocate():
    hoard = []
    while True: hoard.append(bytearray(1 << 24))
def recurse(): return recurse()
def exit(): os._exit(3)
def crash(): os.kill_ = None; import ctypes; ctypes.string_at(0)
def fail(): raise KeyError("secret detail")
def refuse(): raise ParseError("It is bad; mend it.")
def big(): return "x" * (200 << 20)
def environment(): return sorted(os.environ)
def modules(): return sorted(name for name in sys.modules if name.split(".")[0] in HEAVY and sys.modules[name])
def load(parser):
    __import__(f"rag.ingest.parsers.{parser}")
    if parser == "spreadsheet": import openpyxl
    return modules()
def descriptors(): return sorted(os.listdir("/proc/self/fd"))
def connect(): return socket.create_connection(("127.0.0.1", 9))
def start(): return subprocess.run(["true"])
def shell(): return os.system("true")
def fork(): return os.fork()
def read(): return open("/etc/passwd").read()
def write(): return open("/tmp/zenglow-was-here", "w")
def kill_parent(): return os.kill(os.getppid(), signal.SIGKILL)
def remove(): return os.remove(__file__)
"""


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("parser")
    (folder / "misbehaviour.py").write_text(MISBEHAVIOUR)
    sandbox = Sandbox("misbehaviour:parse", search_path=[folder])
    yield sandbox
    sandbox.close()


def ask(sandbox: Sandbox, what: str, limits: ParseLimits = PATIENT) -> str:
    return sandbox.parse(ParseRequest(what.encode(), "a.txt", "", limits))[0].text


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "sandbox_child.py" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


class TestParseBytes:
    def test_it_parses_bytes_and_paths(self, tmp_path: Path) -> None:
        path = tmp_path / "a.md"
        path.write_text("# Title\n\nTéxt.\n")
        (from_path,) = parse_bytes(path, "a.md")
        (from_bytes,) = parse_bytes(path.read_bytes(), "a.md")
        assert from_path == from_bytes
        assert (from_path.title, from_path.text) == ("Title", "Title\n\nTéxt.")
        assert [block.level for block in from_path.blocks] == [1, None]

    def test_it_passes_everything_on(self) -> None:
        fields = JsonlFields(identifier=("key",), text="body")
        first, second = parse_bytes(
            b'{"key": "a", "body": "A", "metadata": {"x": [1, "y"]}}\n{"key": "b", "body": ""}',
            "a.txt",
            "application/jsonl",
            jsonl=fields,
        )
        assert (first.identifier, first.text, first.metadata) == ("a", "A", {"x": [1, "y"]})
        assert (second.identifier, second.text) == ("b", "")

    @pytest.mark.parametrize(
        ("data", "name", "error"),
        [
            (b"", "a.md", EmptyDocumentError),
            (b"\x89PNG\r\n\x1a\n\x00", "a.md", UnsupportedFormatError),
            (b"a\x00b" * 10, "a.txt", ParseError),
            (b"%PDF-1.7", "a.pdf", ParseError),
        ],
    )
    def test_errors_keep_their_kind_and_words(self, data: bytes, name: str, error: type[IngestError]) -> None:
        with pytest.raises(error, match=rf"^{name} .*\.$"):
            parse_bytes(data, name)

    def test_a_file_larger_than_allowed_is_not_even_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"x" * 2000)
        for data in (path, path.read_bytes()):
            with pytest.raises(ParseLimitError, match="larger than") as caught:
                parse_bytes(data, "a.txt", limits=ParseLimits(input_bytes=1999))
            assert caught.value.kind == "size"

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ParseError, match="not a regular file"):
            parse_bytes(tmp_path / "pipe", "pipe")
        with pytest.raises(ParseError, match="not a regular file"):
            parse_bytes(Path(os.devnull), "null")
        with pytest.raises(FileNotFoundError):
            parse_bytes(tmp_path / "missing.txt", "missing.txt")


class TestHostileFiles:
    @pytest.mark.parametrize("extension", ["docx", "pptx", "xlsx", "epub"])
    def test_a_zip_bomb_is_refused_by_its_size(self, extension: str) -> None:
        folder = {"docx": "word/document.xml", "pptx": "ppt/presentation.xml", "xlsx": "xl/workbook.xml"}
        name = folder.get(extension, "META-INF/container.xml")
        bomb = samples.archive({"[Content_Types].xml": "<x/>", name: b" " * (30 << 20)})
        assert len(bomb) < 100_000
        with pytest.raises(ParseLimitError, match=r"unpacks to 30 MB in 2 parts, more than the 20 MB") as caught:
            parse_bytes(bomb, f"bomb.{extension}", limits=ParseLimits(unpacked_bytes=20 << 20))
        assert caught.value.kind == "size"

    def test_a_zip_bomb_that_lies_about_its_size_is_harmless(self) -> None:
        bomb = bytearray(samples.docx(samples.word_paragraph("x " * (20 << 20))))
        with zipfile.ZipFile(io.BytesIO(bomb)) as container:
            declared = container.getinfo("word/document.xml").file_size
        lie = bytes(bomb).replace(declared.to_bytes(4, "little"), (100).to_bytes(4, "little"))
        with pytest.raises(ParseError):
            parse_bytes(lie, "bomb.docx")

    def test_a_pdf_stream_bomb_is_bounded(self) -> None:
        deflated = zlib.compressobj(1)
        layer = b"".join(deflated.compress(b"BT /F1 12 Tf 72 700 Td (bomb) Tj ET\n" * 20_000) for _ in range(700))
        bomb = samples.pdf([["x"]], streams=[layer + deflated.flush()])
        limits = replace(PATIENT, memory_bytes=400 << 20)
        with pytest.raises(ParseError, match="needs more than 400 MB of memory"):
            parse_bytes(bomb, "bomb.pdf", limits=limits)

    def test_entities_that_multiply_are_refused(self) -> None:
        laughs = '<!DOCTYPE w [<!ENTITY a0 "ha">' + "".join(
            f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)
        )
        for bomb in (
            samples.docx("<w:p><w:r><w:t>&a11;</w:t></w:r></w:p>", document_type=laughs + "]>"),
            samples.epub([f"{laughs}]><p>&a11;</p>"]),
        ):
            name = "bomb.docx" if b"word/" in bomb else "bomb.epub"
            try:
                (document,) = parse_bytes(bomb, name)
            except IngestError as error:
                outcome = str(error)
            else:
                outcome = document.text
            assert len(outcome) < 1000

    def test_entities_that_read_files_are_refused(self) -> None:
        kind = '<!DOCTYPE w [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        try:
            (document,) = parse_bytes(
                samples.docx("<w:p><w:r><w:t>a&x;b</w:t></w:r></w:p>", document_type=kind), "a.docx"
            )
        except IngestError as error:
            outcome = str(error)
        else:
            outcome = document.text
        assert "root:" not in outcome

    def test_a_sheet_that_claims_a_million_rows_is_bounded(self) -> None:
        workbook = openpyxl.Workbook()
        sheet = workbook.active
        assert sheet is not None
        sheet["A1"] = "first"
        sheet["XFD1048576"] = "last"
        buffer = io.BytesIO()
        workbook.save(buffer)
        try:
            (document,) = parse_bytes(buffer.getvalue(), "a.xlsx", limits=PATIENT)
        except ParseLimitError as error:
            outcome = str(error.kind)
        else:
            outcome = document.text[:12]
        assert outcome in {"time", "Sheet\n\nfirst"}

    @pytest.mark.parametrize("opening", ["<div>", "<b>", "<table><tr><td>", "<ul><li>"])
    def test_deeply_nested_html_is_bounded(self, opening: str) -> None:
        (document,) = parse_bytes(f"<p>First.</p>{opening * 200_000}deep".encode(), "a.html", limits=PATIENT)
        assert document.text.startswith("First.")

    @pytest.mark.parametrize(
        ("unit", "name"),
        [("> ", "a.md"), ("- ", "a.md"), ("[", "a.md"), ("*a ", "a.md"), ("`", "a.md"), ("* ", "a.rst"), ("(", "a.py")],
    )
    def test_pathological_markup_ends_in_time(self, unit: str, name: str) -> None:
        limits = ParseLimits(wall_s=PATIENCE_S, cpu_s=5)
        try:
            outcome = parse_bytes((unit * 50_000 + "x\n").encode(), name, limits=limits)[0].text
        except IngestError as error:
            outcome = str(error)
        assert outcome

    def test_a_text_larger_than_allowed_is_refused(self) -> None:
        with pytest.raises(ParseLimitError, match="more than 1,000 characters") as caught:
            parse_bytes(b"word " * 1000, "a.txt", limits=ParseLimits(text_characters=1000))
        assert caught.value.kind == "size"


class TestMisbehavingParsers:
    def test_an_endless_loop_is_ended_by_the_clock(self, misbehaving: Sandbox) -> None:
        with pytest.raises(ParseLimitError, match="takes longer to read than allowed") as caught:
            ask(misbehaving, "loop", ParseLimits(wall_s=0.3, cpu_s=30))
        assert caught.value.kind == "time"

    def test_an_endless_loop_is_ended_by_the_computing_it_takes(self, misbehaving: Sandbox) -> None:
        with pytest.raises(ParseLimitError, match="takes longer to read than allowed") as caught:
            ask(misbehaving, "loop", ParseLimits(wall_s=PATIENCE_S, cpu_s=0.3))
        assert caught.value.kind == "time"

    def test_a_parser_that_waits_for_ever_is_ended(self, misbehaving: Sandbox) -> None:
        with pytest.raises(ParseLimitError) as caught:
            ask(misbehaving, "sleep", ParseLimits(wall_s=0.3))
        assert caught.value.kind == "time"

    @pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit address space")
    def test_a_memory_hog_is_ended(self, misbehaving: Sandbox) -> None:
        with pytest.raises(ParseLimitError, match="more than 400 MB of memory") as caught:
            ask(misbehaving, "allocate", replace(PATIENT, memory_bytes=400 << 20))
        assert caught.value.kind == "memory"

    @pytest.mark.parametrize("what", ["exit", "crash"])
    def test_a_crash_is_a_readable_error(self, misbehaving: Sandbox, what: str) -> None:
        with pytest.raises(ParseError, match=r"^a\.txt crashed the parser: .*\.$"):
            ask(misbehaving, what)

    @pytest.mark.parametrize("what", ["recurse", "fail"])
    def test_an_error_of_a_library_is_a_readable_error(self, misbehaving: Sandbox, what: str) -> None:
        with pytest.raises(ParseError, match=r"^a\.txt .*\.$") as caught:
            ask(misbehaving, what)
        assert "secret" not in str(caught.value)

    def test_a_reply_larger_than_allowed_is_refused(self, misbehaving: Sandbox) -> None:
        with pytest.raises(ParseLimitError, match="too much text") as caught:
            ask(misbehaving, "big", ParseLimits(text_characters=1000))
        assert caught.value.kind == "size"

    @pytest.mark.parametrize("what", ["connect", "start", "shell", "fork", "read", "write", "kill_parent", "remove"])
    def test_side_effects_are_refused(self, misbehaving: Sandbox, what: str) -> None:
        with pytest.raises(ParseError, match="PermissionError"):
            ask(misbehaving, what)
        assert not Path("/tmp/zenglow-was-here").exists()

    def test_it_sees_no_secret_and_carries_no_weight(
        self, misbehaving: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgres://secret")
        misbehaving.close()
        assert "DATABASE_URL" not in ask(misbehaving, "environment")
        assert ask(misbehaving, "modules") == "[]"

    @pytest.mark.parametrize("parser", sorted({known.parser for known in formats.FORMATS}))
    def test_parsers_load_neither_django_nor_numbers(self, parser: str, misbehaving: Sandbox) -> None:
        misbehaving.close()
        assert ask(misbehaving, f"load {parser}") == "[]"

    def test_the_next_file_is_read_after_every_fault(self, misbehaving: Sandbox) -> None:
        for what in ("exit", "fail", "pid"):
            try:
                ask(misbehaving, what)
            except IngestError:
                continue
        assert ask(misbehaving, "pid").isdigit()


class TestChildren:
    def test_a_child_is_used_again_also_after_a_file_it_refused(self, misbehaving: Sandbox) -> None:
        first = ask(misbehaving, "pid")
        with pytest.raises(ParseError, match="mend it"):
            ask(misbehaving, "refuse")
        assert ask(misbehaving, "pid") == first

    def test_a_child_is_replaced_after_a_fault_or_when_it_was_killed(self, misbehaving: Sandbox) -> None:
        first = int(ask(misbehaving, "pid"))
        with pytest.raises(ParseError):
            ask(misbehaving, "exit")
        second = int(ask(misbehaving, "pid"))
        assert second != first
        os.kill(second, signal.SIGKILL)
        eventually(lambda: psutil.Process(second).status() == psutil.STATUS_ZOMBIE)
        third = int(ask(misbehaving, "pid"))
        assert third != second
        assert not psutil.pid_exists(first)
        assert not psutil.pid_exists(second)

    def test_a_child_is_replaced_after_many_files(self) -> None:
        sandbox = Sandbox(max_children=1)
        seen: set[int] = set()
        for _ in range(505):
            parse_bytes(b"x", "a.txt", sandbox=sandbox)
            seen.update(child.pid for child in sandbox._children)
        assert len(seen) >= 2
        sandbox.close()

    def test_faults_leave_no_descriptors_and_no_zombies(self, misbehaving: Sandbox) -> None:
        misbehaving.close()
        process = psutil.Process()
        before, children_before = process.num_fds(), len(process.children())
        for what in ("exit", "crash", "fail", "pid", "big"):
            try:
                ask(misbehaving, what, ParseLimits(text_characters=1000))
            except IngestError:
                continue
        with pytest.raises(ParseLimitError):
            ask(misbehaving, "loop", ParseLimits(wall_s=0.2))
        misbehaving.close()
        assert process.num_fds() == before
        assert len(process.children()) == children_before

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists them in /proc")
    def test_a_child_inherits_no_descriptor_but_its_socket(self, misbehaving: Sandbox, tmp_path: Path) -> None:
        misbehaving.close()
        descriptor = os.open(tmp_path, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        try:
            # Standard streams, the socket, and the listing itself.
            assert len(eval(ask(misbehaving, "descriptors"))) == 5
        finally:
            os.close(descriptor)

    def test_threads_share_a_bounded_number_of_children(self, misbehaving: Sandbox) -> None:
        misbehaving.close()
        with ThreadPoolExecutor(8) as pool:
            pids = set(pool.map(lambda _: ask(misbehaving, "pid"), range(64)))
        assert 1 <= len(pids) <= 2

    def test_a_forked_process_starts_its_own_child_and_leaves_its_parents_alone(self, misbehaving: Sandbox) -> None:
        mine = ask(misbehaving, "pid")
        reader, writer = os.pipe()
        forked = os.fork()
        if forked == 0:  # as a prefork worker
            try:
                os.write(writer, ask(misbehaving, "pid").encode())
                misbehaving.close()
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            theirs = answer.read()
        assert os.waitpid(forked, 0)[1] == 0
        assert theirs.isdigit()
        assert theirs != mine
        assert ask(misbehaving, "pid") == mine

    def test_it_works_in_a_daemonic_process(self) -> None:
        program = (
            "import multiprocessing as m\n"
            "def work(queue):\n"
            "    from rag.ingest.sandbox import parse_bytes\n"
            "    queue.put(parse_bytes(b'# T', 'a.md')[0].title)\n"
            "if __name__ == '__main__':\n"
            "    q = m.get_context('fork').SimpleQueue()\n"
            "    p = m.get_context('fork').Process(target=work, args=(q,), daemon=True)\n"
            "    p.start(); print(q.get()); p.join()\n"
        )
        result = run(program)
        assert (result.stdout, result.stderr) == ("T\n", "")

    @pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
    def test_no_child_outlives_its_parent(self, ending: str) -> None:
        program = (
            "import os, signal\nfrom rag.ingest.sandbox import Sandbox, parse_bytes\ns = Sandbox()\n"
            "parse_bytes(b'x', 'a.txt', sandbox=s)\n"
            f"print([c.pid for c in s._children][0], flush=True)\n{ending}\n"
        )
        result = run(program)
        assert result.stderr == ""
        child = int(result.stdout)
        eventually(lambda: not psutil.pid_exists(child))

    def test_a_busy_child_ends_by_itself_when_its_parent_is_gone(self, tmp_path: Path) -> None:
        (tmp_path / "misbehaviour.py").write_text(MISBEHAVIOUR)
        program = (
            "import sys, threading, time\nfrom pathlib import Path\n"
            "from rag.ingest.sandbox import Sandbox\nfrom rag.ingest.types import ParseLimits, ParseRequest\n"
            f"s = Sandbox('misbehaviour:parse', search_path=[Path({str(tmp_path)!r})])\n"
            "request = ParseRequest(b'loop', 'a', '', ParseLimits(wall_s=600, cpu_s=2))\n"
            "threading.Thread(target=s.parse, args=(request,), daemon=True).start()\n"
            "while not s._children: time.sleep(0.01)\n"
            "print([c.pid for c in s._children][0], flush=True)\ntime.sleep(3600)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        parent.stdout.close()
        eventually(lambda: not psutil.pid_exists(child))

    def test_an_interrupt_during_a_file_leaves_no_child(self, misbehaving: Sandbox) -> None:
        misbehaving.close()

        us = threading.get_ident()

        def interrupt() -> None:
            eventually(lambda: any(not child.is_usable for child in misbehaving._children))  # it has the file
            signal.pthread_kill(us, signal.SIGINT)

        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                ask(misbehaving, "sleep", PATIENT)
        finally:
            interrupting.join()
            signal.signal(signal.SIGINT, previous)
        assert not misbehaving._children
        assert ask(misbehaving, "pid").isdigit()

    def test_an_installation_that_cannot_start_it_says_so(self) -> None:
        with pytest.raises(SandboxError, match=r"does not start \(exit status 1\); try '.*nowhere:parse'"):
            parse_bytes(b"x", "a.txt", sandbox=Sandbox("nowhere:parse"))
