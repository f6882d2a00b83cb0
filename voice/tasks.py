"""Background work of the voice."""

from __future__ import annotations

from celery import shared_task

from rag.models import Collection
from voice.vocabulary import service


@shared_task(name="voice.make_vocabulary")
def make_vocabulary(slug: str) -> None:
    """Begin to make the vocabulary of a collection. The worker goes on with other work meanwhile.

    Its passages are read here: a worker has no second connection for a thread.
    """
    collection = Collection.objects.filter(slug=slug).first()
    draft = collection and service.draft_of(collection, service.kind_for(slug))
    if draft and not draft.out.exists():
        service.make_behind(draft)
