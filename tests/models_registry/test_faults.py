"""Processes that are killed, starved of disk, told wrong times, or left without Redis: never two live, never none, and
never half an artifact.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.core.files.storage import default_storage
from django.db.models import ProtectedError

from models_registry import archives, artifacts, clock, deployments, guardian, processes, rollouts, versions, weights
from models_registry.live import LiveView
from models_registry.models import (
    Artifact,
    Deployment,
    FusionWeights,
    ModelKind,
    ModelVersion,
    Rollout,
    Slot,
    VersionStatus,
)
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Unprocessable
from ops.models import AlertEvent
from tests.models_registry import elsewhere
from tests.patience import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("embedded_stack")]

MakeVersion = Callable[..., ModelVersion]

CONTENT = bytes(range(256)) * 12 * 1024  # 3 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()

REGISTER = """
content = bytes(range(256)) * 12 * 1024
artifact = artifacts.put(content, "model.txt")
model = versions.register_model("ranker", "ltr", "lightgbm")
version = versions.register_version(model, {"model": artifact.sha256}, {}, {}, {})
"""


def new_weights(ltr: float) -> FusionWeights:
    return weights.create_version(weights.propose(ltr, 1 - ltr), by=SYSTEM)


def live_weights() -> list[FusionWeights | None]:
    return [row.weights for row in deployments.live().filter(slot=Slot.WEIGHTS, role="stable")]


def assert_one_row_follows_the_other(slot: Slot) -> None:
    """No moment at which two were live, and none at which nothing was."""
    rows = list(Deployment.objects.filter(slot=slot, scope="global", role="stable").order_by("id"))
    assert [row.ended_at for row in rows[:-1]] == [row.started_at for row in rows[1:]]
    assert rows[-1].ended_at is None


class TestKilled:
    @pytest.mark.parametrize(
        ("at", "has_file"),
        [
            pytest.param("import ops.files; ops.files.os.fsync = killed", False, id="while the file is received"),
            pytest.param("artifacts.move_into_storage = killed", False, id="before the file has its name"),
            pytest.param("artifacts.Artifact.objects.update_or_create = killed", True, id="between file and row"),
        ],
    )
    def test_before_an_artifact_has_its_row_nothing_half_is_left(self, at: str, has_file: bool, store: Path) -> None:
        died = elsewhere.run(f"{at}\n{REGISTER}")
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not Artifact.objects.exists()
        assert not ModelVersion.objects.exists()
        # What has a name is whole. What has none is in nobody's way, and goes once it is old.
        stored = {path.name: path.read_bytes() for path in (store / "artifacts").rglob("*") if path.is_file()}
        assert stored == ({SHA256: CONTENT} if has_file else {})
        model = versions.register_model("ranker", ModelKind.LTR, "lightgbm")
        versions.register_version(model, {"model": artifacts.put(CONTENT, "model.txt").sha256}, {}, {}, {})
        for path in (store / ".incoming").iterdir():
            os.utime(path, (0, 0))
        assert artifacts.collect_garbage(dry_run=False, grace=timedelta(0)) == []
        assert list((store / ".incoming").iterdir()) == []
        assert artifacts.local_path(SHA256).read_bytes() == CONTENT

    def test_between_the_row_and_the_version_that_names_it_only_garbage_is_left(self, store: Path) -> None:
        died = elsewhere.run(f"versions.ModelVersion.objects.create = killed\n{REGISTER}")
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not ModelVersion.objects.exists()
        assert artifacts.collect_garbage(dry_run=True) == []  # it may be about to be named
        (garbage,) = artifacts.collect_garbage(dry_run=False, grace=timedelta(0))
        assert (garbage.sha256, garbage.filename) == (SHA256, "model.txt")
        assert not artifacts.is_stored(SHA256)

    @pytest.mark.parametrize("at", ["Deployment.objects.create", "announce_on_commit"])
    def test_in_the_middle_of_an_activation_what_was_live_stays(self, at: str, make_version: MakeVersion) -> None:
        before, after = make_version(), make_version(content=b"other trees")
        deployments.activate(Slot.LTR, before, by=SYSTEM)
        died = elsewhere.run(
            f"deployments.{at} = killed\n"
            f"deployments.activate(Slot.LTR, ModelVersion.objects.get(pk={after.pk}), by=SYSTEM)"
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        row = deployments.effective(Slot.LTR, "global")
        assert row is not None
        assert row.model_version == before
        deployments.activate(Slot.LTR, after, by=SYSTEM)  # waits until the database has noticed the death
        assert_one_row_follows_the_other(Slot.LTR)

    def test_at_the_start_of_a_rollout_there_is_none(self) -> None:
        weights.change(weights.propose(0.6, 0.4), by=SYSTEM)
        candidate = new_weights(0.7)
        died = elsewhere.run(
            f"deployments.set_share = killed\nrollouts.start(weights.find_version({candidate.pk}), by=SYSTEM)"
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert rollouts.start(candidate, by=SYSTEM).state == "running"
        assert Rollout.objects.count() == 1


class TestDiskFull:
    """The kernel refuses the write: ``RLIMIT_FSIZE`` with EFBIG, and a small file system with ENOSPC."""

    STARVED = """
try:
    artifacts.put(bytes(range(256)) * 12 * 1024, "model.txt")
except artifacts.ArtifactStorageError as error:
    print(error)
print(artifacts.put(b"small", "small.txt").filename)
incoming = artifacts.incoming_folder()
print(sorted(path.name for path in incoming.iterdir()))
"""

    def test_a_file_that_does_not_fit_is_refused_whole_and_the_next_one_is_stored(self, store: Path) -> None:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        starved = elsewhere.run(limit + self.STARVED)
        said = "The file could not be stored: File too large.\nsmall.txt\n[]\n"
        assert starved.stdout == said, starved.stderr
        assert [artifact.filename for artifact in Artifact.objects.all()] == ["small.txt"]

    def test_a_full_file_system_is_told_in_the_same_words(self, store: Path) -> None:
        store.mkdir()
        mount = f'mount -t tmpfs -o size=1m none {store} && exec "$@"'
        as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        own_namespace = ("unshare", *as_root, "--mount", "sh", "-c", mount, "sh")
        if shutil.which("unshare") is None or subprocess.run([*own_namespace, "true"], check=False).returncode:
            pytest.skip("this machine lets nobody mount a file system of their own")
        starved = elsewhere.run(self.STARVED, under=own_namespace)
        said = "The file could not be stored: No space left on device.\nsmall.txt\n[]\n"
        assert starved.stdout == said, starved.stderr

    def test_an_import_that_does_not_fit_says_so_and_leaves_what_is_live(
        self, make_version: MakeVersion, tmp_path: Path
    ) -> None:
        tree = b"tree\nversion=v4\n" + b"#" * (3 << 20)
        deployments.activate(Slot.LTR, make_version("kept"), by=SYSTEM)
        archive = tmp_path / "ranker.zenglow.zip"
        with archive.open("wb") as target:
            archives.export_version(make_version("moved", content=tree), target, by=SYSTEM)
        ModelVersion.objects.filter(model__name="moved").delete()
        artifacts.collect_garbage(dry_run=False, grace=timedelta(0))

        code = (
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
            "from django.core.management import execute_from_command_line\n"
            f"execute_from_command_line(['manage.py', 'registry', 'import', {str(archive)!r}])\n"
        )
        starved = elsewhere.run(code)
        assert starved.returncode == 2, starved.stderr
        assert starved.stderr.strip().count("\n") == 0
        assert "File too large" in starved.stderr
        assert not ModelVersion.objects.filter(model__name="moved").exists()
        row = deployments.effective(Slot.LTR, "global")
        assert row is not None
        assert str(row.model_version) == "kept@1"


class TestClocks:
    """A host whose clock is a day ahead and one whose is a day behind, of all that a process asks the time."""

    SHIFTED = """
import datetime, time
from django.utils import timezone
shift_s = {shift_s}
real_time, real_now = time.time, timezone.now
time.time = lambda: real_time() + shift_s
timezone.now = lambda: real_now() + datetime.timedelta(seconds=shift_s)
"""
    HOSTS = (-86_400, 0, 86_400)

    def elsewhere(self, code: str, shift_s: int) -> subprocess.Popen[str]:
        return elsewhere.start(code, before=self.SHIFTED.format(shift_s=shift_s))

    def test_activations_by_hosts_that_disagree_follow_one_another_without_a_gap(self) -> None:
        weights.change(weights.propose(0.6, 0.4), by=SYSTEM)
        began = clock.now()
        code = (
            "sys.stdin.readline()\n"
            "for number in range(1, 6):\n"
            "    share = number / 100 + {shift_s} / 1e6\n"
            "    weights.change(weights.propose(0.5 + share, 0.5 - share), by=SYSTEM)\n"
            "from django.utils import timezone\n"
            "print(timezone.now().isoformat(), flush=True)\n"
        )
        with ExitStack() as stack:
            hosts = [stack.enter_context(self.elsewhere(code.format(shift_s=s), s)) for s in self.HOSTS]
            for host in hosts:
                assert host.stdin is not None
                host.stdin.write("now\n")
                host.stdin.flush()
            while any(host.poll() is None for host in hosts):
                assert len(live_weights()) == 1
            told = [datetime.fromisoformat(host.communicate()[0].strip()) for host in hosts]
        assert told[2] - told[0] > timedelta(hours=47), "their clocks do differ"
        assert_one_row_follows_the_other(Slot.WEIGHTS)
        rows = Deployment.objects.filter(slot=Slot.WEIGHTS)
        assert rows.count() == 1 + 3 * 5
        assert all(began <= row.started_at <= clock.now() for row in rows[: 3 * 5])
        for row in rows:
            assert list(deployments.live_at(row.started_at).filter(slot=Slot.WEIGHTS)) == [row]

    @pytest.mark.parametrize("shift_s", [-86_400, 86_400])
    def test_what_such_a_host_stores_keeps_its_grace_and_it_is_seen_among_the_processes(
        self, shift_s: int, store: Path, empty_cache: None
    ) -> None:
        code = (
            "from models_registry import processes\n"
            "print(artifacts.put(b'trees', 'model.txt').sha256)\n"
            "announcer = processes.Announcer('web')\n"
            "announcer.tell()\n"
            "print(announcer.name)\n"
            "print([report.name for report in processes.all_reports()])\n"
        )
        with self.elsewhere(code, shift_s) as host:
            sha256, name, seen, _ = host.communicate()[0].split("\n")
        assert artifacts.collect_garbage(dry_run=False) == []
        assert artifacts.is_stored(sha256)
        assert seen == str([name])
        assert [report.name for report in processes.all_reports()] == [name]


class TestWithoutRedis:
    """Redis refuses connections, or takes them and says nothing."""

    CHANGES = """
def version(number): return ModelVersion.objects.get(number=number)
def said(what):
    print(what, flush=True)
    sys.stdin.readline()
deployments.activate(Slot.LTR, version(2), by=SYSTEM)
said("model")
rollout = rollouts.start(weights.find_version({candidate}), by=SYSTEM)
said("start")
rollouts.step(rollout.pk, by=SYSTEM)
said("step")
rollouts.promote(rollout.pk, by=SYSTEM)
said("promote")
rollout = rollouts.start(version(1), by=SYSTEM)
said("start of a model")
rollouts.promote(rollout.pk, by=SYSTEM)
said("promote of a model")
deployments.rollback(Slot.LTR, by=SYSTEM)
said("rollback")
"""

    @pytest.fixture
    def silent(self) -> Iterator[int]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            yield listener.getsockname()[1]

    @pytest.mark.parametrize("kind", ["refuses", "says nothing"])
    def test_changes_of_models_and_rollouts_are_made_and_followed_all_the_same(
        self, kind: str, silent: int, make_version: MakeVersion, view: LiveView
    ) -> None:
        deployments.activate(Slot.LTR, make_version(), by=SYSTEM)
        make_version(content=b"other trees")
        weights.change(weights.propose(0.6, 0.4), by=SYSTEM)
        candidate = new_weights(0.7)
        view.follow()  # its own Redis is well: what it lacks is the notice

        def seen() -> tuple[str, int, list[float]]:
            shares = [one.percent for slot in (Slot.WEIGHTS, Slot.LTR) for one in view.now().candidates(slot, "papers")]
            return view.model(Slot.LTR, "papers").label, view.weights("papers").version, shares

        first, second = candidate.pk - 1, candidate.pk
        expected = {
            "model": ("ranker@2", first, []),
            "start": ("ranker@2", first, [5.0]),
            "step": ("ranker@2", first, [25.0]),
            "promote": ("ranker@2", second, []),
            "start of a model": ("ranker@2", second, [5.0]),
            "promote of a model": ("ranker@1", second, []),
            "rollback": ("ranker@2", second, []),
        }
        port = silent if kind == "says nothing" else 1
        before = (
            f's.CACHES["default"]["LOCATION"] = "redis://127.0.0.1:{port}/0"\n'
            's.CACHES["default"]["OPTIONS"] |= {"SOCKET_TIMEOUT": 0.05, "SOCKET_CONNECT_TIMEOUT": 0.05}'
        )
        with elsewhere.start(self.CHANGES.format(candidate=candidate.pk), before=before) as operator:
            assert operator.stdin is not None
            assert operator.stdout is not None
            for step, live in expected.items():
                assert operator.stdout.readline().strip() == step
                eventually(lambda live=live: seen() == live)
                operator.stdin.write("go on\n")
                operator.stdin.flush()
        assert operator.returncode == 0
        assert_one_row_follows_the_other(Slot.LTR)
        assert_one_row_follows_the_other(Slot.WEIGHTS)


class TestCandidateDisappears:
    @pytest.fixture
    def rollout(self, make_version: MakeVersion) -> Rollout:
        deployments.activate(Slot.LTR, make_version(), by=SYSTEM)
        return rollouts.start(make_version(content=b"other trees"), by=SYSTEM)

    def lose_file(self, rollout: Rollout) -> None:
        assert rollout.model_version is not None
        default_storage.delete(artifacts._name(rollout.model_version.artifacts["model"]))

    def assert_stable_answers_alone(self) -> None:
        row = deployments.effective(Slot.LTR, "global")
        assert row is not None
        assert str(row.model_version) == "ranker@1"
        assert deployments.live().filter(slot=Slot.LTR).count() == 1

    def test_the_guardian_takes_its_share_away_and_says_why(self, rollout: Rollout) -> None:
        self.lose_file(rollout)
        code = "import threading\nfrom models_registry import guardian\nguardian.watch(threading.Event())\n"
        with elsewhere.start(code) as process:
            try:
                eventually(lambda: not rollouts.find(rollout.pk).is_open)
            finally:
                process.kill()
        assert rollouts.find(rollout.pk).state == "rolled_back"
        assert "is gone" in AlertEvent.objects.get(name=f"rollout-{rollout.pk}-rolled-back").message
        self.assert_stable_answers_alone()

    def test_it_is_not_promoted_and_shows_as_failed(self, rollout: Rollout) -> None:
        self.lose_file(rollout)
        with pytest.raises(Unprocessable, match="its file 'model' is not well"):
            rollouts.promote(rollout.pk, by=SYSTEM)
        assert rollouts.find(rollout.pk).is_open
        assert ModelVersion.objects.get(number=2).status == VersionStatus.FAILED
        guardian.look()
        self.assert_stable_answers_alone()

    def test_a_paused_one_does_not_get_its_share_back(self, rollout: Rollout) -> None:
        rollouts.pause(rollout.pk, by=SYSTEM)
        self.lose_file(rollout)
        with pytest.raises(Unprocessable, match="its file 'model' is not well"):
            rollouts.resume(rollout.pk, by=SYSTEM)
        self.assert_stable_answers_alone()
        assert rollouts.abort(rollout.pk, by=SYSTEM).state == "aborted"

    def test_what_a_rollout_names_can_not_be_deleted(self, rollout: Rollout) -> None:
        assert rollout.model_version is not None
        with pytest.raises(ProtectedError):
            rollout.model_version.delete()
        assert artifacts.collect_garbage(dry_run=False, grace=timedelta(0)) == []
