"""Make a test collection in BEIR layout from the manual inside a source distribution.

    .venv/bin/pip download --no-deps --no-binary :all: django==5.2.8
    .venv/bin/python scripts/documentation_collection.py django-5.2.8.tar.gz OUTPUT_FOLDER

A document is a section of the manual without its own heading; the heading of a section, where it is a phrase that no
other section has, is a query whose one relevant document is that section. Queries of this kind look for a known item:
they favour exact words, and nothing about a document's neighbours helps to find it. The choice of queries is drawn
by a hash, so the same archive always gives the same collection.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

UNDERLINE = re.compile(r"([=\-~^\"'*+#`.:_])\1{2,}\s*")
FOLDERS = re.compile(r"^[^/]+/docs?/")
EXCLUDED = re.compile(r"/(_theme|releases|changelog|internals/contributing)/|/(index|contents|copyright|glossary)\.")
DIRECTIVE = re.compile(r"^\s*(\.\. .*|:[\w -]+:(?=\s|$).*)$", re.MULTILINE)
ROLE = re.compile(r":[\w:+.-]+:`~?\.?([^`<]*?)\s*(?:<[^`]*>)?`")
LINK = re.compile(r"`([^`<]+?)\s*<[^`]*>`__?")
MARKUP = re.compile(r"[*`|]+|::$", re.MULTILINE)

LEAST_WORDS, MOST_WORDS = 30, 400
QUERY_WORDS = range(3, 13)


@dataclass(frozen=True, slots=True)
class Section:
    """`page`: the manual page's first heading; `heading`: the section's own, empty for the page's beginning."""

    identifier: str
    page: str
    heading: str
    text: str


def sections_of(identifier: str, source: str) -> Iterator[Section]:
    """The sections of one reStructuredText page that are neither tiny nor huge, in its order."""
    lines = source.expandtabs().splitlines()
    starts = [
        number
        for number in range(len(lines) - 1)
        if lines[number].strip()
        and not lines[number][0].isspace()
        and UNDERLINE.fullmatch(lines[number + 1])
        and len(lines[number + 1].rstrip()) >= len(lines[number].rstrip())
        and not UNDERLINE.fullmatch(lines[number])
    ]
    headings = [plain(lines[number]) for number in starts]
    for place, (start, end) in enumerate(pairwise([*starts, len(lines)])):
        text = plain("\n".join(lines[start + 2 : end]))
        if LEAST_WORDS <= len(text.split()) <= MOST_WORDS:
            yield Section(f"{identifier}#{place}", headings[0], headings[place] if place else "", text)


def plain(text: str) -> str:
    """Without directives, roles and emphasis, on one line."""
    for pattern, kept in ((DIRECTIVE, ""), (ROLE, r"\1"), (LINK, r"\1"), (MARKUP, ""), (UNDERLINE, "")):
        text = pattern.sub(kept, text)
    return " ".join(text.split())


def read(archive: Path) -> list[Section]:
    """Every section of the archive's manual, by identifier."""
    found: list[Section] = []
    with tarfile.open(archive) as opened:
        for member in sorted(opened.getmembers(), key=lambda member: member.name):
            wanted = member.isfile() and FOLDERS.match(member.name) and member.name.endswith((".rst", ".txt"))
            if wanted and not EXCLUDED.search(member.name):
                content = opened.extractfile(member)
                assert content is not None
                source = content.read().decode("utf-8", errors="replace")
                found += sections_of(FOLDERS.sub("", member.name).rpartition(".")[0], source)
    return found


def choose_queries(sections: list[Section], most: int) -> list[Section]:
    """At most `most` of the sections whose heading can be asked for, the lowest hashes first."""
    counts = Counter(section.heading.lower() for section in sections)
    usable = [
        section
        for section in sections
        if len(section.heading.split()) in QUERY_WORDS and counts[section.heading.lower()] == 1
    ]
    usable.sort(key=lambda section: hashlib.sha256(section.identifier.encode()).hexdigest())
    return usable[:most]


def write(sections: list[Section], queries: list[Section], folder: Path) -> None:
    """The three files of the BEIR layout."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = ({"_id": section.identifier, "title": section.page, "text": section.text} for section in sections)
    asked = ({"_id": f"q-{section.identifier}", "text": section.heading} for section in queries)
    for name, rows in (("corpus.jsonl", documents), ("queries.jsonl", asked)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judged = "".join(f"q-{section.identifier}\t{section.identifier}\t1\n" for section in queries)
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="a source distribution (.tar.gz) with reStructuredText in doc(s)/")
    parser.add_argument("output", type=Path)
    parser.add_argument("--queries", type=int, default=200, help="at most so many (default: 200)")
    options = parser.parse_args()
    try:
        sections = read(options.archive)
    except (OSError, tarfile.TarError) as error:
        sys.exit(f"{options.archive} can't be read: {str(error).splitlines()[0]}")
    queries = choose_queries(sections, options.queries)
    if not queries:
        sys.exit(f"{options.archive} holds no reStructuredText manual in doc/ or docs/.")
    write(sections, queries, options.output)
    print(f"{options.output}: {len(sections)} documents, {len(queries)} queries")


if __name__ == "__main__":
    main()
