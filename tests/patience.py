"""How long tests wait for what must come.

They wait for a condition or an event, never for time; this only ends a test that would otherwise wait for ever. It is
far more than the slowest and busiest machine needs: a test that gives up too early fails for no fault of the product.
"""

from __future__ import annotations

from collections.abc import Callable

from zenglow_site.embedded.processes import wait_until

PATIENCE_S = 600.0


def eventually(condition: Callable[[], bool]) -> None:
    """Return once it is true."""
    assert wait_until(condition, PATIENCE_S), "it never came about"
