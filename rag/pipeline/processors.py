"""What one process may take of the machine's processors while it searches."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext

from django.conf import settings

PROCESSORS = os.cpu_count() or 1
"""Of the machine, asked once."""


def own_processors() -> int:
    """This process's share of the processors, at least 1: the web processes divide them among themselves."""
    share: int = PROCESSORS // settings.ZENGLOW_WEB_PROCESSES
    return max(share, 1)


_turn = threading.Lock()


def turn() -> AbstractContextManager[object]:
    """A turn to compute in Python for some milliseconds, asking nobody anything meanwhile.

    Threads of one process that compute on several processors at the same time pass the interpreter's lock to and fro:
    sixteen searches at once on two processors got on a tenth faster in turns. A process with one processor for itself
    has no need of them.
    """
    return _turn if own_processors() > 1 else nullcontext()
