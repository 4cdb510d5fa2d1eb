//! What is read of the running system: files of /proc and /sys, modules on disk, the kernel's configuration.

use super::table::Row;
use super::{Found, State};
use std::io::Read;
use std::path::Path;

/// Most bytes read of one file, and of an unpacked configuration (Debian's has 300 KiB).
const MAX: usize = 4 << 20;

/// The running system.
pub struct System {
    /// As `uname -r` prints it.
    pub release: String,
    /// `/proc/self/mountinfo`.
    pub mountinfo: String,
    /// `/proc/filesystems`.
    pub filesystems: String,
    /// `/proc/self/status`.
    pub status: String,
    /// The kernel's configuration and where it was found.
    config: Option<(String, String)>,
}

impl System {
    /// Reads everything once.
    pub fn read() -> Self {
        let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            mountinfo: text("/proc/self/mountinfo"),
            filesystems: text("/proc/filesystems"),
            status: text("/proc/self/status"),
            config: configuration(&release),
            release,
        }
    }

    /// Major and minor number of the kernel; zeros where the release has none.
    pub fn version(&self) -> (u32, u32) {
        version(&self.release)
    }

    /// Where the kernel's configuration was found.
    pub fn config_file(&self) -> Option<&str> {
        self.config.as_ref().map(|(file, _)| file.as_str())
    }

    /// What the kernel's configuration says of a row.
    pub fn configured(&self, row: &Row) -> Option<Found> {
        let (file, text) = self.config.as_ref()?;
        let lacks: Vec<&str> = row.symbols().filter(|(s, set)| built(text, s).is_some() != *set).map(|(s, _)| s).collect();
        let module = row.symbols().any(|(s, _)| built(text, s) == Some('m'));
        let found = match (lacks.is_empty(), module) {
            (true, false) => Found::present(""),
            (true, true) => Found::degraded("a module, not loaded"),
            (false, _) => Found::missing(""),
        };
        Some(found.by(file))
    }

    /// A module of this name is loaded, built in, or on disk; `None` where nothing tells.
    pub fn module(&self, name: &str) -> Option<Found> {
        if Path::new("/sys/module").join(name).exists() {
            return Some(Found::present(""));
        }
        let builtin = text(format!("/lib/modules/{}/modules.builtin", self.release));
        if builtin.contains(&format!("/{name}.ko")) {
            return Some(Found::present("built in"));
        }
        if self.loadable(name) {
            return Some(Found::degraded(format!("not loaded: `modprobe {name}`")));
        }
        // The list names all that could have been a module; without it nothing is known of what is built in.
        (!builtin.is_empty()).then(|| Found::missing(""))
    }

    /// A module of this name is on disk: below `kernel/` as in most systems (listed in modules.dep), or flat as in OpenWrt.
    pub fn loadable(&self, name: &str) -> bool {
        let dir = format!("/lib/modules/{}", self.release);
        Path::new(&format!("{dir}/{name}.ko")).exists() || text(format!("{dir}/modules.dep")).contains(&format!("/{name}.ko"))
    }
}

impl Found {
    fn by(mut self, file: &str) -> Self {
        if self.state != State::Unknown {
            self.source = file.to_owned();
        }
        self
    }
}

/// The first two numbers of a release.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `y` or `m`, where the symbol is set.
fn built(config: &str, symbol: &str) -> Option<char> {
    let line = config.lines().find_map(|l| l.strip_prefix("CONFIG_")?.strip_prefix(symbol)?.strip_prefix('='))?;
    line.chars().next().filter(|c| matches!(c, 'y' | 'm'))
}

fn configuration(release: &str) -> Option<(String, String)> {
    let packed = crate::sys::fd::read_file("/proc/config.gz", MAX).unwrap_or_default();
    let mut config = String::new();
    let unpacked = crate::unpack::gzip::Gzip::new(&packed[..]).take(MAX as u64).read_to_string(&mut config);
    if unpacked.is_ok() && !config.is_empty() {
        return Some(("/proc/config.gz".into(), config));
    }
    let file = format!("/boot/config-{release}");
    Some(text(&file)).filter(|t| !t.is_empty()).map(|t| (file, t))
}

/// The file as text; empty where it cannot be read, which each fact takes for absent.
pub fn text(path: impl AsRef<Path>) -> String {
    crate::sys::fd::read_file(path, MAX).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// The value of `name:` in /proc/self/status.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Mount point, file system, mount options and super block options of each line (proc_pid_mountinfo(5)).
pub fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let mut right = right.split(' ');
        Some((left.next()?, right.next()?, left.next()?, right.nth(1)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::table::rows;

    #[test]
    fn a_configuration_tells_what_is_built_in_a_module_or_left_out() {
        let with = |config: &str| System {
            release: String::new(),
            mountinfo: String::new(),
            filesystems: String::new(),
            status: String::new(),
            config: Some(("/boot/config".into(), config.into())),
        };
        for (fact, config, state) in [
            ("veth", "CONFIG_VETH=y\n", State::Present),
            ("veth", "CONFIG_VETH=m\n", State::Degraded),
            ("veth", "# CONFIG_VETH is not set\n", State::Missing),
            ("veth", "CONFIG_VETHER=y\n", State::Missing),
            ("veth", "", State::Missing),
            ("nat", "CONFIG_NFT_NAT=m\n", State::Missing),
            ("nat", "CONFIG_NFT_NAT=y\nCONFIG_NFT_MASQ=m\n", State::Degraded),
            ("real-time groups off", "# CONFIG_RT_GROUP_SCHED is not set\n", State::Present),
            ("real-time groups off", "CONFIG_RT_GROUP_SCHED=y\n", State::Missing),
        ] {
            let found = with(config).configured(&rows().find(|r| r.name == fact).unwrap()).unwrap();
            assert_eq!((found.state, found.source.as_str()), (state, "/boot/config"), "{fact}: {config}");
        }
    }
}
