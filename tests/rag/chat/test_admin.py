"""Operators see how conversations stand and end them; what was said in them is their owner's."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from ops.models import AuditEvent
from rag.chat import conversations
from rag.models import Conversation
from tests.rag.chat.test_conversations import ADA, BOTH, asked_and_answered

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache", "bees")]

PAGE = "/admin/rag/conversation/"


def act(client: Client, action: str) -> Any:
    chosen = {"action": action, "_selected_action": [str(one.pk) for one in Conversation.objects.all()]}
    return client.post(PAGE, chosen, follow=True)


def test_it_shows_whose_they_are_and_nothing_of_what_was_said(admin_client: Client) -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?")
    conversations.note_answer(asked.answers["left"], None, "The model's server can't be reached.")
    for address in (PAGE, f"{PAGE}{asked.conversation.pk}/change/"):
        page = admin_client.get(address).content.decode()
        assert ADA.log_name in page
        assert "mites" not in page
    assert "The model&#x27;s server can&#x27;t be reached." in page


def test_they_are_found_by_who_may_read_them_and_by_what_failed(admin_client: Client) -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?")
    for query, count in (("shared=yes", 0), ("shared=no", 1), ("failed=yes", 0)):
        assert f"{count} conversation" in admin_client.get(f"{PAGE}?{query}").content.decode()
    conversations.share(asked.conversation, ADA, shared=True)
    conversations.note_answer(asked.answers["left"], None, "The model's server can't be reached.")
    for query, count in (("shared=yes", 1), ("shared=no", 0), ("failed=yes", 1)):
        assert f"{count} conversation" in admin_client.get(f"{PAGE}?{query}").content.decode()


def test_they_are_unshared_and_deleted_with_a_trace(admin_client: Client) -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?")
    conversations.share(asked.conversation, ADA, shared=True)
    assert "1 conversations can" in act(admin_client, "stop_sharing").content.decode()
    assert Conversation.objects.get().share_id is None
    act(admin_client, "delete_conversations")
    assert not Conversation.objects.exists()
    actions = AuditEvent.objects.filter(target=str(asked.conversation.pk)).values_list("action", flat=True)
    assert {"conversation.unshare", "conversation.delete"} <= set(actions)


def test_verdicts_are_shown_with_what_was_compared(admin_client: Client) -> None:
    asked = asked_and_answered(ADA, "What kills mites in winter?", BOTH)
    row = conversations.vote(asked.conversation, 1, "right", ADA)
    listed = admin_client.get("/admin/rag/preference/").content.decode()
    assert "extractive · extractive" in listed
    assert "What kills mites in winter?" in listed
    page = admin_client.get(f"/admin/rag/preference/{row.pk}/change/").content.decode()
    assert "Oxalic acid in winter kills the mites" in page
