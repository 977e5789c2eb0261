"""Running programs so that none is left behind, and what processes and the machine have used."""

import os
import re
import signal
import subprocess

_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A program or a filesystem did not do what it should; one line says what."""


def run(argv, *, timeout, stdin=None, env=None, cwd=None):
    """Runs a program to its end and answers its standard output. If it fails, or takes longer
    than `timeout` seconds, or this program is told to end, all that it started ends with it."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            raise Failed(f"{argv[0]} took longer than {timeout} s") from None
        except BaseException:
            kill_group(process)
            raise
    if process.returncode:
        said = (err.strip() or out.strip()).splitlines()
        raise Failed(f"{argv[0]} ended with {process.returncode}: {said[-1] if said else 'no message'}")
    return out


def kill_group(process):
    """Kills a process that leads a session, and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def cpu_seconds(pid):
    """User and system time of a process, all its threads included."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        # What is in parentheses may contain anything.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_cpu_seconds():
    """What all CPUs together have spent on other things than idling."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, stat.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def most_memory_mib(pid):
    """The most memory that a process has had at a time, in MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read(), re.MULTILINE)
    return int(found.group(1)) / 1024


def drop_caches(*paths):
    """Makes the filesystems of the paths clean, and has the kernel forget pages and inodes."""
    for path in paths:
        run(["sync", "-f", str(path)], timeout=600)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")
