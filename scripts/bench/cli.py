"""The program: options, what is to run, and where results go."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from datetime import datetime, timezone
from pathlib import Path

from . import machine, report, rows, subjects, svg, workloads
from .processes import Failed, run
from .subjects import Bridge, Kmsfs, Mounted, PEERS, Place, Plain

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs/PERFORMANCE.md"
PICTURE = PROJECT / "docs/performance.svg"
#: kmsfs as it may be mounted.
MOUNTS = {"kmsfs": None, "kmsfs-writeback": "writeback", "kmsfs-low-latency": "low_latency"}
SUBJECTS = (*MOUNTS, "bridge", "plain", *PEERS)
#: A release build on a slow machine.
BUILD_SECONDS = 3600

USUAL = {"rounds": 5, "size": 512, "files": 2000, "seconds": 10}
QUICK = {"rounds": 2, "size": 32, "files": 200, "seconds": 3}

DESCRIPTION = """\
Measures kmsfs, gocryptfs, securefs, EncFS and CryFS over the same backing filesystem, a tmpfs and
with --disk also a directory of a disk, beside the backing itself and a build of kmsfs that copies
contents instead of encrypting them. All take turns: in each round each group of rows is
measured on one after the other, and the one that begins changes from round to round.

Must be run as root: it mounts, empties the kernel's caches, and installs what is missing of the
other filesystems, fio and git with apt. Of software it builds kmsfs alone, twice.

The machine should have nothing else to do. The table says how far the rounds lie apart, and how
busy the machine was before.
"""

ROW_HELP = "only rows whose names match one of these patterns, comma-separated: 'small-*,tar'. Rows:\n"


def arguments(argv):
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench-peers", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=_count, metavar="N", help="how often everything is measured; 5")
    names = "".join(f"  {row.name:18} {row.title} ({row.unit})\n" for row in rows.ROWS)
    add("--rows", default="*", metavar="GLOBS", help=ROW_HELP + names)
    add("--peers", default=",".join(SUBJECTS), metavar="LIST", help=f"which of {','.join(SUBJECTS)}; all")
    add("--quick", action="store_true", help="2 rounds of little: whether it works, not how fast it is")
    add("--size", type=_count, metavar="MIB", help="MiB of a stream; 512")
    add("--files", type=_count, metavar="N", help="small files; 2000")
    add("--seconds", type=_count, metavar="N", help="most seconds of a stream or its like; 10")
    add("--no-tmpfs", action="store_true", help="do not measure over a tmpfs")
    add("--disk", type=Path, metavar="DIR", help="also measure in this directory of a disk")
    add("--work", type=Path, default=Path("/var/tmp"), metavar="DIR", help="where mount points are made; /var/tmp")
    add("--kmsfs", type=Path, metavar="FILE", help="this program instead of a release build")
    add("--bridge", type=Path, metavar="FILE", help="this build with the feature copy-cipher, likewise")
    add("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    add("--svg", type=Path, metavar="FILE", help="write the chart of the first backing to FILE")
    add("--write-docs", action="store_true", help="put results into docs/PERFORMANCE.md and docs/performance.svg")
    add("--note", default="", metavar="TEXT", help="something to say beside the results, as of the machine's load")
    add("--from", type=Path, dest="from_file", metavar="FILE", help="measure nothing; show what --json wrote")
    add("--self-test", action="store_true", help="test this program's statistics and output; measures nothing")
    asked = parser.parse_args(argv)
    asked.peers = asked.peers.split(",")
    unknown = [name for name in asked.peers if name not in SUBJECTS]
    if unknown:
        parser.error(f"there is no {unknown[0]}; choose of {','.join(SUBJECTS)}")
    if not rows.chosen(asked.rows):
        parser.error(f"no row matches '{asked.rows}'; see --help for their names")
    for name, value in (QUICK if asked.quick else USUAL).items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


def _count(text):
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main():
    """Runs the program with this process's arguments; answers its exit code."""
    asked = arguments(sys.argv[1:])
    if asked.self_test:
        suite = unittest.defaultTestLoader.discover(str(Path(__file__).parent), top_level_dir=str(PROJECT / "scripts"))
        return 0 if unittest.TextTestRunner().run(suite).wasSuccessful() else 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        if asked.from_file:
            document = json.loads(asked.from_file.read_text(encoding="utf-8"))
        else:
            document = measure(asked)
        publish(document, asked)
    except KeyboardInterrupt:
        return 130
    except (Failed, OSError, ValueError) as error:
        print(f"bench-peers: {error}", file=sys.stderr)
        return 1
    return 0


def publish(document, asked):
    """Prints and writes what was asked for."""
    for line in report.text(document):
        print(line)
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    backing = next(iter(document["results"]))
    if asked.svg:
        asked.svg.write_text(svg.chart(document, backing), encoding="utf-8")
    if asked.write_docs:
        PAGE.write_text(report.put_into(PAGE.read_text(encoding="utf-8"), document), encoding="utf-8")
        PICTURE.write_text(svg.chart(document, backing), encoding="utf-8")


def measure(asked):
    """Measures everything; answers the document that `report` describes."""
    if os.geteuid():
        raise Failed("it mounts and empties the kernel's caches; run it as root")
    chosen, skipped = find_subjects(asked)
    if not chosen:
        raise Failed("there is nothing to measure; see --peers")
    with cleaning_up() as stack:
        work = Path(tempfile.mkdtemp(prefix="kmsfs-bench-", dir=asked.work))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        backings = make_backings(asked, work, stack)
        archive, tree_files = workloads.make_archive(PROJECT, work, 500 if asked.quick else 3000)
        document = {
            "schema": 1,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "note": asked.note,
            "machine": machine.describe(backings),
            "settings": {
                "rounds": asked.rounds,
                "stream": asked.size << 20,
                "random_ops": 1000 if asked.quick else 20_000,
                "appends": 100 if asked.quick else 2000,
                "files": asked.files,
                "seconds": asked.seconds,
                "tree_files": tree_files,
            },
            "skipped": skipped,
            "failures": [],
        }
        campaign = Campaign(chosen, rows.chosen(asked.rows), document, archive)
        for name, directory in backings.items():
            for turn in range(asked.rounds):
                campaign.round(name, directory, work, turn)
    document["machine"]["load_after"] = os.getloadavg()[0]
    document["subjects"] = [describe(subject) for subject in chosen if subject.name not in campaign.unmountable]
    document["results"] = report.with_summaries(campaign.results)
    return document


def describe(subject):
    """A subject as the document has it."""
    title, version, options = subject.title, subject.version(), subject.options
    return {"name": subject.name, "title": title, "version": version, "options": options}


def make_backings(asked, work, stack):
    """Empty directories to have ciphertext in, by name."""
    backings = {}
    if not asked.no_tmpfs:
        tmpfs = work / "tmpfs"
        tmpfs.mkdir()
        size = 4 * asked.size + 1024
        run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "bench-peers", str(tmpfs)], timeout=30)
        stack.callback(subprocess.run, ["umount", "-l", str(tmpfs)], check=False)
        backings["tmpfs"] = tmpfs
    if asked.disk:
        disk = Path(tempfile.mkdtemp(prefix="kmsfs-bench-", dir=asked.disk))
        stack.callback(shutil.rmtree, disk, ignore_errors=True)
        backings["disk"] = disk
    if not backings:
        raise Failed("there is nothing to measure over; give --disk DIR, or leave out --no-tmpfs")
    return backings


def find_subjects(asked):
    """What of the chosen can be measured, in this order, and what not and why."""
    packages = {PEERS[name].package: name for name in asked.peers if name in PEERS}
    tools = ("fio", "git")
    missing = [package for package in (*tools, *packages) if not shutil.which(package)]
    why = subjects.install(missing)
    for tool in tools:
        if tool in why:
            raise Failed(f"{tool} is needed, and {why[tool]}")
    chosen, skipped = [], []
    for name in asked.peers:
        if name in why:
            skipped.append({"name": name, "why": why[name]})
        else:
            chosen.append(subject(name, asked))
    return chosen, skipped


def subject(name, asked):
    """The subject of this name; kmsfs is built if no program was given."""
    if name in PEERS:
        return PEERS[name]()
    if name == "plain":
        return Plain()
    if name == "bridge":
        asked.bridge = asked.bridge or build("--features", "copy-cipher", target="copy-cipher")
        return Bridge(str(asked.bridge.resolve()))
    asked.kmsfs = asked.kmsfs or build(target=None)
    return Kmsfs(str(asked.kmsfs.resolve()), MOUNTS[name], name)


def build(*options, target):
    """A release build of kmsfs, in a directory of its own below target/ if it is a special one."""
    directory = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target"))
    directory = directory / target if target else directory
    say(f"building kmsfs {' '.join(options)}")
    argv = ["cargo", "build", "--release", "--quiet", "--target-dir", str(directory), *options]
    run(argv, timeout=BUILD_SECONDS, cwd=PROJECT)
    return directory / "release/kmsfs"


class Campaign:
    """All rounds over all backings."""

    def __init__(self, chosen, wanted, document, archive):
        settings = document["settings"]
        self.subjects = chosen
        self.wanted = {row.name for row in wanted}
        self.groups = [group for group in rows.GROUPS if any(row.group == group for row in wanted)]
        self.rounds = settings["rounds"]
        self.archive = archive
        names = ("stream", "random_ops", "appends", "files", "seconds")
        self.sizes = workloads.Sizes(**{name: settings[name] for name in names})
        self.skipped, self.failures = document["skipped"], document["failures"]
        self.unmountable = set()
        self.results = {}

    def round(self, backing, directory, work, turn):
        """Mounts everything anew, has each group measured on one after the other, and unmounts."""
        order = [s for s in self.subjects if s.name not in self.unmountable]
        order = order[turn % len(order) :] + order[: turn % len(order)] if order else []
        with cleaning_up() as stack:
            mounts = self._mount(order, backing, directory, work, turn, stack)
            for group in self.groups:
                for mounted in mounts:
                    self._measure(group, mounted, backing, turn)
            for mounted in mounts:
                memory = mounted.memory_mib()
                if memory:
                    self._note(backing, mounted, turn, {"memory": memory})

    def _mount(self, order, backing, directory, work, turn, stack):
        mounts = []
        for one in order:
            say(f"{backing}, round {turn + 1} of {self.rounds}: mounting {one.name}")
            stack.callback(_remove, directory / one.name, work / one.name)
            try:
                mounted = Mounted(one, Place(one, directory, work))
            except (Failed, OSError) as error:
                self._fail(backing, one, turn, ["all"], error)
                if turn == 0 and backing not in self.results:
                    self.unmountable.add(one.name)
                    self.skipped.append({"name": one.name, "why": f"it cannot be mounted: {error}"})
                    self.failures.pop()
                continue
            stack.callback(mounted.unmount)
            mounts.append(mounted)
        return mounts

    def _measure(self, group, mounted, backing, turn):
        say(f"{backing}, round {turn + 1} of {self.rounds}: {group} on {mounted.subject.name}")
        kind, _, jobs = group.partition("-")
        # What the one before left behind is not written back at the cost of this one.
        os.sync()
        try:
            if kind == "streams":
                found = workloads.streams(mounted, self.sizes, int(jobs))
            elif kind == "small":
                found = workloads.small_files(mounted, self.sizes, int(jobs))
            else:
                found = workloads.tree(mounted, self.archive)
        except (Failed, OSError) as error:
            self._fail(backing, mounted.subject, turn, [group], error)
            _empty(mounted.directory)
            return
        self._note(backing, mounted, turn, found)

    def _note(self, backing, mounted, turn, found):
        for row, value in found.items():
            if row in self.wanted:
                by_subject = self.results.setdefault(backing, {}).setdefault(row, {})
                samples = by_subject.setdefault(mounted.subject.name, [None] * self.rounds)
                samples[turn] = value

    def _fail(self, backing, one, turn, what, error):
        why = str(error)
        say(f"failed: {one.name}, {', '.join(what)}: {why}")
        failure = {"backing": backing, "subject": one.name, "round": turn + 1, "rows": ", ".join(what), "why": why}
        self.failures.append(failure)


def _remove(*directories):
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _empty(directory):
    """Takes away what a workload left that failed."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


@contextlib.contextmanager
def cleaning_up():
    """A stack of what is to be done at the end, which another Ctrl-C does not interrupt."""
    stack = contextlib.ExitStack()
    try:
        yield stack
    finally:
        ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ending}
        try:
            stack.close()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def say(what):
    """What is going on, for whoever waits."""
    print(f"bench-peers: {what}", file=sys.stderr, flush=True)
