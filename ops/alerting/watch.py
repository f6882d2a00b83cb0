"""Rules are evaluated and channels told by the process that guards the rollouts (`manage.py rollout guard`).

Not by a worker, whose long work would delay both, and not through the broker, which may be what the alert is about.
Any number of processes may do it: each rule and each delivery is taken by one of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django.db import Error as DatabaseFault
from django.db import connections

from ops.alerting import delivery, rules

logger = logging.getLogger(__name__)


def start(stopping: threading.Event) -> None:
    """Evaluate and tell every `rules.INTERVAL`, until ``stopping``.

    By a thread each: a channel that does not answer delays no rule.
    """
    for name, work in (("alert-rules", rules.evaluate), ("alert-deliveries", delivery.deliver)):
        threading.Thread(target=_repeat, args=(work, stopping), name=name, daemon=True).start()


def _repeat(work: Callable[[], object], stopping: threading.Event) -> None:
    while not stopping.is_set():
        started = time.monotonic()
        try:
            work()
        except DatabaseFault as error:
            logger.warning("Alerts wait for the database: %s", type(error).__name__)
        except Exception:
            logger.exception("Alerts could not be looked after; they are again in a moment")
        connections.close_all()
        stopping.wait(max(rules.INTERVAL.total_seconds() - (time.monotonic() - started), 0.05))
