"""Who calls, through either transport, and what each call costs them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from ops.contracts.metrics import declare_counter
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Forbidden

CALLS = declare_counter("zenglow_mcp_calls", "Calls of MCP tools and resources.", ("name", "outcome"))


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal, resolved before the protocol begins: nothing that is said in it, or found by it, changes it.

    ``charge`` draws a cost, which may be 0, from the caller's rate limit and raises `TooManyRequests`.
    """

    principal: Principal
    charge: Callable[[float], None] = field(default=lambda cost: None)
    request_id: str = ""

    def ensure(self, scope: Scope) -> None:
        """Raises `Forbidden` without the scope."""
        if not self.principal.has_scope(scope):
            raise Forbidden(f"This needs the scope {scope.value}.", required_scope=scope.value)

    def new_request_id(self) -> str:
        """The id of what is done next: the HTTP request's own, where there is one."""
        return self.request_id or str(uuid.uuid4())
