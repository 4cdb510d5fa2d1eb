"""table.py OBJECT: prints C that answers as libseccomp's own table of system calls does, for the architectures that Wherry's targets can run.

OBJECT is syscalls.perf.o of libseccomp 2.6, whose table has a row for each name and, for each of eighteen architectures, the number and the
kernel that brought it, which is not filled in. The first five (x86, x86_64, x32, arm, aarch64) are kept; the others then have no system calls.
"""
import struct
import sys

KEPT = 5
COLUMNS = 18
ROW = 8 + COLUMNS * 8  # the name's place among the strings, a number for walking through, then number and kernel of each
UNDEFINED = 1  # SCMP_KV_UNDEF
# What everybody knows, in the order of the columns: the table must say so.
KNOWN = {b"read": (3, 0, 0, 3, 63), b"openat": (295, 257, 257, 322, 56), b"seccomp": (354, 317, 317, 383, 277)}

FUNCTIONS = r"""
struct arch_syscall_def { const char *name; unsigned int num; };
enum { none = -1, kv_null = 0, kv_undefined = 1 };	/* none is __NR_SCMP_ERROR */

/* Others name an architecture by the place of its number in a row of libseccomp's own table. */
static int column(int offset)
{
	int at = offset / 8 - 1;

	return at >= 0 && at < KEPT ? at : none;
}

static int row_of(const char *name)
{
	int low = 0, high = ROWS - 1;

	while (low <= high) {
		int middle = (low + high) / 2, order = strcmp(name, names + name_at[middle]);

		if (order == 0)
			return middle;
		if (order < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	return none;
}

static int row_with(int number, int offset)
{
	int at = column(offset);

	for (int row = ROWS - 1; at != none && row >= 0; row--)
		if (numbers[at][row] == number)
			return row;
	return none;
}

int syscall_resolve_name(const char *name, int offset)
{
	int row = row_of(name), at = column(offset);

	return row == none || at == none ? none : numbers[at][row];
}

const char *syscall_resolve_num(int number, int offset)
{
	int row = row_with(number, offset);

	return row == none ? 0 : names + name_at[row];
}

int syscall_resolve_name_kver(const char *name, int offset)
{
	return row_of(name) == none || column(offset) == none ? kv_null : kv_undefined;
}

int syscall_resolve_num_kver(int number, int offset, int kernel_offset)
{
	return row_with(number, offset) == none || column(kernel_offset) == none ? kv_null : kv_undefined;
}

const struct arch_syscall_def *syscall_iterate(unsigned int row, int offset)
{
	static struct arch_syscall_def found;
	int at = column(offset);

	found.name = row < ROWS ? names + name_at[row] : 0;
	found.num = row < ROWS && at != none ? numbers[at][row] : none;
	return &found;
}
"""


def sections_and_symbols(elf):
    """Where the sections lie in the file, and of each symbol its section, place and size."""
    if elf[:4] != b"\x7fELF" or elf[5] != 1:
        sys.exit("it is no little-endian ELF object")
    wide = elf[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", elf, 40 if wide else 32)
    step, count = struct.unpack_from("<HH", elf, 58 if wide else 46)
    layout = "<IIQQQQIIQQ" if wide else "<10I"
    headers = [struct.unpack_from(layout, elf, table + i * step) for i in range(count)]
    symbols = {}
    for _, kind, _, _, start, size, link, _, _, entry in headers:
        for at in range(start, start + size, entry) if kind == 2 else ():
            if wide:
                name, _, _, section, value, length = struct.unpack_from("<IBBHQQ", elf, at)
            else:
                name, value, length, _, _, section = struct.unpack_from("<IIIBBH", elf, at)
            symbols[string(elf, headers[link][4] + name)] = (section, value, length)
    return [header[4] for header in headers], symbols


def string(data, at):
    return data[at : data.index(b"\0", at)]


def rows_of(path):
    with open(path, "rb") as file:
        elf = file.read()
    starts, symbols = sections_and_symbols(elf)

    def content(symbol):
        if symbol not in symbols:
            sys.exit(f"it has no {symbol.decode()}")
        section, value, length = symbols[symbol]
        return elf[starts[section] + value :][:length]

    table, pool = content(b"wordlist"), content(b"stringpool_contents")
    if not table or len(table) % ROW:
        sys.exit(f"its table has {len(table)} bytes, no multiple of {ROW}")
    rows = [struct.unpack_from(f"<{ROW // 4}i", table, at) for at in range(0, len(table), ROW)]
    return [(string(pool, row[0]), row[2 : 2 + 2 * KEPT : 2], row[3::2]) for row in rows]


def check(rows):
    said = {name: numbers for name, numbers, _ in rows}
    for name, numbers in KNOWN.items():
        if said.get(name) != numbers:
            sys.exit(f"its table says {said.get(name)} of {name.decode()}, not {numbers}")
    if any(set(kernels) != {UNDEFINED} for _, _, kernels in rows):
        sys.exit("its table names kernels")
    # Of two names with one number (it stands for no call of the kernel's), libseccomp finds the first row, and the C below the last.
    for column in range(KEPT):
        if first_names(rows, column) != first_names(sorted(rows, reverse=True), column):
            sys.exit("its order of two names with one number is not against the alphabet")


def first_names(rows, column):
    return {numbers[column]: name for name, numbers, _ in reversed(rows)}


def array(kind, name, values):
    return f"static const {kind} {name} = {{{','.join(map(str, values))}}};"


def main(path):
    found = rows_of(path)
    check(found)
    rows = sorted(found)
    place, places = 0, []
    for name, *_ in rows:
        places.append(place)
        place += len(name) + 1
    columns = ("{" + ",".join(map(str, column)) + "}" for column in zip(*(numbers for _, numbers, _ in rows)))
    print(f"#include <string.h>\nenum {{ ROWS = {len(rows)}, KEPT = {KEPT} }};")
    print("static const char names[] =", " ".join(f'"{name.decode()}\\0"' for name, *_ in rows) + ";")
    print(array("unsigned short", "name_at[ROWS]", places))
    print(array("int", "numbers[KEPT][ROWS]", columns))
    print(FUNCTIONS)


main(sys.argv[1])
