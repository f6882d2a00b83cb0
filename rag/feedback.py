"""What people make of results: judgements, clicks and votes, and the judgements of a test collection made of them.

Whoever is shown a passage at the first place looks at it; of those shown one further down fewer do. So a click counts
with the inverse of its position's propensity: the share of people who look that far. The model is the position-based
one of Joachims, Swaminathan and Schnabel, "Unbiased learning-to-rank with biased feedback" (WSDM 2017), section 5:
``p(position) = 1 / (1 + position) ** eta``, here with ``eta`` 1 and weights clipped, which bounds their variance.
The mean of these weights over a document's showings is the weight of the judgement that its clicks make, and what the
LTR recipe learns from it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from django.db import transaction
from django.db.models import Count

from models_registry.routing import arms_from_json, observe_feedback
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Forbidden, InvalidRequest, NotFound
from rag.ingest import beir
from rag.models import Collection, Document, Feedback, FeedbackKind, Impression, JudgedQuery, Judgement, QueryLog
from rag.query_log import flush

JUDGE = declare_action("feedback.judge", "Judgements of a collection were made of what people clicked, voted, judged.")

ETA = 1.0
LARGEST_WEIGHT = 10.0
LARGEST_GRADE = 3

LEAST_SHOWN = 3
"""How often a passage must have been shown for a query before clicks say anything."""
LEAST_ATTRACTION = 0.3
"""From which weighted share of clicks on a document is taken for relevant."""

QUERY_PREFIX = "feedback-"


@dataclass(frozen=True, slots=True)
class Given:
    """Feedback on a passage: ``value`` is a grade, a vote of 1 or -1, or nothing for a click.

    ``position``: where the caller saw it, 0 first; checked when it is given.
    """

    request_id: UUID
    chunk_id: int
    kind: FeedbackKind
    value: int | None = None
    position: int | None = None


def propensity_weight(position: int) -> float:
    """The inverse of the share of people who look at a position (0 first), at most `LARGEST_WEIGHT`."""
    return min(float((1 + position) ** ETA), LARGEST_WEIGHT)


def give(given: Given, principal: Principal) -> tuple[Feedback, bool]:
    """Keep feedback, and whether it is new; the same again changes nothing but its value.

    Only on what this principal was shown: everything else is `NotFound`, alike for what others were shown and for what
    nobody was. Raises `InvalidRequest`, and `Forbidden` without the scope.
    """
    if not principal.has_scope(Scope.FEEDBACK):
        raise Forbidden(f"'{principal.name}' lacks the scope {Scope.FEEDBACK}.")
    value = _checked_value(given)
    shown = _impression(given, principal)
    log = shown.query_log
    if given.position is not None and given.position != shown.position:
        raise InvalidRequest(
            "The passage was shown elsewhere.", errors={"position": f"It was shown at {shown.position}, 0 being first."}
        )
    with transaction.atomic():
        clicked_before = Feedback.objects.filter(
            request_id=given.request_id, kind=FeedbackKind.CLICK, by=log.asked_by
        ).exists()
        row, is_new = Feedback.objects.update_or_create(
            request_id=given.request_id,
            chunk_id=shown.chunk_id,
            kind=given.kind,
            by=log.asked_by,
            defaults={"value": value},
            create_defaults={
                "value": value,
                "collection": log.collection,
                "query": log.query,
                "query_hmac": log.query_hmac,
                "document_id": shown.document_id,
                "content_hash": shown.content_hash,
                "start": shown.start,
                "end": shown.end,
                "position": shown.position,
                "weight": propensity_weight(shown.position),
                "variant": log.snapshot.get("variant", "stable"),
                "user_id": log.user_id,
            },
        )
    if is_new:
        _tell_rollouts(log, given.kind, value, first_click=not clicked_before)
    return row, is_new


@dataclass(slots=True)
class _Evidence:
    """What there is about one document for one query."""

    grades: list[int] = field(default_factory=list)
    votes: int = 0
    clicks: float = 0.0
    shown: int = 0

    @property
    def label(self) -> Label | None:
        """What was judged beats what was voted, which beats what was clicked; ``None`` when nothing is known."""
        if self.grades:
            return Label(round(sum(self.grades) / len(self.grades)))
        if self.votes:
            return Label(1 if self.votes > 0 else 0)
        if self.shown >= LEAST_SHOWN:
            attraction = min(self.clicks / self.shown, 1.0)
            return Label(1, round(attraction, 6)) if attraction >= LEAST_ATTRACTION else Label(0)
        return None


class Label(NamedTuple):
    """What feedback says of a document for a query. ``weight``: how sure that is, 1 unless clicks alone say it."""

    grade: int
    weight: float = 1.0


Graded = dict[str, dict[str, Label]]
"""Labels by the query's text, then by document."""


def graded(collection_slug: str) -> Graded:
    """What the feedback on a collection says of documents, by query; queries without any relevant document left out.

    A click counts `Feedback.weight`, over how often the document was shown for that query. Queries are told apart by
    their hash; those whose text the query log doesn't keep are left out.
    """
    texts: dict[str, str] = {}
    evidence: defaultdict[str, defaultdict[str, _Evidence]] = defaultdict(lambda: defaultdict(_Evidence))
    for given in Feedback.objects.filter(collection=collection_slug).exclude(query="").order_by("id").iterator():
        texts[given.query_hmac] = given.query
        found = evidence[given.query_hmac][given.document_id]
        if given.kind == FeedbackKind.JUDGEMENT:
            found.grades.append(given.value)
        elif given.kind == FeedbackKind.VOTE:
            found.votes += given.value
        else:
            found.clicks += given.weight
    shown = Impression.objects.filter(query_log__collection=collection_slug, query_log__query_hmac__in=list(texts))
    counted = shown.order_by().values("query_log__query_hmac", "document_id")
    for row in counted.annotate(times=Count("query_log", distinct=True)):
        evidence[row["query_log__query_hmac"]][row["document_id"]].shown = row["times"]
    result: Graded = {}
    for digest, documents in evidence.items():
        labels = {name: label for name, found in sorted(documents.items()) if (label := found.label) is not None}
        if any(label.grade for label in labels.values()):
            result.setdefault(texts[digest], {}).update(labels)
    return result


def judge(collection: Collection, principal: Principal, *, dry_run: bool = False) -> tuple[int, int]:
    """Make judged queries of the feedback; how many queries and judgements these are. Those made before are replaced.

    Queries that were judged otherwise stay as they are, also where they have the same text.
    """
    found = graded(collection.slug)
    count = sum(len(labels) for labels in found.values())
    if dry_run:
        return len(found), count
    with transaction.atomic():
        JudgedQuery.objects.filter(collection=collection, query_id__startswith=QUERY_PREFIX).delete()
        for text, labels in found.items():
            query = JudgedQuery.objects.create(collection=collection, query_id=query_id_of(text), text=text)
            Judgement.objects.bulk_create(
                Judgement(query=query, document_id=name, grade=label.grade, weight=label.weight)
                for name, label in labels.items()
            )
        audit.record(principal, JUDGE, collection.slug, {"queries": len(found), "judgements": count})
    return len(found), count


def export(collection: Collection, folder: Path) -> tuple[int, int]:
    """Write a collection's feedback in BEIR layout, with the whole corpus; how many queries and judgements.

    The judgements' weights, which the layout has no column for, are beside them in `beir.WEIGHTS`. Raises
    `InvalidRequest` for a folder that holds something.
    `InvalidRequest` for a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidRequest(f"{folder} is no empty folder: name a new one.")
    found = graded(collection.slug)
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        documents = Document.objects.filter(collection=collection).order_by("document_id")
        for identifier, title, text in documents.values_list("document_id", "title", "text").iterator():
            corpus.write(_line({"_id": identifier, "title": title, "text": text}))
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as queries:
        for text in found:
            queries.write(_line({"_id": query_id_of(text), "text": text}))
    with (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as judgements:
        judgements.write("query-id\tcorpus-id\tscore\n")
        for text, labels in found.items():
            judgements.writelines(f"{query_id_of(text)}\t{name}\t{label.grade}\n" for name, label in labels.items())
    with (folder / beir.WEIGHTS).open("w", encoding="utf-8") as weights:
        weights.write("query-id\tcorpus-id\tweight\n")
        for text, labels in found.items():
            weights.writelines(f"{query_id_of(text)}\t{name}\t{label.weight:g}\n" for name, label in labels.items())
    return len(found), sum(len(labels) for labels in found.values())


def query_id_of(text: str) -> str:
    """The id of a judged query that feedback made: the same for the same text."""
    return QUERY_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _grade(value: int) -> bool:
    return 0 <= value <= LARGEST_GRADE


_VALUES: Mapping[FeedbackKind, tuple[Callable[[int], bool], str]] = {
    FeedbackKind.JUDGEMENT: (_grade, f"A grade from 0 to {LARGEST_GRADE}."),
    FeedbackKind.VOTE: (lambda value: value in {1, -1}, "1 for up, -1 for down."),
    FeedbackKind.CLICK: (lambda value: value == 1, "A click has no value."),
}


def _checked_value(given: Given) -> int:
    is_usable, says = _VALUES[given.kind]
    value = 1 if given.value is None and given.kind == FeedbackKind.CLICK else given.value
    if value is None or not is_usable(value):
        raise InvalidRequest(f"value: {says}", errors={"value": says})
    return value


def _impression(given: Given, principal: Principal) -> Impression:
    found = _find_impression(given, principal)
    if found is None:
        # The answer may be so new that this process has not written it yet, or has just done so.
        if not QueryLog.objects.filter(request_id=given.request_id).exists():
            flush()
        found = _find_impression(given, principal)
    if found is None:
        raise NotFound(
            "No answer that you were given under this request id showed this passage. "
            "One that is less than a second old, or that RAG_QUERY_LOG=off kept nothing of, is not known here."
        )
    return found


def _find_impression(given: Given, principal: Principal) -> Impression | None:
    if not 0 <= given.chunk_id < 2**63:
        return None
    return (
        Impression.objects.select_related("query_log")
        .filter(query_log=given.request_id, chunk_id=given.chunk_id, query_log__asked_by=principal.log_name)
        .order_by("position")
        .first()
    )


def _tell_rollouts(log: QueryLog, kind: FeedbackKind, value: int, *, first_click: bool) -> None:
    arms = arms_from_json(log.snapshot.get("arms", []))
    if kind == FeedbackKind.CLICK and first_click:
        observe_feedback(arms, {"clicked": 1})
    elif kind == FeedbackKind.VOTE:
        observe_feedback(arms, {"votes": 1, "down": int(value < 0)})
