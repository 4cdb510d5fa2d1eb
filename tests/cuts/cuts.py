#!/usr/bin/python3 -B
"""Power cuts: what `run` calls, and what it does not do itself (the emulator).

    cuts.py make DIRECTORY PROGRAM BUSYBOX SEED      what the guest gets; facts for the oracle
    cuts.py flash WORK SECONDS CUTS SEED             runs the guest that works on raw flash, and stops it at random; then as the next
    cuts.py nand WORK CUTS SEED                      recovers from the copies that a guest made of its own NAND flash
    cuts.py cut WORK FILE-SYSTEM CUTS SEED           chooses the cuts (`-`: the usual number) and recovers from each; says what was wrong
"""
import json
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue

import disk
import flash
import nand
import oracle
import scenario

# The file system, and behind it the marks.
SIZE = 64 << 20
WORKERS = 2
# Cuts of a disk that lies, of which some must be noticed.
LIES = 8
# Cuts where nobody says how many: on this machine, and in emulated guests.
USUAL = {True: 300, False: 60}


def make(directory, program, busybox, seed):
    facts = scenario.make(directory, program, busybox, int(seed))
    with open(f"{directory}/../facts.json", "w") as out:
        json.dump(facts, out)


def mark(write):
    """The mark that this write is: its kind and the number of an operation."""
    if write.at < SIZE or not write.data:
        return None
    kind, number = write.data.decode().split()
    return kind, int(number)


def marks_before(writes, cut):
    return {mark(w) for w in writes[:cut]} - {None}


def check_marks(writes, operations):
    """Each mark must be there once, in its order: otherwise a cut would be held against the wrong state."""
    marks = [found for found in map(mark, writes) if found]
    bare = [found for found in marks if found[0] != "took"]
    assert bare == [(kind, n) for n in range(len(operations)) for kind in ("begin", "done")], f"the marks are not in order: {marks}"


def begin_of(writes):
    """The first entry that belongs to the scenario: cuts in the midst of mkfs and of its preparation are nobody's concern."""
    return next(n for n, w in enumerate(writes) if mark(w))


def choose(writes, count, rng):
    """Half of the cuts right before a flush ends, where most is at stake; the others anywhere."""
    first = begin_of(writes)
    flushes = [n for n, w in enumerate(writes) if w.flush and n > first]
    ends = rng.sample(flushes, min(len(flushes), count // 2))
    cuts = [(n, rng.choice(["lost", "lost", "some"])) for n in ends]
    cuts += [(rng.randint(first, len(writes)), rng.choice(["lost", "kept", "some", "some"])) for _ in range(count - len(cuts))]
    return sorted(cuts)


def recorded(path):
    """What the guest said while it was recorded: its layers, and how each deployment came out."""
    layers, outcomes, whole = {}, {}, False
    with open(path, errors="replace") as console:
        for line in console:
            match line.split():
                case ["layer", name, digest]:
                    assert layers.setdefault(name, digest) == digest, f"layer {name} changes while it is in use"
                case ["outcome", number, *outcome]:
                    outcomes[int(number)] = " ".join(outcome)
                case ["all", "operations", "done"]:
                    whole = True
    return layers, outcomes, whole


def unexpected(facts, outcomes):
    """Operations that did not come out as they must."""
    versions = {tuple(key): value for key, value in facts["versions"]}
    wanted = {}
    for number, verb, words in facts["operations"]:
        if verb == "apply":
            wanted[number] = "failed" if versions[(words[0], int(words[1]))][1] else "running"
    return {n: (outcomes.get(n), wanted.get(n)) for n in outcomes.keys() | wanted.keys() if outcomes.get(n) != wanted.get(n)}


class Recording:
    def __init__(self, work):
        self.work = work
        with open(f"{work}/facts.json") as file:
            self.facts = json.load(file)
        self.layers, outcomes, whole = recorded(f"{work}/console")
        wrong = unexpected(self.facts, outcomes)
        if wrong or not whole:
            sys.exit(f"cuts: the recording went wrong: {wrong or 'it ended early'}")
        self.operations = [oracle.Operation(n, verb, words) for n, verb, words in self.facts["operations"]]
        self.judge = oracle.Judge(self.facts, self.layers)


class Disk(Recording):
    """A disk's writes. A cut is the number of a write, and what becomes of those that no flush has confirmed."""
    size = SIZE

    def __init__(self, work, kind):
        super().__init__(work)
        self.kind = kind
        self.writes = disk.read_log(f"{work}/log")
        check_marks(self.writes, self.operations)

    def choose(self, count, rng):
        return choose(self.writes, count, rng)

    def lies(self, rng):
        return [(rng.randint(begin_of(self.writes) + 50, len(self.writes)), "lying") for _ in range(LIES)]

    def about(self):
        flushes = sum(w.flush for w in self.writes)
        return f"{len(self.writes)} writes, {flushes} flushes, {sum(w.length for w in self.writes) >> 20} MiB"

    def checked(self, path):
        return checked(self.kind, path)

    def rebuild(self, cut, how, rng, path, at=0):
        disk.rebuild(f"{self.work}/base", self.writes, cut, how, rng, path, at, SIZE)

    def worlds(self, cut):
        return oracle.allowed(self.operations, marks_before(self.writes, cut), self.judge.images)


class Flash(Recording):
    """Raw flash as it was at many moments. A cut is the number of a moment; on a flash that lies, it has the content of an earlier one."""
    kind, size = "ubifs", flash.SIZE

    def __init__(self, work, cuts):
        super().__init__(work)
        self.cuts = cuts

    def choose(self, count, rng):
        return [(n, "as it is") for n in sorted(rng.sample(range(len(self.cuts)), min(count, len(self.cuts))))]

    def lies(self, rng):
        return [(rng.randint(40, len(self.cuts) - 1), "lying") for _ in range(LIES)]

    def about(self):
        return f"{len(self.cuts)} moments"

    def checked(self, path):
        return []

    def rebuild(self, cut, how, rng, path, at=0):
        flash.rebuild(self.cuts, cut - 30 if how == "lying" else cut, path, at)

    def worlds(self, cut):
        return oracle.allowed(self.operations, self.cuts[cut].marks, self.judge.images)


class Nand(Recording):
    """A NAND flash as it was at many moments. A cut is the number of a moment; one that lies has the content of an earlier one."""
    kind, size = "nand", nand.SIZE

    def __init__(self, work):
        super().__init__(work)
        self.marks = nand.marks(f"{work}/samples")

    def choose(self, count, rng):
        return [(n, "as it is") for n in range(len(self.marks))]

    def lies(self, rng):
        return [(rng.randint(len(self.marks) // 2, len(self.marks) - 1), "lying") for _ in range(LIES)]

    def about(self):
        return f"{len(self.marks)} moments"

    def checked(self, path):
        return []

    def rebuild(self, cut, how, rng, path, at=0):
        nand.rebuild(f"{self.work}/samples", cut - len(self.marks) // 3 if how == "lying" else cut, path, at)

    def worlds(self, cut):
        return oracle.allowed(self.operations, self.marks[cut], self.judge.images)


# ---- recovery on this machine ----

@contextmanager
def recoverer(work, number):
    """A shell in namespaces of its own, in which one disk after the other is recovered from."""
    script = f'. "{work}/tools/guest/lib.sh"; prepare "{work}/tools" "wherry/cuts-{os.getpid()}-{number}"; ' \
        'while read -r kind disk; do /mnt/guest/observe "$kind" "$disk" 2>&1; done'
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
    shell = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace")
    try:
        yield shell
    finally:
        shell.stdin.close()
        shell.wait()


def observe(shell, kind, path):
    shell.stdin.write(f"{kind} {path}\n")
    shell.stdin.flush()
    lines = []
    for line in shell.stdout:
        if line == "end\n":
            return lines
        lines.append(line.rstrip("\n"))
    raise RuntimeError("the shell that recovers has ended: " + " ".join(lines[-3:]))


FSCK = {"ext4": ["e2fsck", "-fn"], "f2fs": ["fsck.f2fs", "--dry-run"]}


def checked(kind, path):
    """Faults that the file system's own checker finds, once keeper has recovered and the disk is unmounted."""
    done = subprocess.run([*FSCK[kind], path], capture_output=True, text=True, env={**os.environ, "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    said = done.stdout + done.stderr
    bad = done.returncode != 0 or "[Fail]" in said
    return ["the file system is damaged: " + " ".join(said.split())[-300:]] if bad else []


def here(recording, cuts, seed):
    """Recovers from the cuts natively; answers the lines of each."""
    found, todo = {}, Queue()
    for n, cut in enumerate(cuts):
        todo.put((n, *cut))

    def work(number):
        path = f"{recording.work}/disk-{number}"
        with recoverer(recording.work, number) as shell:
            while not todo.empty():
                n, cut, how = todo.get()
                open(path, "wb").close()
                recording.rebuild(cut, how, random.Random(f"{seed} {n} {cut}"), path)
                lines = observe(shell, recording.kind, path)
                found[n] = (lines, recording.checked(path))
        os.unlink(path)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))
    return [found[n] for n in range(len(cuts))]


# ---- recovery in guests ----

def batch(recording, number, share, seed):
    """One guest recovers from its share of the cuts, one after the other."""
    path = f"{recording.work}/disks-{number}"
    for place, (n, cut, how) in enumerate(share):
        recording.rebuild(cut, how, random.Random(f"{seed} {n} {cut}"), path, place * recording.size)
    with open(f"{recording.work}/emulate") as file:
        command = [word.replace("DISKS", path) for word in file.read().split("\0")[:-1]]
    console = subprocess.run(["timeout", "--signal", "KILL", str(60 + 20 * len(share)), *command], stdin=subprocess.DEVNULL,
                             capture_output=True, text=True, errors="replace", env={**os.environ, "TMPDIR": recording.work}).stdout
    parts = [part.split("\n") for part in console.replace("\r", "").split("\nend\n")]
    if len(parts) <= len(share):
        sys.exit(f"cuts: the guest that recovers ended early: {' '.join(console.split()[-40:])}")
    found = {}
    for place, (n, _, _) in enumerate(share):
        disk.extract(path, place * recording.size, recording.size, f"{path}.one")
        found[n] = (parts[place], recording.checked(f"{path}.one"))
    os.unlink(path)
    return found


def there(recording, cuts, seed):
    """Recovers from the cuts in guests; answers the lines of each."""
    numbered = [(n, *cut) for n, cut in enumerate(cuts)]
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = pool.map(lambda number: batch(recording, number, numbered[number::WORKERS], seed), range(WORKERS))
        found = {n: lines for share in shares for n, lines in share.items()}
    return [found[n] for n in range(len(cuts))]


def judged(recording, cuts, found):
    """The cuts with faults."""
    out = []
    for (cut, how), (lines, damage) in zip(cuts, found):
        faults = recording.judge.faults(oracle.read(lines), recording.worlds(cut)) + damage
        if faults:
            out.append((cut, how, faults, lines))
    return out


def tell(bad, shown=8):
    for cut, how, faults, lines in bad[:shown]:
        print(f"cut before write {cut}, unconfirmed writes {how}:")
        for line in faults + [f"    {line}" for line in lines if line.startswith(("said", "ls", "program"))]:
            print(f"    {line}")


def report(recording, count, seed):
    rng = random.Random(f"cuts {seed}")
    with open("/proc/filesystems") as file:
        native = recording.kind in file.read().split()
    cuts = recording.choose(int(count) if count != "-" else USUAL[native], rng)
    lies = recording.lies(rng)
    found = (here if native else there)(recording, cuts + lies, seed)
    bad = judged(recording, cuts, found)
    noticed = judged(recording, lies, found[len(cuts):])
    tell(bad)
    print(f"{recording.kind}: {recording.about()}; {len(cuts)} cuts {dict(Counter(how for _, how in cuts))}: {len(bad)} with faults; "
          f"of {LIES} that lie {len(noticed)} noticed")
    failed = len(bad) + (not noticed)
    print(f"test result: power cuts on {recording.kind}. {len(cuts) + 1 - failed} passed; {failed} failed")
    return int(failed > 0)


def cut(work, kind, count, seed):
    return report(Disk(work, kind), count, seed)


def of_nand(work, count, seed):
    return report(Nand(work), count, seed)


def record_flash(work, patience, count, seed):
    with open(f"{work}/emulate") as file:
        start, then = (part.split("\0")[:-1] for part in file.read().split("NEXT\0"))
    cuts = flash.record(start, work, int(patience), seed)
    with open(f"{work}/emulate", "w") as file:
        file.write("".join(word + "\0" for word in then))
    return report(Flash(work, cuts), count, seed)


if __name__ == "__main__":
    sys.exit({"make": make, "cut": cut, "flash": record_flash, "nand": of_nand}[sys.argv[1]](*sys.argv[2:]))
