"""The half of the labelled set that the detector is made with: examples by hand, and adversarial ones.

Add a line here when something was missed or wrongly found; `held_out` then says whether the change is good in general.
"""

from __future__ import annotations

from tests.ops.scrubbing.labelled import Case, harmless, labelled

_OPAQUE = "R7kq2LmZ9xTb4WnC8vYd1FsH6jPg3QaE0uKo5iXw"

_AROUND = (
    "{}",
    "hello {} there",
    "'{}'",
    '"{}",',
    "<{}>",
    "x={};y=2",
    "a\t{}\tb",
    "it was ({}).",
    "line one\n{}\nline three",
    "{}?",
    "{}: refused",
    '{"value": "{}", "n": 3}',
)

_VALUES = {
    "email": (
        *("ada@example.org", "Ada.Lovelace+tag@mail.example.co.uk", "ADA@EXAMPLE.ORG", "a_b-c%d@x-y.museum"),
        *("ada%40example.org", "o'neil@example.ie", "ada@bücher.example", "señora@example.es", "x@xn--bcher-kva.de"),
        *("1234567@numbers.example", "ada\uff20example.org"),
    ),
    "phone": (
        *("+44 20 7946 0958", "+442079460958", "0044 20 7946 0958", "020 7946 0958", "(020) 7946-0958"),
        *("+1 (202) 555-0143", "202-555-0143", "(202) 555-0143", "1-202-555-0143", "202.555.0143"),
        *("+49 (0)30 901820", "+49 30/901820-12", "01 23 45 67 89", "01.23.45.67.89", "07700 900123", "07700900123"),
        *(
            "+55 (11) 91234-5678",
            "+39 06 6982 1234",
            "+44\u00a020\u00a07946\u00a00958",
            "+1\u2011202\u2011555\u20110143",
        ),
    ),
    "card": (
        *("4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111", "5555 5555 5555 4444", "378282246310005"),
        *("3782 822463 10005", "6011111111111117", "3530111333300000", "30569309025904", "4222222222222"),
        *("2223 0031 2200 3222", "4111\u00a01111\u00a01111\u00a01111", "4111.1111.1111.1111"),
        *("6759649826438453", "3566002020360505", "3530 1113 3330 0000", "213112345678904", "060412345674"),
    ),
    "iban": (
        *("GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "de89 3704 0044 0532 0130 00"),
        *("NO93 8601 1117 947", "PL61 1090 1014 0000 0712 1981 2874", "FR14-2004-1010-0505-0001-3M02-606"),
        *("MT84 MALT 0110 0001 2345 MTLC AST0 01S", "BE68 5390 0754 7034"),
    ),
    "ssn": ("078-05-1120", "219-09-9999", "457 55 5462", "078\u201105\u20111120"),
    "nino": ("AB123456C", "AB 12 34 56 C", "ab 12 34 56 c", "AB-12-34-56-C", "JG103759A"),
    "ip": (
        *(
            "192.168.0.1",
            "8.8.8.8",
            "203.0.113.77",
            "2001:db8::ff00:42:8329",
            "2001:0db8:0000:0000:0000:ff00:0042:8329",
        ),
        *("fe80::1ff:fe23:4567:890a", "::ffff:203.0.113.5", "FD00::AB", "1:2:3:4:5:6:7:8"),
    ),
    "key": (
        *("AKIAIOSFODNN7EXAMPLE", "ghp_" + _OPAQUE[:36], "glpat-" + _OPAQUE[:20], "sk_live_" + _OPAQUE[:24]),
        *(
            "sk-" + _OPAQUE,
            "sk-proj-" + _OPAQUE,
            "sk-ant-api03-" + _OPAQUE,
            "AIza" + _OPAQUE[:35],
            "hf_" + _OPAQUE[:34],
        ),
        *("npm_" + _OPAQUE[:36], "SG." + _OPAQUE[:22] + "." + _OPAQUE, "xoxp-1234567890-" + _OPAQUE[:24]),
        *("sbp_" + "0f3a9c7e5b" * 4, "dop_v1_" + "0f3a9c7e" * 8, "SK" + "0f3a9c7e" * 4),
        *(
            "rk_live_" + _OPAQUE[:24],
            "pypi-AgEIcHlwaS5vcmc" + _OPAQUE,
            "ASIA" + "Q7ZKXW5TR2MNB4CV",
            "ghs_" + _OPAQUE[:36],
        ),
        *("whsec_" + _OPAQUE[:32], "ya29." + _OPAQUE, "123456789:AA" + _OPAQUE[:33], "sb_secret_" + _OPAQUE[:31]),
        *(
            "hvs." + _OPAQUE,
            "github_pat_" + _OPAQUE[:22] + "_" + _OPAQUE,
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0." + _OPAQUE,
        ),
    ),
}

_IN_CONTEXT = (
    ("key", "key zg_abcdefghij_{}!", _OPAQUE + "xyz"),
    ("token", "Authorization: Bearer {}", _OPAQUE),
    ("token", "authorization: Basic {}", "YWRhOmxvdmVsYWNl"),
    ("token", "sent Bearer {} to it", "eyJhbGciOiJIUzI1NiJ9.e30.abc"),
    ("token", '{"headers": {"authorization": "Bearer {}"}}', _OPAQUE),
    ("token", "Authorization%3A%20Bearer%20{}", _OPAQUE),
    ("token", "Cookie: {}", "sessionid=abc; csrftoken=def"),
    ("token", "Set-Cookie: {}", "sessionid=abc; Path=/"),
    ("token", "authorization=Token {}", _OPAQUE),
    ("url_password", "postgres://ada:{}@db:5432/z", "lovelace"),
    ("url_password", "postgres://ada:{}@db.example.org/z", "lovelace"),
    ("url_password", "redis://:{}@cache/0", "hunter2"),
    ("url_password", "https://ada:{}@host/", "p@ss:word"),
    ("url_password", "amqp://ada:{}@[::1]/x", "12345"),
    ("url_password", "mongodb+srv://ada:{}@c.example.net", "a%40b"),
    ("field", "password={}&user=ada", "hunter2"),
    ("field", "PGPASSWORD={} psql", "hunter2"),
    ("field", "--password {} --host x", "hunter2"),
    ("field", "--api-key={} run", "hunter2"),
    ("field", "<password>{}</password>", "hunter2"),
    ("field", '"password": "{}"', "two words, and more"),
    ("field", "'secret_key' => '{}'", "hunter2"),
    ("field", '{\\"clientSecret\\": \\"{}\\", \\"n\\": 1}', "hunter2"),
    ("field", "Login(user='ada', password='{}')", "hunter2"),
    ("field", "Login(user=ada, password={})", "hunter2"),
    ("field", "next=/a?password%3D{}", "hunter2"),
    ("field", "access_token: {}", "abc.def"),
    ("field", "customer_number={};", "K-77123"),
    ("field", '"customerNumber": "{}"', "K-77123"),
    ("field", "old_customer_number: {}", "K-77123"),
    ("ssn", "ssn={}", "078051120"),
    ("ssn", "her social security number is {}", "078051120"),
    ("phone", "tel {}", "912 345 678"),
    ("phone", "call {} today", "4155550143"),
    ("phone", "mobile: {}", "90-1234-5678"),
    ("phone", "phone_number={}", "4155550143"),
)

CONFIGURED_FIELDS = ("customer_number",)

_HARMLESS = (
    "ISO 9001:2015, published 2015-09-15",
    "a Reynolds number of 1000000 at mach 2.5",
    "card 4111 1111 1111 1112 has a wrong check digit",
    "part GB82 WEST ABCD EFGH IJKL",
    "at 12:30:45 the user@host prompt",
    "what is the price of 1,299.00?",
    "nothing to hide: http://host:80/path",
    "http://127.0.0.1:8000/rag/query2?x=a@b",
    "git clone git@github.com:zenglow/zenglow.git",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "b302099a8057 1764165600 1764165600123",
    "2026-11-26T13:44:48.123456Z and 2026-11-26 13:44:48,123",
    "26.11.2026 to 27.11.2026, 26/11/2026",
    "trace_id=4bf92f3577b34da6a3ce929d0e0e4736",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "took 0.123456789 s, 1234567890 rows, 0.00123456789",
    "0.1234567 0.7654321 0.3333333",
    "vector [0.0213, -0.4412, 0.9911]",
    "version 10.11.12.13 and firmware 1.2.3.4",
    "pip install numpy==2.1.3.4",
    "1.2.3.4.5 is a section",
    "listening on 127.0.0.1:8104 and [::1]:8104, not 0.0.0.0",
    "std::vector<int> a::b ab::cd Foo::Bar::baz",
    "00:1b:44:11:3a:b7",
    "max_tokens=512 token_count: 88 tokenizer=bpe",
    "key=value primary_key=3 key_prefix=abc cache_key: default",
    "password reset and bearer tokens explained",
    "the basic idea of a token bucket",
    "token=None, password: null",
    "sort by key; session of parliament",
    "9-digit ids such as 123456789 are not numbers of people",
    "1 234 567 890 inhabitants",
    "ISBN 978-0-13-468599-1, ISSN 1476-4687",
    "doi:10.1145/1571941.1572114",
    "arXiv 2403.01234 and RFC 9457",
    "EN 60601-1-2:2015 and IEC 61010-1",
    "lat 51.507351, lon -0.127758",
    "chunk 4 of 12 in document 0001-0002",
    "QQ 12 34 56 C is an example nobody has",
    "000-12-3456 and 666-12-3456",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36",
    "sk-learn-compatible-estimators-in-practice",
    "/usr/lib/python3.11/site-packages/django/core/handlers/base.py:197",
    "SELECT id, embedding <=> %s FROM doc_embeddings WHERE space_id = 12 LIMIT 100",
    "@property @dataclass(frozen=True) x @ y",
    "all-MiniLM-L6-v2@1 ltr@4",
    "BM25 k1=1.2 b=0.75",
    "port 5432, 6379 and 8000-8010",
    "5000000000 bytes, 4294967296 and 18446744073709551615",
)


def cases() -> list[Case]:
    made = [labelled(kind, around, value) for kind, values in _VALUES.items() for value in values for around in _AROUND]
    made += [labelled(kind, template, value) for kind, template, value in _IN_CONTEXT]
    made += [harmless("harmless", text) for text in _HARMLESS]
    return made
