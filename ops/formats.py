"""The formats of personal data and secrets that have a shape: where each may stand, and whether a find really is one.

Names and addresses of people have no shape and are not found. Each detector yields ``(start, end)`` of what must go,
without the words around it; `ops.scrub` puts them together. All patterns are bounded, so that a long line costs time in
proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Span = tuple[int, int]
Detector = Callable[[str], Iterator[Span]]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of find."""

    label: str
    find: Detector


@dataclass(frozen=True, slots=True)
class Group:
    """Formats that share a clue: ``may_hold(text, lowered)`` says cheaply whether looking for them is worthwhile."""

    may_hold: Callable[[str, str], bool]
    formats: tuple[Format, ...]


_SPACE = "[ \u00a0\u2007\u202f]"
_HYPHEN = "[-\u2010-\u2015]"
_GAP = "[ \u00a0\u2007\u202f.\\-\u2010-\u2015]"
_NO_WORD_BEFORE = rf"(?<![\w.+])(?<!\w{_HYPHEN})"
_ENCODED_BEFORE = r"(?:(?<![A-Za-z0-9_-])|(?<=%20)|(?<=%3D)|(?<=%22)|(?<=\\[nrt]))"


def _matches(pattern: str, group: int = 0, holds: Callable[[str], bool] | None = None) -> Detector:
    compiled = re.compile(pattern)

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            if holds is None or holds(match.group(group)):
                yield match.span(group)

    return find


def _any(*words: str) -> Callable[[str, str], bool]:
    def may_hold(text: str, lowered: str) -> bool:
        # A loop takes half the time of any() here, and most lines stop at this.
        for word in words:  # noqa: SIM110
            if word in lowered:
                return True
        return False

    return may_hold


# --- secrets ----

_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.{0,8192}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.S
)

_KEY = re.compile(
    _ENCODED_BEFORE
    + r"""(?:
      zg_[A-Za-z0-9]{1,16}_(?P<own>[A-Za-z0-9_-]+)         # ours; its prefix is public
    | (?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}                  # AWS
    | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_\w{22,}      # GitHub
    | gl(?:pat|dt|rt|ptt|cbt|soat)-[\w-]{20,}              # GitLab
    | xox[abposre]-[\w-]{10,} | xapp-[\w-]{10,}            # Slack
    | [srp]k_(?:live|test)_[A-Za-z0-9]{10,} | whsec_\w{20,}  # Stripe
    | sk-(?=[\w-]*\d)[\w-]{20,}                            # OpenAI, Anthropic and those that follow them
    | AIza[\w-]{35} | ya29\.[\w-]{20,} | GOCSPX-[\w-]{20,}  # Google
    | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{36} | pypi-[\w-]{50,}
    | SG\.[\w-]{16,}\.[\w-]{16,} | SK[0-9a-f]{32}          # SendGrid, Twilio
    | sb[a-z]{0,7}_(?:[0-9a-f]{40}|(?:secret|publishable)_[\w-]{20,}|[\w-]{30,})  # Supabase
    | hv[sbr]\.[\w-]{20,}                                  # Vault
    | do[opr]_v1_[0-9a-f]{64}                              # DigitalOcean
    | \d{8,10}:AA[\w-]{33}                                 # Telegram
    | eyJ[\w-]{8,}\.[\w-]{2,}\.[\w-]*                      # JSON web tokens
    )""",
    re.X,
)
_KEY_MARKS = (
    *("zg_", "akia", "asia", "aroa", "aida", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-"),
    *("glrt-", "glptt-", "glcbt-", "glsoat-", "xox", "xapp-", "k_live_", "k_test_", "whsec_", "sk-", "aiza", "ya29."),
    *("gocspx-", "hf_", "npm_", "pypi-", "sg.", "sk0", "sk1", "sk2", "sk3", "sk4", "sk5", "sk6", "sk7", "sk8", "sk9"),
    *("ska", "skb", "skc", "skd", "ske", "skf", "sb_", "sbp_", "hvs.", "hvb.", "hvr.", "_v1_", ":aa", "eyj"),
)


def _private_keys(text: str) -> Iterator[Span]:
    for match in _PEM.finditer(text):
        yield match.span()


def _keys(text: str) -> Iterator[Span]:
    for match in _KEY.finditer(text):
        yield match.span("own") if match.group("own") else match.span()


def _url_passwords(text: str) -> Iterator[Span]:
    for match in _URL_PASSWORD.finditer(text):
        yield match.span(1)


_URL_PASSWORD = re.compile(
    # A port is no password; a password may hold an "@" that nobody encoded.
    r"://[^\s/@:?#\"'<>]{0,256}:(?!\d{1,5}[/?#])([^\s@\"<>]{1,512}(?:@[^\s@/\"'<>]{1,256}){0,3})@(?=[\w\[.-])"
)

_SCHEME = r"(?:bearer|basic|token|digest|negotiate|apikey)(?:\s{1,4}|%20|\+)"
_HEADER = re.compile(rf"(?i)\b{_SCHEME}([A-Za-z0-9._~+/=%-]{{8,4096}})")


def _looks_random(text: str) -> bool:
    """Long, or of letters and digits: no word that happens to follow ``basic``."""
    return len(text) >= 24 or (any(c.isdigit() for c in text) and any(c.isalpha() for c in text))


def _header_values(text: str) -> Iterator[Span]:
    for match in _HEADER.finditer(text):
        if _looks_random(match.group(1)):
            yield match.span(1)


# --- personal data ----

_MAIL = re.compile(
    r"(?<![\w.+%~-])(?:\w[\w.+'%~!$*-]{0,63}?|\"[^\"\n]{1,62}\")(?:@|%40|\uff20)"
    r"(?:[\w-]{1,63}\.){1,8}(?:xn--[\w-]{2,59}|[^\W\d_]{2,24})(?![\w@])"
)
_SERVICE_USERS = ("git@", "hg@", "svn@")


def _mails(text: str) -> Iterator[Span]:
    for match in _MAIL.finditer(text):
        if not match.group().lower().startswith(_SERVICE_USERS):
            yield match.span()


_IBAN = re.compile(
    rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}\d{{2}}(?:(?:{_SPACE}|{_HYPHEN})?[A-Za-z0-9]{{4}}){{2,7}}"
    rf"(?:(?:{_SPACE}|{_HYPHEN})?[A-Za-z0-9]{{1,3}})?(?![A-Za-z0-9])"
)
_GROUP_END = re.compile(rf"(?:{_SPACE}|{_HYPHEN}|\Z)")


def _ibans(text: str) -> Iterator[Span]:
    """A word that follows may look like one more group: the longest part that holds is taken."""
    for match in _IBAN.finditer(text):
        found = match.group()
        for end in reversed([gap.start() for gap in _GROUP_END.finditer(found)]):
            if end >= 15 and is_iban(found[:end]):
                yield match.start(), match.start() + end
                break


def is_iban(number: str) -> bool:
    """The country's length and structure and the check of ISO 7064 MOD 97-10; spaces and hyphens are ignored."""
    compact = re.sub(r"[^A-Za-z0-9]", "", number).upper()
    rearranged = compact[4:] + compact[:4]
    if not compact.isascii() or int("".join(str(int(character, 36)) for character in rearranged)) % 97 != 1:
        return False
    from stdnum import iban  # loads its table of countries

    return bool(iban.is_valid(compact, check_country=False))


_CARD = re.compile(
    rf"{_NO_WORD_BEFORE}(?:\d{{4}}(?P<gap>{_GAP}?)\d{{4}}(?P=gap)\d{{4}}(?P=gap)\d{{4}}(?:(?P=gap)\d{{1,3}})?"
    rf"|3\d{{3}}(?P<gap2>{_GAP}?)\d{{6}}(?P=gap2)\d{{4,5}}|\d{{12,19}})(?![\w]|{_HYPHEN}\w|\.\d)"
)
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})$|(?:5[1-5]|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d+$|3[47]\d{13}$|"
    r"(?:6011|64[4-9]|65)\d+$|62\d{14,17}$|35\d{14,17}$|(?:2131|1800)\d{11}$|(?:30[0-5]|3095|36|38|39)\d{11,16}$|"
    r"(?:50|5[6-9]|6\d|0604)\d{8,17}$|220[0-4]\d{12,15}$"
)
"""Visa, Mastercard, American Express, Discover, UnionPay, JCB, Diners Club, Maestro, Mir: ranges as the networks have
published them over the years."""


def is_card(number: str) -> bool:
    """An issuer's range and ISO/IEC 7812-1's check digit; separators are ignored."""
    digits = re.sub(r"\D", "", number)
    if not digits.isascii() or not _ISSUERS.match(digits):
        return False
    from stdnum import luhn

    return bool(luhn.is_valid(digits))


_V4 = re.compile(r"(?<![\w.])(?<!\d-)(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_V6 = re.compile(r"(?<![\w.:])(?:[0-9A-Fa-f]{0,4}:){1,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{1,4}|:)(?!\w|:[\w:])")
_VERSION_BEFORE = re.compile(
    r"(?i)(?:version|release|ver|rel|build|section|chapter|clause|firmware)\.?[\s:=#]{1,3}$|[=~<>^]=$|[A-Za-z]/$"
)
_NETWORKS = tuple(map(ip_network, ("2000::/3", "fc00::/7", "fe80::/10", "64:ff9b::/96", "::ffff:0:0/96")))


def _v4_addresses(text: str) -> Iterator[Span]:
    """All but the machine's own, which operators need and which tell nothing of anybody."""
    for match in _V4.finditer(text):
        if _is_foreign(match.group()) and not _VERSION_BEFORE.search(text, max(match.start() - 16, 0), match.start()):
            yield match.span()


def _v6_addresses(text: str) -> Iterator[Span]:
    for match in _V6.finditer(text):
        if _is_foreign(match.group()):
            yield match.span()


def _is_foreign(text: str) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified:
        return False
    # ``a::b`` is a name in many languages before it is an address.
    return address.version == 4 or text.count(":") == 7 or any(address in network for network in _NETWORKS)


_SSN_AREA = r"(?!000|666|9)\d{3}"
_ssns_written = _matches(
    rf"{_NO_WORD_BEFORE}{_SSN_AREA}(?P<gap>{_SPACE}|{_HYPHEN})(?!00)\d{{2}}(?P=gap)(?!0000)\d{{4}}(?![\w]|{_HYPHEN}\w)"
)
_ssns_named = _matches(
    r"(?i)(?<![A-Za-z])(?:ssn|social[ _-]security(?:[ _-](?:number|no|num|#))?)\W{0,4}(?:is\s)?"
    rf"({_SSN_AREA}(?!00)\d{{2}}(?!0000)\d{{4}})(?!\w)",
    group=1,
)


def _ssns(text: str) -> Iterator[Span]:
    yield from _ssns_written(text)
    yield from _ssns_named(text)


# HMRC, National Insurance Manual NIM39110: letters and prefixes that are never given out.
_ninos = _matches(
    r"(?i)(?<![A-Za-z0-9])(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
    r"(?P<gap>[ \u00a0-]?)\d{2}(?P=gap)\d{2}(?P=gap)\d{2}(?P=gap)[A-D](?![A-Za-z0-9])"
)

_PHONE_GAP = rf"(?:{_SPACE}|{_HYPHEN}|[.()/]){{1,3}}"
_PHONES_WRITTEN = re.compile(
    rf"{_NO_WORD_BEFORE}(?:"
    # With a country code.
    rf"\(?(?:\+|00(?=[1-9]\d*{_PHONE_GAP})){_SPACE}?\(?[1-9](?:(?:{_PHONE_GAP})?\d){{7,14}}"
    # With a trunk zero and gaps, as in 020 7946 0958, (0511) 12345-67 and 01.23.45.67.89.
    rf"|\(?0[1-9]?\d{{1,4}}(?:\)?{_PHONE_GAP}\d{{2,8}}){{1,5}}"
    # With a trunk zero and no gap.
    r"|0[1-9]\d{8,9}"
    # North American.
    rf"|(?:1{_GAP})?(?:\([2-9]\d{{2}}\){_GAP}?|[2-9]\d{{2}}{_GAP})[2-9]\d{{2}}{_GAP}\d{{4}}"
    rf")(?!\w|{_HYPHEN}\d|[.,:]\d)"
)
_PHONES_NAMED = re.compile(
    r"(?i)\b(?:tel|phone|telephone|mobile|mob|cell|fax|call|called|ring|dial|text|sms|whats ?app|contact number|"
    r"phone number|number is|reach (?:me|us|him|her|them) (?:at|on)|handy|telefon|tel\u00e9fono|t\u00e9l\u00e9phone)"
    rf"(?:\b|_)[^\d\n+(]{{0,20}}(\+?\(?\d(?:(?:{_PHONE_GAP})?\d){{8,14}})(?!\w|[.,:]\d)"
)
_names_a_phone = _any(
    *("tel", "phone", "mob", "cell", "fax", "call", "ring", "dial", "text", "sms", "whats", "number", "reach", "handy"),
    *("tel\u00e9fono", "t\u00e9l\u00e9phone"),
)
_DATE = re.compile(r"0?\d{1,2}[./-]\d{1,2}[./-]\d{4}(?:\D|$)")


def _has_phone_length(text: str) -> bool:
    """E.164 allows 15 digits; fewer than 9 are as likely an order number or a range of years."""
    return 9 <= sum(character.isdigit() for character in text) <= 15 and not _DATE.match(text)


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONES_WRITTEN.finditer(text):
        if _has_phone_length(match.group()):
            yield match.span()
    if not _names_a_phone(text, text.lower()):
        return
    for match in _PHONES_NAMED.finditer(text):
        if _has_phone_length(match.group(1)):
            yield match.span(1)


_MANY_DIGITS = re.compile(r"\d(?:\D{0,3}\d){8}")
_SIX_DIGITS_AND_A_LETTER = re.compile(r"\d\d[ \u00a0-]?\d\d[ \u00a0-]?\d\d[ \u00a0-]?[A-Da-d](?![A-Za-z0-9])")
_LONG_WORD = re.compile(r"(?<![\w.:-])[\w.:-]{15,}")
_has_key_mark = _any(*_KEY_MARKS)

GROUPS = (
    Group(lambda text, _: "://" in text and "@" in text, (Format("secret", _url_passwords),)),
    Group(_any("private key-----"), (Format("secret", _private_keys),)),
    Group(
        lambda text, lowered: _LONG_WORD.search(text) is not None and _has_key_mark(text, lowered),
        (Format("secret", _keys),),
    ),
    Group(_any("bearer", "basic", "token", "digest", "negotiate", "apikey"), (Format("secret", _header_values),)),
    Group(_any("@", "%40", "\uff20"), (Format("email", _mails),)),
    Group(lambda text, _: text.count(".") >= 3, (Format("ip", _v4_addresses),)),
    Group(lambda text, _: "::" in text or text.count(":") >= 7, (Format("ip", _v6_addresses),)),
    Group(lambda text, _: _SIX_DIGITS_AND_A_LETTER.search(text) is not None, (Format("nino", _ninos),)),
    Group(
        lambda text, _: _MANY_DIGITS.search(text) is not None,
        (
            Format("iban", _ibans),
            Format("card", _matches(_CARD.pattern, holds=is_card)),
            Format("ssn", _ssns),
            Format("phone", _phones),
        ),
    ),
)
"""In the order of precedence: where finds overlap, the first one gives the label."""
