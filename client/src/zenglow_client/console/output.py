"""What people see: results on stdout, as tables or as JSON; progress and complaints on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

out = Console(highlight=False, markup=False, soft_wrap=False)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """Text of a document, safe to show: terminals obey control characters, and eyes the marks that reorder text."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def as_json(value: BaseModel | Sequence[BaseModel] | Mapping[str, Any]) -> None:
    """One JSON value on stdout, for programs: what the server said, and nothing else."""
    plain: Any
    if isinstance(value, BaseModel):
        plain = value.model_dump(mode="json", exclude_unset=True)
    elif isinstance(value, Mapping):
        plain = dict(value)
    else:
        plain = [one.model_dump(mode="json", exclude_unset=True) for one in value]
    sys.stdout.write(json.dumps(plain, ensure_ascii=False, indent=2) + "\n")


def line(text: str, style: str = "") -> None:
    """A line on stdout, whole however narrow the terminal."""
    out.print(Text(printable(text), style=style), soft_wrap=True)


def write(text: str) -> None:
    """A piece of text on stdout, at once."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def note(text: str) -> None:
    """A line on stderr."""
    err.print(printable(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on stdout; where there is no row, what to do about it on stderr. Columns named ``>x`` hold numbers."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column.startswith(">")
        shown.add_column(column.lstrip(">"), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_cell(value)) for value in row))
    if shown.row_count:
        out.print(shown)
    else:
        note(empty)


def progress() -> Progress:
    """Bars on stderr that vanish when they are done; nothing where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M")
    return printable(str(value))
