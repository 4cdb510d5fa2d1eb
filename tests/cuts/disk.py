"""What was written to a disk, in order, and the disk as a power cut would have left it.

The log is that of QEMU's blklogwrites filter, which is the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst).
"""
import os
import struct
from dataclasses import dataclass

SECTOR = 512
# A disk writes so much at once or not at all: f2fs relies on it, and ext4 with a block of 1 KiB does not notice.
PIECE = 4096
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
# Flushes that a disk that lies has not made.
LIE = 10
ENTRY = struct.Struct("<QQQQ")


@dataclass
class Write:
    """One entry of the log; `data` is None for a discard, empty for a flush."""
    at: int
    data: bytes | None
    length: int
    flush: bool
    forced: bool


def read_log(path):
    """All entries. The count in the log's head lags behind, so the walk goes on to the end."""
    found = []
    size = os.path.getsize(path)
    with open(path, "rb") as log:
        magic, _, _, sector = struct.unpack("<QQQI", log.read(28))
        assert magic == MAGIC and sector == SECTOR, "this is no log of blklogwrites"
        log.seek(sector)
        while log.tell() + sector <= size:
            first, count, flags, _ = ENTRY.unpack(log.read(sector)[:ENTRY.size])
            if not (count or flags):
                break
            data = None if flags & DISCARD else log.read(count * sector)
            found.append(Write(first * sector, data, count * sector, bool(flags & FLUSH), bool(flags & FUA)))
    return found


def pieces(write):
    for start in range(0, write.length, PIECE):
        size = min(PIECE, write.length - start)
        yield write.at + start, bytes(size) if write.data is None else write.data[start:start + size]


def survivors(writes, cut, how, rng):
    """The writes that are on the disk after a power cut before the entry `cut`, as pairs of place and bytes.

    `lost`: none that no flush has confirmed. `kept`: all. `some`: a random half of those, piece by piece, which is also every order.
    `lying`: the disk confirmed the last flushes without any, and has nothing of what came since.
    """
    flushes = [n for n in range(cut) if writes[n].flush]
    back = LIE if how == "lying" else 1
    flushed = flushes[-back] if len(flushes) >= back else 0
    share = {"kept": 1, "some": 0.5}.get(how, 0)
    for n, write in enumerate(writes[:cut]):
        if n < flushed or write.forced:
            yield from pieces(write)
        elif share:
            yield from (piece for piece in pieces(write) if rng.random() < share)


def write_sparse(out, at, image):
    """Leaves holes where there is nothing."""
    empty = bytes(PIECE)
    for start in range(0, len(image), PIECE):
        piece = image[start:start + PIECE]
        if piece != empty:
            out.seek(at + start)
            out.write(piece)
    out.truncate(max(at + len(image), out.seek(0, os.SEEK_END)))


def rebuild(base, writes, cut, how, rng, path, at, size):
    """Writes the disk without what lies behind `size` to the place `at` of the file `path`, where there must be nothing yet."""
    with open(base, "rb") as file:
        image = bytearray(file.read())
    for place, data in survivors(writes, cut, how, rng):
        image[place:place + len(data)] = data
    with open(path, "r+b" if os.path.exists(path) else "w+b") as out:
        write_sparse(out, at, image[:size])


def extract(path, at, size, target):
    """Copies one disk out of the file of many."""
    with open(path, "rb") as file, open(target, "wb") as out:
        file.seek(at)
        write_sparse(out, 0, file.read(size))
