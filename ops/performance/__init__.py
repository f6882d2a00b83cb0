"""The performance store: what is kept of every query, how it is rolled up, laid out, reported and converted.

Rows are written by `ops.instrumentation.performance`. Everything here reads the table ``query_performance`` and the
views ``query_performance_1m``, ``_1h`` and ``_1d``, which look the same in every layout (`ops.performance.layout`).
"""
