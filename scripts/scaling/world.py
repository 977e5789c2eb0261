"""A volume, its mount and its key service for one measurement, and how calls are timed."""

import ctypes
import json
import os
import random
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import time

# Every system call of a measurement is timed by itself: the median does not mind other processes.
CALLS = 400
# A directory to which a key is assigned says so in this attribute.
KEY_ATTRIBUTE = "user.kmsfs.key"


class World:
    """A key store with a key file, and one volume, below a directory of its own."""

    def __init__(self, kmsfs, parent):
        self.kmsfs = kmsfs
        self.dir = tempfile.mkdtemp(prefix="kmsfs-scaling-", dir=parent)
        self.volume, self.mount = f"{self.dir}/volume", f"{self.dir}/mnt"
        self.store = f"{self.dir}/keys"
        self.key_file = f"{self.dir}/key"
        with open(self.key_file, "wb") as file:
            file.write(os.urandom(64))
        os.mkdir(self.mount)
        self.run("init", self.volume)
        self.pid = None

    def run(self, *args):
        environment = dict(os.environ, KMSFS_KEYSTORE=self.store)
        command = [self.kmsfs, "--key-file", self.key_file, *args]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def begin(self, *options):
        """Mounts; answers the milliseconds until the mount can be used."""
        before = time.perf_counter()
        self.run("mount", *options, self.volume, self.mount)
        os.stat(self.mount)
        took = (time.perf_counter() - before) * 1e3
        self.pid = json.loads(self.run("--json", "status"))["Service"]["Pid"]
        return took

    def end(self):
        if self.pid is not None:
            self.run("umount", self.mount)
            self.pid = None
            # The key service goes once its last mount has gone.
            while os.path.exists(f"{self.store}/socket") and self.answers():
                time.sleep(0.02)

    def answers(self):
        try:
            Service(self.store).close()
            return True
        except OSError:
            return False

    def memory(self):
        """KiB that the mount's process has resident, and had at most. It is the key service too."""
        with open(f"/proc/{self.pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return {name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}

    def remove(self):
        try:
            self.end()
        except RuntimeError:
            subprocess.run(["umount", "-l", self.mount], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


class Service:
    """The key service on its Unix socket: a length and JSON, either way."""

    def __init__(self, store):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{store}/socket")

    def call(self, operation, **body):
        request = json.dumps({"Target": f"TrentService.{operation}", "Body": body}).encode()
        self.socket.sendall(struct.pack("<I", len(request)) + request)
        (length,) = struct.unpack("<I", self.receive(4))
        reply = json.loads(self.receive(length))
        if reply["Status"] != 200:
            raise RuntimeError(f"{operation}: {reply['Body']}")
        return reply["Body"]

    def receive(self, length):
        parts = b""
        while len(parts) < length:
            part = self.socket.recv(length - len(parts))
            if not part:
                raise ConnectionError("the key service hung up")
            parts += part
        return parts

    def close(self):
        self.socket.close()


def timed(calls):
    """Calls each of `calls`; answers microseconds a call: quartiles, and the first decile, which other
    processes disturb least."""
    times = []
    for call in calls:
        before = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - before) / 1e3)
    cuts = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
    return {"p10": cuts[1], "q1": cuts[4], "median": cuts[9], "q3": cuts[14], "calls": len(times)}


_libc = ctypes.CDLL(None, use_errno=True)
_FORCE_SYNC, _BASIC = 0x2000, 0x7FF


def stat_anew(path):
    """stat(2), but that the filesystem is asked and not the kernel's cache."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statx(-100, path.encode(), _FORCE_SYNC, _BASIC, buffer):
        raise OSError(ctypes.get_errno(), path)


def forget_names():
    """Has the kernel forget names, inodes and pages that are not in use."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def raise_descriptor_limit():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def some(items, count=CALLS, seed=1):
    """`count` of `items`, at random and each time the same."""
    return random.Random(seed).choices(items, k=count)
