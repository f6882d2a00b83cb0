"""What a verdict on two answers says about the passages that they cite.

The better answer was made of helpful passages: each that it cites gets a vote for it, and so do those of both answers
when they were equally good. When both are bad, what they cite gets a vote against it. A worse answer says nothing: it
may rest on the very same passages.
"""

from __future__ import annotations

from uuid import UUID

from ops.contracts.principal import Principal
from ops.contracts.problems import Forbidden, NotFound
from rag import feedback
from rag.models import Feedback, FeedbackKind, Message, Pane, Verdict

VALUES: dict[str, dict[str, int]] = {
    Verdict.LEFT: {Pane.LEFT: 1},
    Verdict.RIGHT: {Pane.RIGHT: 1},
    Verdict.TIE: {Pane.LEFT: 1, Pane.RIGHT: 1},
    Verdict.BOTH_BAD: {Pane.LEFT: -1, Pane.RIGHT: -1},
}


def rate_passages(verdict: str, answers: dict[str, Message], principal: Principal) -> int:
    """Vote on the passages of the answers by pane, in place of what an earlier verdict voted; how many votes.

    Nothing where the query log keeps nothing, or the principal may not give feedback.
    """
    requests = [str(one.request_id) for one in answers.values()]
    by = principal.log_name
    Feedback.objects.filter(request_id__in=requests, kind=FeedbackKind.VOTE, by=by).delete()
    votes = 0
    for pane, value in VALUES[verdict].items():
        for chunk_id in _cited(answers[pane]):
            given = feedback.Given(UUID(str(answers[pane].request_id)), chunk_id, FeedbackKind.VOTE, value)
            try:
                feedback.give(given, principal)
            except (NotFound, Forbidden):
                continue
            votes += 1
    return votes


def _cited(message: Message) -> list[int]:
    """The chunks that an answer cites, in the order in which it does."""
    citations = (message.answer or {}).get("citations", ())
    return list(dict.fromkeys(citation["chunk_id"] for citation in citations))
