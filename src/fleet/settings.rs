//! The operator's settings: a TOML file, over it the environment, over that options of the command line. Secrets stand in the first two only.

use super::args::Call;
use super::tree::{Language, place};
use crate::exit::{Code, Error, note};
use crate::manifest::blame::Found;
use crate::manifest::document::Document;
use crate::manifest::forms::{ANY, HOST, PATH, ROOT};
use crate::manifest::json::Node;
use crate::manifest::shape::{Field, Form, Kind, View, bad};
use crate::sys::fd::read_file;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Largest settings file taken.
const MAX_SETTINGS: usize = 32 * 1024;
/// Ports of MQTT without and with TLS (IANA: mqtt, secure-mqtt).
const PORT: u16 = 1883;
const PORT_TLS: u16 = 8883;
/// Certificates that Debian, Alpine and OpenWrt trust.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// All settings, for the help: an example is indented.
pub const HELP: &str = r#"
settings (TOML; all of them, here with made-up values):
  broker = "mqtts://mqtt.example:8883"   # or mqtt:// without TLS; without either, TLS where ca or certificate is set
  root = "wherry"                        # root topic of the fleet
  username = "operator"
  password = "change me"
  ca = "/etc/ssl/fleet-ca.pem"           # the system's authorities if absent
  certificate = "/home/me/operator.pem"
  key = "/home/me/operator.key"
  signing_key = "/home/me/team.sec"      # signs all that is published (`wherryctl keygen`)

environment: WHERRYCTL_ and the setting's name in capitals, as in WHERRYCTL_PASSWORD; it counts more than the file

exit codes:
"#;

/// Where the broker is and how to come in.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Root topic, which is the name of the fleet.
    pub root: String,
    /// DNS name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Encryption, if any.
    pub tls: Option<Tls>,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// Secret key that signs, if no other is given.
    pub signing_key: Option<String>,
}

// A password must not end in a log by way of `{:?}`.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} root {:?}, {:?}, user {:?}", self.host, self.port, self.root, self.tls, self.login.as_ref().map(|l| &l.0))
    }
}

/// Files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authorities that may sign the broker's certificate.
    pub ca: PathBuf,
    /// Our certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The settings as written somewhere.
#[derive(Clone, Default, PartialEq, Eq)]
struct Raw {
    broker: Option<String>,
    root: Option<String>,
    username: Option<String>,
    password: Option<String>,
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    signing_key: Option<String>,
}

static BROKER: Form = Form { pattern: "", check: |s| address(s).map(drop).map_err(bad) };

static SETTINGS: [Field; 8] = [
    Field::optional("broker", Kind::Text(&BROKER), "mqtts://HOST[:PORT], mqtt://HOST[:PORT], or HOST[:PORT]."),
    Field::optional("root", Kind::Text(&ROOT), "Root topic, which is the name of the fleet."),
    Field::optional("username", Kind::Text(&ANY), "MQTT user name."),
    Field::optional("password", Kind::Text(&ANY), "MQTT password."),
    Field::optional("ca", Kind::Text(&PATH), "Trusted certificates (PEM)."),
    Field::optional("certificate", Kind::Text(&PATH), "The operator's certificate (PEM)."),
    Field::optional("key", Kind::Text(&PATH), "The key to it (PEM)."),
    Field::optional("signing_key", Kind::Text(&PATH), "The secret key that signs what is published."),
];

static DOCUMENT: Document<Raw> = Document { max: MAX_SETTINGS, fields: &SETTINGS, first: |_| None, convert, secret: Some("password") };

fn convert<'a>(view: View<'a>, _: &'a Node<'a>, _: &mut Vec<Found>) -> Option<Raw> {
    let owned = |name| view.text(name).map(str::to_owned);
    Some(Raw {
        broker: owned("broker"),
        root: owned("root"),
        username: owned("username"),
        password: owned("password"),
        ca: owned("ca"),
        certificate: owned("certificate"),
        key: owned("key"),
        signing_key: owned("signing_key"),
    })
}

impl Raw {
    /// Where this says nothing, what `below` says.
    fn over(self, below: Self) -> Self {
        Self {
            broker: self.broker.or(below.broker),
            root: self.root.or(below.root),
            username: self.username.or(below.username),
            password: self.password.or(below.password),
            ca: self.ca.or(below.ca),
            certificate: self.certificate.or(below.certificate),
            key: self.key.or(below.key),
            signing_key: self.signing_key.or(below.signing_key),
        }
    }
}

/// The settings in force for a command line.
///
/// # Errors
/// What is wrong, and where it was written.
pub fn load(call: &Call) -> Result<Settings, Error> {
    let file = file(call.value("config")?, |name| std::env::var_os(name))?;
    let options = Raw { broker: call.value("broker")?, root: call.value("root")?, ..Raw::default() };
    settle(options.over(environment(|name| std::env::var_os(name))?).over(file))
}

fn file(given: Option<String>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Raw, Error> {
    let home = || variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
    let path = match &given {
        Some(path) => PathBuf::from(path),
        None => match home() {
            Some(home) => home.join("wherry/wherryctl.toml"),
            None => return Ok(Raw::default()),
        },
    };
    match read_file(&path, MAX_SETTINGS) {
        Ok(bytes) => {
            let raw = parse(&path, &bytes)?;
            if raw.password.is_some() && others_may_read(&path) {
                note(&format!("warning: {} has a password in it, and others may read it (chmod 600)", path.display()));
            }
            Ok(raw)
        }
        // Only a file that was asked for must be there.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && given.is_none() => Ok(Raw::default()),
        Err(e) => Err(Error::io(format!("cannot read the settings {}", path.display()), &e)),
    }
}

fn others_may_read(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Raw, Error> {
    let refuse = |why: String| {
        Error::new(Code::BadData, format!("cannot read the settings {}: {why}", path.display())).hint("`wherryctl help` shows all settings")
    };
    let text = std::str::from_utf8(bytes).map_err(|_| refuse("they are not UTF-8".into()))?;
    let tree = Language::Toml.read(text).map_err(|wrong| {
        let (line, column) = place(text, wrong.at);
        // The parser's own words may show what stands there, and that may be a password.
        refuse(format!("they are not TOML (line {line}, column {column})"))
    })?;
    let (raw, faults) = DOCUMENT.examine_tree(text, &tree.node());
    raw.ok_or_else(|| refuse(faults.0.first().map_or_else(String::new, |fault| fault.sentence())))
}

fn environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Raw, Error> {
    let get = |name: &str| {
        let name = format!("WHERRYCTL_{name}");
        let value = variable(&name).filter(|value| !value.is_empty()).map(OsString::into_string).transpose();
        value.map_err(|_| Error::usage(format!("{name} in the environment is not UTF-8")))
    };
    Ok(Raw {
        broker: get("BROKER")?,
        root: get("ROOT")?,
        username: get("USERNAME")?,
        password: get("PASSWORD")?,
        ca: get("CA")?,
        certificate: get("CERTIFICATE")?,
        key: get("KEY")?,
        signing_key: get("SIGNING_KEY")?,
    })
}

/// Scheme (`Some(true)`: with TLS), host and port of a broker's address.
fn address(text: &str) -> Result<(Option<bool>, String, Option<u16>), String> {
    let (tls, rest) = match text.split_once("://") {
        Some(("mqtts", rest)) => (Some(true), rest),
        Some(("mqtt", rest)) => (Some(false), rest),
        Some((other, _)) => return Err(format!("must begin with mqtt:// or mqtts://, not {other}://")),
        None => (None, text),
    };
    let (host, port) = match (rest.rsplit_once(':'), rest.strip_prefix('[').and_then(|r| r.split_once(']'))) {
        (_, Some((host, ""))) => (host, None),
        (_, Some((host, port))) => (host, port.strip_prefix(':')),
        (Some((host, port)), None) if !host.contains(':') => (host, Some(port)),
        _ => (rest, None),
    };
    (HOST.check)(host).map_err(|(_, why)| format!("the host {why}"))?;
    let number = |port: &str| port.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(|| format!("{port} is not a port"));
    Ok((tls, host.to_owned(), port.map(number).transpose()?))
}

fn settle(raw: Raw) -> Result<Settings, Error> {
    let Some(broker) = raw.broker else {
        return Err(Error::usage("no broker is set").hint("set --broker, WHERRYCTL_BROKER, or `broker` in ~/.config/wherry/wherryctl.toml"));
    };
    let (scheme, host, port) = address(&broker).map_err(|e| Error::usage(format!("broker {broker}: {e}")))?;
    let files = raw.ca.is_some() || raw.certificate.is_some();
    let encrypted = scheme.unwrap_or(files || port == Some(PORT_TLS));
    if files && !encrypted {
        return Err(Error::usage("ca and certificate are for TLS, and the broker is mqtt://").hint("write mqtts:// for TLS"));
    }
    let client = match (raw.certificate, raw.key) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        (certificate, _) => {
            let (there, missing) = if certificate.is_some() { ("certificate", "key") } else { ("key", "certificate") };
            return Err(Error::usage(format!("{there} is set, but not the {missing} that belongs to it")));
        }
    };
    let tls = encrypted.then(|| Tls { ca: raw.ca.unwrap_or_else(|| SYSTEM_CA.into()).into(), client });
    let login = match (raw.username, raw.password) {
        (None, Some(_)) => return Err(Error::usage("a password is set, but no username")),
        (username, password) => username.map(|name| (name, password.unwrap_or_default())),
    };
    let root = raw.root.unwrap_or_else(|| "wherry".into());
    (ROOT.check)(&root).map_err(|(_, why)| Error::usage(format!("root topic {root}: {why}")))?;
    Ok(Settings { root, host, port: port.unwrap_or(if encrypted { PORT_TLS } else { PORT }), tls, login, signing_key: raw.signing_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Result<Raw, String> {
        parse(Path::new("w.toml"), text.as_bytes()).map_err(|e| e.to_string())
    }

    fn settled(text: &str) -> Result<Settings, String> {
        settle(raw(text)?).map_err(|e| e.to_string())
    }

    #[test]
    fn the_example_of_the_help_names_every_setting() {
        let example: String = HELP.lines().filter(|line| line.starts_with("  ")).map(|line| format!("{line}\n")).collect();
        let settings = settled(&example).unwrap();
        assert_eq!((settings.host.as_str(), settings.port, settings.root.as_str()), ("mqtt.example", 8883, "wherry"));
        assert!(SETTINGS.iter().all(|field| example.contains(&format!("{} = ", field.name))));
    }

    #[test]
    fn an_address_says_whether_the_line_is_encrypted() {
        for (text, host, port, tls) in [
            ("broker = \"b\"", "b", 1883, false),
            ("broker = \"b:2883\"", "b", 2883, false),
            ("broker = \"b:8883\"", "b", 8883, true),
            ("broker = \"mqtt://b:8883\"", "b", 8883, false),
            ("broker = \"mqtts://b\"", "b", 8883, true),
            ("broker = \"b\"\nca = \"/x\"", "b", 8883, true),
            ("broker = \"[::1]:1883\"", "::1", 1883, false),
            ("broker = \"fe80::1\"", "fe80::1", 1883, false),
        ] {
            let settings = settled(text).unwrap();
            assert_eq!((settings.host.as_str(), settings.port, settings.tls.is_some()), (host, port, tls), "{text}");
        }
    }

    #[test]
    fn settings_with_a_fault_are_refused() {
        for (text, sentence) in [
            ("", "no broker is set"),
            ("broker = \"https://b\"", "must begin with mqtt:// or mqtts://, not https://"),
            ("broker = \"b:0\"", "0 is not a port"),
            ("broker = \"b:x\"", "x is not a port"),
            ("broker = \"a b\"", "the host must be a DNS name or an address"),
            ("broker = \"mqtt://b\"\nca = \"/x\"", "ca and certificate are for TLS"),
            ("broker = \"b\"\ncertificate = \"/x\"", "certificate is set, but not the key"),
            ("broker = \"b\"\nkey = \"/x\"", "key is set, but not the certificate"),
            ("broker = \"b\"\npassword = \"x\"", "a password is set, but no username"),
            ("broker = \"b\"\nroot = \"a/#\"", "root: must not contain the wildcards"),
            ("broker = \"b\"\nca = \"x.pem\"", "ca: must be an absolute path"),
            ("broker = \"b\"\nbrocker = \"c\"", "did you mean `broker`?"),
            ("broker = \"b\"\nbroker = \"c\"", "they are not TOML (line 2, column 1)"),
        ] {
            let found = settled(text).map(|s| format!("{s:?}")).expect_err(text);
            assert!(found.contains(sentence), "{text}: {found}");
        }
    }

    #[test]
    fn no_message_shows_a_password() {
        for text in
            ["password = hunter2", "password = \"hunter2", "password = 4711", "password = [\"hunter2\"]", "password = \"hunter2\" x"]
        {
            let found = raw(text).map(|_| ()).expect_err(text);
            assert!(!found.contains("hunter2") && !found.contains("4711"), "{found}");
        }
        let settings = settled("broker = \"b\"\nusername = \"u\"\npassword = \"hunter2\"").unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn the_environment_counts_more_than_the_file_and_an_option_most() {
        let environment = environment(|name| match name {
            "WHERRYCTL_BROKER" => Some("env".into()),
            "WHERRYCTL_USERNAME" => Some("u".into()),
            "WHERRYCTL_ROOT" => Some("".into()),
            _ => None,
        });
        let file = raw("broker = \"file\"\nroot = \"r\"").unwrap();
        let below = environment.map_err(|e| e.to_string()).unwrap().over(file);
        let settings = settle(below.clone()).unwrap();
        assert_eq!((settings.host.as_str(), settings.root.as_str(), settings.login), ("env", "r", Some(("u".into(), String::new()))));
        let option = Raw { broker: Some("option".into()), ..Raw::default() };
        assert_eq!(settle(option.over(below)).unwrap().host, "option");
    }
}
