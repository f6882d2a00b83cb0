"""Options of a source, as strict as any other input: each kind of place declares its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pathspec import GitIgnoreSpec

from ops.contracts.problems import InvalidRequest

MAX_PATTERNS = 100

Check = Callable[[str, Any], Any]


def checked(options: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """The options, each checked. Raises `InvalidRequest` that names every one at fault."""
    errors: dict[str, str] = {}
    kept: dict[str, Any] = {}
    for name, value in options.items():
        check = checks.get(name)
        try:
            if check is None:
                raise ValueError(f"Unknown option. Known: {', '.join(checks) or 'none'}.")
            kept[name] = check(name, value)
        except ValueError as error:
            errors[f"options.{name}"] = str(error)
    if errors:
        raise InvalidRequest(": ".join(next(iter(errors.items()))), errors=errors)
    return kept


def whole(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"A whole number from {low} to {high}.")
        return value

    return check


def number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"A number from {low:g} to {high:g}.")
        return float(value)

    return check


def text(longest: int = 1000) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or len(value) > longest or not value.isprintable():
            raise ValueError(f"A text of 1 to {longest} characters.")
        return value.strip()

    return check


def choice(*choices: str) -> Check:
    def check(name: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"One of {', '.join(choices)}.")
        return str(value)

    return check


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false.")
    return value


def patterns(name: str, value: Any) -> list[str]:
    """Patterns as in a ``.gitignore``."""
    if not isinstance(value, list) or len(value) > MAX_PATTERNS or not all(isinstance(one, str) for one in value):
        raise ValueError(f"A list of at most {MAX_PATTERNS} patterns, written as in a .gitignore.")
    try:
        GitIgnoreSpec.from_lines(value)
    except ValueError as error:
        raise ValueError(f"A pattern can't be read: {error}.") from None
    return value


SELECTION: dict[str, Check] = {"include": patterns, "exclude": patterns}
SELECTION_HELP = {
    "include": "Only paths that match one of these patterns, written as in a .gitignore.",
    "exclude": "No path that matches one of these patterns.",
}


class Selection:
    """Which paths are wanted."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._include = GitIgnoreSpec.from_lines(options["include"]) if options.get("include") else None
        self._exclude = GitIgnoreSpec.from_lines(options.get("exclude", ()))

    def takes(self, path: str) -> bool:
        """Whether a path below the place, without a slash in front, is wanted."""
        return (self._include is None or self._include.match_file(path)) and not self._exclude.match_file(path)
