"""How the rows are measured: a function for each group, which answers a value for each of its rows.

Streams are written by dd, which opens a file to write it as cp and cat do, and read by fio, as are
random accesses: nothing of Python is between two requests. Times contain the fsync at the end. `cold` is
after /proc/sys/vm/drop_caches: what the kernel had of the mount and, on a disk, of the backing is gone;
what a tmpfs holds is not."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import cpu_seconds, drop_caches, machine_cpu_seconds, run

MIB = 1 << 20
GIB = 1 << 30
#: Rereads of a cached file: once is over too soon to be timed well.
WARM_LOOPS = 4
#: A program that hangs is given up.
PATIENCE = 900


@dataclass(frozen=True)
class Sizes:
    """How much is done in a row, and for how long at most where a part is as good as all."""

    stream: int
    random_ops: int
    appends: int
    files: int
    seconds: int


class Fio:
    """fio in one directory. All jobs together are one result."""

    def __init__(self, directory, sizes, jobs):
        self.directory = Path(directory)
        self.seconds = sizes.seconds
        self.jobs = jobs

    def files(self):
        """The file of each job."""
        return [self.directory / f"stream.{job}" for job in range(self.jobs)]

    def size(self):
        """What every job's file has at least: fio would lengthen a shorter one before it reads."""
        return min(file.stat().st_size for file in self.files()) // MIB * MIB

    def remove(self):
        """Removes the files, if they are there."""
        for file in self.files():
            file.unlink(missing_ok=True)

    def run(self, direction, bs, size, **options):
        """Bytes and operations per second of all jobs together, and the bytes that were moved."""
        given = {
            "name": "stream",
            "directory": self.directory,
            "filename_format": "stream.$jobnum",
            "numjobs": self.jobs,
            "group_reporting": 1,
            "ioengine": "psync",
            "rw": direction,
            "bs": bs,
            "size": size,
            "runtime": self.seconds,
            "fallocate": "none",
            "create_on_open": 1,
            "invalidate": 0,
            "norandommap": 1,
            "gtod_reduce": 1,
            "output-format": "json",
            **options,
        }
        argv = ["fio", *(f"--{name}={value}" for name, value in given.items())]
        text = run(argv, timeout=PATIENCE, cwd="/")
        # Warnings come before the report.
        job = json.loads(text[text.index("{") :])["jobs"][0]
        return job["write" if "write" in direction else "read"]


def dd(files, bs, size):
    """Writes the files side by side, and fsyncs them; the report is like fio's."""
    count = size // bs
    begin = time.perf_counter()
    jobs = [
        subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={file}", f"bs={bs}", f"count={count}", "conv=fsync"],
            stderr=subprocess.DEVNULL,
        )
        for file in files
    ]
    try:
        failed = [job.args for job in jobs if job.wait(timeout=PATIENCE) != 0]
    finally:
        for job in jobs:
            job.kill()
    if failed:
        raise subprocess.SubprocessError(f"{failed[0]} failed")
    moved = count * bs * len(files)
    return {"bw_bytes": moved / (time.perf_counter() - begin), "io_bytes": moved}


def streams(mounted, sizes, jobs):
    """Sequential and random reads and writes, with the CPU time that they take."""
    suffix = "" if jobs == 1 else f"-{jobs}j"
    where = mounted.directory
    fio = Fio(where, sizes, jobs)
    share = sizes.stream // jobs
    rows = {}

    def forget():
        drop_caches(where, mounted.place.cipher)

    def rate(name, report):
        rows[name + suffix] = report["bw_bytes"] / 1e6

    def with_cpu(direction, work):
        """CPU seconds per GiB, also of what the filesystem does after the program has ended."""
        own = cpu_seconds(mounted.pid) if mounted.pid else 0
        machine = machine_cpu_seconds()
        report = work()
        run(["sync", "-f", str(where)], timeout=PATIENCE)
        gib = report["io_bytes"] / GIB
        if jobs == 1 and gib:
            rows[f"cpu-{direction}-all"] = (machine_cpu_seconds() - machine) / gib
            if mounted.pid:
                rows[f"cpu-{direction}"] = (cpu_seconds(mounted.pid) - own) / gib
        return report

    rate("write-1m", with_cpu("write", lambda: dd(fio.files(), MIB, share)))
    size = fio.size()
    forget()
    rate("read-1m-cold", with_cpu("read", lambda: fio.run("read", "1M", size)))
    fio.run("read", "1M", size)
    rate("read-1m-warm", fio.run("read", "1M", size, loops=WARM_LOOPS))
    rate("read-4k-warm", fio.run("read", "4k", size, loops=WARM_LOOPS))
    forget()
    rate("read-4k-cold", fio.run("read", "4k", size))
    if jobs == 1:
        moved = min(sizes.random_ops, size // 4096) * 4096
        forget()
        rows["randread-4k"] = fio.run("randread", "4k", size, io_size=moved)["iops"]
        forget()
        rows["randwrite-4k"] = fio.run("randwrite", "4k", size, io_size=moved, end_fsync=1)["iops"]
    fio.remove()
    rate("write-4k", dd(fio.files(), 4096, share // 4))
    fio.remove()
    if jobs == 1:
        rows["append-fsync-4k"] = fio.run("write", "4k", sizes.appends * 4096, fsync=1)["iops"]
        fio.remove()
    return rows


def small_files(mounted, sizes, jobs):
    """Creating, looking at, reading and removing small files; the second and third cold."""
    suffix = "" if jobs == 1 else f"-{jobs}j"
    directory = mounted.directory / "small"
    directory.mkdir()
    rows = {}
    for action in ("create", "stat", "read", "unlink"):
        if action in ("stat", "read"):
            drop_caches(mounted.directory, mounted.place.cipher)
        program = [sys.executable, "-B", "-m", "bench.smallfiles"]
        argv = [*program, action, str(directory), str(sizes.files), str(jobs)]
        seconds = float(run(argv, timeout=PATIENCE, cwd=Path(__file__).parents[1]))
        rows[f"small-{action}{suffix}"] = sizes.files / seconds
    directory.rmdir()
    return rows


def tree(mounted, archive):
    """What programs do with a source tree that is a git repository."""
    where = mounted.directory
    root = where / "tree"

    def timed(*argv):
        begin = time.perf_counter()
        run(argv, timeout=PATIENCE)
        return time.perf_counter() - begin

    def status():
        return timed("git", "-C", str(root), *GIT, "status", "--short")

    rows = {"tar": timed("tar", "-x", "-f", str(archive), "-C", str(where))}
    # git remembers what it saw: the second time it reads no contents.
    run(["git", "-C", str(root), *GIT, "update-index", "-q", "--refresh"], timeout=PATIENCE)
    drop_caches(where, mounted.place.cipher)
    # The size has it look at every file.
    rows["find"] = timed("find", str(root), "-size", "+100M")
    drop_caches(where, mounted.place.cipher)
    rows["git-status"] = status()
    rows["rm"] = timed("rm", "-r", str(root))
    return rows


#: Settings of git that do not depend on the user or the machine.
GIT = (
    *("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "safe.directory=*"),
    *("-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false", "-c", "gc.auto=0"),
)


def make_archive(project, work, files):
    """A tar archive of a git repository with so many files at least: copies of this project's own
    sources, documentation and tests, as far as git knows them."""
    listed = run(["git", "-C", str(project), *GIT, "ls-files", "-z", "src", "docs", "tests"], timeout=PATIENCE)
    sources = [name for name in listed.split("\0") if name]
    root = work / "tree"
    copies = -(-files // len(sources))
    for copy in range(copies):
        for name in sources:
            to = root / f"copy-{copy}" / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project / name, to)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "tree"]):
        run(["git", "-C", str(root), *GIT, *arguments], timeout=PATIENCE)
    archive = work / "tree.tar"
    run(["tar", "-c", "-f", str(archive), "-C", str(work), "tree"], timeout=PATIENCE)
    shutil.rmtree(root)
    subprocess.run(["sync", "-f", str(archive)], check=False)
    return archive, copies * len(sources)
