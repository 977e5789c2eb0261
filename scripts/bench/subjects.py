"""What is measured: how each filesystem is made and mounted, as its manual says and with its own
defaults. All stay in the foreground, so that the process that serves the mount is known."""

import os
import re
import secrets
import shutil
import subprocess
import time

from .processes import Failed, kill_group, most_memory_mib, run

#: What a mount may take until it is there, and an unmount until the process has ended. Deriving a
#: key from a password is part of the first.
MOUNT_SECONDS = 180
UNMOUNT_SECONDS = 120

PASSWORD = secrets.token_hex(16)


class Subject:
    """A filesystem to measure. `package` is the Debian package, if it is in one."""

    name = ""
    title = ""
    package = None
    options = "defaults"

    def version(self):
        """What identifies the program that is measured."""
        raise NotImplementedError

    def create(self, place):
        """Makes an empty encrypted directory in `place.cipher`."""

    def mount_command(self, place):
        """The program that serves `place.cipher` at `place.mnt` until it is unmounted."""
        raise NotImplementedError

    def environment(self, place):
        """Variables for both."""
        del place
        return {}

    stdin = None


class Plain(Subject):
    """The backing filesystem itself."""

    name = "plain"
    title = "backing alone"

    def version(self):
        return os.uname().release


class Kmsfs(Subject):
    """kmsfs, with a key file: so no key is derived from a password."""

    name = "kmsfs"
    title = "kmsfs"

    def __init__(self, program, options=None, name="kmsfs", aead=None):
        self.program = program
        self.name = name
        self.title = name
        self.aead = aead
        self.mount_options = ["-o", options] if options else []
        if options:
            self.title += f" -o {options}"
            self.options = f"-o {options}"

    def version(self):
        return run([self.program, "--version"], timeout=20).strip().removeprefix("kmsfs ")

    def environment(self, place):
        variables = {"KMSFS_KEYSTORE": str(place.home / "keys")}
        if self.aead:
            variables["KMSFS_AEAD"] = self.aead
        return variables

    def create(self, place):
        key = place.home / "key-file"
        key.write_bytes(os.urandom(32))
        argv = [self.program, "--key-file", str(key), "init", str(place.cipher)]
        run(argv, timeout=MOUNT_SECONDS, env=place.environment(self))

    def mount_command(self, place):
        key = str(place.home / "key-file")
        argv = [self.program, "--key-file", key, "mount", "-f", *self.mount_options]
        return [*argv, str(place.cipher), str(place.mnt)]


class Bridge(Kmsfs):
    """kmsfs without encryption of contents: what FUSE and all around the cipher take."""

    def __init__(self, program):
        super().__init__(program, name="bridge", aead="copy")
        self.title = "kmsfs, contents copied"
        self.options = "feature copy-cipher, KMSFS_AEAD=copy"


class Gocryptfs(Subject):
    """https://github.com/rfjakob/gocryptfs"""

    name = title = package = "gocryptfs"

    def version(self):
        return run(["gocryptfs", "--version"], timeout=20).split(";")[0].removeprefix("gocryptfs ")

    def create(self, place):
        (place.home / "password").write_text(PASSWORD + "\n")
        argv = ["gocryptfs", "-init", "-q", "-passfile", str(place.home / "password"), str(place.cipher)]
        run(argv, timeout=MOUNT_SECONDS)

    def mount_command(self, place):
        passfile = str(place.home / "password")
        return ["gocryptfs", "-fg", "-q", "-passfile", passfile, str(place.cipher), str(place.mnt)]


class Securefs(Subject):
    """https://github.com/netheril96/securefs"""

    name = title = package = "securefs"

    def version(self):
        return package_version("securefs")

    def create(self, place):
        run(["securefs", "create", "--pass", PASSWORD, str(place.cipher)], timeout=MOUNT_SECONDS)

    def mount_command(self, place):
        return ["securefs", "mount", "--pass", PASSWORD, str(place.cipher), str(place.mnt)]


class Encfs(Subject):
    """https://github.com/vgough/encfs. Its standard configuration authenticates no contents. The
    first mount makes the encrypted directory."""

    name = title = package = "encfs"
    options = "--standard"
    stdin = PASSWORD + "\n"

    def version(self):
        return package_version("encfs")

    def mount_command(self, place):
        return ["encfs", "--standard", "--stdinpass", "-f", str(place.cipher), str(place.mnt)]


class Cryfs(Subject):
    """https://www.cryfs.org. The first mount makes the encrypted directory."""

    name = title = package = "cryfs"
    stdin = PASSWORD + "\n"

    def version(self):
        return package_version("cryfs")

    def environment(self, place):
        return {
            "CRYFS_FRONTEND": "noninteractive",
            "CRYFS_NO_UPDATE_CHECK": "true",
            "CRYFS_LOCAL_STATE_DIR": str(place.home / "state"),
        }

    def mount_command(self, place):
        return ["cryfs", "-f", str(place.cipher), str(place.mnt)]


PEERS = {peer.name: peer for peer in (Gocryptfs, Securefs, Encfs, Cryfs)}


def package_version(package):
    """A version as dpkg knows it, else what the program says."""
    try:
        return run(["dpkg-query", "-W", "-f", "${Version}", package], timeout=20).strip()
    except (Failed, FileNotFoundError):
        return "unknown"


def install(packages):
    """Installs Debian packages, one at a time; answers why not, by package."""
    why = {}
    if not packages:
        return why
    if not shutil.which("apt-get"):
        return {package: "it is not installed, and there is no apt-get" for package in packages}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(["apt-get", "update"], timeout=600, env=environment)
    except Failed as error:
        return {package: f"it is not installed, and {error}" for package in packages}
    for package in packages:
        try:
            argv = ["apt-get", "install", "--yes", "--no-install-recommends", package]
            run(argv, timeout=900, env=environment)
        except Failed as error:
            why[package] = f"it could not be installed: {error}"
    return why


class Place:
    """Where a subject is: its ciphertext in the backing filesystem, its mount point, and a
    directory for its passwords and settings."""

    def __init__(self, subject, backing, work):
        self.cipher = backing / subject.name / "cipher"
        self.mnt = work / subject.name / "mnt"
        self.home = work / subject.name / "home"
        for directory in (self.cipher, self.mnt, self.home):
            directory.mkdir(parents=True)
        if isinstance(subject, Plain):
            self.mnt = self.cipher

    def environment(self, subject):
        """The variables that a subject's programs get: this program's, but none that configures
        kmsfs or CryFS."""
        others = {k: v for k, v in os.environ.items() if not re.match("KMSFS_|CRYFS_", k)}
        return {**others, "HOME": str(self.home), **subject.environment(self)}


class Mounted:
    """A subject that is mounted; `directory` is where to work."""

    def __init__(self, subject, place):
        self.subject = subject
        self.place = place
        self.directory = place.mnt
        self.process = None
        self.failure = None
        if isinstance(subject, Plain):
            return
        subject.create(place)
        self._log = open(place.home / "log", "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            subject.mount_command(place),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=place.environment(subject),
            text=True,
            start_new_session=True,
        )
        try:
            self._wait_until_mounted()
        except BaseException:
            # It might still mount.
            kill_group(self.process)
            self.unmount()
            raise

    def _wait_until_mounted(self):
        try:
            self.process.stdin.write(self.subject.stdin or "")
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        deadline = time.monotonic() + MOUNT_SECONDS
        while not os.path.ismount(self.directory):
            if self.process.poll() is not None:
                raise Failed(f"its process ended with {self.process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"it was not mounted after {MOUNT_SECONDS} s: {self._last_words()}")
            time.sleep(0.01)
        # It may be listed before it answers.
        os.listdir(self.directory)

    def _last_words(self):
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "no message"

    @property
    def pid(self):
        """The process that serves the mount; `None` for the backing filesystem itself."""
        return self.process.pid if self.process else None

    def memory_mib(self):
        """The most memory that the process has had; `None` if there is none."""
        return most_memory_mib(self.pid) if self.pid and self.process.poll() is None else None

    def unmount(self):
        """Unmounts, by force if it must be, and waits for the process to end."""
        if not self.process:
            return
        for _ in range(20):
            if self.process.poll() is not None or not os.path.ismount(self.directory):
                break
            if subprocess.run(["umount", self.directory], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                break
            time.sleep(0.25)
        try:
            self.process.wait(1 if _is_mounted(self.directory) else UNMOUNT_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        if _is_mounted(self.directory):
            subprocess.run(["umount", "-l", self.directory], check=False)
        if self.process.poll() is None:
            kill_group(self.process)
        self._log.close()


def _is_mounted(directory):
    """As the kernel lists it: also if the process behind it is dead."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        return any(line.split()[4] == str(directory) for line in mounts)
