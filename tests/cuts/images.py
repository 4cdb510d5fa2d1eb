"""The images that a scenario brings in: an OCI layout with `one` and `two`, which share their lower layer, and a root file system, `three`."""
import gzip
import hashlib
import io
import json
import os
import random
import tarfile

LINKS = ["sh", "sleep", "cat", "echo"]


def entry(archive, name, data=None, mode=0o644, **fields):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, 1_600_000_000
    info.type = tarfile.DIRTYPE if data is None and "type" not in fields else tarfile.REGTYPE
    for field, value in fields.items():
        setattr(info, field, value)
    info.size = len(data or b"")
    archive.addfile(info, io.BytesIO(data or b""))


def few_files(archive, top, count, rng):
    """Small files, as most images have them."""
    for n in range(count):
        if n % 10 == 0:
            entry(archive, f"{top}/{n // 10}", mode=0o755)
        entry(archive, f"{top}/{n // 10}/{n}", rng.randbytes(rng.choice([0, 1, 100, 3000, 9000])), uid=n)
    entry(archive, f"{top}/again", type=tarfile.LNKTYPE, linkname=f"{top}/0/3")


def tar(fill):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        fill(archive)
    return out.getvalue()


def base(busybox, rng):
    def fill(archive):
        for name in ["bin", "etc", "usr", "tmp", "proc", "sys", "dev"]:
            entry(archive, name, mode=0o755)
        entry(archive, "bin/busybox", busybox, mode=0o755)
        for link in LINKS:
            entry(archive, f"bin/{link}", type=tarfile.SYMTYPE, linkname="busybox")
        few_files(archive, "usr", 30, rng)
    return fill


def upper(word, rng, large):
    def fill(archive):
        entry(archive, "etc/version", word.encode() + b"\n")
        entry(archive, "opt", mode=0o755)
        few_files(archive, "opt", 12, rng)
        entry(archive, "opt/large", rng.randbytes(large), mode=0o600)
        entry(archive, "usr/0/.wh.2", b"")
    return fill


def packed(data):
    return gzip.compress(data, mtime=0)


def blob(layout, data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as out:
        out.write(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


# OCI's words for the machines of ELF headers (elf(5), e_machine).
ARCHITECTURES = {62: "amd64", 40: "arm", 183: "arm64"}


def image(layout, word, layers, architecture):
    config = {"architecture": architecture, "os": "linux", "config": {"Env": ["PATH=/bin"]},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}}
    kind = "application/vnd.oci.image."
    manifest = {"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
                "config": {"mediaType": kind + "config.v1+json", **blob(layout, json.dumps(config).encode())},
                "layers": [{"mediaType": kind + "layer.v1.tar+gzip", **blob(layout, packed(layer))} for layer in layers]}
    return {"mediaType": kind + "manifest.v1+json", **blob(layout, json.dumps(manifest).encode()),
            "annotations": {"org.opencontainers.image.ref.name": word}}


def make(directory, busybox):
    """Writes them; answers the digest of the archive of `three`, and the layers of each image by the names that the store gives them."""
    rng = random.Random("images")
    layout = f"{directory}/images"
    os.makedirs(f"{layout}/blobs/sha256")
    with open(busybox, "rb") as file:
        code = file.read()
    architecture, lower = ARCHITECTURES[int.from_bytes(code[18:20], "little")], tar(base(code, rng))
    trees = {word: [lower, tar(upper(word, rng, large))] for word, large in [("one", 40_000), ("two", 300_000)]}
    images = [image(layout, word, layers, architecture) for word, layers in trees.items()]
    with open(f"{layout}/index.json", "w") as out:
        json.dump({"schemaVersion": 2, "manifests": images}, out)
    with open(f"{layout}/oci-layout", "w") as out:
        out.write('{"imageLayoutVersion":"1.0.0"}')

    def three(archive):
        with open(busybox, "rb") as file:
            base(file.read(), rng)(archive)
        entry(archive, "etc/version", b"three\n")

    os.makedirs(f"{directory}/www")
    trees["three"] = [tar(three)]
    archive = packed(trees["three"][0])
    with open(f"{directory}/www/three.tar.gz", "wb") as out:
        out.write(archive)
    names = {word: [hashlib.sha256(packed(layer)).hexdigest() for layer in layers] for word, layers in trees.items()}
    return hashlib.sha256(archive).hexdigest(), names
