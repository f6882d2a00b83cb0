"""The locks serve every machine, and every direct dependency has its reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LEVELS = ("base", "milvus", "s3", "whisper", "piper", "dev")


def requirements_of(name: str) -> Iterator[Requirement]:
    """The requirements in a file, without its comments and `-r` lines."""
    for line in (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines():
        requirement = re.sub(r"(^|\s)#.*", "", line).strip()
        if requirement and not requirement.startswith("-"):
            yield Requirement(requirement)


def names_in(name: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements_of(name)}


@pytest.mark.parametrize("level", LEVELS)
def test_it_locks_versions_and_nothing_of_the_machine_that_made_the_lock(level: str) -> None:
    text = (REQUIREMENTS / f"{level}.txt").read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        requirement, _, _ = pin.partition("#")
        assert re.match(r"^[a-z0-9][a-z0-9.-]*==[0-9][a-z0-9.]*( ; .+)?$", requirement.rstrip()), pin
    for mark in ("+", "://", "file:", "/", "\\", "--"):
        assert mark not in text, f"requirements/{level}.txt holds {mark}"


@pytest.mark.parametrize("level", LEVELS)
def test_it_locks_every_direct_dependency_in_a_version_that_is_allowed(level: str) -> None:
    locked = {canonicalize_name(pin.name): pin for pin in requirements_of(f"{level}.txt")}
    for direct in requirements_of(f"{level}.in"):
        pin = locked[canonicalize_name(direct.name)]
        (version,) = (specifier.version for specifier in pin.specifier)
        assert direct.specifier.contains(version), f"{pin} is not what {level}.in asks for: make freeze"
        assert pin.marker == direct.marker


def test_it_locks_the_same_versions_for_running_and_for_development() -> None:
    base = {canonicalize_name(pin.name): pin.specifier for pin in requirements_of("base.txt")}
    development = {canonicalize_name(pin.name): pin.specifier for pin in requirements_of("dev.txt")}
    assert base.items() <= development.items()


def test_it_locks_no_cuda_packages() -> None:
    locked = names_in("dev.txt")
    assert not {name for name in locked if name.startswith(("nvidia-", "cuda-", "triton"))} - {"nvidia-ml-py"}


def test_it_gives_a_reason_for_every_direct_dependency_and_for_nothing_else() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    base, _, others = text.partition("## For a Milvus cluster")
    milvus, _, others = others.partition("## For files in an S3-compatible store")
    s3, _, others = others.partition("## For Whisper")
    whisper, _, others = others.partition("## For Piper")
    piper, _, development = others.partition("## To work on it")
    sections = {"base": base, "milvus": milvus, "s3": s3, "whisper": whisper, "piper": piper, "dev": development}
    for level, section in sections.items():
        reasons = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
        assert set(reasons) == names_in(f"{level}.in"), f"docs/dependencies.md and {level}.in differ"
        assert all(reasons.values())


PRODUCT = ("ops", "models_registry", "rag", "voice", "zenglow_site")
DEVELOPMENT = ("tests", "bench", "scripts")

NEEDED_BY_OTHERS = {"async-timeout"}
"""Direct dependencies that no code of ours names; docs/dependencies.md says why they are there."""


def sources(folders: tuple[str, ...]) -> Iterator[str]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def imported_modules(source: str) -> Iterator[str]:
    """Top-level modules that a source imports from outside its package, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("folders", "locks"),
    [(PRODUCT, tuple(f"{level}.in" for level in LEVELS[:-1])), (DEVELOPMENT, tuple(f"{level}.in" for level in LEVELS))],
)
def test_it_declares_every_package_that_is_imported(folders: tuple[str, ...], locks: tuple[str, ...]) -> None:
    declared = set().union(*(names_in(lock) for lock in locks))
    distributions = packages_distributions()
    undeclared = {
        module: carriers
        for source in sources(folders)
        for module in imported_modules(source)
        if (carriers := {canonicalize_name(name) for name in distributions.get(module, [])}) and not carriers & declared
    }
    assert undeclared == {}, "these are imported, but no .in file names what carries them"


def test_it_uses_every_package_that_running_needs() -> None:
    code = "\n".join(sources(PRODUCT))
    modules: dict[str, set[str]] = {}
    for module, carriers in packages_distributions().items():
        for name in carriers:
            modules.setdefault(canonicalize_name(name), set()).add(module)
    unused = [
        name
        for name in (names_in("base.in") | names_in("milvus.in")) - NEEDED_BY_OTHERS
        if not any(re.search(rf"\b{re.escape(module)}\b", code) for module in modules[name])
    ]
    assert not unused, "no code names these; drop them from base.in or say who needs them"
