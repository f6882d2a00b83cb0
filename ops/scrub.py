"""Personal data and secrets out of text and of structured values: the one detector of logs, traces and the query log.

Each find becomes its kind in brackets; the value of a field with a secret name becomes `REDACTED`. `ops.formats` says
what is found; how well, is measured on a labelled set (``tests/ops/scrubbing``) and in ``bench/scrubbing.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ops.formats import GROUPS

REDACTED = "[redacted]"

_DEEPEST = 8
"""Levels of nesting that are looked at; what lies deeper is written as `REDACTED`."""

_SECRET_WORDS = frozenset(
    {"password", "passwd", "pwd", "passphrase", "passcode", "secret", "authorization", "cookie", "credential"}
    | {"credentials", "apikey", "sessionid"}
)
"""A name with one of these words in it holds a secret."""

_SECRET_LAST_WORDS = (
    ("token",),
    *(tuple(name.split()) for name in ("api key", "private key", "access key", "signing key", "encryption key")),
    *(("session", "id"), ("session", "key")),
)
"""A name that ends so holds a secret; ``token_count`` does not."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")

_further: tuple[tuple[str, ...], ...] = ()


_CLUE = re.compile(r"[@=:%>\uff20]|\d|--|zg_")
"""Hardly anything that must go has none of these; most words of a log have not."""

_OPAQUE_ID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")


class Find(NamedTuple):
    """Characters ``start`` to ``end`` (exclusive) of a text, and of what kind they are."""

    start: int
    end: int
    label: str


def scrub_also(names: Iterable[str]) -> None:
    """Take fields of these names for secret as well (``OPS_SCRUB_FIELDS``), however they are written.

    ``date_of_birth`` also means ``dateOfBirth``, ``DATE-OF-BIRTH`` and ``patient_date_of_birth``.
    """
    global _further, _hints
    _further = tuple(words for name in names if (words := _words(name)))
    _hints = (*_HINTS, *(words[-1] for words in _further))
    is_secret_name.cache_clear()


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds what must never be written."""
    words = _words(name)
    return (
        not _SECRET_WORDS.isdisjoint(words)
        or any(word.endswith(("password", "passwd")) for word in words)  # ``PGPASSWORD``
        or any(words[-len(ending) :] == ending for ending in (*_SECRET_LAST_WORDS, *_further))
    )


def find(text: str) -> list[Find]:
    """What must not be written of ``text``, in order and without overlap."""
    if (not _CLUE.search(text) and "earer" not in text) or _OPAQUE_ID.fullmatch(text):
        return []
    lowered = text.lower()
    finds = [
        Find(start, end, one.label)
        for group in GROUPS
        if group.may_hold(text, lowered)
        for one in group.formats
        for start, end in one.find(text)
    ]
    for hint in _hints:
        if hint in lowered:
            finds += _named_values(text)
            break
    return _merged(finds) if len(finds) > 1 else finds


def scrub(text: str) -> str:
    """``text`` with every find replaced.

    >>> scrub("mail ada@example.org or pay 4111 1111 1111 1111, password=hunter2")
    'mail [email] or pay [card], password=[redacted]'
    """
    return _without(text, find(text))


def hide_secrets(text: str) -> str:
    """``text`` without passwords, tokens and keys, and with everything else: for what an operator configured."""
    hidden = REDACTED[1:-1]
    return _without(text, [one._replace(label=hidden) for one in find(text) if one.label in {"secret", hidden}])


def scrub_value(value: Any, name: str = "", depth: int = 0) -> Any:
    """``value`` of the field ``name`` without personal data and secrets, at any depth; what is no number, as text."""
    if name and value is not None and is_secret_name(name):
        return REDACTED
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        # A card's or a telephone's number is as private without quotation marks.
        return value if abs(value) < 10**11 or scrub(str(value)) == str(value) else scrub(str(value))
    if depth >= _DEEPEST:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            scrub(key) if isinstance(key, str) else key: scrub_value(inner, str(key), depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_value(inner, "", depth + 1) for inner in value]
    if isinstance(value, bytes | bytearray):
        return scrub(bytes(value).decode("utf-8", "replace"))
    return scrub(str(value))


# --- values that their name gives away ----

_HINTS = (
    "passw",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "key",
    "session",
)
_hints: tuple[str, ...] = _HINTS

_NAMED = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:(?P<cli>--)|-)?(?P<name>[A-Za-z][\w.-]{1,39})(?![\w.-])
        (?: (?P<mark>\\{0,3}["']?\s{0,4}(?:=>|:=|[:=]|%3[AaDd])\s{0,4}) | (?(cli)\s{1,4}|>(?=[^<]{1,512}</)) )""",
    re.X,
)
_VALUE = re.compile(
    r"""(?P<escape>\\{0,3})(?P<quote>["'])(?P<quoted>.{0,2048}?)(?P=escape)(?P=quote)
      | (?P<bare>[^\s"',;&<>|\\#]{1,2048})""",
    re.X | re.S,
)
_AUTHORIZATION = re.compile(r"(?i)\\{0,3}[\"']?((?:[a-z]{3,12}(?:\s{1,4}|%20|\+))?[^\s\"',;]{1,4096})")
_COOKIE = re.compile(r"\\{0,3}[\"']?([^\r\n\"']{1,4096})")
_NOTHING = frozenset({"none", "null", "true", "false", "nil", "undefined", "{}", "[]", "***", "********"})


def _named_values(text: str) -> Iterator[Find]:
    position = 0
    while match := _NAMED.search(text, position):
        position = match.end()
        name = match.group("name")
        if not is_secret_name(name):
            # ``a:password=x`` holds a second name.
            position = match.end("name")
            continue
        span = _value_span(text, position, name)
        if span is not None:
            yield Find(*span, REDACTED[1:-1])
            position = span[1]


def _value_span(text: str, start: int, name: str) -> tuple[int, int] | None:
    lowered = name.lower()
    if lowered.endswith(("authorization", "cookie")):
        whole = (_COOKIE if lowered.endswith("cookie") else _AUTHORIZATION).match(text, start)
        return None if whole is None or whole.group(1).startswith(REDACTED) else whole.span(1)
    match = _VALUE.match(text, start)
    if match is None:
        return None
    if match.group("quote"):
        return match.span("quoted") if match.group("quoted") not in {"", REDACTED} else None
    value = match.group("bare")
    if value.lower() in _NOTHING or value.startswith("["):
        return None
    begin, end = match.span("bare")
    return begin, end - (len(value) - len(value.rstrip(")]}"))) if value.strip(")]}") else end


def _without(text: str, finds: list[Find]) -> str:
    if not finds:
        return text
    parts: list[str] = []
    done = 0
    for start, end, label in finds:
        parts += text[done:start], f"[{label}]"
        done = end
    return "".join((*parts, text[done:]))


def _merged(finds: list[Find]) -> list[Find]:
    """Overlapping finds as one that covers them all, with the label of the first in precedence."""
    passwords = [one for one in finds if one.label == "secret"]
    ranked = [
        (one.start, rank, one)
        for rank, one in enumerate(finds)
        # ``pw@host.example`` of a URL is no address.
        if one.label != "email" or not any(secret.start < one.end and one.start < secret.end for secret in passwords)
    ]
    merged: list[tuple[int, Find]] = []
    for _, rank, one in sorted(ranked):
        if merged and one.start < merged[-1][1].end:
            best, last = merged[-1]
            label = one.label if rank < best else last.label
            merged[-1] = (min(rank, best), Find(last.start, max(last.end, one.end), label))
        else:
            merged.append((rank, one))
    return [one for _, one in merged]


@lru_cache(maxsize=4096)
def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORDS.findall(name))
