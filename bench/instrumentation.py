"""What ``with stage("…")`` costs: without tracing, with traces that aren't kept, and with traces that are.

CPU time of one thread, as the product runs it: with snapshot, Prometheus histogram and a recording. Beside it the bare
block, and a time that is only taken. Prints ratios to the aim of 20 µs with tracing off.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

ROUNDS = 21
CALLS = 2_000
AIM_US = 20.0


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.server_settings")
    from ops.contracts.stage import recording, register_sink, stage, trace_stages
    from ops.instrumentation.prometheus import observe_stage
    from ops.instrumentation.snapshot import SNAPSHOT

    register_sink(SNAPSHOT.add_stage)
    register_sink(observe_stage)

    def timed() -> None:
        started = time.perf_counter()
        time.perf_counter() - started

    def staged() -> None:
        with stage("embed"):
            pass

    print(f"microseconds of CPU, median of {ROUNDS} rounds of {CALLS} calls")
    report("a call that does nothing", cost_us(lambda: None))
    report("a time that is taken", cost_us(timed))
    with recording():
        off_us = cost_us(staged)
        report("a stage, tracing off", off_us)
        for name, share in (("a stage in a trace that is not kept", 0.0), ("a stage in a trace that is kept", 1.0)):
            with provider(share) as tracer, tracer.start_as_current_span("request"):
                trace_stages(lambda stage_name, tracer=tracer: tracer.start_as_current_span(stage_name))
                report(name, cost_us(staged))
                trace_stages(None)
    print(f"tracing off: {off_us / AIM_US:.2f} of the aim of {AIM_US:.0f} µs")


@contextmanager
def provider(share: float) -> Iterator[object]:
    """A tracer of the real SDK, batching as it does in the product, whose spans go nowhere."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    made = TracerProvider(sampler=ParentBasedTraceIdRatio(share))
    made.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=4 * CALLS))
    try:
        yield made.get_tracer("bench")
    finally:
        made.shutdown()


def cost_us(work: Callable[[], object]) -> float:
    work()
    rounds = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        for _ in range(CALLS):
            work()
        rounds.append((time.thread_time() - started) / CALLS * 1e6)
    return statistics.median(rounds)


def report(name: str, cost: float) -> None:
    print(f"  {name:<38} {cost:8.2f}")


if __name__ == "__main__":
    main()
