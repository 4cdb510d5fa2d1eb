//! `check`: does this kernel have what containers need? Looks, changes nothing.
//!
//! A probe decides where there is one; else the kernel's configuration, and then check says so.

mod features;
mod groups;
mod isolation;
mod system;
mod table;

use super::args::Call;
use super::print::{self, Table};
use crate::cgroup::Layout;
use crate::exit::Error;
use crate::sys::probe;
use serde_json::{Value, json};
use system::{System, text};
use table::{Level, Row};

/// How a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Present,
    /// There, but not as wanted, or loadable and not loaded.
    Degraded,
    Missing,
    /// Nothing on this system tells.
    Unknown,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// What was found of one fact.
#[derive(Debug)]
struct Found {
    state: State,
    text: String,
    /// `probe`, or the file with the kernel's configuration.
    source: String,
}

impl Found {
    fn new(state: State, text: impl Into<String>) -> Self {
        Self { state, text: text.into(), source: "probe".into() }
    }

    fn present(text: impl Into<String>) -> Self {
        Self::new(State::Present, text)
    }

    fn degraded(text: impl Into<String>) -> Self {
        Self::new(State::Degraded, text)
    }

    /// With a reason, where there is more to say than that it is missing.
    fn missing(reason: impl Into<String>) -> Self {
        Self::new(State::Missing, reason)
    }

    fn unknown() -> Self {
        Self { source: String::new(), ..Self::new(State::Unknown, "neither a probe nor a kernel configuration tells") }
    }
}

/// One thing that containers need or want.
#[derive(Debug)]
struct Fact {
    name: &'static str,
    state: State,
    level: Level,
    /// The symbols behind it; none where it takes a newer kernel or another place.
    row: Option<Row>,
    /// What was found, or what follows from its absence.
    meaning: String,
    source: String,
}

impl Fact {
    fn plain(name: &'static str, level: Level, found: Found, loss: &str) -> Self {
        let meaning = match (found.state, found.text.as_str()) {
            (State::Missing, "") => loss.to_owned(),
            (State::Missing, reason) if loss.is_empty() => reason.to_owned(),
            (State::Missing, reason) => format!("{loss}: {reason}"),
            (_, text) => text.to_owned(),
        };
        Self { name, state: found.state, level, row: None, meaning, source: found.source }
    }

    fn of(row: Row, found: Found) -> Self {
        Self { row: Some(row), ..Self::plain(row.name, row.level, found, row.loss) }
    }

    fn document(&self) -> Value {
        let [kconfig, openwrt, yocto] = self.row.map(|r| [r.kconfig(), r.openwrt(), r.yocto()]).unwrap_or_default();
        let fields = [
            ("name", self.name),
            ("state", self.state.word()),
            ("level", self.level.word()),
            ("meaning", &self.meaning),
            ("source", &self.source),
            ("kconfig", &kconfig),
            ("openwrt", &openwrt),
            ("yocto", &yocto),
        ];
        Value::Object(fields.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect())
    }

    fn cells(&self) -> [String; 6] {
        let unusable = self.level == Level::Required && self.state == State::Missing;
        let state = if unusable { "MISSING" } else { self.state.word() };
        let mut meaning = self.meaning.clone();
        if !matches!(self.source.as_str(), "" | "probe") {
            meaning = format!("{meaning} ({})", self.source).trim_start().to_owned();
        }
        let switches = self.row.filter(|_| self.state != State::Present);
        let [kconfig, openwrt, yocto] = switches.map(|r| [r.kconfig(), r.openwrt(), r.yocto()]).unwrap_or_default();
        [self.name.into(), state.into(), meaning, kconfig, openwrt, yocto]
    }
}

/// All that is told.
struct Report {
    system: System,
    layout: Layout,
    facts: Vec<Fact>,
    data_dir: String,
}

/// `wherry check`.
pub fn check(call: &Call) -> Result<u8, Error> {
    let report = Report::look();
    if call.json() {
        print::json(&report.document())?;
    } else {
        print::bytes(report.shown().as_bytes())?;
    }
    Ok(u8::from(!report.usable()))
}

/// All facts, as for programs.
pub fn facts() -> Value {
    Report::look().document()
}

impl Report {
    fn look() -> Self {
        let system = System::read();
        let layout = Layout::from_mountinfo(&system.mountinfo, "").and_then(Layout::with_controllers).unwrap_or_default();
        let mut facts = vec![kernel(&system.release), privilege(&system.status)];
        facts.extend(table::rows().map(|row| fact(row, &system, &layout)));
        facts.push(groups::kill(&layout));
        facts.extend(features::extra(&system));
        // Two passes in place of a sort, whose code would be larger than all else here.
        let (mut facts, rest): (Vec<_>, Vec<_>) = facts.into_iter().partition(|f| f.level == Level::Required);
        let (wanted, optional): (Vec<_>, Vec<_>) = rest.into_iter().partition(|f| f.level == Level::Wanted);
        facts.extend(wanted);
        facts.extend(optional);
        Self { system, layout, facts, data_dir: data_dir() }
    }

    fn usable(&self) -> bool {
        !self.facts.iter().any(|f| f.level == Level::Required && f.state == State::Missing)
    }

    /// What there could be, and the file system that decides it.
    fn isolation(&self) -> (&'static str, &str) {
        let users = self.facts.iter().any(|f| f.name == "user namespace" && f.state == State::Present);
        let kind = isolation::kind_of(&self.system.mountinfo, &self.data_dir);
        (isolation::possible(users, probe::has(probe::Call::MountSetattr), self.system.version(), kind), kind)
    }

    fn shown(&self) -> String {
        let mut table = Table::new(&["FACT", "STATE", "MEANING", "KERNEL CONFIG", "OPENWRT", "YOCTO"]);
        self.facts.iter().for_each(|f| table.row(&f.cells()));
        let (possible, kind) = self.isolation();
        let mut out = format!("{}\n{}\n", table.text(), isolation::sentence(possible, &self.data_dir, kind));
        let untold: Vec<&str> = self.facts.iter().filter(|f| f.state == State::Unknown).map(|f| f.name).collect();
        if !untold.is_empty() {
            let who = if nix::unistd::geteuid().is_root() { "" } else { " (not root)" };
            out.push_str(&format!("could not be told{who}: {}\n", untold.join(", ")));
        }
        out.push_str(if self.usable() { "containers can run here\n" } else { "containers cannot run here: see MISSING\n" });
        out
    }

    fn document(&self) -> Value {
        let v1: Vec<&String> = self.layout.v1.iter().map(|(name, _)| name).collect();
        let (possible, kind) = self.isolation();
        let facts: Vec<Value> = self.facts.iter().map(Fact::document).collect();
        json!({
            "usable": self.usable(), "kernel": self.system.release,
            "cgroup": {"layout": groups::word(&self.layout), "v1": v1, "v2": self.layout.controllers},
            "isolation": isolation::document(possible, &self.data_dir, kind), "facts": facts,
        })
    }
}

fn fact(row: Row, system: &System, layout: &Layout) -> Fact {
    let probed = groups::probe(row.name, system, layout).or_else(|| features::probe(row.name, system));
    let told = probed.filter(|f| f.state != State::Unknown).or_else(|| system.configured(&row));
    Fact::of(row, told.unwrap_or_else(Found::unknown))
}

/// Where images are or will be: as the settings say, if they are there.
fn data_dir() -> String {
    let settings = crate::config::parse(text("/etc/wherry/settings.json").as_bytes());
    settings.map_or_else(|_| "/var/lib/wherry".into(), |s| s.data_dir)
}

fn kernel(release: &str) -> Fact {
    let found = match system::version(release) {
        (5, 4..10) => Found::degraded(format!("{release}: older than 5.10, unproven")),
        v if v < (5, 4) => Found::degraded(format!("{release}: older than 5.4, not supported")),
        _ => Found::present(release),
    };
    Fact::plain("kernel", Level::Required, found, "")
}

/// Root in the initial user namespace, with the capability that mounting needs (capabilities(7)).
fn privilege(status: &str) -> Fact {
    const CAP_SYS_ADMIN: u32 = 21;
    let bits = system::field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let whole = text("/proc/self/uid_map").split_whitespace().eq(["0", "0", "4294967295"]);
    let found = match (nix::unistd::geteuid().is_root(), bits >> CAP_SYS_ADMIN & 1 == 1, whole) {
        (true, true, true) => Found::present("root, able to mount"),
        (true, true, false) => Found::degraded("root of a user namespace only: this is itself a container, and mounts may be refused"),
        (true, false, _) => Found::missing("root without CAP_SYS_ADMIN: this is itself an unprivileged container"),
        (false, ..) => Found::degraded("not root: keeper must be started as root"),
    };
    Fact::plain("privilege", Level::Required, found, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told() {
        for (release, state) in [
            ("6.18.44-x", State::Present),
            ("5.10.0", State::Present),
            ("5.4.0", State::Degraded),
            ("4.14.1", State::Degraded),
            ("", State::Degraded),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }
}
