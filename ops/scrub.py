"""Personal data and secrets out of free text: each find becomes a label in brackets.

The formats here are those with a checkable shape. Names and addresses of people have none and are not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of personal data: where it may stand, and whether a find really is one."""

    label: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda found: True


def scrub(text: str) -> str:
    """``text`` with every find replaced.

    >>> scrub("mail ada@example.org or pay 4111 1111 1111 1111")
    'mail [email] or pay [card]'
    """
    for one in FORMATS:
        text = one.pattern.sub(partial(_label, one), text)
    return text


def _label(one: Format, match: re.Match[str]) -> str:
    return f"[{one.label}]" if one.holds(match.group()) else match.group()


def passes_luhn(number: str) -> bool:
    """ISO/IEC 7812-1 check digit of a card number; separators are ignored."""
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def passes_iban(number: str) -> bool:
    """ISO 7064 MOD 97-10 check of an IBAN; spaces are ignored."""
    compact = number.replace(" ", "").upper()
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _has_phone_length(text: str) -> bool:
    """E.164 allows 15 digits; fewer than 9 are as likely an order number or a year range."""
    return 9 <= sum(character.isdigit() for character in text) <= 15


# The order matters: what is most specific is replaced before a looser format could take a part of it.
FORMATS = (
    Format("secret", re.compile(r"\bzg_[A-Za-z0-9]+_[A-Za-z0-9_-]+")),
    Format("secret", re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}")),
    Format("secret", re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")),
    Format("email", re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")),
    Format("iban", re.compile(r"(?i)\b[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?\b"), passes_iban),
    Format("card", re.compile(r"\b\d(?:[ -]?\d){12,18}\b"), passes_luhn),
    Format("ip", re.compile(r"(?<![\w.:])\d{1,3}(?:\.\d{1,3}){3}(?!\w)"), _is_address),
    Format("ip", re.compile(r"(?<![\w.:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"), _is_address),
    Format("ssn", re.compile(r"\b\d{3}-\d{2}-\d{4}\b")),
    Format("nino", re.compile(r"(?i)\b[a-ceghj-prstw-z][a-ceghj-nprstw-z] ?\d{2} ?\d{2} ?\d{2} ?[a-d]\b")),
    Format("phone", re.compile(r"(?<![\w.])(?:\+|00)?\(?\d(?:[\d ()/.-]{6,}\d)(?!\w)"), _has_phone_length),
)
