"""Conversations in the admin, without what was said in them: that is their owner's.

An operator sees whose they are, how large and how old, which answers failed and why, and ends or unshares them.
Verdicts are shown with what was compared, as they were given to make the answers better.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timesince import timesince

from ops.admin import LatestRows, ReadOnlyAdmin, principal_of
from rag.chat import conversations
from rag.models import Conversation, MessageState, Preference

LONGEST_SHOWN = 2_000


class IsShared(admin.SimpleListFilter):
    title = "who may read it"
    parameter_name = "shared"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Shared under a link"), ("no", "Its owner alone")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> QuerySet[Conversation]:
        return queryset if self.value() is None else queryset.filter(share_id__isnull=self.value() == "no")


class HasFailed(admin.SimpleListFilter):
    title = "its answers"
    parameter_name = "failed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Some failed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset if self.value() is None else queryset.filter(failed_count__gt=0)


@admin.register(Conversation)
class ConversationAdmin(ReadOnlyAdmin):
    list_display = ("last_asked", "owner", "collection", "turns", "answers", "shared")
    list_filter = (IsShared, HasFailed, "collection", "updated_at")
    search_fields = ("owner", "=id")
    show_full_result_count = False
    paginator = LatestRows
    actions = ("stop_sharing", "delete_conversations")
    fields = ("id", "owner", "collection", "shared", "created_at", "updated_at", "answers_shown")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        given = ~Q(messages__pane="")
        found: QuerySet[Conversation] = super().get_queryset(request)
        return found.annotate(
            turn_count=Count("messages", filter=Q(messages__pane="")),
            answer_count=Count("messages", filter=given),
            failed_count=Count("messages", filter=given & Q(messages__state=MessageState.FAILED)),
        )

    @admin.display(description="questions", ordering="turn_count")
    def turns(self, conversation: Any) -> int:
        return int(conversation.turn_count)

    @admin.display(description="answers", ordering="failed_count")
    def answers(self, conversation: Any) -> str:
        failed = f" ({conversation.failed_count} failed)" if conversation.failed_count else ""
        return f"{conversation.answer_count}{failed}"

    @admin.display(description="shared", ordering="share_id")
    def shared(self, conversation: Conversation) -> str:
        return "no" if conversation.share_id is None else "under a link"

    @admin.display(description="last asked", ordering="updated_at")
    def last_asked(self, conversation: Conversation) -> str:
        return f"{timesince(conversation.updated_at, depth=1)} ago"

    @admin.display(description="Answers")
    def answers_shown(self, conversation: Conversation) -> SafeString | str:
        """Who answered which turn, and how it ended."""
        rows = format_html_join(
            "",
            "<div>{}. {} {} <strong>{}</strong> {}</div>",
            (
                (
                    one.turn,
                    one.agent or "the default agent",
                    f"({one.model})" if one.model else "",
                    one.state,
                    one.failure,
                )
                for one in conversation.messages.exclude(pane="")
            ),
        )
        return rows or "None."

    @admin.action(description="Stop sharing", permissions=("end",))
    def stop_sharing(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> None:
        shared = list(queryset.exclude(share_id=None))
        for conversation in shared:
            conversations.share(conversation, principal_of(request), shared=False)
        self.message_user(request, f"{len(shared)} conversations can't be read under their links any more.")

    @admin.action(description="Delete these conversations", permissions=("end",))
    def delete_conversations(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> None:
        found = list(queryset)
        for conversation in found:
            conversations.delete(conversation, principal_of(request))
        self.message_user(request, f"{len(found)} conversations are gone, with their answers and verdicts.")

    def has_end_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("rag.delete_conversation")


@admin.register(Preference)
class PreferenceAdmin(ReadOnlyAdmin):
    """Verdicts on two answers; `manage.py answers preferences` exports them."""

    list_display = ("created_at", "verdict", "left_agent", "right_agent", "question_shown", "by")
    list_filter = ("verdict", "created_at")
    search_fields = ("question", "by")
    show_full_result_count = False
    paginator = LatestRows
    fields = ("created_at", "by", "question", "verdict", "left_shown", "right_shown")
    readonly_fields = fields

    @admin.display(description="left")
    def left_agent(self, row: Preference) -> str:
        return _who(row.left)

    @admin.display(description="right")
    def right_agent(self, row: Preference) -> str:
        return _who(row.right)

    @admin.display(description="question")
    def question_shown(self, row: Preference) -> str:
        return Truncator(row.question).chars(80)

    @admin.display(description="Left answer")
    def left_shown(self, row: Preference) -> str:
        return _said(row.left)

    @admin.display(description="Right answer")
    def right_shown(self, row: Preference) -> str:
        return _said(row.right)


def _who(answer: dict[str, Any]) -> str:
    return f"{answer.get('agent') or 'default'} · {answer.get('model') or 'no model'}"


def _said(answer: dict[str, Any]) -> str:
    return f"{_who(answer)}: {Truncator(str(answer.get('text', ''))).chars(LONGEST_SHOWN)}"
