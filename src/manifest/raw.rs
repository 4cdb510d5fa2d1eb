//! The manifest as written: every field of the wire contract, also those that this version does not build.

use super::forms::{
    ADDRESS, ANY, CAPABILITY, CAPABILITY_OR_ALL, DAYTIME, DIGEST, ENV_NAME, HOSTNAME, HTTP_PATH, ID, LIMIT, MODE, NAME, PATH, PEER,
    REFERENCE, RLIMIT, ROOT, SECRET, SIGNAL, SOURCE, TARGET, TIME, USER, WORKDIR,
};
use super::shape::{Field, Kind, Need};

/// The schema this version reads and writes.
pub const SCHEMA: u64 = 1;
/// Most containers of one app.
pub const MAX_CONTAINERS: usize = 8;
/// Most mounts of one container.
pub const MAX_MOUNTS: usize = 32;
/// Most files put into one container.
pub const MAX_FILES: usize = 32;
/// Most arguments, and most environment variables, of one container.
pub const MAX_WORDS: usize = 256;
/// Largest integer that every JSON reader keeps exactly (RFC 7493, section 2.2).
pub const EXACT: u64 = (1 << 53) - 1;
/// Largest size taken anywhere: 1 TiB.
const TIB: u64 = 1 << 40;
/// Smallest limit that makes sense: one page.
const PAGE: u64 = 4096;
const HOUR_MS: u64 = 3600 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The document.
pub static MANIFEST: [Field; 10] = [
    Field::required("wherry", Kind::Whole(SCHEMA, SCHEMA), "Version of the schema: 1."),
    Field::required("app", Kind::Text(&NAME), "Name of the app."),
    Field::optional("seq", Kind::Whole(1, EXACT), "Sequence number: a higher one is newer. May be absent where nothing is signed."),
    Field::optional("target", Kind::Object(&TARGET_FIELDS), "Whom it is for. May be absent where nothing is signed."),
    Field::optional("containers", Kind::Map(&NAME, &Kind::Object(&CONTAINER), 1, MAX_CONTAINERS), "The containers of the app, by name."),
    Field::default("remove", Kind::Bool, "false", "The app goes (tombstone)."),
    Field::default("volumes", Kind::Bool, "false", "With `remove`: its volumes go too."),
    Field::default(
        "inherit",
        Kind::Bool,
        "false",
        "What the device's own topic said of the app is lifted; the group's state counts again.",
    ),
    Field::optional("rollout", Kind::Object(&ROLLOUT), "Which part of the devices takes it, and when."),
    Field::optional("not_after", Kind::Text(&TIME), "From then on it is not taken any more, if the clock is known to be right."),
];

/// To which part of the devices a document goes, and when.
pub static ROLLOUT: [Field; 3] = [
    Field::required("percent", Kind::Milli(0, 100_000), "Percent of the devices, with at most two decimals."),
    Field::optional("salt", Kind::Text(&ID), "Devices stand elsewhere with another salt; the app's name if absent."),
    Field::optional("window", Kind::Object(&WINDOW), "Hours in which a device may begin with it, if its clock is known to be right."),
];

/// Days, in the order of their bits in [`super::Window::days`].
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Hours of the day, in UTC.
pub static WINDOW: [Field; 3] = [
    Field::required("from", Kind::Text(&DAYTIME), "When it opens, in UTC: \"02:00Z\" or \"02:00:30Z\"."),
    Field::required("to", Kind::Text(&DAYTIME), "When it closes, in UTC; on the next day, if that is before `from`."),
    Field::optional("days", Kind::List(&Kind::Word(&DAYS), 1, DAYS.len()), "Days on which it opens, in UTC; every day if absent."),
];

/// Whom a document is for.
pub static TARGET_FIELDS: [Field; 3] = [
    Field::required("fleet", Kind::Text(&ROOT), "The fleet, which is the root topic."),
    Field::optional("device", Kind::Text(&ID), "The device; or `group`."),
    Field::optional("group", Kind::Text(&ID), "The group; or `device`."),
];

/// One container.
pub static CONTAINER: [Field; 24] = [
    Field::required("image", Kind::Object(&IMAGE), "What it runs."),
    Field::optional(
        "command",
        Kind::List(&Kind::Text(&ANY), 1, MAX_WORDS),
        "Replaces the image's entrypoint; the image's cmd is dropped then.",
    ),
    Field::optional("args", Kind::List(&Kind::Text(&ANY), 0, MAX_WORDS), "Replaces the image's cmd."),
    Field::optional("env", Kind::Map(&ENV_NAME, &Kind::Text(&ANY), 0, MAX_WORDS), "Environment, on top of the image's."),
    Field::optional("user", Kind::Text(&USER), "user or user:group, names or numbers; the image's if absent."),
    Field::optional("workdir", Kind::Text(&WORKDIR), "Working directory; the image's if absent."),
    Field::optional("hostname", Kind::Text(&HOSTNAME), "Host name; the container's name if absent."),
    Field::optional("resources", Kind::Object(&RESOURCES), "cgroup limits; absent ones are unlimited."),
    Field::optional(
        "rlimits",
        Kind::Map(&RLIMIT, &Kind::List(&Kind::Either(&LIMIT), 2, 2), 0, 16),
        "POSIX limits of getrlimit(2): [soft, hard], each a number, a size, or \"unlimited\".",
    ),
    Field::unbuilt("sysctl", Kind::Map(&ANY, &Kind::Text(&ANY), 0, MAX_WORDS), "Kernel settings of the container's namespaces."),
    Field::unbuilt("devices", Kind::List(&Kind::Any, 0, MAX_WORDS), "Devices that it may use."),
    Field::optional("security", Kind::Object(&SECURITY), "What it may ask of the kernel."),
    Field::optional("rootfs", Kind::Object(&ROOTFS), "The writable side of its root file system."),
    Field::optional("mounts", Kind::List(&Kind::Tagged(&MOUNT), 0, MAX_MOUNTS), "What is mounted into it, in this order."),
    Field::optional("files", Kind::List(&Kind::Object(&FILE), 0, MAX_FILES), "Files put into it, which it cannot change; in memory only."),
    Field::optional("network", Kind::Object(&NETWORK), "Which network it sees."),
    Field::default("terminal", Kind::Bool, "false", "It has a terminal; `wherry attach` leads to it."),
    Field::default(
        "stdin",
        Kind::Word(&["none", "open", "once"]),
        "none",
        "Standard input: none; open: `wherry attach` writes to it; once: likewise, and it ends with the first who is attached.",
    ),
    Field::optional("log", Kind::Object(&LOG), "What happens to its output."),
    Field::optional("stop", Kind::Object(&STOP), "How it is stopped."),
    Field::optional("restart", Kind::Object(&RESTART), "When it is started again."),
    Field::default("init", Kind::Bool, "true", "Our own pid 1 reaps and forwards signals; otherwise the program is pid 1."),
    Field::optional("health", Kind::Object(&HEALTH), "How its health is checked: one of `exec`, `tcp`, `http`, `file`."),
    Field::optional(
        "after",
        Kind::List(&Kind::Text(&NAME), 0, MAX_CONTAINERS),
        "Containers of the app that must have begun, or with a check be healthy, before it is started.",
    ),
];

static IMAGE: [Field; 5] = [
    Field::required(
        "ref",
        Kind::Text(&REFERENCE),
        "Where it is: oci:/dir[:tag], oci-archive:/file[:tag], docker-archive:/file[:name], rootfs:/file, https://host/file (with digest and type).",
    ),
    Field::optional("digest", Kind::Text(&DIGEST), "What it must be."),
    Field::optional("size", Kind::Size(1, TIB), "Compressed size."),
    Field::optional("unpacked", Kind::Size(1, TIB), "Unpacked size."),
    Field::optional("type", Kind::Word(&["rootfs", "oci-archive", "docker-archive", "squashfs"]), "What a reference to the network names."),
];

static RESOURCES: [Field; 5] = [
    Field::optional("memory", Kind::Object(&MEMORY), "Memory."),
    Field::optional("cpu", Kind::Object(&CPU), "CPU time."),
    Field::optional("pids", Kind::Object(&PIDS), "Processes."),
    Field::unbuilt("io", Kind::Any, "Block devices."),
    Field::default("required", Kind::Bool, "false", "What the kernel cannot enforce is a failure, not a remark."),
];

static MEMORY: [Field; 3] = [
    Field::optional("max", Kind::Size(PAGE, TIB), "The OOM killer acts above."),
    Field::optional("high", Kind::Size(PAGE, TIB), "Throttled above (cgroup v2 only)."),
    Field::optional("swap", Kind::Size(0, TIB), "Swap alone, as in cgroup v2."),
];

static CPU: [Field; 3] = [
    Field::optional("quota", Kind::Milli(10, 1_024_000), "CPUs: 0.5 is half of one. Kept in thousandths."),
    Field::optional("weight", Kind::Whole(1, 10_000), "Share when CPUs are short, as in cgroup v2, where 100 is the default."),
    Field::unbuilt("set", Kind::Text(&ANY), "Which CPUs."),
];

/// 2^22 is the kernel's largest pid (PID_MAX_LIMIT).
static PIDS: [Field; 1] = [Field::optional("max", Kind::Whole(1, 1 << 22), "Most processes and threads.")];

static SECURITY: [Field; 3] = [
    Field::optional("capabilities", Kind::Object(&CAPABILITIES), "Changes to the default set of capabilities."),
    Field::default("seccomp", Kind::Word(&["default", "unconfined"]), "default", "System call filter."),
    Field::default("no_new_privileges", Kind::Bool, "true", "Nothing it runs can gain privileges (PR_SET_NO_NEW_PRIVS)."),
];

static CAPABILITIES: [Field; 2] = [
    Field::optional("add", Kind::List(&Kind::Text(&CAPABILITY), 0, 64), "On top of the default set, with or without CAP_."),
    Field::optional(
        "drop",
        Kind::List(&Kind::Text(&CAPABILITY_OR_ALL), 0, 64),
        "Taken from the default set; ALL leaves only what `add` names.",
    ),
];

static ROOTFS: [Field; 2] = [
    Field::default("readonly", Kind::Bool, "false", "It cannot be written at all."),
    Field::default("upper", Kind::Size(PAGE, TIB), "16M", "Most memory that written files may take; they are gone after a restart."),
];

static MOUNT: [(&str, Need, &[Field]); 3] =
    [("bind", Need::Optional, &BIND), ("tmpfs", Need::Optional, &TMPFS), ("volume", Need::Unbuilt, &VOLUME)];

/// A mount of type `bind`.
pub static BIND: [Field; 4] = [
    Field::required("type", Kind::Word(&["bind"]), "A directory or file of the device."),
    Field::required("source", Kind::Text(&SOURCE), "Absolute path on the device."),
    Field::required("target", Kind::Text(&TARGET), "Absolute path in the container."),
    Field::default("readonly", Kind::Bool, "false", "It cannot be written through this mount."),
];

/// A mount of type `tmpfs`.
pub static TMPFS: [Field; 3] = [
    Field::required("type", Kind::Word(&["tmpfs"]), "Fresh storage in memory."),
    Field::required("target", Kind::Text(&TARGET), "Absolute path in the container."),
    Field::default("size", Kind::Size(PAGE, TIB), "16M", "Most memory it may take."),
];

static VOLUME: [Field; 4] = [
    Field::required("type", Kind::Word(&["volume"]), "Storage that outlives the container."),
    Field::required("source", Kind::Text(&NAME), "Name of the volume."),
    Field::required("target", Kind::Text(&TARGET), "Absolute path in the container."),
    Field::default("readonly", Kind::Bool, "false", "It cannot be written through this mount."),
];

/// A file put into a container.
pub static FILE: [Field; 5] = [
    Field::required("path", Kind::Text(&TARGET), "Absolute path in the container; what the image has there is hidden."),
    Field::optional("content", Kind::Text(&ANY), "What is in it; or `secret`."),
    Field::optional("secret", Kind::Text(&SECRET), "Name of a secret of the device, which is read at each start; or `content`."),
    Field::optional("mode", Kind::Text(&MODE), "Permissions in octal; 0644 if absent, 0400 for a secret."),
    Field::optional("user", Kind::Text(&USER), "Whose it is: user or user:group; the container's own if absent."),
];

static NETWORK: [Field; 3] = [
    Field::default("mode", Kind::Word(&["none", "host"]), "none", "none: its own, with loopback alone; host: the device's."),
    Field::unbuilt("nics", Kind::List(&Kind::Any, 0, 16), "Network interfaces of its own."),
    Field::unbuilt("ports", Kind::List(&Kind::Any, 0, 64), "Ports published on the device."),
];

static LOG: [Field; 3] = [
    Field::default("ring", Kind::Size(PAGE, 16 << 20), "64K", "Output kept in memory."),
    Field::default("full", Kind::Word(&["drop", "block"]), "drop", "When it is full: the oldest gives way, or the writer waits."),
    Field::optional("syslog", Kind::Bool, "Each line goes to the device's system log too; as the settings say if absent."),
];

static STOP: [Field; 2] = [
    Field::optional("signal", Kind::Either(&SIGNAL), "Asks the program to end: a name or number; the image's, or TERM, if absent."),
    Field::default("timeout", Kind::Time(0, DAY_MS), "10s", "How long until KILL."),
];

static RESTART: [Field; 3] = [
    Field::default("policy", Kind::Word(&["always", "on-failure", "no"]), "always", "In which cases."),
    Field::default("delay", Kind::Time(10, DAY_MS), "1s", "Before the first time; doubles each time."),
    Field::default("max_delay", Kind::Time(10, DAY_MS), "5m", "Longest delay."),
];

/// A health check.
static HEALTH: [Field; 8] = [
    Field::optional("exec", Kind::List(&Kind::Text(&ANY), 1, MAX_WORDS), "A program in the container: good if it ends with 0."),
    Field::optional("tcp", Kind::Either(&PEER), "A port, or address:port, in the container's network: good if it accepts a connection."),
    Field::optional("http", Kind::Object(&HTTP), "A GET in the container's network: good if the status is."),
    Field::optional("file", Kind::Text(&PATH), "A path in the container: good if something is there."),
    Field::default("start_period", Kind::Time(0, DAY_MS), "0s", "How long after its start failures do not count."),
    Field::default("interval", Kind::Time(1000, DAY_MS), "30s", "From one check to the next; sooner until the first that is good."),
    Field::default("timeout", Kind::Time(100, HOUR_MS), "5s", "A check that takes longer has failed."),
    Field::default("retries", Kind::Whole(1, 100), "3", "So many failures in a row make it unhealthy."),
];

static HTTP: [Field; 4] = [
    Field::required("port", Kind::Whole(1, 65_535), "TCP port."),
    Field::default("path", Kind::Text(&HTTP_PATH), "/", "Path of the request, with its query."),
    Field::optional("address", Kind::Text(&ADDRESS), "IP address; loopback if absent."),
    Field::optional("status", Kind::Whole(100, 599), "The status that is good; any from 200 to 399 if absent."),
];
