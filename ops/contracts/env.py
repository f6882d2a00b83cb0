"""The registry of environment variables: declared once in each app's ``conf.py``, read once, here.

``declare`` is called while the ``conf.py`` modules are imported; ``load`` then reads the process environment (and an
optional ``.env`` file) a single time and returns an immutable `Environment`. Settings, validation, ``.env.example``,
the reference page and ``/config/*`` all come from these declarations. Nothing else in the project reads the
environment; a test proves it.
"""

from __future__ import annotations

import difflib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import environ


class ConfigurationError(Exception):
    """The environment can't be used. The message lists every fault, one a line, each with its fix."""

    def __init__(self, message: str, environment: Environment | None = None) -> None:
        super().__init__(message)
        self.environment = environment


class OutOfBoundsError(ValueError):
    """A number below the least or above the most that is allowed."""


class Kind(Enum):
    """How a value is parsed."""

    STRING = "string"
    INTEGER = "integer"
    FLOAT = "number"
    BOOLEAN = "boolean"
    LIST = "comma-separated list"
    PATH = "path"
    URL = "URL"


class Stage(Enum):
    """The deployment stages of ``ZENGLOW_ENV``."""

    LOCAL = "local"
    STAGING = "staging"
    PROD = "prod"


OWN_PREFIXES = ("ZENGLOW_", "RAG_", "REGISTRY_", "OPS_", "VOICE_")
"""Prefixes that no other software uses: an undeclared name with one is a typing error or a leftover."""

RETIRED_PREFIX = "FUSION_"
"""Variables of earlier versions: some were renamed (`Variable.deprecated_names`), the others do nothing."""

LOOK_ALIKE = 0.9
"""How alike (`difflib`'s ratio) another name must be to one of ours to be called a typing error."""

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable.

    ``default`` is the value in every stage unless ``stage_defaults`` names another. ``None`` means "not set".
    ``minimum`` and ``maximum`` are inclusive and apply to numbers. ``required_when`` is the name of another variable:
    when that one is set, this one must be too. ``deprecated_names`` are older spellings, still read with a warning.
    ``risk(value, stage)`` is a sentence when the value is allowed but dangerous in that stage, else ``None``.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    stage_defaults: Mapping[str, Any] = field(default_factory=dict)
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    required_when: str | None = None
    deprecated_names: tuple[str, ...] = ()
    risk: Callable[[Any, str], str | None] | None = None

    @property
    def group(self) -> str:
        """The app prefix, as used for grouping in the reference: ``RAG``, ``ZENGLOW``, …"""
        return self.name.split("_", 1)[0]

    def default_in(self, stage: str) -> Any:
        return self.stage_defaults.get(stage, self.default)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the variable ``name``. ``message`` begins with it, and holds no secret."""

    code: Literal["missing", "invalid", "out_of_bounds", "contradictory"]
    name: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Value:
    """A variable's value and where it came from."""

    value: Any
    origin: str  # "default" | "default (prod)" | "environment" | ".env" | "file" | "environment (OLD_NAME)"


@dataclass(frozen=True, slots=True)
class Environment:
    """Every declared variable with its value, and what was wrong with the environment."""

    stage: str
    values: Mapping[str, Value]
    errors: tuple[Fault, ...]
    deprecations: tuple[str, ...]
    names: frozenset[str] = frozenset()
    """The names of everything that was set, ours or not."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def origin(self, name: str) -> str:
        return self.values[name].origin

    def is_set(self, name: str) -> bool:
        """Whether somebody gave the variable a value, whatever it is."""
        return not self.origin(name).startswith("default")

    def raise_for_errors(self) -> None:
        """Raise one `ConfigurationError` that names every fault at once."""
        if self.errors:
            lines = "\n".join(f"  - {error}" for error in self.errors)
            raise ConfigurationError(f"The environment is not usable ({len(self.errors)} to fix):\n{lines}", self)


Rule = Callable[[Environment], Iterable[Fault]]
"""Says what is wrong between variables that are each fine by themselves."""

_declared: dict[str, Variable] = {}
_rules: list[Rule] = []


def declare(*variables: Variable) -> None:
    """Add variables to the registry. Declaring a name twice is a programming error, unless it is the same object."""
    for variable in variables:
        if _declared.setdefault(variable.name, variable) != variable:
            raise ValueError(f"{variable.name} is declared twice")


def declare_rule(rule: Rule) -> Rule:
    """Add a rule over several variables; to be used as a decorator."""
    _rules.append(rule)
    return rule


def broken_rules(loaded: Environment) -> Iterator[Fault]:
    """What the declared rules find, in the order of their declaration."""
    for rule in _rules:
        yield from rule(loaded)


def unencrypted(name: str) -> Callable[[Any, str], str | None]:
    """A `Variable.risk`: secrets go to another machine in the clear."""

    def risk(value: Any, stage: str) -> str | None:
        parts = urlsplit(value or "")
        if parts.scheme != "http" or parts.hostname in {"localhost", "127.0.0.1", "::1"}:
            return None
        return f"{name} begins with http:// and leads to another machine: what is sent there can be read on the way."

    return risk


def declared() -> tuple[Variable, ...]:
    """All declared variables, sorted by name."""
    return tuple(_declared[name] for name in sorted(_declared))


def parse(variable: Variable, text: str) -> Any:
    """The typed value of ``text``. Raises ``ValueError`` with a sentence that says what is accepted."""
    value = _PARSERS[variable.kind](text.strip())
    if variable.choices and value not in variable.choices:
        raise ValueError(f"must be one of {', '.join(variable.choices)}, not '{value}'")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if variable.minimum is not None and value < variable.minimum:
            raise OutOfBoundsError(f"must be at least {variable.minimum:g}, not {value}")
        if variable.maximum is not None and value > variable.maximum:
            raise OutOfBoundsError(f"must be at most {variable.maximum:g}, not {value}")
    return value


def load(
    environment: Mapping[str, str] | None = None,
    *,
    dotenv: Path | None = None,
    variables: Iterable[Variable] | None = None,
) -> Environment:
    """Read the environment once. Faults are collected, not raised: see `Environment.raise_for_errors`.

    A variable that is set to the empty string counts as not set, as Compose files do.
    """
    chosen = tuple(variables) if variables is not None else declared()
    raw: dict[str, tuple[str, str]] = {}
    if dotenv is not None and dotenv.is_file():
        raw |= {name: (text, ".env") for name, text in _read_dotenv(dotenv).items()}
    source = os.environ if environment is None else environment
    raw |= {name: (text, "environment") for name, text in source.items()}
    raw = {name: (text, origin) for name, (text, origin) in raw.items() if text.strip()}

    stage = raw.get("ZENGLOW_ENV", (Stage.LOCAL.value, ""))[0].strip()
    errors: list[Fault] = []
    deprecations: list[str] = []
    deprecations += [
        f"{name} is deprecated and no longer means anything: remove it."
        for name in sorted(raw)
        if name.startswith(RETIRED_PREFIX) and name not in _accepted_names(chosen)
    ]
    values: dict[str, Value] = {}
    for variable in chosen:
        values[variable.name] = _resolve(variable, raw, stage, errors, deprecations)
    for variable in chosen:
        condition = variable.required_when
        if condition and values[condition].value is not None and not _accepted_names([variable]) & raw.keys():
            message = f"{variable.name} is missing: it is required when {condition} is set. {variable.help}"
            errors.append(Fault("missing", variable.name, message))
    return Environment(
        stage=stage,
        values=values,
        errors=tuple(errors),
        deprecations=tuple(deprecations),
        names=frozenset(raw),
    )


def warn_of_deprecations(environment: Environment) -> None:
    """One ``DeprecationWarning`` for each old name in use."""
    for message in environment.deprecations:
        warnings.warn(message, DeprecationWarning, stacklevel=2)


def child_environment(*, without_secrets: bool = False, **changes: str) -> dict[str, str]:
    """A copy of the process environment for a child process, with ``changes`` applied."""
    inherited = dict(os.environ)
    if without_secrets:
        for variable in declared():
            if variable.secret:
                inherited.pop(variable.name, None)
    return inherited | changes


def hand_over(environment: Environment, prefix: str) -> None:
    """Give a library that reads the process environment itself what was declared here, from wherever it came.

    A value of ``.env``, of a ``NAME_FILE`` or of a stage's default would not reach it otherwise. A variable without a
    value is left alone.
    """
    for name, found in environment.values.items():
        if name.startswith(prefix) and found.value is not None:
            value = str(found.value).lower() if isinstance(found.value, bool) else str(found.value)
            os.environ[name] = ",".join(map(str, found.value)) if isinstance(found.value, tuple) else value


def handed_over(name: str) -> str | None:
    """What a library that reads the process environment itself finds there now, whoever put it in."""
    return os.environ.get(name)


def mail_settings(url: str) -> dict[str, Any]:
    """Django's e-mail settings (``EMAIL_HOST`` and so on) of a URL such as ``smtp+tls://user:password@host:587``."""
    found: dict[str, Any] = environ.Env.email_url_config(url)
    return found


def _resolve(
    variable: Variable,
    raw: Mapping[str, tuple[str, str]],
    stage: str,
    errors: list[Fault],
    deprecations: list[str],
) -> Value:
    default = Value(
        variable.default_in(stage),
        f"default ({stage})" if stage in variable.stage_defaults else "default",
    )
    found = raw.get(variable.name)
    if found is None:
        for old_name in variable.deprecated_names:
            if old_name in raw:
                text, origin = raw[old_name]
                found = (text, f"{origin} ({old_name})")
                deprecations.append(f"{old_name} is deprecated: rename it to {variable.name}.")
                break
    if variable.secret and f"{variable.name}_FILE" in raw:
        path = Path(raw[f"{variable.name}_FILE"][0].strip())
        if found is not None:
            message = f"{variable.name} and {variable.name}_FILE are both set: keep one of them."
            errors.append(Fault("contradictory", variable.name, message))
            return default
        try:
            found = (path.read_text(encoding="utf-8").strip(), "file")
        except (OSError, UnicodeDecodeError) as error:
            message = f"{variable.name}_FILE points to {path}, which can't be read: {type(error).__name__}."
            errors.append(Fault("invalid", variable.name, message))
            return default
    if found is None:
        return default
    text, origin = found
    try:
        return Value(parse(variable, text), origin)
    except ValueError as error:
        fault = "is not valid" if variable.secret else str(error)
        is_out = isinstance(error, OutOfBoundsError)
        message = f"{variable.name} {fault}. {variable.help}"
        errors.append(Fault("out_of_bounds" if is_out else "invalid", variable.name, message))
        return default


def _read_dotenv(path: Path) -> dict[str, str]:
    """The assignments of a ``.env`` file, parsed by django-environ into a private mapping."""

    class _Reader(environ.Env):  # type: ignore[misc]  # it has no types
        ENVIRON: dict[str, str] = {}

    _Reader.ENVIRON = {}
    _Reader.read_env(str(path))
    return dict(_Reader.ENVIRON)


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(f"must be one of true, false, 1, 0, yes, no, on, off, not '{text}'")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a whole number, not '{text}'") from None


def _float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"must be a number, not '{text}'") from None
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, not '{text}'")
    return number


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _url(text: str) -> str:
    parts = urlsplit(text)
    if not parts.scheme:
        raise ValueError("must be a URL such as scheme://host:port/path")
    return text


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"must be a path of this machine: nobody's home folder is meant by '{text}'") from None


_PARSERS: Mapping[Kind, Callable[[str], Any]] = {
    Kind.STRING: str,
    Kind.INTEGER: _integer,
    Kind.FLOAT: _float,
    Kind.BOOLEAN: _boolean,
    Kind.LIST: _list,
    Kind.PATH: _path,
    Kind.URL: _url,
}


def set_library_defaults() -> None:
    """What libraries read from the environment as they are imported, unless it is set already.

    One thread for each call of the numeric ones: their own default is a thread for each core, which waits for the
    others at every step, measured 30 times slower as soon as anything else runs on those cores. And nothing of gRPC in
    a forked child: what it does there, before the child becomes the program that it is to be, crashes one child in a
    hundred while other threads use it.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def unknown_names(names: Iterable[str], variables: Iterable[Variable]) -> dict[str, str | None]:
    """Names that are no variable of ours but look like one, sorted, each with the likeliest meaning.

    A name with one of `OWN_PREFIXES` counts always; any other only when it is nearly the name of a variable.
    """
    chosen = tuple(variables)
    known = {variable.name for variable in chosen}
    found: dict[str, str | None] = {}
    for name in sorted(set(names) - _accepted_names(chosen)):
        is_own = name.startswith(OWN_PREFIXES)
        alike = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.7 if is_own else LOOK_ALIKE)
        if is_own or alike:
            found[name] = alike[0] if alike else None
    return found


def _accepted_names(variables: Iterable[Variable]) -> set[str]:
    """Every spelling under which the variables are read."""
    accepted: set[str] = set()
    for variable in variables:
        accepted |= {variable.name, *variable.deprecated_names}
        if variable.secret:
            accepted.add(f"{variable.name}_FILE")
    return accepted
