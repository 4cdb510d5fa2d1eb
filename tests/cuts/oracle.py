"""What must be there after a power cut: from the operations of a scenario, and from the marks that were written before the cut.

An operation that was confirmed is there. One that was begun is there wholly, or not at all. One that keeper had accepted is there.
"""
import json
import re
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class App:
    """An app as it should be: the newest document, the version that runs, and whether a person holds it stopped."""
    newest: tuple = ()
    runs: tuple = ()
    held: bool = False


@dataclass(frozen=True)
class World:
    """All apps, and the number of the program on the disk; 0 stands for any, in the midst of an installation."""
    apps: tuple = ()
    program: int = 1

    def app(self, name):
        return dict(self.apps).get(name)

    def having(self, name, app):
        apps = {**dict(self.apps), name: app}
        return replace(self, apps=tuple(sorted((k, v) for k, v in apps.items() if v)))


@dataclass
class Operation:
    number: int
    verb: str
    words: list = field(default_factory=list)

    def done(self, world, images):
        """The world after it."""
        name = self.words[0]
        app = world.app(name)
        if self.verb == "apply":
            version = (name, int(self.words[1]))
            failed = images[version][1]
            return world.having(name, App(version, app.runs if failed and app else version))
        if self.verb in ("stop", "start"):
            return world.having(name, replace(app, held=self.verb == "stop"))
        if self.verb == "rm":
            return world.having(name, None)
        if self.verb == "upgrade":
            return replace(world, program=int(name))
        return world

    def under_way(self, world, images):
        """The worlds that may be found while nobody has confirmed it."""
        if self.verb == "upgrade":
            return [replace(world, program=0)]
        return [world, self.done(world, images)]


def allowed(operations, marks, images):
    """The worlds that may be found with these marks, pairs of kind and number, on the disk."""
    world = World()
    for operation in operations:
        if ("done", operation.number) in marks or ("took", operation.number) in marks:
            world = operation.done(world, images)
        elif ("begin", operation.number) in marks:
            return operation.under_way(world, images)
        else:
            break
    return [world]


@dataclass
class Found:
    """What `observe` printed of one disk."""
    ls: list = field(default_factory=list)
    logs: dict = field(default_factory=dict)
    files: set = field(default_factory=set)
    layers: list = field(default_factory=list)
    program: str = ""
    faults: list = field(default_factory=list)
    said: list = field(default_factory=list)
    left: str = ""


def read(lines):
    found = Found()
    for line in lines:
        word, _, rest = line.partition(" ")
        match word:
            case "ls":
                found.ls = json.loads(rest)
            case "log":
                app, _, text = rest.partition(" ")
                found.logs[app] = text
            case "file":
                found.files.add(rest.removeprefix("./"))
            case "layer":
                found.layers.append(tuple(rest.split()))
            case "program":
                found.program = rest
            case "left":
                found.left = rest
            case "said":
                found.said.append(rest)
            case "unmountable" | "unmountable:" | "silent" | "unsettled" | "busy" | "damaged:":
                found.faults.append(line)
    if not found.faults and found.left != "0":
        found.faults.append(f"keeper left with {found.left}")
    return found


class Judge:
    """Compares what was found with what may be."""

    def __init__(self, facts, layers):
        self.facts = facts
        self.layers = layers
        self.images = {tuple(key): value for key, value in facts["versions"]}

    def faults(self, found, worlds):
        """Every fault that would remain in the world that fits best."""
        faults = list(found.faults)
        faults += [f"layer {name[:12]} is not what it was" for name, digest in found.layers if self.layers.get(name) != digest]
        if not found.faults:
            faults += min((self.differences(found, world) for world in worlds), key=len)
        return faults

    def differences(self, found, world):
        out = []
        apps = {row["app"]: row for row in found.ls}
        for name in ("web", "db"):
            out += self.app(name, world.app(name), apps.get(name), found.logs.get(name))
        if world.program and found.program != self.facts["sums"][world.program - 1]:
            out.append(f"the program on the disk is not number {world.program}: {found.program[:12]}")
        return out + self.left_over(found, world)

    def app(self, name, wanted, row, log):
        if not wanted or not row:
            return [] if not wanted and not row else [f"{name}: {row and row['state']} instead of {wanted}"]
        container = row["containers"][0]["state"] if row["containers"] else "none"
        out = []
        if row["sha256"] != self.facts["documents"][f"{wanted.newest[0]}-{wanted.newest[1]}"]:
            out.append(f"{name}: another document is the newest than {wanted.newest}")
        if wanted.held:
            return out + ([f"{name}: {container}, although it is held"] if container == "running" else [])
        image, _ = self.images[wanted.runs]
        if container != "running" or log != f"version {wanted.runs[1]} of {image}":
            out.append(f"{name}: {container}, {log!r} instead of {wanted}")
        return out

    def left_over(self, found, world):
        """Files that nobody needs any more, and needed ones that are not there."""
        versions = {v for _, app in world.apps for v in (app.newest, app.runs)}
        images = {self.images[v][0] for v in versions}
        layers = {layer for image in images for layer in self.facts["layers"][image]}
        out = []
        there = {f.removeprefix("layers/") for f in found.files if f.startswith("layers/")}
        if there != layers:
            out.append(f"layers: {sorted(x[:8] for x in there ^ layers)} too many or too few")
        count = sum(f.startswith("images/") for f in found.files)
        if count != len(images):
            out.append(f"{count} image records instead of {len(images)}")
        known = re.compile(r"(images|layers|manifests)/[0-9a-f]{64}(\.json)?|images|layers|manifests|staging|state\.[ab]|reserve")
        out += [f"left over: {f}" for f in sorted(found.files) if not known.fullmatch(f)]
        documents = {self.facts["documents"][f"{name}-{number}"] for name, number in versions}
        stored = {f[10:-5] for f in found.files if f.startswith("manifests/")}
        if not documents <= stored or len(stored - documents) > 2:
            out.append(f"documents: {len(stored)} stored, {len(documents)} needed")
        return out
