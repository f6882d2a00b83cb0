"""What the project says about itself is true: its pages, its commands, its habits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pathspec
import pytest
import yaml
from django.core.management import get_commands, load_command_class

ROOT = Path(__file__).resolve().parent.parent
APPS = ("ops", "models_registry", "rag", "voice", "zenglow_site")
FOLDERS = (*APPS, "tests", "bench", "scripts", "docs", "static", "templates")


def project_files(suffix: str = "") -> list[Path]:
    """The files of the project: everything that .gitignore doesn't leave out. Works in a copy without git, too."""
    ignored = pathspec.GitIgnoreSpec.from_lines([".git/", *(ROOT / ".gitignore").read_text("utf-8").splitlines()])
    found = []
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        folders[:] = sorted(name for name in folders if not ignored.match_file(f"{here / name}/"))
        found += [ROOT / here / name for name in sorted(names) if not ignored.match_file(here / name)]
    return [path for path in found if path.name.endswith(suffix)]


def pages() -> list[Path]:
    return project_files(".md")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def own_commands() -> list[str]:
    return sorted(name for name, app in get_commands().items() if app in APPS)


def test_it_explains_every_make_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE)) == make_targets()


def test_make_alone_lists_every_target_with_what_it_does() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    assert {line.split()[1] for line in listed} == make_targets()
    assert all(len(line.split()) > 3 for line in listed)


def test_it_names_the_two_commands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make run" in readme
    assert "make check" in readme


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_it_names_only_targets_commands_and_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^|\$ )make ([a-z-]+)\b", text, re.MULTILINE))
    assert targets <= make_targets()
    commands = set(re.findall(r"manage\.py ([a-z_]+)\b", text))
    assert commands <= set(get_commands())
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for path in re.findall(
        r"`((?:ops|models_registry|rag|zenglow_site|tests|bench|scripts|docs|static|templates)/[\w/.-]*)`", text
    ):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("name", own_commands())
def test_it_explains_every_command(name: str) -> None:
    command = load_command_class(get_commands()[name], name)
    assert re.match(r"^[A-Z].*\.$", command.help.strip(), re.DOTALL), "help is a sentence"


def test_it_mentions_every_command_in_a_guide() -> None:
    guides = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    missing = [name for name in own_commands() if f"manage.py {name}" not in guides]
    assert not missing, "no guide says what these are for"


def test_it_holds_no_path_of_a_developers_machine() -> None:
    here = [str(ROOT)] if len(ROOT.parts) > 2 else []
    python = [sys.base_prefix] if not sys.base_prefix.startswith("/usr") else []
    pattern = re.compile("|".join([r"/(?:home|Users)/(?!postgres/)\w+/", *map(re.escape, here + python)]))
    for path in project_files():
        try:
            found = pattern.search(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        assert found is None, f"{path.relative_to(ROOT)} holds {found}"


def test_it_runs_the_same_checks_in_continuous_integration() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    audit = [step.get("run", "") for step in workflow["jobs"]["vulnerabilities"]["steps"]]
    assert "python scripts/audit.py requirements/dev.txt" in audit
    assert any("pip install pip-audit==" in step for step in audit)
    job = workflow["jobs"]["check"]
    steps = [step.get("run", "") for step in job["steps"]]
    assert "make coverage" in steps
    keys = [step["with"]["key"] for step in job["steps"] if "actions/cache" in step.get("uses", "")]
    assert all("hashFiles('requirements/*.txt')" in key for key in keys)
    assert keys
    runner = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert runner.rstrip().endswith("exec make check")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_it_declares_compose_services_on_the_loopback_address_with_a_health_check() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"postgres", "redis", "prometheus", "grafana"}
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["healthcheck"]["test"]
        named = {volume.partition(":")[0] for volume in service["volumes"] if not volume.startswith("./")}
        assert named <= set(compose["volumes"])


def test_it_says_the_same_of_a_missing_redis_before_and_after_the_installation() -> None:
    from zenglow_site.embedded.installs import REDIS_MISSING

    script = (ROOT / "scripts" / "venv.py").read_text(encoding="utf-8")
    lines = re.findall(r"^  (?:Debian|Fedora|macOS).*$", REDIS_MISSING, re.MULTILINE)
    assert len(lines) == 3
    assert all(line in script for line in lines)
