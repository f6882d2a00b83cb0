"""What one process may take of the machine's processors while it searches."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext

from django.conf import settings


def own_processors() -> int:
    """This process's share of the processors, at least 1: the web processes divide them among themselves."""
    return max((os.cpu_count() or 1) // settings.ZENGLOW_WEB_PROCESSES, 1)


_turn = threading.Lock()


def turn() -> AbstractContextManager[object]:
    """A turn to compute in Python for some milliseconds, asking nobody anything meanwhile.

    Threads of one process that compute at the same time on several processors pass the interpreter's lock from one to
    the other and back: sixteen searches at once on two processors take a tenth longer than in turns. A process with a
    processor of its own has no need of it.
    """
    return _turn if own_processors() > 1 else nullcontext()
