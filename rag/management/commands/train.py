"""``manage.py train``: rankers from judged collections, with honest figures beside them."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import scipy
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from models_registry import training
from models_registry.live import view
from models_registry.models import Slot, TrainingRun
from ops.contracts.principal import SYSTEM
from ops.terminal import console, progress
from rag.evaluation.run import code_revision
from rag.management.judged import Figures, compared, read_judged, show_figures
from rag.pipeline.ltr import LightGbmRanker, LinearRanker
from rag.recipes import ltr

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

REASONS = {
    "lightgbm": "The trees are significantly better than the linear ranker.",
    "linear": "It is significantly better than every simple row, and the trees are not significantly better than it.",
    "simple": "Nothing learned is significantly better than the best simple row, so nothing learned is the default.",
}


class Command(BaseCommand):
    help = (
        "Train the linear ranker and the trees on judged collections, print zero-shot, held-out and in-sample figures, "
        "and write the models with their provenance."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--collection", action="append", required=True, help="slug; may be given several times")
        parser.add_argument("--output", type=Path, help="folder for the models; without it only figures are printed")
        parser.add_argument("--name", default="ltr-default", help="name of the model that is trained on everything")

    def handle(self, **options: Any) -> None:
        started_at = timezone.now()
        slugs: Sequence[str] = options["collection"]
        _check(slugs, options["output"], options["name"])
        with progress(self.stderr) as bar:
            collections, groups = read_judged(slugs, bar)
            bar("Training")
            without, zero_shot = ltr.zero_shot(groups) if len(collections) > 1 else ({}, {})
            in_domain: ltr.Scores = {}
            for slug in slugs:
                for row, scores in ltr.in_domain(groups, slug).items():
                    in_domain.setdefault(row, {}).update(scores)
            full = ltr.train(groups)
        in_sample = ltr.in_sample(groups, full)
        out = console(self.stdout)
        simple = ltr.best_simple(in_domain)
        if zero_shot:
            show_figures(out, "Zero-shot: each collection by rankers that never saw it", ltr.means(zero_shot))
            for row, baseline in (("linear", simple), ("lightgbm", simple), ("lightgbm", "linear")):
                out.print(compared(zero_shot, row, baseline))
        show_figures(out, "5-fold: each fifth of the queries by rankers trained on the rest", ltr.means(in_domain))
        with_memory = "linear" + ltr.WITH_MEMORY
        for row, baseline in (
            ("linear", simple),
            ("lightgbm", "linear"),
            (with_memory, simple),
            (with_memory, "linear"),
        ):
            out.print(compared(in_domain, row, baseline))
        show_figures(out, "In-sample: not to be compared with anything", ltr.means(in_sample))
        best = ltr.best_kind(zero_shot or in_domain)
        out.print(f"Best by held-out queries: {best}. {REASONS[best]}", soft_wrap=True)
        if options["output"]:
            figures: dict[str, Figures] = {
                "zero_shot_ndcg@10": ltr.means(zero_shot),
                "in_domain_5_fold_ndcg@10": ltr.means(in_domain),
                "in_sample_ndcg@10": ltr.means(in_sample),
            }
            run = training.record_run(
                "rag.recipes.ltr",
                by=SYSTEM,
                started_at=started_at,
                datasets=_datasets(collections),
                parameters=_parameters(full),
                metrics=figures,
                code_revision=code_revision(),
            )
            _write(options["output"], options["name"], run, full, collections, figures, ("lightgbm", "linear"), best)
            for slug, trained in without.items():
                rest = [collection for collection in collections if collection.name != slug]
                _write(
                    options["output"],
                    f"ltr-without-{slug}",
                    run,
                    trained,
                    rest,
                    {"zero_shot_ndcg@10": {row: {slug: of[slug]} for row, of in ltr.means(zero_shot).items()}},
                    ("lightgbm" if best == "lightgbm" else "linear",),
                )
            out.print(f"Written to {options['output']}. `manage.py seed` registers what lies in rag/recipes/defaults.")


def _check(slugs: Sequence[str], output: Path | None, name: str) -> None:
    """Refuse at once what would end in a fault after all the work."""
    if len(set(slugs)) < len(slugs):
        raise CommandError("A collection is named twice: each counts once.", returncode=2)
    if not NAME.fullmatch(name):
        raise CommandError(f"'{name}' can't be the name of a file: use letters, digits, dot and hyphen.", returncode=2)
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"{output} can't be made a folder: {error.strerror}.", returncode=2) from error


def _write(
    folder: Path,
    name: str,
    run: TrainingRun,
    trained: ltr.Trained,
    collections: Sequence[ltr.JudgedCollection],
    figures: dict[str, Figures],
    kinds: Sequence[str],
    best: str = "",
) -> None:
    """Write one model of each of `kinds` with its provenance. A model has one kind: a linear one is named for it."""
    names = [collection.name for collection in collections]
    whats = {"lightgbm": "LambdaMART over the linear ranker", "linear": "Linear ranker"}
    rankers: dict[str, LinearRanker | LightGbmRanker] = {"lightgbm": trained.trees, "linear": trained.linear}
    for kind in kinds:
        model_name, what, ranker = name if kind == "lightgbm" else f"{name}-{kind}", whats[kind], rankers[kind]
        ltr.write_model(
            folder,
            model_name,
            ranker,
            trained.settings.weights,
            f"{what}, trained on {', '.join(names)}",
            {
                title: {row: mean for row, mean in means.items() if row.removesuffix(ltr.WITH_MEMORY) == kind}
                for title, means in figures.items()
            },
            {
                "command": " ".join(
                    ["manage.py train", *(f"--collection {collection.name}" for collection in collections)]
                ),
                "embedders": sorted({view.model(Slot.EMBEDDER, collection.name).label for collection in collections}),
                "datasets": _datasets(collections),
                "training_run": str(run.pk),
                "revision": run.code_revision,
                "seed": ltr.SEED,
                "parameters": _parameters(trained),
                "libraries": {
                    "lightgbm": lightgbm.__version__,
                    "numpy": np.__version__,
                    "scipy": scipy.__version__,
                },
            },
            default=kind == best,
        )


def _datasets(collections: Sequence[ltr.JudgedCollection]) -> list[dict[str, Any]]:
    return [
        {
            "collection": collection.name,
            "sha256": collection.sha256,
            "queries": len(collection.queries),
            "judgements": sum(len(query.grades) for query in collection.queries),
        }
        for collection in collections
    ]


def _parameters(trained: ltr.Trained) -> dict[str, Any]:
    return {
        "rounds": trained.settings.rounds,
        "start_scale": ltr.START_SCALE,
        "linear_features": list(ltr.LINEAR_FEATURES),
        "linear_pull": ltr.LINEAR_PULL,
        "temperature": ltr.TEMPERATURE,
        "trees": ltr.TREE_PARAMETERS,
    }
