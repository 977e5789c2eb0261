"""What grows, and what is timed at each point of its growth.

Each axis answers points: {"at": size, "rows": {row: quartiles in microseconds}, "memory": KiB}.
"""

import functools
import os
import random

from world import CALLS, KEY_ATTRIBUTE, Service, forget_names, some, stat_anew, timed

MIB = 1 << 20
BLOCK = 4096


def file_size(world, sizes, dense):
    """Operations on one file of a size, all of it written or nearly all of it hole."""
    world.begin()
    for size in sizes:
        path = f"{world.mount}/file"
        with open(path, "wb") as file:
            piece = os.urandom(MIB)
            for _ in range(size // MIB if dense else 0):
                file.write(piece)
            file.truncate(size)
        world.end()
        start = world.begin()
        blocks = size // BLOCK
        at = [block * BLOCK for block in random.Random(size).sample(range(blocks), min(CALLS, blocks))]
        fd = os.open(path, os.O_RDWR)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        block = os.urandom(BLOCK)
        rows = {"write 4 KiB at random": timed([functools.partial(os.pwrite, fd, block, o) for o in at])}
        os.fsync(fd)
        forget_names()
        rows["read 4 KiB at random"] = timed([functools.partial(os.pread, fd, BLOCK, o) for o in at])
        end = [size + i * BLOCK for i in range(CALLS)]
        rows["append 4 KiB"] = timed([functools.partial(os.pwrite, fd, block, o) for o in end])
        os.close(fd)
        rows["open and close"] = timed([functools.partial(open_close, path)] * CALLS)
        rows["stat"] = timed([functools.partial(stat_anew, path)] * CALLS)
        yield {"at": size, "rows": rows, "memory": world.memory(), "mount_ms": start}
        os.unlink(path)


def directory_size(world, sizes):
    """Operations in one directory that holds so many empty files."""
    world.begin()
    directory = f"{world.mount}/directory"
    os.mkdir(directory)
    made = 0
    for size in sizes:
        while made < size:
            os.close(os.open(f"{directory}/{made}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            made += 1
        # What the kernel and the mount know of it is gone.
        world.end()
        start = world.begin()
        names = [f"{directory}/{i}" for i in random.Random(size).sample(range(size), min(CALLS, size))]
        rows = {"find a name": timed([functools.partial(os.stat, name) for name in names])}
        listed = timed([functools.partial(list_all, directory, size)])
        rows["list, per entry"] = {key: took / size for key, took in listed.items()} | {"calls": size}
        new = [f"{directory}/new-{i}" for i in range(CALLS)]
        rows["create"] = timed([functools.partial(create, name) for name in new])
        rows["unlink"] = timed([functools.partial(os.unlink, name) for name in new])
        yield {"at": size, "rows": rows, "memory": world.memory(), "mount_ms": start}


def open_files(world, counts):
    """Operations on one of so many open files, and beside them."""
    world.begin()
    held, block = [], os.urandom(BLOCK)
    other = f"{world.mount}/other"
    create(other)
    for count in counts:
        while len(held) < count:
            fd = os.open(f"{world.mount}/{len(held)}", os.O_CREAT | os.O_RDWR)
            os.write(fd, block)
            held.append(fd)
        forget_names()
        chosen = some(held)
        rows = {"read 4 KiB": timed([functools.partial(read_anew, fd) for fd in chosen])}
        rows["write 4 KiB"] = timed([functools.partial(os.pwrite, fd, block, 0) for fd in chosen])
        rows["open and close"] = timed([functools.partial(open_close, other)] * CALLS)
        yield {"at": count, "rows": rows, "memory": world.memory()}
    for fd in held:
        os.close(fd)


def master_keys(world, counts):
    """Calls of the key service with so many keys, and files of which each is under a key of its own."""
    ids = []
    world.begin()
    for count in counts:
        service = Service(world.store)
        while len(ids) < count:
            ids.append(service.call("CreateKey")["KeyMetadata"]["KeyId"])
            directory = f"{world.mount}/{len(ids) - 1}"
            os.mkdir(directory)
            os.setxattr(directory, KEY_ATTRIBUTE, ids[-1].encode())
            with open(f"{directory}/file", "wb") as file:
                file.write(b"x" * BLOCK)
        service.close()
        world.end()
        start = world.begin()
        service = Service(world.store)
        chosen = some(ids)
        rows = {
            "DescribeKey": timed([functools.partial(service.call, "DescribeKey", KeyId=key) for key in chosen]),
            "GenerateDataKey": timed(
                [functools.partial(service.call, "GenerateDataKey", KeyId=key, KeySpec="AES_256") for key in chosen]
            ),
        }
        service.close()
        files = [f"{world.mount}/{i}/file" for i in some(range(count))]
        for file in files:
            os.stat(file)
        rows["open, read and close"] = timed([functools.partial(read_file, file) for file in files])
        yield {"at": count, "rows": rows, "memory": world.memory(), "mount_ms": start}


def cache_pressure(world, counts):
    """Opening and reading one of so many files in turn, when each was opened once before."""
    world.begin()
    made = 0
    for count in counts:
        while made < count:
            directory = f"{world.mount}/{made // 1000}"
            if made % 1000 == 0:
                os.mkdir(directory)
            with open(f"{directory}/{made}", "wb") as file:
                file.write(b"x" * BLOCK)
            made += 1
        paths = [f"{world.mount}/{i // 1000}/{i}" for i in range(count)]
        for path in paths:
            read_file(path)
        # The kernel keeps pages and attributes: it has to open the file, and only that, each time.
        chosen = some(paths)
        rows = {"open, read and close": timed([functools.partial(read_file, path) for path in chosen])}
        rows["stat"] = timed([functools.partial(stat_anew, path) for path in chosen])
        yield {"at": count, "rows": rows, "memory": world.memory()}


def open_close(path):
    os.close(os.open(path, os.O_RDONLY))


def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def read_file(path):
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, BLOCK)
    os.close(fd)


def read_anew(fd):
    # The kernel has no page of it then, and asks.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(fd, BLOCK, 0)


def list_all(directory, size):
    with os.scandir(directory) as entries:
        found = sum(1 for _ in entries)
    if found < size:
        raise RuntimeError(f"{directory} lists {found} of {size} entries")
