"""`make venv`, tried for real on a copy of the scripts with empty locks, in a folder with a long path and spaces."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.patience import eventually

ROOT = Path(__file__).resolve().parent.parent.parent
EMPTY_LOCK = "# nothing\n"
COMMAND = (sys.executable, "scripts/venv.py", "base")


def make_project(parent: Path) -> Path:
    """A project folder whose first lines of scripts would be too long for the kernel."""
    folder = parent / ("a folder with spaces " + "x" * 120) / "zenglow"
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements").mkdir()
    for level in ("base", "dev"):
        (folder / "requirements" / f"{level}.txt").write_text(EMPTY_LOCK)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its environment made, once for all tests."""
    folder = make_project(tmp_path_factory.mktemp("template"))
    made = make_venv(folder)
    assert made.returncode == 0, made.stderr
    assert "Making .venv" in made.stdout
    return folder


@pytest.fixture
def made_project(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "moved to another place" / "zenglow", symlinks=True)


def make_venv(folder: Path, level: str = "base", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/venv.py", level],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHON"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def state(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / ".venv" / "state.json").read_text())
    return found


def test_it_makes_a_usable_environment(template: Path) -> None:
    assert (
        subprocess.run([template / ".venv" / "bin" / "python", "-m", "pip", "--version"], check=False).returncode == 0
    )


def test_it_touches_nothing_the_second_time(made_project: Path) -> None:
    before = (made_project / ".venv" / "pip.log").stat().st_mtime_ns
    again = make_venv(made_project)
    assert (again.returncode, again.stdout) == (0, "")
    assert (made_project / ".venv" / "pip.log").stat().st_mtime_ns == before


def test_it_follows_a_lock_that_has_changed(made_project: Path) -> None:
    (made_project / "requirements" / "base.txt").write_text("# something else\n")
    again = make_venv(made_project)
    assert "Installing requirements/base.txt" in again.stdout
    assert "Making .venv" not in again.stdout


def test_it_knows_that_the_development_lock_holds_the_other_one(made_project: Path) -> None:
    (made_project / "requirements" / "base.txt").write_text("# something else\n")
    assert make_venv(made_project, "dev").returncode == 0
    assert set(state(made_project)) == {"base", "dev"}
    assert make_venv(made_project, "base").stdout == ""


def test_it_makes_an_environment_anew_when_killed_in_the_middle(project: Path) -> None:
    process = subprocess.Popen(COMMAND, cwd=project, stdout=subprocess.PIPE, text=True)
    eventually((project / ".venv" / "state.json").exists)
    process.kill()
    process.communicate()
    leftover = project / ".venv" / "half-written"
    leftover.touch()
    again = make_venv(project)
    assert again.returncode == 0, again.stderr
    assert "Making .venv" in again.stdout
    assert not leftover.exists()
    assert state(project)


def test_it_installs_once_when_started_twice_at_once(made_project: Path) -> None:
    (made_project / "requirements" / "base.txt").write_text("# something else\n")
    both = [subprocess.Popen(COMMAND, cwd=made_project, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    output = "".join(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert output.count("Installing") == 1


def test_it_leaves_an_environment_alone_that_was_made_by_hand(made_project: Path) -> None:
    (made_project / ".venv" / "state.json").unlink()
    (made_project / ".venv" / "mine").touch()
    assert make_venv(made_project).returncode == 0
    assert (made_project / ".venv" / "mine").exists()


def test_it_shows_the_end_of_what_pip_said_when_it_fails(made_project: Path) -> None:
    (made_project / "requirements" / "base.txt").write_text("./no-such-folder\n")
    failed = make_venv(made_project)
    assert failed.returncode == 1
    assert "no-such-folder" in failed.stderr
    assert state(made_project) == {}


@pytest.fixture
def venv_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("venv_script", ROOT / "scripts" / "venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return module


def test_an_untried_python_needs_nothing_else_and_is_told_so(
    venv_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("sys.version_info", (3, 12, 1, "final", 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    venv_script.check_platform()
    assert capsys.readouterr().out.startswith("Not verified: ")


class TestOnOtherMachines:
    @pytest.fixture(autouse=True)
    def _other_machine(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        monkeypatch.setenv("PATH", str(tmp_path))

    def test_it_asks_for_redis_before_anything_is_installed(self, venv_script: ModuleType) -> None:
        with pytest.raises(venv_script.SetupError, match="sudo apt install redis-server"):
            venv_script.check_platform()

    def test_it_goes_on_with_redis_on_the_path_and_says_what_was_not_tried(
        self, venv_script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "redis-server").touch(0o755)
        venv_script.check_platform()
        assert capsys.readouterr().out.startswith("Not verified: ")

    def test_it_needs_no_redis_for_servers_of_ones_own(
        self, venv_script: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgres://elsewhere/zenglow")
        venv_script.check_platform()


def find_python(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", ROOT / "scripts" / "find-python.sh"],
        env={"PATH": f"{path}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class TestFindingPython:
    def test_it_takes_the_python_that_was_asked_for(self, tmp_path: Path) -> None:
        folder = tmp_path / "with space"
        folder.mkdir()
        wrapper = program(folder / "mine", f'exec "{sys.executable}" "$@"')
        assert find_python(tmp_path, PYTHON=str(wrapper)).stdout.strip() == str(wrapper)

    def test_it_refuses_an_old_one_by_its_version(self, tmp_path: Path) -> None:
        old = program(tmp_path / "old", "echo 3.10")
        refused = find_python(tmp_path, PYTHON=str(old))
        assert refused.returncode == 2
        assert "Python 3.10; ZenGlow needs 3.11 or newer" in refused.stderr

    def test_it_refuses_one_that_does_not_run(self, tmp_path: Path) -> None:
        refused = find_python(tmp_path, PYTHON=str(tmp_path / "missing"))
        assert refused.returncode == 2
        assert "doesn't run" in refused.stderr

    def test_it_names_the_package_that_brings_a_missing_ensurepip(self, tmp_path: Path) -> None:
        bare = program(tmp_path / "bare", 'case "$2" in *ensurepip*) exit 1 ;; *) echo 3.11 ;; esac')
        refused = find_python(tmp_path, PYTHON=str(bare))
        assert refused.returncode == 2
        assert "sudo apt install python3.11-venv" in refused.stderr


class TestMakeRun:
    """The recipe with a program in Python's place that prints its environment."""

    def environment_of(self, *arguments: str, **environment: str) -> dict[str, str]:
        done = subprocess.run(
            ["make", "run", "PREPARE=true", "VENV_PYTHON=env #", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def test_it_passes_port_host_and_folder_on(self) -> None:
        passed = self.environment_of("PORT=8123", "HOST=0.0.0.0", "DATA_DIR=/some where/else")
        assert passed["ZENGLOW_PORT"] == "8123"
        assert passed["ZENGLOW_HOST"] == "0.0.0.0"
        assert passed["ZENGLOW_DATA_DIR"] == "/some where/else"

    def test_it_takes_no_host_from_the_shell_and_leaves_own_variables_alone(self) -> None:
        passed = self.environment_of(HOST="workstation", PORT="1", ZENGLOW_PORT="8200")
        assert "ZENGLOW_HOST" not in passed
        assert passed["ZENGLOW_PORT"] == "8200"
