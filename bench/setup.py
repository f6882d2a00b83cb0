"""What the benchmarks share: a data folder of their own, with the stores up and the shipped models live."""

from __future__ import annotations

import os
from pathlib import Path

DATA_DIR = Path(__file__).resolve().parent.parent / "var" / "bench"
SMALL = "bench-small"


def prepare() -> None:
    """Start the embedded stack on the benchmarks' own data, migrate and seed; Django is usable afterwards."""
    os.environ.setdefault("ZENGLOW_DATA_DIR", str(DATA_DIR))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zenglow_site.settings")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from models_registry.seeding import seed
    from zenglow_site.embedded.stack import EmbeddedStack

    if settings.ZENGLOW_EMBEDDED:
        EmbeddedStack(settings.ZENGLOW_DATA_DIR).ensure()
    call_command("migrate", verbosity=0)
    seed(print)


def ensure_small() -> str:
    """A collection of a few passages, indexed once; its slug. For what does not depend on the passages."""
    prepare()
    from ops.contracts.principal import SYSTEM
    from rag.ingest.plan import Offer
    from rag.ingest.service import process_batch, start_run
    from rag.models import Collection

    collection, is_new = Collection.objects.get_or_create(slug=SMALL)
    if is_new:
        texts = [f"Lighthouse {number} was lit {number} times, and its keeper wrote it down." for number in range(30)]
        offers = [Offer(f"l{number}", text.encode(), source=f"l{number}") for number, text in enumerate(texts)]
        run = start_run(collection, offers, SYSTEM, "command", enqueue=False)
        while process_batch(run.id):
            pass
    return SMALL
