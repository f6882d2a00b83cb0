"""SQL as spans. Only imported when traces are wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import wrapt
from opentelemetry.instrumentation.psycopg import CursorTracer, DatabaseApiIntegration, PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from ops import statements


def trace_database(provider: TracerProvider, is_recorded: Callable[[], bool]) -> None:
    """Make a span of every statement of every cursor, parameters left out, where a trace is recorded.

    `PsycopgInstrumentor` itself replaces a connection's cursor factory, which Django's server-side cursors do not use;
    all cursors inherit these two methods. What `ops.statements` runs has no cursor; of a statement that works
    beside something else the span is only as long as it took to send.
    """
    integration = DatabaseApiIntegration(
        "opentelemetry.instrumentation.psycopg",
        PsycopgInstrumentor._DATABASE_SYSTEM,
        connection_attributes=PsycopgInstrumentor._CONNECTION_ATTRIBUTES,
        tracer_provider=provider,
        connect_module=psycopg,  # type: ignore[arg-type]  # the module is what it wants
    )
    tracer = CursorTracer(integration)

    def traced(wrapped: Callable[..., Any], cursor: psycopg.Cursor[Any], args: Any, kwargs: Any) -> Any:
        statement = args[0] if args else ""
        if not statement or not is_recorded():  # a pool asks nothing to see whether its connection still lives
            return wrapped(*args, **kwargs)
        if not integration.connection_props:
            integration.get_connection_attributes(cursor.connection)
        if isinstance(statement, bytes):
            args = (statement.decode("utf-8", "replace"), *args[1:])
        return tracer.traced_execution(cursor, wrapped, *args, **kwargs)

    for method in ("execute", "executemany"):
        if not isinstance(getattr(psycopg.Cursor, method), wrapt.FunctionWrapper):
            wrapt.wrap_function_wrapper(psycopg.Cursor, method, traced)

    def traced_statement(wrapped: Callable[..., Any], _: object, args: Any, kwargs: Any) -> Any:
        if not is_recorded():
            return wrapped(*args, **kwargs)
        connection, statement, parameters = args
        if not integration.connection_props:
            integration.get_connection_attributes(connection)
        return tracer.traced_execution(None, partial(wrapped, connection), statement, parameters, **kwargs)

    for function in ("fetch", "begin"):
        if not isinstance(getattr(statements, function), wrapt.FunctionWrapper):
            wrapt.wrap_function_wrapper(statements, function, traced_statement)
