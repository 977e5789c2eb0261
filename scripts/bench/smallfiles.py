"""Loops over small files, in one process for each job. Run as a program of its own, so that what
else the harness has in memory does not matter, and nothing is left when it is killed:

    python3 -m bench.smallfiles ACTION DIR FILES JOBS

prints the seconds from the moment that all jobs were let go until the last one was done."""

import os
import sys
import time

CONTENT = os.urandom(4096)


def create(path):
    """Makes a file of 4 KiB."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, CONTENT)
    os.close(fd)


def read(path):
    """Reads a file of 4 KiB, and looks for its end as programs do."""
    fd = os.open(path, os.O_RDONLY)
    got = len(os.read(fd, 8192)) + len(os.read(fd, 8192))
    os.close(fd)
    if got != len(CONTENT):
        raise OSError(f"{path} has {got} bytes")


ACTIONS = {"create": create, "stat": os.stat, "read": read, "unlink": os.unlink}


def main(action, directory, files, jobs):
    """Shares the files out among the jobs, each with a directory of its own."""
    share = files // jobs
    names = [[f"{directory}/{job}/{i}" for i in range(share)] for job in range(jobs)]
    if action == "create":
        for job in range(jobs):
            os.mkdir(f"{directory}/{job}")
    gate, opener = os.pipe()
    children = []
    for job in range(jobs):
        child = os.fork()
        if child == 0:
            os.close(opener)
            os.read(gate, 1)
            os._exit(_loop(ACTIONS[action], names[job]))
        children.append(child)
    # All have been forked; they wait until the pipe is closed.
    begin = time.perf_counter()
    os.close(opener)
    codes = [os.waitpid(child, 0)[1] for child in children]
    seconds = time.perf_counter() - begin
    if action == "unlink":
        for job in range(jobs):
            os.rmdir(f"{directory}/{job}")
    return None if any(codes) else seconds


def _loop(action, paths):
    try:
        for path in paths:
            action(path)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    took = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    if took is None:
        sys.exit(1)
    print(took)
