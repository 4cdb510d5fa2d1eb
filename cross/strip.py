"""strip.py BINARY OUT: copies a static executable without what no segment loads, symbols and section headers. For any ELF, unlike binutils' strip."""
import os
import struct
import sys


def stripped(elf):
    if elf[:4] != b"\x7fELF" or elf[5] != 1:
        sys.exit("cannot strip it: it is no little-endian ELF file")
    wide = elf[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", elf, 32 if wide else 28)
    step, count = struct.unpack_from("<HH", elf, 54 if wide else 42)
    end = table + step * count
    for at in range(table, table + step * count, step):
        # p_offset and p_filesz
        start, size = struct.unpack_from("<8xQ16xQ", elf, at) if wide else struct.unpack_from("<4xI8xI", elf, at)
        end = max(end, start + size)
    kept = bytearray(elf[:end])
    # e_shoff, then e_shnum and e_shstrndx: there are no section headers.
    struct.pack_into("<Q" if wide else "<I", kept, 40 if wide else 32, 0)
    struct.pack_into("<HH", kept, 60 if wide else 48, 0, 0)
    return kept


def main(source, target):
    with open(source, "rb") as file:
        kept = stripped(file.read())
    with open(target, "wb") as file:
        file.write(kept)
    os.chmod(target, 0o755)


main(sys.argv[1], sys.argv[2])
