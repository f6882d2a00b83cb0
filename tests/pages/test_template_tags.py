"""What the templates share."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from rag.templatetags.pages import ago


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=5, seconds=30), "5 minutes ago"),
        (timedelta(days=1, hours=3), "1 day ago"),
    ],
)
def test_it_tells_the_age_in_its_largest_unit(age: timedelta, words: str) -> None:
    assert ago(timezone.now() - age).replace("\xa0", " ") == words
