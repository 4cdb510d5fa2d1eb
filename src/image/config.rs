//! The image configuration, and which machine an image is for.

use super::fault::fault;
use super::{Config, Digest};
use crate::ipc::Failure;
use crate::protocol::Reason;
use serde::Deserialize;
use std::fmt;

/// Most bytes of text in the part of a configuration that we keep: it travels in one frame.
const MAX_CONFIG: usize = 48 * 1024;
/// First real-time signal as programs see it: the C library keeps 32 and 33 to itself.
const RTMIN: i32 = 34;

/// The machine, in the words of OCI (Go's `GOARCH`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// `amd64`, `arm64`, `arm` …
    pub arch: &'static str,
    /// For `arm`: the highest architecture version that runs.
    pub variant: Option<u8>,
}

impl Host {
    /// From what this program was built for, and the machine as uname(2) names it (`armv7l`, `armv6l`, `aarch64` …).
    pub fn new(built_for: &str, machine: &str) -> Self {
        let arch = match built_for {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "arm" => "arm",
            "mips" => "mips",
            "riscv64" => "riscv64",
            _ => "unknown",
        };
        let digit = machine.strip_prefix("armv").and_then(|m| m.bytes().next()).filter(u8::is_ascii_digit).map(|c| c - b'0');
        // A 64-bit kernel below a 32-bit program is an ARMv8 core: all of v7 runs.
        let variant = (arch == "arm").then(|| digit.unwrap_or(7).min(7));
        Self { arch, variant }
    }

    /// How well an image for this platform suits: `None` for not at all, more is better.
    pub fn rank(&self, arch: &str, os: &str, variant: Option<&str>) -> Option<u8> {
        if os != "linux" || arch != self.arch {
            return None;
        }
        let wants = variant.and_then(|v| v.strip_prefix('v')).and_then(|v| v.parse::<u8>().ok());
        match (self.variant, wants) {
            (Some(have), Some(wants)) if wants > have => None,
            (Some(_), Some(wants)) => Some(wants),
            _ => Some(1),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.arch)?;
        self.variant.map_or(Ok(()), |v| write!(f, "/v{v}"))
    }
}

/// An image configuration as read.
#[derive(Debug)]
pub struct Parsed {
    /// The part a runtime honours.
    pub config: Config,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

/// Reads an image configuration for this machine.
///
/// # Errors
/// Not JSON, another architecture or operating system, an unknown stop signal, or too much text.
pub fn parse(bytes: &[u8], host: &Host) -> Result<Parsed, Failure> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|e| fault(Reason::HostileArchive, format!("cannot read the image configuration: {e}")))?;
    if host.rank(&raw.architecture, &raw.os, raw.variant.as_deref()).is_none() {
        let variant = raw.variant.filter(|v| !v.is_empty()).map(|v| format!("/{v}")).unwrap_or_default();
        let message = format!("the image is for {}/{}{variant}, this device is {host}", raw.os, raw.architecture);
        return Err(fault(Reason::Unsupported, message));
    }
    let config = kept(raw.config.unwrap_or_default())?;
    Ok(Parsed { config, diff_ids: raw.rootfs.and_then(|r| r.diff_ids).unwrap_or_default() })
}

fn kept(raw: RawConfig) -> Result<Config, Failure> {
    let config = Config {
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
        env: raw.env.unwrap_or_default(),
        user: raw.user.unwrap_or_default(),
        workdir: raw.working_dir.unwrap_or_default(),
        stop_signal: raw.stop_signal.filter(|s| !s.is_empty()).map(|s| signal(&s)).transpose()?,
    };
    let lists = [&config.entrypoint, &config.cmd, &config.env];
    // Each string costs its length and up to three bytes for it in the frame.
    let size: usize = lists.into_iter().flatten().chain([&config.user, &config.workdir]).map(|s| s.len() + 3).sum();
    if size > MAX_CONFIG {
        return Err(fault(
            Reason::Unsupported,
            format!("the image configuration has {size} bytes of text, at most {MAX_CONFIG} are allowed"),
        ));
    }
    if lists.into_iter().flatten().chain([&config.user, &config.workdir]).any(|s| s.contains('\0')) {
        return Err(fault(Reason::HostileArchive, "the image configuration has a zero byte in a string"));
    }
    Ok(config)
}

fn signal(text: &str) -> Result<i32, Failure> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let number = match name.parse::<i32>() {
        Ok(n) => Some(n),
        Err(_) => match name.strip_prefix("RTMIN") {
            Some("") => Some(RTMIN),
            Some(plus) => plus.strip_prefix('+').and_then(|n| n.parse().ok()).map(|n: i32| RTMIN.saturating_add(n)),
            None => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32),
        },
    };
    let known = number.filter(|n| (1..=64).contains(n));
    known.ok_or_else(|| fault(Reason::Unsupported, format!("the image configuration names an unknown stop signal {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::{Host, parse};
    use crate::protocol::Reason;

    const ARM: Host = Host { arch: "arm", variant: Some(6) };

    #[test]
    fn null_fields_are_absent_fields() {
        let json = br#"{"architecture":"arm","os":"linux","config":{"Cmd":["sh"],"Entrypoint":null,"StopSignal":"SIGQUIT"},"rootfs":null}"#;
        let parsed = parse(json, &ARM).unwrap();
        assert_eq!(parsed.config.cmd, ["sh"]);
        assert!(parsed.config.entrypoint.is_empty());
        assert_eq!(parsed.config.stop_signal, Some(3));
    }

    #[test]
    fn stop_signals_come_in_four_spellings() {
        for (text, number) in [("15", 15), ("TERM", 15), ("SIGTERM", 15), ("SIGRTMIN+3", 37)] {
            assert_eq!(super::signal(text).unwrap(), number, "{text}");
        }
        for text in ["0", "65", "SIGNOPE", "RTMIN-1"] {
            assert!(super::signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn another_machine_is_refused_by_name() {
        for json in [
            r#"{"architecture":"amd64","os":"linux"}"#,
            r#"{"architecture":"arm","os":"linux","variant":"v7"}"#,
            r#"{"architecture":"arm","os":"windows"}"#,
            r#"{}"#,
        ] {
            let failure = parse(json.as_bytes(), &ARM).unwrap_err();
            assert_eq!(failure.reason, Reason::Unsupported);
            assert!(failure.message.contains("linux/arm/v6"), "{}", failure.message);
        }
    }

    #[test]
    fn the_machine_is_named_as_oci_does() {
        for (built, machine, host) in [
            ("x86_64", "x86_64", "linux/amd64"),
            ("aarch64", "aarch64", "linux/arm64"),
            ("arm", "armv7l", "linux/arm/v7"),
            ("arm", "armv5tejl", "linux/arm/v5"),
            ("arm", "aarch64", "linux/arm/v7"),
        ] {
            assert_eq!(Host::new(built, machine).to_string(), host);
        }
    }

    #[test]
    fn more_text_than_a_frame_holds_is_refused() {
        let json = format!(r#"{{"architecture":"arm","os":"linux","config":{{"Env":["{}"]}}}}"#, "x".repeat(50_000));
        assert_eq!(parse(json.as_bytes(), &ARM).unwrap_err().reason, Reason::Unsupported);
    }
}
