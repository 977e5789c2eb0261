"""What the machine is, and how busy it is with other things."""

import os
import platform
import re
import time
from pathlib import Path

from .processes import machine_cpu_seconds

#: Busier than this before the start, and figures about the whole machine say nothing.
QUIET = 0.05


def describe(backings):
    """The machine, and the filesystem of each backing directory."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "kernel": platform.release(),
        "system": _system(),
        "virtual": _hypervisor(),
        "backings": {name: filesystem(directory) for name, directory in backings.items()},
        "load_before": os.getloadavg()[0],
        "busy_before": busy(),
    }


def busy(seconds=1.0):
    """The part of all CPUs' time that is used, 0 to 1."""
    before = machine_cpu_seconds()
    time.sleep(seconds)
    return round((machine_cpu_seconds() - before) / seconds / (os.cpu_count() or 1), 3)


def filesystem(directory):
    """Type and mount options of a directory's filesystem, and what is known of its disk."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            if before.split()[2] == number:
                kind, source = after.split()[:2]
                found = {"type": kind, "source": source, "options": before.split()[5]}
                return {**found, **_disk(number)}
    return {"type": "unknown", "source": "unknown", "options": ""}


def _disk(number):
    queue = Path("/sys/dev/block") / number
    if not queue.exists():
        return {}
    # A partition has its queue with the disk.
    queue = queue.resolve()
    queue = queue / "queue" if (queue / "queue").exists() else queue.parent / "queue"
    known = {}
    for name in ("rotational", "write_cache"):
        if (queue / name).exists():
            known[name] = (queue / name).read_text(encoding="ascii").strip()
    return known


def _cpu():
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found.group(1) if found else platform.machine()
    flags = set(text.split())
    features = [flag for flag in ("aes", "vaes", "avx512f", "vpclmulqdq") if flag in flags]
    family = re.search(r"^cpu family\s*:\s*(\d+)$", text, re.MULTILINE)
    model = re.search(r"^model\s*:\s*(\d+)$", text, re.MULTILINE)
    if family and model:
        name += f" (family {family.group(1)}, model {model.group(1)})"
    return f"{name}: {', '.join(features)}" if features else name


def _system():
    text = Path("/etc/os-release").read_text(encoding="utf-8") if os.path.exists("/etc/os-release") else ""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def _hypervisor():
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return " hypervisor" in text


def lines(machine):
    """The description in a few lines."""
    virtual = ", a virtual machine" if machine["virtual"] else ""
    yield f"CPU: {machine['cpu']}; {machine['cores']} cores{virtual}"
    yield f"memory: {machine['memory_gib']} GiB; kernel {machine['kernel']}; {machine['system']}"
    for name, found in machine["backings"].items():
        disk = "".join(f", {key} {value}" for key, value in found.items() if key in ("rotational", "write_cache"))
        yield f"backing {name}: {found['type']} ({found['options']}{disk})"
    after = f", {machine['load_after']:.1f} after" if "load_after" in machine else ""
    yield (
        f"other load: {machine['busy_before']:.0%} of all CPUs before the start; "
        f"load average {machine['load_before']:.1f} before{after}"
    )
