"""A strict reader of the Prometheus text format, with the rules of `promtool check metrics`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LABEL = re.compile(r"[a-z][a-z0-9_]*")
COMMENT = re.compile(r"# (HELP|TYPE) (\S+) (.+)")
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-zA-Z_]\w*="([^"\\]|\\["\\n])*",?)*\})? (\S+)( \d+)?')

RESERVED_ENDINGS = ("_count", "_sum", "_bucket", "_total", "_info")
NOT_BASE_UNITS = {
    *("milliseconds", "microseconds", "ms", "minutes", "hours", "days"),
    *("kilobytes", "megabytes", "gigabytes", "kb", "mb", "gb", "bits", "percent", "percents", "fahrenheit"),
}
TYPE_WORDS = {"counter", "gauge", "histogram", "summary"}


def families(text: str) -> dict[str, Any]:
    """The families by name. Fails on what a strict parser refuses."""
    seen: set[tuple[str, str]] = set()
    for line in text.splitlines():
        if line.startswith("#"):
            match = COMMENT.fullmatch(line)
            assert match, f"not a comment of the format: {line!r}"
            assert (match[1], match[2]) not in seen, f"a second {match[1]} for {match[2]}"
            seen.add((match[1], match[2]))
        else:
            assert SAMPLE.fullmatch(line), f"not a sample of the format: {line!r}"
    assert text.endswith("\n")
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found, f"{family.name} comes in two pieces"
        found[family.name] = family
    return found


def faults(found: dict[str, Any], names: Iterable[str]) -> list[str]:
    """What is wrong with these families by the naming conventions and by arithmetic."""
    wrong: list[str] = []
    for name in names:
        family = found[name]
        wrong += [f"{name}: {fault}" for fault in (*_naming(family), *_series(family))]
    return wrong


def _naming(family: Any) -> Iterable[str]:
    words = family.name.split("_")
    if not NAME.fullmatch(family.name):
        yield "is no snake case"
    if not family.documentation or not family.documentation.endswith("."):
        yield "has no sentence of help"
    if family.type == "unknown":
        yield "has no type"
    if family.type == "counter" and any(not s.name.endswith(("_total", "_created")) for s in family.samples):
        yield "is a counter without _total"
    if family.type == "gauge" and family.name.endswith(RESERVED_ENDINGS):
        yield "is a gauge that ends like something else"
    if NOT_BASE_UNITS & set(words):
        yield "is not in base units"
    if TYPE_WORDS & set(words):
        yield "names its type"
    if family.type == "histogram" and not family.name.endswith(("_seconds", "_bytes", "_tokens")):
        yield "is a histogram without a unit"


def _series(family: Any) -> Iterable[str]:
    seen: set[tuple[Any, ...]] = set()
    buckets: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    counts: dict[tuple[Any, ...], float] = {}
    for sample in family.samples:
        series = (sample.name, *sorted(sample.labels.items()))
        if series in seen:
            yield f"has {series} twice"
        seen.add(series)
        for label in sample.labels:
            if not LABEL.fullmatch(label) or label.startswith("__"):
                yield f"has the label {label}"
        if family.type == "counter" and not sample.value >= 0:
            yield f"counts {sample.value}"
        plain = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(plain, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            counts[plain] = sample.value
    for labels, found in buckets.items():
        values = [value for _, value in found]
        if found != sorted(found) or values != sorted(values):
            yield f"has buckets out of order for {labels}"
        if found[-1][0] != float("inf") or found[-1][1] != counts.get(labels):
            yield f"has no full last bucket for {labels}"
