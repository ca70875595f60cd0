"""What memory there is, read from scripted files of /proc and of control groups, as they stand on real machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.machine import Room, main_memory

GB = 10**9
MEMINFO = """MemTotal:       16000000 kB
MemFree:         1000000 kB
MemAvailable:   12000000 kB
SwapTotal:       {swap} kB
SwapFree:        {swap} kB
"""
ALONE = 16_000_000 * 1024.0
AVAILABLE = 12_000_000 * 1024.0


def machine(root: Path, groups: str, *, swap: int = 0, **files: str) -> Path:
    """Files by their paths under sys/fs/cgroup, with two underscores in the place of a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO.format(swap=swap))
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def test_a_machine_of_ones_own(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/user.slice\n", user_dot_slice__memory_dot_max="max\n")
    assert main_memory(root) == Room(ALONE, AVAILABLE, "this machine")


def test_swap_counts_for_what_is_possible_and_not_for_what_is_free(tmp_path: Path) -> None:
    assert main_memory(machine(tmp_path, "", swap=1000)) == Room(ALONE + 1_024_000, AVAILABLE, "this machine")


def test_a_container_of_version_2(tmp_path: Path) -> None:
    """In a container the group is the root of what is mounted. What the kernel can give up is free."""
    root = machine(
        tmp_path,
        "0::/\n",
        memory_dot_max=f"{4 * GB}\n",
        memory_dot_current=f"{3 * GB}\n",
        memory_dot_stat=f"anon 1\nfile 2\ninactive_file {2 * GB}\n",
    )
    room = main_memory(root)
    assert (room.most, room.free) == (4 * GB, 3 * GB)
    assert "control group" in room.of
    assert "4.0 GB" in room.of


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        "0::/pods/one\n",
        pods__one__memory_dot_max="max\n",
        pods__memory_dot_max=f"{2 * GB}\n",
        pods__memory_dot_current=f"{2 * GB}\n",
        memory_dot_max=f"{8 * GB}\n",
        memory_dot_current=f"{1 * GB}\n",
    )
    assert (main_memory(root).most, main_memory(root).free) == (2 * GB, 0)


def test_swap_of_a_group_is_bounded_by_its_limit_and_by_the_machines(tmp_path: Path) -> None:
    files = {"memory_dot_max": f"{GB}", "memory_dot_current": "0"}
    swap_of = {"some": (f"{GB}", 2 * GB), "all": ("max", GB + 4_000_000 * 1024), "none": ("0", GB)}
    for name, (limit, most) in swap_of.items():
        root = machine(tmp_path / name, "0::/\n", swap=4_000_000, **files, memory_dot_swap_dot_max=limit)
        assert (main_memory(root).most, main_memory(root).free) == (most, GB)


@pytest.mark.parametrize("seen_from", ["inside", "outside"])
def test_a_container_of_version_1(tmp_path: Path, seen_from: str) -> None:
    """/proc names the group as it is seen from outside; in a container it is the root of what is mounted."""
    folder = "memory__docker__abc__" if seen_from == "outside" else "memory__"
    files = {
        f"{folder}memory_dot_limit_in_bytes": f"{2 * GB}",
        f"{folder}memory_dot_usage_in_bytes": f"{GB}",
        f"{folder}memory_dot_stat": f"inactive_file 1\ntotal_inactive_file {GB // 2}\n",
    }
    if seen_from == "outside":
        files["memory__memory_dot_limit_in_bytes"] = "9223372036854771712"
    root = machine(tmp_path, "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n", **files)
    assert (main_memory(root).most, main_memory(root).free) == (2 * GB, 1.5 * GB)


def test_damaged_files_are_no_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, "nonsense\n0::/\n:::\n4:memory\n", memory_dot_max="lots", memory_dot_current="")
    assert main_memory(root) == Room(ALONE, AVAILABLE, "this machine")


def test_where_there_is_no_proc_the_system_tells_the_total(tmp_path: Path) -> None:
    room = main_memory(tmp_path)
    assert room.most == room.free > 0


def test_this_machine() -> None:
    room = main_memory()
    assert room.free >= 0
    assert room.most > 10**7
