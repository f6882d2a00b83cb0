"""Settings by the machine's size."""

from __future__ import annotations

from pathlib import Path

import pytest

from zenglow_site.embedded import machine
from zenglow_site.embedded.machine import MIB
from zenglow_site.embedded.postgres import memory_settings
from zenglow_site.embedded.redis import memory_limit_bytes

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("memory", "shared", "processors", "expected"),
    [
        pytest.param(1 * GIB, 512 * MIB, 1, ("128MB", "64MB", "4MB", "512MB", "0", "0"), id="small machine"),
        pytest.param(8 * GIB, 4 * GIB, 4, ("1024MB", "512MB", "8MB", "4096MB", "3", "2"), id="laptop"),
        pytest.param(256 * GIB, 128 * GIB, 64, ("4096MB", "512MB", "16MB", "131072MB", "4", "2"), id="large server"),
        pytest.param(8 * GIB, 64 * MIB, 4, ("1024MB", "512MB", "8MB", "4096MB", "0", "0"), id="container"),
        pytest.param(8 * GIB, 512 * MIB, 4, ("1024MB", "512MB", "8MB", "4096MB", "0", "2"), id="just too little"),
        pytest.param(8 * GIB, None, 4, ("1024MB", "512MB", "8MB", "4096MB", "3", "2"), id="no such file system"),
    ],
)
def test_it_sizes_postgresql(memory: int, shared: int | None, processors: int, expected: tuple[str, ...]) -> None:
    settings = memory_settings(memory, shared, processors)

    assert expected == (
        settings["shared_buffers"],
        settings["maintenance_work_mem"],
        settings["work_mem"],
        settings["effective_cache_size"],
        settings["max_parallel_maintenance_workers"],
        settings["max_parallel_workers_per_gather"],
    )


@pytest.mark.parametrize(("memory", "expected"), [(GIB, 64 * MIB), (8 * GIB, 256 * MIB), (256 * GIB, 512 * MIB)])
def test_it_sizes_redis(memory: int, expected: int) -> None:
    assert memory_limit_bytes(memory) == expected


def test_it_reads_the_limits_of_control_groups_and_their_parents(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("4:cpu,memory:/docker/abc\n1:cpu:/\n0::/user.slice/session\n")
    for folder, name, text in (
        ("memory/docker/abc", "memory.limit_in_bytes", "9223372036854771712"),
        ("memory/docker", "memory.limit_in_bytes", "1073741824"),
        ("user.slice/session", "memory.max", "max"),
        ("user.slice", "memory.max", "2147483648"),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(f"{text}\n")

    assert sorted(machine.control_group_limits(membership, tmp_path)) == [GIB, 2 * GIB, 9223372036854771712]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"], ids=["missing", "empty", "binary"])
def test_it_takes_unreadable_control_groups_for_no_limit(content: bytes | None, tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    if content is not None:
        membership.write_bytes(content)

    assert machine.control_group_limits(membership, tmp_path) == []


def test_it_measures_this_machine() -> None:
    assert machine.memory_bytes() > 0
    assert machine.processors() > 0
