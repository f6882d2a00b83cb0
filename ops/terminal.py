"""What commands show to people: tables and progress bars by rich, on the streams that Django hands a command."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from django.core.management.base import OutputWrapper
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Step = Callable[[int, int], None]
"""How much is done, and of how much."""
Bar = Callable[[str], Step]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text of a document, safe to show: terminals obey control characters, and eyes the marks that reorder text."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def console(stream: OutputWrapper) -> Console:
    """A console on a command's stdout or stderr: colours and width of a terminal, plain lines for a file."""
    # Django's wrapper would end each piece of a progress bar with a line break.
    return Console(file=cast("IO[str]", stream._out), highlight=False, markup=False)


@contextmanager
def progress(stream: OutputWrapper) -> Iterator[Bar]:
    """Progress bars that vanish when they are done.

    with progress(self.stderr) as bar:
        on_step = bar("Reading cranfield")
        on_step(3, 225)
    """
    with _bars(stream, MofNCompleteColumn()) as bar:
        yield bar


@contextmanager
def downloads(stream: OutputWrapper) -> Iterator[Bar]:
    """As `progress`, counting bytes."""
    with _bars(stream, DownloadColumn(), TransferSpeedColumn()) as bar:
        yield bar


@contextmanager
def _bars(stream: OutputWrapper, *counts: ProgressColumn) -> Iterator[Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=console(stream), transient=True) as shown:

        def bar(description: str) -> Step:
            task = shown.add_task(description, total=None)

            def update(done: int, total: int) -> None:
                shown.update(task, completed=done, total=total)

            return update

        yield bar
