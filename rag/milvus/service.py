"""What the task and the command do with Milvus, on a connection with time for writes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from ops.contracts.problems import Unavailable
from rag.milvus import feed
from rag.milvus.store import MilvusStore, configured
from rag.pipeline.remote.milvus import explain

logger = logging.getLogger(__name__)


@contextmanager
def milvus() -> Iterator[MilvusStore]:
    """A store for writing. Raises `Unavailable` with what is wrong with Milvus."""
    store = MilvusStore(configured(timeout_s=settings.MILVUS_WRITE_TIMEOUT_S))
    try:
        yield store
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        raise Unavailable(reason) from error
    finally:
        store.close()


def deliver_now() -> int:
    """Work off the outbox. Returns how many changes that were; when Milvus is away it says so in the log."""
    try:
        with milvus() as store:
            return feed.deliver(store)
    except Unavailable as fault:
        logger.warning("Changes wait for Milvus: %s", fault)
        return 0
