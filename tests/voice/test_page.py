"""``/voice/`` as it is served."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from rag.models import Collection

pytestmark = pytest.mark.django_db


def test_it_offers_collections_voices_and_manners(live_models: None, keys_off: None) -> None:
    Collection.objects.create(slug="default")
    Collection.objects.create(slug="papers", title="Our papers")
    page = Client(SERVER_NAME="127.0.0.1").get("/voice/?collection=papers")
    assert page.status_code == 200
    text = page.content.decode()
    assert '<option value="papers" selected>Our papers</option>' in text
    assert '<option value="quotes" selected>' in text
    assert "<option>en-gb-rp</option>" in text
    assert 'id="keep"' in text
    assert "Listen only after “Leonardo”" in text
    assert "<option>teaching</option>" in text
    assert 'aria-current="page">Voice</a>' in text


def test_strangers_are_asked_to_sign_in(live_models: None, settings: Settings) -> None:
    settings.ENABLE_API_KEYS = True
    client = Client(SERVER_NAME="127.0.0.1")
    assert client.get("/voice/", HTTP_ACCEPT="text/html").status_code in {302, 401}
    client.force_login(User.objects.create_user("ada", password="a long password for ada"))
    assert client.get("/voice/").status_code == 200
