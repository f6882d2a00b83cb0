"""The test half of the labelled set: made by Faker and by the phrase lists here, none of which development used.

Two thousand labelled lines of formats and twice as many harmless ones, many of which look like personal data on
purpose. Everything comes from one seed, so that a figure can be reproduced. Don't tune the detector on these lines:
change `development`, and measure here once.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from urllib.parse import quote

from faker import Faker

from tests.ops.scrubbing.labelled import Case, harmless, labelled

CONFIGURED_FIELDS = ("date_of_birth", "patient-id", "home_address")
"""What an operator would have put into the setting for further names."""

PER_KIND = 180

_CARRIERS = (
    "Hi team, {} bounced again this morning",
    "user wrote: please use {} from now on",
    "ERROR billing.worker payload rejected ({})",
    "where do I change {} in my profile?",
    "[{}] was already taken",
    "contact={};channel=web",
    "Traceback: ValueError: could not parse '{}'",
    "{}",
    "({}), second attempt",
    "old value {}, new value unset",
    "row 7: 2024-03-09T10:11:12Z | {} | refused",
    'detail="{}" retry=3',
    "name,{},zip",
    "Ticket #4821\tcustomer {}\tqueue A",
    "<p>{}</p>",
    "Wie lösche ich {}?",
    "changer {} svp",
    "{}.",
    "see {}, thanks!",
    "→ {} ←",
)

_SPOKEN_NUMBER = (
    "please call {} before noon",
    "my mobile is {}",
    "Tel.: {}",
    "phone={}",
    "ring me on {} or write",
    "fax {} does not answer",
    "text {} when you arrive",
    "WhatsApp {}",
    "contact number {}",
    "her telephone number: {}",
)

_EMAIL_TRAPS = (
    "mailto:{}?subject=hello",
    "To: <{}>",
    '"Ann, Lee" <{}>;',
    '{"user":"{}"}',
    '{\\"login\\":\\"{}\\"}',
    "https://shop.example/unsubscribe?who={}&l=en",
    "login:{}/retry",
    "{},{0}",
    "Bcc:{}",
    "user_{}_old",
)

_END = datetime(2030, 1, 1, tzinfo=UTC)
_OPAQUE = string.ascii_letters + string.digits


class _Maker:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._fakers: dict[str, Faker] = {}
        self._seed = seed

    def fake(self, locale: str = "en_US") -> Faker:
        if locale not in self._fakers:
            self._fakers[locale] = Faker(locale)
            self._fakers[locale].seed_instance(self._seed)
        return self._fakers[locale]

    def opaque(self, length: int, alphabet: str = _OPAQUE) -> str:
        return "".join(self.random.choices(alphabet, k=length))

    def hexadecimal(self, length: int) -> str:
        return self.opaque(length, "0123456789abcdef")

    def pick(self, choices: tuple[str, ...]) -> str:
        return self.random.choice(choices)


@cache
def cases(seed: int = 20_240_229) -> list[Case]:
    """All lines, in a fixed order; not to be changed, as they are made once."""
    maker = _Maker(seed)
    made: list[Case] = []
    for make in _LABELLED:
        made += [make(maker) for _ in range(PER_KIND)]
    for make_harmless in _HARMLESS:
        made += [make_harmless(maker) for _ in range(PER_KIND)]
    return made


# --- what must be found ----


def _email(maker: _Maker) -> Case:
    fake = maker.fake(maker.pick(("en_US", "de_DE", "fr_FR", "pt_BR", "cs_CZ")))
    plain: tuple[Callable[[], str], ...] = (fake.ascii_email, fake.ascii_company_email, fake.ascii_free_email)
    address = maker.random.choice(plain)()
    user, _, domain = address.partition("@")
    variants = (
        address,
        address,
        address.upper(),
        f"{user}+{fake.word()}@{domain}",
        f"{user}@{fake.word()}.{domain}",
        f"{user}%40{domain}",
        f"{user}'{maker.pick(('s', 'x'))}@{domain}",
        f"{maker.pick(('jürgen', 'zoë', 'łukasz'))}.{user}@{domain}",
        f"{user}@{maker.pick(('müller', 'señor', 'xn--mller-kva'))}.example",
    )
    value = maker.random.choice(variants)
    template = maker.pick(_EMAIL_TRAPS if maker.random.random() < 0.3 else _CARRIERS)
    return labelled("email", template.replace("{0}", "n/a").replace("user_{}_old", "user:{} old"), value)


_PHONE_LOCALES = (
    *("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "sv_SE", "pt_BR", "en_AU", "en_IN"),
)


def _phone(maker: _Maker) -> Case:
    """As people write them; bare digits only where a word says what they are. Fewer than nine digits are left out."""
    while True:
        number = maker.fake(maker.pick(_PHONE_LOCALES)).phone_number()
        number = re.sub(r"\s*x\d+$", "", number)
        digits = sum(character.isdigit() for character in number)
        if 9 <= digits <= 15:
            break
    # A country code or a trunk zero speaks for itself; a number of another look needs the word.
    speaks = number.startswith(("+", "00")) or re.match(r"\(?0|\(\d{3}\)|\d{3}[-.]\d{3}[-.]\d{4}$", number)
    grouped = re.search(r"\d[\s().-]+\d", number) or number.startswith("+")
    if maker.random.random() < 0.1:
        number = number.replace(" ", "\u00a0").replace("-", "\u2011")
    carriers = (*_CARRIERS, *_SPOKEN_NUMBER) if speaks and grouped else _SPOKEN_NUMBER
    return labelled("phone", maker.pick(carriers), number)


def _card(maker: _Maker) -> Case:
    kind = maker.pick(("visa16", "mastercard", "amex", "discover", "diners", "jcb16", "maestro"))
    digits = maker.fake().credit_card_number(card_type=kind)
    groups = [4, 6, 5] if kind == "amex" else [4, 4, 4, 4]
    if sum(groups) == len(digits):
        separator = maker.pick(("", " ", "-", "\u00a0", "."))
        parts, position = [], 0
        for size in groups:
            parts.append(digits[position : position + size])
            position += size
        digits = separator.join(parts)
    return labelled("card", maker.pick((*_CARRIERS, "pan={}", "card no. {} exp 04/29")), digits)


def _iban(maker: _Maker) -> Case:
    iban = maker.fake(maker.pick(("de_DE", "en_GB", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "no_NO"))).iban()
    form = maker.random.randrange(4)
    if form == 1:
        iban = " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))
    elif form == 2:
        iban = iban.lower()
    elif form == 3:
        iban = "-".join(iban[at : at + 4] for at in range(0, len(iban), 4))
    return labelled("iban", maker.pick((*_CARRIERS, "IBAN: {}", "iban={}&bic=X")), iban)


def _ssn(maker: _Maker) -> Case:
    number = maker.fake("en_US").ssn()
    form = maker.random.randrange(4)
    if form == 1:
        return labelled("ssn", maker.pick(_CARRIERS), number.replace("-", " "))
    if form == 2:
        return labelled("ssn", maker.pick(("SSN {}", "ssn={}", "social security number {}")), number.replace("-", ""))
    return labelled("ssn", maker.pick(_CARRIERS), number)


def _nino(maker: _Maker) -> Case:
    first, second = "ABCEGHJKLMNOPRSTWXYZ", "ABCEGHJKLMNPRSTWXYZ"
    while (prefix := maker.pick(tuple(first)) + maker.pick(tuple(second))) in {
        "BG",
        "GB",
        "NK",
        "KN",
        "TN",
        "NT",
        "ZZ",
    }:
        pass
    digits, suffix = maker.opaque(6, string.digits), maker.pick(tuple("ABCD"))
    spaced = f"{prefix} {digits[:2]} {digits[2:4]} {digits[4:]} {suffix}"
    number = maker.pick((f"{prefix}{digits}{suffix}", spaced, spaced.lower(), spaced.replace(" ", "-")))
    return labelled("nino", maker.pick((*_CARRIERS, "NI number {}", "nino={}")), number)


def _ip(maker: _Maker) -> Case:
    fake = maker.fake()
    while True:
        address = ip_address(maker.random.choice((fake.ipv4(), fake.ipv4_public(), fake.ipv4_private(), fake.ipv6())))
        if not address.is_loopback and not address.is_unspecified:
            break
    text = str(address)
    if address.version == 6:
        text = maker.pick(
            (
                text,
                address.exploded,
                text.upper(),
                f"2001:db8::{maker.hexadecimal(4)}",
                f"fe80::{maker.hexadecimal(3)}:1",
            )
        )
        templates = ("from [{}]:51234", "client {} closed", "peer={}", "{}/64 unreachable", "X-Forwarded-For: {}")
    else:
        templates = (
            "from {}:51234",
            "client {} closed",
            "peer={}",
            "{}/24 unreachable",
            "X-Forwarded-For: {}, 127.0.0.1",
        )
    return labelled("ip", maker.pick((*templates, *_CARRIERS[:6])), text)


def _jwt(maker: _Maker) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return ".".join((part({"alg": "HS256"}), part({"sub": maker.hexadecimal(8)}), maker.opaque(43)))


def _token(maker: _Maker) -> Case:
    token = maker.random.choice(
        (
            _jwt(maker),
            maker.opaque(32),
            maker.opaque(40, _OPAQUE + "-_"),
            maker.hexadecimal(40),
            maker.opaque(24) + "==",
        )
    )
    templates = (
        "Authorization: Bearer {}",
        "authorization=Bearer%20{}",
        "{'Authorization': 'Bearer {}'}",
        "curl -H 'Authorization: Bearer {}' https://x.example",
        "sent bearer {} and got 401",
        "Proxy-Authorization: Basic {}",
        '"authorization":"Token {}"',
        "AUTHORIZATION: bearer {}",
    )
    if token.startswith("eyJ") and maker.random.random() < 0.5:
        templates = ("got {} back", "session {}", "the cookie was {};")
    return labelled("token", maker.pick(templates), token)


def _api_key(maker: _Maker) -> Case:
    keys: tuple[Callable[[], str], ...] = (
        lambda: "zg_" + maker.opaque(10, string.ascii_lowercase) + "_" + maker.opaque(43),
        lambda: maker.pick(("AKIA", "ASIA")) + maker.opaque(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
        lambda: maker.pick(("ghp_", "gho_", "ghs_")) + maker.opaque(36),
        lambda: "github_pat_" + maker.opaque(22) + "_" + maker.opaque(59),
        lambda: "glpat-" + maker.opaque(20),
        lambda: (
            "xoxb-" + maker.opaque(12, string.digits) + "-" + maker.opaque(12, string.digits) + "-" + maker.opaque(24)
        ),
        lambda: maker.pick(("sk_live_", "rk_live_", "sk_test_")) + maker.opaque(24),
        lambda: "sk-" + maker.opaque(48),
        lambda: "sk-proj-" + maker.opaque(64, _OPAQUE + "-_") + "a",
        lambda: "sk-ant-api03-" + maker.opaque(80, _OPAQUE + "-_") + "a",
        lambda: "AIza" + maker.opaque(35, _OPAQUE + "_-"),
        lambda: "hf_" + maker.opaque(34),
        lambda: "npm_" + maker.opaque(36),
        lambda: "pypi-AgEIcHlwaS5vcmc" + maker.opaque(70, _OPAQUE + "-_") + "a",
        lambda: "SG." + maker.opaque(22) + "." + maker.opaque(43),
        lambda: "sbp_" + maker.hexadecimal(40),
        lambda: "hvs." + maker.opaque(90),
        lambda: "dop_v1_" + maker.hexadecimal(64),
        lambda: "SK" + maker.hexadecimal(32),
    )
    key = maker.random.choice(keys)()
    template = maker.pick((*_CARRIERS[:8], "using {}", "export K='{}'", "https://api.example/v1?x={}&y=1", "({})"))
    if key.startswith("zg_"):
        # The prefix of our own keys is public: it names the key in logs.
        public, secret = key[:14], key[14:]
        return labelled("key", template.replace("{}", public + "{}", 1), secret)
    return labelled("key", template, key)


def _url_password(maker: _Maker) -> Case:
    fake = maker.fake()
    plain = fake.password(length=maker.random.randrange(6, 20), special_chars=maker.random.random() < 0.4)
    password = quote(plain, safe="!$*()_+")
    scheme = maker.pick(("postgres", "postgresql", "redis", "rediss", "amqp", "https", "mongodb+srv", "ftp"))
    user = maker.pick(("", fake.user_name(), fake.user_name(), "x-access-token"))
    host = fake.hostname()
    templates = (
        f"cannot connect to {scheme}://{user}:{{}}@{host}:5432/main",
        f"{scheme.upper()}_URL={scheme}://{user}:{{}}@{host}",
        f"'{scheme}://{user}:{{}}@{host}/0?ssl=1'",
        f"broker ({scheme}://{user}:{{}}@10-0-0-7.internal) is gone",
    )
    return labelled("url_password", maker.pick(templates), password)


_SECRET_FIELDS = (
    *("password", "passwd", "pwd", "DB_PASSWORD", "user_password", "newPassword", "passphrase"),
    *("secret", "client_secret", "clientSecret", "SECRET_KEY", "aws_secret_access_key"),
    *("access_token", "refresh_token", "id_token", "csrf_token", "authToken", "token"),
    *("api_key", "apikey", "apiKey", "X-API-Key", "private_key", "credentials", "sessionid"),
    *CONFIGURED_FIELDS,
    *("dateOfBirth", "PATIENT_ID", "home-address"),
)


def _field(maker: _Maker) -> Case:
    name = maker.pick(_SECRET_FIELDS)
    fake = maker.fake()
    word = fake.password(length=maker.random.randrange(6, 22), special_chars=False)
    phrase = maker.pick((f"{fake.word()} {fake.word()} 7", word, fake.street_address().replace("\n", " ")))
    quoted = (
        (f'{{"id": 3, "{name}": "{{}}", "ok": true}}', phrase),
        (f"{{'{name}': '{{}}'}}", phrase.replace("'", "")),
        (f'{{\\"{name}\\": \\"{{}}\\"}}', word),
        (f'{name}="{{}}" and more', phrase),
    )
    bare = (
        (f"{name}={{}}", word),
        (f"a=1&{name}={{}}&b=2", word),
        (f"{name}: {{}}", word),
        (f"form data {name} = {{}}, lang = en", word),
        (f"?{name}={{}}#top", word),
        (f"export {name}={{}}; run", word),
        (f"Form(name='x', {name}='{{}}')", word),
    )
    template, value = maker.random.choice((*quoted, *bare))
    return labelled("field", template, value)


# --- what must stay ----


def _sentence(maker: _Maker) -> Case:
    fake = maker.fake(maker.pick(("en_US", "de_DE", "fr_FR", "la")))
    return harmless("prose", maker.random.choice((fake.sentence(), fake.text(120))))


_SECURITY_PROSE = (
    "how do I reset my password?",
    "What is a bearer token and when does it expire?",
    "the bearer of this letter may pass",
    "API key rotation with overlap",
    "a password must have 12 characters",
    "secret santa list for the office",
    "token bucket: rate and burst",
    "basic authentication versus OAuth",
    "Authorization header is missing",
    "tokens: 512, max_tokens=256, token_count: 88",
    "keyboard=qwerty monkey=banana",
    "author=Austen title=Emma",
    "secretary: Jane, treasurer: Tom",
    "passwordless=true",
    "public_key_algorithm=ed25519",
    "tokenizer=wordpiece vocabulary=30522",
    "key_prefix=abcdefghij scope=query",
    "passwords are stored as hashes",
    "credentials were accepted",
    "the private key of the castle",
    "What does sk-learn do?",
    "import hf_hub; pip install npm_audit",
    "cookie recipe with 200 g butter",
    "session identifiers rotate at sign-in",
)


def _security_prose(maker: _Maker) -> Case:
    return harmless("security prose", maker.pick(_SECURITY_PROSE))


def _code(maker: _Maker) -> Case:
    fake = maker.fake()
    number = maker.random.randrange
    word = fake.word()
    return harmless(
        "code",
        maker.random.choice(
            (
                f"@app.route('/{word}')",
                f"git@{word}",
                f"user@localhost:~$ ls {word}",
                f"std::{word}::iterator",
                f"a::b::c {word}",
                f'  File "/srv/app/{word}.py", line {maker.random.randrange(9999)}, in {word}',
                f"SELECT * FROM {word} WHERE id = %(id)s",
                f"x = {maker.random.random()!r}",
                f"0x{maker.hexadecimal(12)} at {word}",
                f"array[{maker.random.randrange(10**6)}:{maker.random.randrange(10**6)}]",
                f"pip install {word}=={number(30)}.{number(30)}.{number(30)}",
                f"{word}@{maker.random.randrange(20)}",
                f"all-MiniLM-L6-v2@{maker.random.randrange(20)} as {word}",
                f"std::map<{word}, int> m; ::{word}()",
            )
        ),
    )


def _identifier(maker: _Maker) -> Case:
    fake = maker.fake()
    number = maker.random.randrange
    return harmless(
        "identifier",
        maker.random.choice(
            (
                f"request {fake.uuid4()} done",
                f"commit {fake.sha1()}",
                f"etag {fake.md5()}",
                f"trace_id={maker.hexadecimal(32)} span_id={maker.hexadecimal(16)}",
                f"mac {fake.mac_address()}",
                f"order {number(10**8, 10**9)}",
                f"invoice INV-{number(2000, 2030)}-{number(10**5, 10**6)}",
                f"chunk_id={number(10**12)}",
                f"document {number(10**6)}/{number(10**6)}",
                f"doi 10.{number(1000, 9999)}/{fake.word()}.{number(10**6)}",
                f"pid {number(65536)} tid {number(10**12, 10**13)}",
                f"sku {maker.opaque(3, string.ascii_uppercase)}{number(10**6)}",
                f"sha256:{fake.sha256()}",
                f"offset={number(10**10, 10**11)} lag={number(1000)}",
            )
        ),
    )


def _time(maker: _Maker) -> Case:
    fake = maker.fake()
    moment, later = (fake.date_time(tzinfo=UTC, end_datetime=_END) for _ in range(2))
    return harmless(
        "time",
        maker.random.choice(
            (
                f"at {moment.isoformat()}Z",
                f"{moment:%Y-%m-%d %H:%M:%S},123 INFO started",
                f"{moment:%d.%m.%Y} to {later:%d.%m.%Y}",
                f"{moment:%d/%m/%Y}",
                f"ts={moment.timestamp():.6f}",
                f"epoch_ms {int(moment.timestamp() * 1000)}",
                f"between {moment:%H:%M:%S} and {later:%H:%M:%S}",
                f"years {moment.year}-{moment.year + 3}",
                f"{moment:%Y%m%dT%H%M%S}",
                f"{moment:%Y%m%d%H%M%S}.log",
            )
        ),
    )


def _quantity(maker: _Maker) -> Case:
    number = maker.random.randrange
    real = maker.random.random
    return harmless(
        "quantity",
        maker.random.choice(
            (
                f"took {real() * 1000:.3f} ms for {number(10**6)} rows",
                f"price 1,{number(100, 999)},{number(100, 999)}.{number(10, 99)}",
                f"lat {real() * 90:.6f}, lon -{real() * 180:.6f}",
                f"{number(10**9, 10**10)} bytes free",
                f"population of {number(1, 9)} {number(100, 999)} {number(100, 999)}",
                f"ratio {real():.17f}",
                f"[{real():.4f}, {real():.4f}, {real():.4f}]",
                f"version {number(20)}.{number(20)}.{number(20)}",
                f"v{number(20)}.{number(20)}.{number(20)}-rc{number(9)}",
                f"release {number(1, 9)}.{number(20)}.{number(20)}.{number(20)} is out",
                f"{number(100, 999)} x {number(100, 999)} x {number(100, 999)} mm",
                f"pages {number(100, 200)}-{number(200, 300)}",
                f"score 12-{number(10, 30)}, 3-{number(9)}",
                f"ISBN 978-{number(10)}-{number(100, 999)}-{number(10000, 99999)}-{number(10)}",
            )
        ),
    )


def _wrong_check(maker: _Maker) -> Case:
    """The look of a format whose check fails, or that is never given out."""
    fake = maker.fake()
    number = maker.random.randrange
    card = fake.credit_card_number(card_type="visa16")
    broken = card[:-1] + str((int(card[-1]) + maker.random.randrange(1, 10)) % 10)
    iban = maker.fake("de_DE").iban()
    return harmless(
        "wrong check",
        maker.random.choice(
            (
                f"item {broken}",
                f"serial {broken[:4]} {broken[4:8]} {broken[8:12]} {broken[12:]}",
                f"part {iban[:2]}{(int(iban[2:4]) + 1) % 100:02}{iban[4:]}",
                f"range 000-{maker.opaque(2, '123456789')}-{maker.opaque(4, '123456789')}",
                f"range 666-{maker.opaque(2, '123456789')}-{maker.opaque(4, '123456789')}",
                f"range 9{maker.opaque(2, string.digits)}-00-{maker.opaque(4, '123456789')}",
                f"grid QQ {number(10, 99)} {number(10, 99)} {number(10, 99)} C",
                f"build {number(256, 999)}.{number(256)}.1.{number(256)}",
                f"section 4.{maker.random.randrange(20)}.2",
            )
        ),
    )


_OWN_LINES = (
    "Listening on TCP address 127.0.0.1:{}",
    "http://127.0.0.1:{}/rag/query2 answered 200",
    "redis://127.0.0.1:{}/0 is up",
    "postgres://zenglow@localhost:{}/zenglow",
    "bound to 0.0.0.0:{} and [::1]:{}",
    "http://host:{}/path",
    "https://docs.example.org/a/b?page={}&q=bees#x",
    "celery@worker-{} ready",
    "Task rag.index_batch[7d3c-{}] received",
    "GET /rag/collections/handbook/documents/{} 200",
)


def _own_line(maker: _Maker) -> Case:
    template = maker.pick(_OWN_LINES)
    return harmless("log line", template.replace("{}", str(maker.random.randrange(1024, 65535))))


_Make = Callable[[_Maker], Case]

_LABELLED: tuple[_Make, ...] = (
    *(_email, _phone, _card, _iban, _ssn, _nino, _ip, _token, _api_key, _url_password, _field),
)
_HARMLESS: tuple[_Make, ...] = (
    *(_sentence, _sentence, _sentence, _security_prose, _code, _code, _identifier, _identifier),
    *(_time, _time, _quantity, _quantity, _wrong_check, _own_line, _own_line),
)


def kinds() -> Iterator[str]:
    """The kinds of labels, in the order of the report."""
    yield from ("email", "phone", "card", "iban", "ssn", "nino", "ip", "token", "key", "url_password", "field")
