"""Raw NAND flash (nandsim) with UBI and UBIFS on it: copies that the guest made of it while nothing else in it ran (guest/sample)."""

# As in guest/lib.sh, guest/sample and run.
SIZE = 32 << 20
SAMPLE = 33 << 20


def marks(path):
    """The marks of each sample, as far as there are some."""
    out = []
    with open(path, "rb") as file:
        while True:
            file.seek(len(out) * SAMPLE + SIZE)
            words = file.read(4096).split(b"\0")[0].decode().split()
            if words[-1:] != ["end"]:
                return out
            out.append(set(zip(words[:-1:2], map(int, words[1:-1:2]))))


def rebuild(samples, number, path, at):
    """Writes the flash of this sample to the place `at` of the file."""
    with open(samples, "rb") as file, open(path, "ab"), open(path, "r+b") as out:
        file.seek(number * SAMPLE)
        out.seek(at)
        out.write(file.read(SIZE))
