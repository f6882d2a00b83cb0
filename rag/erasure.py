"""Forgetting a person: everything that one asker wrote, wherever the row knows who that was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet

from ops.audit import record
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from rag import query_log
from rag.feedback import query_id_of
from rag.models import Conversation, Feedback, JudgedQuery, Message, Preference, QueryLog

ERASE = declare_action("query_log.erase", "Everything that somebody asked, said and judged is gone.")


def count(asked_by: str) -> dict[str, int]:
    """How many rows of each kind `erase` would delete."""
    return {kind: rows.count() for kind, rows in _written_by(asked_by).items()}


def erase(asked_by: str, principal: Principal) -> dict[str, int]:
    """Delete everything that is stored of what one asker wrote and was shown; how many rows of each kind that were.

    ``asked_by`` is a `Principal.log_name`: ``user:7``, ``key:abcdefghij`` or ``anonymous``. What a process has not
    written yet (see `OPS_PERFORMANCE_FLUSH_INTERVAL_MS`) is not reached.
    """
    query_log.flush()
    with transaction.atomic():
        erased = {kind: rows.delete()[1].get(rows.model._meta.label, 0) for kind, rows in _written_by(asked_by).items()}
        record(principal, ERASE, asked_by, erased)
    return erased


def in_words(counts: Mapping[str, int]) -> str:
    """``2 searches, 1 feedback, …``"""
    return ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in counts.items())


def _written_by(asked_by: str) -> dict[str, QuerySet[Any]]:
    """The rows by kind. Messages and preferences come before the conversation that takes them along, to be counted."""
    return {
        "searches": QueryLog.objects.filter(asked_by=asked_by),
        "judged_queries": _judged_queries_of(asked_by),
        "feedback": Feedback.objects.filter(by=asked_by),
        "preferences": Preference.objects.filter(Q(by=asked_by) | Q(conversation__owner=asked_by)),
        "messages": Message.objects.filter(conversation__owner=asked_by),
        "conversations": Conversation.objects.filter(owner=asked_by),
    }


def _judged_queries_of(asked_by: str) -> QuerySet[JudgedQuery]:
    """Those made of this asker's feedback alone: what others asked in the same words, and judged, is theirs as well.

    A judged query names nobody: the text of feedback leads to it, so this is asked before the feedback is deleted.
    """
    given = Feedback.objects.exclude(query="").values_list("collection", "query").distinct()
    own = set(given.filter(by=asked_by))
    of_others = set(given.exclude(by=asked_by).filter(query__in={text for _, text in own}))
    identifiers: defaultdict[str, list[str]] = defaultdict(list)
    for slug, text in own - of_others:
        identifiers[slug].append(query_id_of(text))
    # Begun with what no row meets: every row meets an empty `Q`.
    wanted = Q(pk__in=[])
    for slug, names in identifiers.items():
        wanted |= Q(collection__slug=slug, query_id__in=names)
    return JudgedQuery.objects.filter(wanted)
