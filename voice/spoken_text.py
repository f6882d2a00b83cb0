"""Written text as it is said: no citations, code, addresses or Markdown, and units and abbreviations in words.

Numbers stay as digits: every engine reads them by itself, and knows whether 1998 is a year.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Replacement = str | Callable[[re.Match[str]], str]

UNITS = {
    "ms": "milliseconds",
    "s": "seconds",
    "min": "minutes",
    "h": "hours",
    "kb": "kilobytes",
    "mb": "megabytes",
    "gb": "gigabytes",
    "tb": "terabytes",
    "kib": "kibibytes",
    "mib": "mebibytes",
    "gib": "gibibytes",
    "hz": "hertz",
    "khz": "kilohertz",
    "mhz": "megahertz",
    "ghz": "gigahertz",
    "mm": "millimetres",
    "cm": "centimetres",
    "m": "metres",
    "km": "kilometres",
    "g": "grams",
    "kg": "kilograms",
    "mg": "milligrams",
    "ml": "millilitres",
    "l": "litres",
    "w": "watts",
    "kw": "kilowatts",
    "v": "volts",
    "db": "decibels",
    "km/h": "kilometres an hour",
    "°c": "degrees Celsius",
    "°f": "degrees Fahrenheit",
    "°": "degrees",
    "%": "per cent",
    "‰": "per mille",
}
ABBREVIATIONS = {
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "and so on",
    "cf.": "compare",
    "vs.": "versus",
    "approx.": "approximately",
    "incl.": "including",
    "no.": "number",
    "fig.": "figure",
    "dr.": "doctor",
    "mr.": "mister",
    "mrs.": "missis",
    "st.": "saint",
}
SYMBOLS = {
    "→": " to ",
    "≥": " at least ",
    "≤": " at most ",
    "≈": " about ",
    "±": " plus or minus ",
    "×": " times ",
    "&": " and ",
    "=": " equals ",
    "§": " section ",
    "•": ", ",
    "…": ", ",
    "~": " about ",
    "#": " number ",
    "@": " at ",
    "^": " ",
    "|": ", ",
    "_": " ",
    "\\": " ",
    "<": " ",
    ">": " ",
    "{": " ",
    "}": " ",
    "`": "",
    "*": "",
}
CURRENCIES = {"£": "pounds", "$": "dollars", "€": "euros"}

CODE_SAID = " some code that is on the screen. "
_UNIT_NAMES = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_ABBREVIATION_NAMES = "|".join(re.escape(one) for one in sorted(ABBREVIATIONS, key=len, reverse=True))


def _unit(match: re.Match[str]) -> str:
    number, unit = match["number"], match["unit"]
    name = UNITS[unit.lower()]
    if number in {"1", "1.0"} and name.endswith("s") and " " not in name and name != "hertz":
        name = name[:-1]
    return f"{number} {name}"


def _host(match: re.Match[str]) -> str:
    return f" the address at {match['host'].removeprefix('www.').replace('.', ' dot ')} "


def _currency(match: re.Match[str]) -> str:
    return f"{match['number']} {CURRENCIES[match['sign']]}"


RULES: tuple[tuple[re.Pattern[str], Replacement], ...] = (
    (re.compile(r"```.*?(?:```|\Z)", re.DOTALL), CODE_SAID),
    (re.compile(r"!\[([^\]]{0,200})\]\([^)\s]{0,500}\)"), r"\1"),
    (re.compile(r"\[([^\]]{1,200})\]\([^)\s]{0,500}\)"), r"\1"),
    (re.compile(r"\s?\[\d{1,3}(?:\s?[,–-]\s?\d{1,3})*\]"), ""),
    (re.compile(r"https?://(?P<host>[\w.-]{1,100})[^\s)\]]{0,1000}"), _host),
    (re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+", re.MULTILINE), ""),
    (re.compile(r"^[ \t]{0,8}(?:[-*+]|\d{1,3}[.)])[ \t]+", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*[-=*_|: \t]{3,}$", re.MULTILINE), ""),
    (re.compile(r"`([^`\n]{1,60})`"), r"\1"),
    (re.compile(r"(?<=[a-z])\(\)"), ""),
    (re.compile(rf"(?<!\w)(?P<number>\d[\d.,]{{0,20}}\d|\d)\s?(?P<unit>{_UNIT_NAMES})(?![\w/])", re.IGNORECASE), _unit),
    (re.compile(r"(?P<sign>[£$€])\s?(?P<number>\d[\d.,]{0,20}\d|\d)"), _currency),
    (re.compile(r"(?<=\d)\s?[–-]\s?(?=\d)"), " to "),
    (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
    (
        re.compile(rf"(?<![\w.])(?:{_ABBREVIATION_NAMES})", re.IGNORECASE),
        lambda match: ABBREVIATIONS[match[0].lower()],
    ),
    (re.compile(r"(?<=\w)/(?=\w)"), " or "),
    (re.compile(r"(?<=\w)\.(?=[a-z]\w*)"), " dot "),
    (re.compile(r"[ \t]*\n{2,}[ \t]*"), ". "),
    (re.compile("|".join(re.escape(symbol) for symbol in SYMBOLS)), lambda match: SYMBOLS[match[0]]),
    (re.compile(r"[\x00-\x1f\x7f]+"), " "),
    (re.compile(r"\s+([,.;:!?])"), r"\1"),
    (re.compile(r"([.!?]),+"), r"\1"),
    (re.compile(r"([,.;:!?])(?:\s?[,.;:])+"), r"\1"),
    (re.compile(r"\s+"), " "),
)
"""In this order; each works on what the one before left."""


def spoken(text: str) -> str:
    """``text`` as it is to be said; empty when nothing of it is."""
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    text = text.strip(" ,;:")
    return text if any(character.isalnum() for character in text) else ""
