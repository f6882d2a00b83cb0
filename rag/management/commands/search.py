"""``manage.py search "…"``: the whole pipeline from the shell."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from ops.terminal import console, printable
from rag.models import Collection
from rag.pipeline.search import SearchRequest, search

EXCERPT_CHARACTERS = 160
BAR_CHARACTERS = 6


class Command(BaseCommand):
    help = "Search a collection and show the ranked passages with their scores."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("query", help="what to look for")
        parser.add_argument("--collection", help="slug; default: RAG_DEFAULT_COLLECTION")
        parser.add_argument("--top-k", type=int, help="how many passages")
        parser.add_argument("--explain", action="store_true", help="show what made each passage's LTR score")
        parser.add_argument("--json", action="store_true", help="print the answer as JSON")

    def handle(self, **options: Any) -> None:
        request = SearchRequest(
            query=options["query"],
            collection=options["collection"],
            top_k=options["top_k"],
            explain=options["explain"],
        )
        try:
            answer = search(request, SYSTEM)
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem
        if options["json"]:
            self.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2))
            return
        out = console(self.stdout)
        if not answer["results"]:
            out.print(_nothing_found(answer["collection"]))
        else:
            out.print(_table(answer))
        out.print(_summary(answer))


def _nothing_found(slug: str) -> str:
    if Collection.objects.get(slug=slug).is_being_indexed:
        return f"Nothing found in '{slug}' yet: documents are being indexed there. Search again in a moment."
    return f"Nothing found in '{slug}'. `manage.py index PATH --collection {slug}` adds documents."


def _table(answer: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("#", "fused", "ltr", "conceptual"):
        table.add_column(heading, justify="right")
    table.add_column("passage", overflow="fold")
    for place, result in enumerate(answer["results"], start=1):
        passage = Text(printable(result["title"] or result["document_id"]), style="bold")
        where = [result["source"], *result["heading_path"]]
        where += [f"page {result['page']}"] if result["page"] else []
        passage.append("\n" + printable(" › ".join(filter(None, where))), style="dim")
        passage.append("\n" + printable(" ".join(result["text"].split())[:EXCERPT_CHARACTERS]), style="not bold")
        table.add_row(
            str(place),
            f"{result['fused_score']:.3f}",
            f"{result['ltr_score_norm']:.3f}",
            f"{result['conceptual_score_norm']:.3f}",
            Group(passage, _explanation(result, answer["fusion_weights"])) if "features" in result else passage,
        )
    return table


def _explanation(result: dict[str, Any], weights: dict[str, float]) -> Group:
    """Who found it, what the two scores weigh, and what made the learned one."""
    found = ", ".join(f"{name} at rank {rank}" for name, rank in result["matched_by"].items() if rank)
    parts = result["fused_parts"]
    sums = " + ".join(
        f"{name} {weights[name]:.2f} × {result[norm]:.3f} = {parts[name]:.3f}"
        for name, norm in (("ltr", "ltr_score_norm"), ("conceptual", "conceptual_score_norm"))
    )
    return Group(
        Text(f"found by {found}", style="dim"),
        Text(f"fused {result['fused_score']:.3f}: {sums}", style="dim"),
        _contributions(result),
    )


def _contributions(result: dict[str, Any]) -> Table:
    """What made the LTR score, the largest parts first; features that had no part in it are left out."""
    features: dict[str, float] = result["features"]
    parts: dict[str, float] = result.get("contributions", {})
    limit = max((abs(part) for name, part in parts.items() if name in features), default=0.0)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", style="dim")
    table.add_column("feature", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("part", justify="right")
    table.add_column("", width=BAR_CHARACTERS)
    for name in sorted(parts, key=lambda name: -abs(parts[name])):
        if parts[name]:
            value = f"{features[name]:.3f}" if name in features else ""
            bar = (
                ("█" if parts[name] > 0 else "░") * round(BAR_CHARACTERS * abs(parts[name]) / limit)
                if name in features
                else ""
            )
            table.add_row(name, value, f"{parts[name]:+.3f}", bar)
    table.add_row("LTR score", "", f"{result['ltr_score']:+.3f}")
    return table


def _summary(answer: dict[str, Any]) -> Text:
    timings = "  ".join(f"{name.removesuffix('_ms')} {value:.1f}" for name, value in answer["timings"].items())
    weights = answer["fusion_weights"]
    text = Text(
        f"\n{answer['collection']} · ranker {answer['models']['ltr']} · weights v{answer['fusion_weights_version']} "
        f"(ltr {weights['ltr']:.2f}, conceptual {weights['conceptual']:.2f}) · cache {answer['cache']}\nms: {timings}",
        style="dim",
    )
    if answer["degraded"]:
        text.append(f"\ndegraded: {', '.join(answer['degraded'])}", style="yellow")
    return text
