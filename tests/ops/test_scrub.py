"""Personal data and secrets are taken out of text; what only looks like them stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.scrub import passes_iban, passes_luhn, scrub


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("write to ada.lovelace+x@mail.example.org now", "write to [email] now"),
        ("card 4111 1111 1111 1111", "card [card]"),
        ("card 4111-1111-1111-1111.", "card [card]."),
        ("pay GB82 WEST 1234 5698 7654 32 please", "pay [iban] please"),
        ("from 192.168.0.1 to 2001:db8::ff00:42:8329", "from [ip] to [ip]"),
        ("ring +44 20 7946 0958", "ring [phone]"),
        ("ssn 078-05-1120", "ssn [ssn]"),
        ("nino QQ 12 34 56 C", "nino QQ 12 34 56 C"),  # QQ is never issued
        ("nino AB 12 34 56 C", "nino [nino]"),
        ("key zg_abc123_S3cr-et", "key [secret]"),
        ("Authorization: Bearer abcdef123456", "Authorization: [secret]"),
        ("postgres://user:hunter2@db/x", "postgres://[secret]@db/x"),
    ],
)
def test_it_replaces_personal_data_and_secrets(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "ISO 9001:2015, published 2015-09-15",
        "a Reynolds number of 1000000 at mach 2.5",
        "card 4111 1111 1111 1112 has a wrong check digit",
        "part GB82 WEST ABCD EFGH IJKL",
        "at 12:30:45 the user@host prompt",
        "what is the price of 1,299.00?",
    ],
)
def test_it_leaves_what_only_looks_like_personal_data(text: str) -> None:
    assert scrub(text) == text


@given(st.text())
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


def test_the_check_digits_agree_with_published_examples() -> None:
    assert passes_luhn("4539 1488 0343 6467")
    assert not passes_luhn("8273 1232 7352 0569")
    assert passes_iban("DE89 3704 0044 0532 0130 00")
