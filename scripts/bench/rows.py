"""What is measured: each row of the table, and what kmsfs wants to reach in it."""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Row:
    """One row. `goal` is how many times better than gocryptfs kmsfs wants to be; 1 is not worse."""

    name: str
    title: str
    unit: str
    group: str
    higher_is_better: bool = True
    goal: float = 1.0


def _streams(jobs):
    """Rows of sequential reads and writes; the goals are for one job."""
    suffix = "" if jobs == 1 else f"-{jobs}j"
    among = "" if jobs == 1 else f", {jobs} jobs"
    rows = [
        ("write-1m", "sequential write and fsync, 1 MiB", 3.0),
        ("read-1m-cold", "sequential read, cold, 1 MiB", 1.3),
        ("read-1m-warm", "sequential read, cached, 1 MiB", 2.0),
        ("write-4k", "sequential write and fsync, 4 KiB", 15.0),
        ("read-4k-cold", "sequential read, cold, 4 KiB", 1.3),
        ("read-4k-warm", "sequential read, cached, 4 KiB", 1.0),
    ]
    for name, title, goal in rows:
        yield Row(name + suffix, title + among, "MB/s", f"streams-{jobs}", goal=goal if jobs == 1 else 1.0)


def _small_files(jobs):
    suffix = "" if jobs == 1 else f"-{jobs}j"
    among = "" if jobs == 1 else f", {jobs} jobs"
    rows = [("create", 5.0), ("stat", 1.0), ("read", 1.5), ("unlink", 1.5)]
    for name, goal in rows:
        title = f"{name} files of 4 KiB" + among
        yield Row(f"small-{name}{suffix}", title, "files/s", f"small-{jobs}", goal=goal if jobs == 1 else 1.0)


ROWS = (
    *_streams(1),
    Row("randread-4k", "random read, cold, 4 KiB", "ops/s", "streams-1"),
    Row("randwrite-4k", "random write and fsync, 4 KiB", "ops/s", "streams-1", goal=3.0),
    Row("append-fsync-4k", "append 4 KiB and fsync each", "ops/s", "streams-1"),
    *_streams(2),
    *_small_files(1),
    *_small_files(2),
    Row("tar", "tar x of a source tree", "s", "tree", higher_is_better=False),
    Row("find", "find -size in it, cold", "s", "tree", higher_is_better=False),
    Row("git-status", "git status in it, cold", "s", "tree", higher_is_better=False),
    Row("rm", "rm -r of it", "s", "tree", higher_is_better=False),
    Row("cpu-write", "CPU of the filesystem's process, writing", "s/GiB", "streams-1", False, 2.0),
    Row("cpu-read", "CPU of the filesystem's process, reading", "s/GiB", "streams-1", False, 2.0),
    Row("cpu-write-all", "CPU of the whole machine, writing", "s/GiB", "streams-1", False),
    Row("cpu-read-all", "CPU of the whole machine, reading", "s/GiB", "streams-1", False),
    Row("memory", "most resident memory", "MiB", "memory", higher_is_better=False),
)

GROUPS = tuple(dict.fromkeys(row.group for row in ROWS if row.group != "memory"))

#: Of the unencrypted data path, every row is to reach this part.
GOAL_OF_BRIDGE = 0.9


def chosen(patterns):
    """Rows whose name matches one of the patterns, comma-separated."""
    globs = patterns.split(",")
    return [row for row in ROWS if any(fnmatchcase(row.name, glob) for glob in globs)]
