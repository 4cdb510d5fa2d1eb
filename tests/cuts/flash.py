"""Raw flash: memory of the guest's kernel (mtdram) with UBI and UBIFS on it. A cut is what stands in that memory when the machine is stopped, between
any two instructions; what UBIFS and the page cache still hold elsewhere is lost.

The guest's memory is a file. mtdram's pages lie scattered in it: the guest writes a different text into each, twice, and where both appear is the page. Marks go to a region of their own, at a known place (phram).
"""
import json
import mmap
import random
import socket
import subprocess
import time
from dataclasses import dataclass

# As in guest/lib.sh and run.
SIZE = 32 << 20
MARKS_AT, MARKS = 0x0E000000, 256 << 10
SLOT = 32
PAGE = 4096
SIGNATURES = 2


class Monitor:
    """The emulator's control socket (QMP)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command):
        self.socket.sendall(json.dumps({"execute": command}).encode())
        while "return" not in (answer := json.loads(self.lines.readline() or '{"return": "gone"}')):
            assert "error" not in answer, answer
        return answer["return"]


def marks_in(region):
    slots = (region[at:at + SLOT] for at in range(0, len(region), SLOT))
    words = (slot.strip(b"\0\xff ").decode().split() for slot in slots)
    return {(pair[0], int(pair[1])) for pair in words if len(pair) == 2}


@dataclass
class Cut:
    """The pages that changed since the cut before, and the marks."""
    changed: dict
    marks: set


def places(ram, number):
    """Where each page's signature of this number is."""
    found, word = {}, f"wherry page {number} ".encode()
    for at in range(0, len(ram), PAGE):
        if ram[at:at + len(word)] == word:
            found.setdefault(int(ram[at + len(word):at + len(word) + 8].split()[0]), set()).add(at)
    return found


def find_flash(work, monitor, end):
    """Sees the guest through its signatures; answers the place of each page of the flash in the guest's memory."""
    known = None
    for number in range(1, SIGNATURES + 1):
        while f"signed {number}\n" not in open(f"{work}/console", errors="replace").read().replace("\r", ""):
            assert time.monotonic() < end, "the guest does not sign its flash"
            time.sleep(0.1)
        monitor.ask("stop")
        with open(f"{work}/ram", "r+b") as ram:
            found = places(ram.read(), number)
            ram.seek(MARKS_AT + MARKS - SLOT)
            ram.write(f"go {number} ".encode())
        monitor.ask("cont")
        known = {n: found.get(n, set()) & known[n] for n in known} if known else found
    unclear = [n for n in range(SIZE // PAGE) if len(known.get(n, ())) != 1]
    assert not unclear, f"pages of the flash that were not found, or twice: {len(unclear)}"
    return {n: at for n, (at,) in known.items()}


def record(command, work, patience, seed):
    """Runs the guest and stops it at random moments; answers the cuts in their order."""
    with open(f"{work}/console", "wb") as console:
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    try:
        end = time.monotonic() + patience
        while not (monitor := attempt(f"{work}/monitor")) and time.monotonic() < end:
            time.sleep(0.1)
        where = find_flash(work, monitor, end)
        return list(stops(guest, monitor, work, where, random.Random(f"flash {seed}"), end))
    finally:
        guest.kill()
        guest.wait()


def stops(guest, monitor, work, where, rng, end):
    before = dict.fromkeys(where)
    with open(f"{work}/ram", "rb") as file:
        ram = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    while guest.poll() is None and time.monotonic() < end:
        time.sleep(rng.uniform(0, 0.4))
        try:
            monitor.ask("stop")
            marks = marks_in(ram[MARKS_AT:MARKS_AT + MARKS - SLOT])
            changed = {n: page for n, at in where.items() if (page := ram[at:at + PAGE]) != before[n]} if marks else {}
            monitor.ask("cont")
        except OSError:
            return
        before.update(changed)
        if marks:
            yield Cut(changed, marks)


def attempt(path):
    try:
        return Monitor(path)
    except OSError:
        return None


def rebuild(cuts, number, path, at):
    """Writes the flash as it was at this cut to the place `at` of the file."""
    image = {}
    for cut in cuts[:number + 1]:
        image.update(cut.changed)
    with open(path, "ab"):
        pass
    with open(path, "r+b") as out:
        for number, page in image.items():
            out.seek(at + number * PAGE)
            out.write(page)
