from __future__ import annotations

import os
from pathlib import Path

import pytest

from rag.ingest.discover import DiscoverError, FoundFile, SkippedFile, discover


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(*paths: Path) -> list[str]:
    return [entry.document_id for entry in discover(paths) if isinstance(entry, FoundFile)]


def skipped(*paths: Path) -> dict[str, str]:
    return {entry.path.name: entry.reason for entry in discover(paths) if isinstance(entry, SkippedFile)}


def test_it_walks_in_a_stable_order_and_names_documents_by_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "docs", "b.md", "a/z.txt", "a/b/c.py", "Z.rst", "a.html")
    assert found(root) == ["docs/Z.rst", "docs/a/b/c.py", "docs/a/z.txt", "docs/a.html", "docs/b.md"]
    (first, *_) = discover([root])
    assert isinstance(first, FoundFile)
    assert (first.path, first.root, first.media_type, first.size_bytes) == (root / "Z.rst", root, "text/x-rst", 1)


def test_a_single_file_is_named_by_itself(tmp_path: Path) -> None:
    tree(tmp_path, "notes.md", "data.bin")
    assert found(tmp_path / "notes.md", tmp_path / "data.bin") == ["notes.md", "data.bin"]
    (unknown,) = discover([tmp_path / "data.bin"])
    assert isinstance(unknown, FoundFile)
    assert unknown.media_type is None


def test_each_file_comes_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "docs", "a.md", "sub/b.md")
    assert found(root, root, root / "sub", root / "a.md") == ["docs/a.md", "docs/sub/b.md"]


def test_the_current_folder_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path / "project", "a.md", "sub/b.md"))
    assert found(Path()) == ["project/a.md", "project/sub/b.md"]
    assert found(Path("sub/../a.md")) == ["a.md"]


def test_what_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DiscoverError, match=r"nowhere does not exist; check the path\.$"):
        discover([tmp_path / "nowhere"])


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a/docs/x.md", "b/docs/x.md")
    with pytest.raises(DiscoverError, match="have the same name"):
        discover([tmp_path / "a/docs", tmp_path / "b/docs"])


def test_hidden_files_caches_and_environments_are_passed_over_in_silence(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "p",
        "a.md",
        ".git/config.txt",
        ".hidden.md",
        ".hg/x.md",
        "CVS/x.md",
        "node_modules/m/readme.md",
        "__pycache__/x.py",
        "env/pyvenv.cfg",
        "env/lib/x.py",
    )
    assert found(root) == ["p/a.md"]
    assert skipped(root) == {}


def test_what_cannot_be_read_is_reported_with_a_reason(tmp_path: Path) -> None:
    root = tree(tmp_path / "p", "a.png", "big.txt", "noext", "good.md", "README")
    (root / "empty.py").touch()
    os.mkfifo(root / "pipe.txt")
    (root / "link.md").symlink_to(root / "good.md")
    (root / "loop").symlink_to(root)
    (root / "a\nb.md").write_text("x")
    (root / "big.txt").write_bytes(b"x" * 11)
    entries = list(discover([root], max_bytes=10))
    assert [entry.document_id for entry in entries if isinstance(entry, FoundFile)] == ["p/README", "p/good.md"]
    assert {entry.path.name: entry.reason for entry in entries if isinstance(entry, SkippedFile)} == {
        "a.png": "'.png' files cannot be read",
        "noext": "has no extension",
        "empty.py": "is empty",
        "pipe.txt": "is not a regular file",
        "link.md": "is a symbolic link; name its target to index it",
        "loop": "is a symbolic link; name its target to index it",
        "a\nb.md": "has a name that is not printable text",
        "big.txt": f"is larger than {10 / (1 << 20):g} MB",
    }


def test_a_name_that_is_not_utf8_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "p") + b"/\xff.md")).write_text("x")
    (entry,) = discover([tmp_path / "p"])
    assert isinstance(entry, SkippedFile)
    assert entry.reason == "has a name that is not printable text"


def test_a_path_too_long_for_an_id_is_skipped(tmp_path: Path) -> None:
    name = "/".join(["d" * 200] * 3) + "/a.md"
    assert skipped(tree(tmp_path / "p", name)) == {"a.md": "has a path of more than 512 characters"}


def test_ids_are_composed(tmp_path: Path) -> None:
    assert found(tree(tmp_path / "p", "cafe\u0301.md")) == ["p/café.md"]


def test_a_folder_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    root = tree(tmp_path / "p", "closed/a.md", "b.md")
    (root / "closed").chmod(0)
    if os.access(root / "closed", os.R_OK):
        pytest.skip("root may read everything")
    try:
        assert found(root) == ["p/b.md"]
        assert skipped(root) == {"closed": "cannot be read (Permission denied)"}
    finally:
        (root / "closed").chmod(0o700)


def test_a_link_that_was_named_itself_is_followed(tmp_path: Path) -> None:
    tree(tmp_path, "real/a.md")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert found(tmp_path / "link") == ["link/a.md"]
    (tmp_path / "broken.md").symlink_to(tmp_path / "gone.md")
    assert skipped(tmp_path / "broken.md") == {"broken.md": "cannot be read (No such file or directory)"}


class TestIgnoreFiles:
    @pytest.mark.parametrize("name", [".gitignore", ".ignore", ".zenglowignore"])
    def test_they_are_respected(self, tmp_path: Path, name: str) -> None:
        root = tree(tmp_path / "p", "a.md", "a.log", "build/x.md", "sub/build/y.md", "sub/keep.log", "sub/secret.md")
        write(root / name, "*.log\nbuild/\n/sub/secret.md\n!keep.log\n# comment\n\n!\n")
        assert found(root) == ["p/a.md", "p/sub/keep.log"]

    def test_the_nearest_one_wins(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "p", "a.txt", "sub/a.txt", "sub/deep/a.txt", "sub/deep/b.md")
        write(root / ".gitignore", "*.txt\n")
        write(root / "sub/.gitignore", "!a.txt\n")
        write(root / "sub/deep/.gitignore", "/b.md\n")
        assert found(root) == ["p/sub/a.txt", "p/sub/deep/a.txt"]

    def test_our_own_wins_over_gits(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "p", "a.txt", "b.txt", "c.md")
        write(root / ".gitignore", "*.txt\n")
        write(root / ".zenglowignore", "!a.txt\nc.md\n")
        assert found(root) == ["p/a.txt"]

    def test_those_above_count_inside_a_repository(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "repo", "docs/a.md", "docs/b.log", "docs/sub/c.md")
        (root / ".git").mkdir()
        write(root / ".gitignore", "*.log\n/docs/sub\n")
        write(tmp_path / ".gitignore", "*.md\n")
        assert found(root / "docs") == ["docs/a.md"]

    def test_those_above_do_not_count_outside_a_repository(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "p", "docs/a.md")
        write(root / ".gitignore", "*.md\n")
        assert found(root / "docs") == ["docs/a.md"]

    def test_a_folder_or_file_that_was_asked_for_is_never_ignored_itself(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "repo", "var/uploads/a.md", "notes.log")
        (root / ".git").mkdir()
        write(root / ".gitignore", "var/\n*.log\n")
        assert found(root / "var/uploads", root / "notes.log") == ["uploads/a.md", "notes.log"]
