//! The device's settings, `/etc/wherry/settings.json`: raw → checked, with the manifest's errors that point at the text.

use crate::manifest::blame::Found;
use crate::manifest::document::Document;
use crate::manifest::forms::{ANY, HOST, ID, PATH, RELATIVE, ROOT, VARIABLE, below};
use crate::manifest::json::{Node, Value};
use crate::manifest::shape::{Field, Kind, View};
use crate::manifest::{Faults, Id, schema as json_schema};
use crate::protocol::Reason;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest settings file taken.
pub const MAX_SETTINGS: usize = 32 * 1024;
/// Most groups of a device.
pub const MAX_GROUPS: usize = 8;
/// Most brokers.
pub const MAX_BROKERS: usize = 4;
/// Port of MQTT without TLS (IANA: mqtt).
const PORT: u16 = 1883;
/// Port of MQTT over TLS (IANA: secure-mqtt).
const PORT_TLS: u16 = 8883;
/// Largest user id that is somebody: 2^32 - 1 is "no change" for setuid(2).
const MAX_UID: u64 = u32::MAX as u64 - 1;

/// The checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Id of this device; the host name's first label if absent.
    pub device: Option<Id>,
    /// Root topic, which is the name of the fleet.
    pub root: String,
    /// Groups it belongs to, in order of precedence.
    pub groups: Vec<Id>,
    /// Brokers, tried in order.
    pub brokers: Vec<Broker>,
    /// Desired state, layers, images, volumes.
    pub data_dir: String,
    /// Keeper's runtime tmpfs.
    pub run_dir: String,
    /// Parent of all containers' control groups, below the root of each hierarchy.
    pub cgroup: String,
    /// Seconds between statistics.
    pub interval_s: u32,
    /// Directories whose images a manifest from the network may name.
    pub import_dirs: Vec<String>,
    /// Directories that a manifest from the network may bind-mount.
    pub bind_sources: Vec<String>,
    /// Where the secrets are that a manifest may name.
    pub secrets_dir: String,
    /// Where the public keys are by which documents from the network must be signed.
    pub trust_dir: String,
    /// Values for `${var.NAME}` in manifests.
    pub variables: BTreeMap<String, String>,
    /// Whom the less trusted processes run as.
    pub users: Users,
    /// Bounds on images and output.
    pub limits: Limits,
    /// How images are downloaded.
    pub fetch: Fetch,
    /// The system log.
    pub syslog: Syslog,
    /// Least important messages that are logged.
    pub log_level: log::LevelFilter,
}

/// One MQTT broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Broker {
    /// DNS name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Encrypted or not.
    pub tls: Tls,
    /// MQTT user name.
    pub username: Option<String>,
    /// MQTT password.
    pub password: Option<String>,
    /// Seconds between pings.
    pub keep_alive_s: u16,
    /// It takes messages to be retained.
    pub retained: bool,
}

// A password must not end in a log by way of `{:?}`.
impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({}:{}, {:?}, user {:?})", self.host, self.port, self.tls, self.username)
    }
}

/// Encryption of the link to a broker. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Plain TCP.
    Off,
    /// TLS.
    On {
        /// Certificates that are trusted to sign the broker's (PEM); the system's if absent.
        ca: Option<String>,
        /// The device's certificate and its key (PEM).
        client: Option<(String, String)>,
    },
}

/// Numeric users.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the processes")]
pub struct Users {
    pub agent: u32,
    pub hash: u32,
    pub unpack: u32,
}

/// Bounds on images and output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of an image, unpacked.
    pub max_image_bytes: u64,
    /// Most files, directories and links of an image.
    pub max_image_inodes: u64,
    /// Seconds after which bringing in an image is given up.
    pub fetch_timeout_s: u32,
    /// Most memory for the output of all containers together, in bytes.
    pub max_log_bytes: u64,
}

/// How images are downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Certificates that are trusted to sign a server's (PEM); the system's if absent.
    pub ca: Option<String>,
    /// The device's certificate and its key (PEM), for servers that ask for one.
    pub client: Option<(String, String)>,
    /// Everything is downloaded through it.
    pub proxy: Option<Proxy>,
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// DNS name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// The device's system log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    /// Output goes there of every container whose manifest does not say.
    pub all: bool,
    /// Where its socket is.
    pub socket: String,
}

static SETTINGS: [Field; 18] = [
    Field::optional("device", Kind::Text(&ID), "Id of this device; the first label of its host name if absent."),
    Field::default("root", Kind::Text(&ROOT), "wherry", "Root topic, which is the name of the fleet; several levels are allowed."),
    Field::optional("groups", Kind::List(&Kind::Text(&ID), 0, MAX_GROUPS), "Groups it belongs to; the first ones win."),
    Field::optional("brokers", Kind::List(&Kind::Object(&BROKER), 0, MAX_BROKERS), "MQTT brokers, tried in this order."),
    Field::default("data_dir", Kind::Text(&PATH), "/var/lib/wherry", "What must last: a directory on the real flash file system."),
    Field::default("run_dir", Kind::Text(&PATH), "/run/wherry", "Where keeper mounts its runtime tmpfs."),
    Field::default(
        "cgroup",
        Kind::Text(&RELATIVE),
        "wherry",
        "Parent of all containers' control groups, below the root of each hierarchy.",
    ),
    Field::default("interval_s", Kind::Whole(1, 86_400), "60", "Seconds between statistics."),
    Field::optional(
        "import_dirs",
        Kind::List(&Kind::Text(&PATH), 0, 16),
        "Directories whose images a manifest from the network may name; `import` below data_dir if absent.",
    ),
    Field::optional(
        "bind_sources",
        Kind::List(&Kind::Text(&PATH), 0, 16),
        "Directories that a manifest from the network may bind-mount; none if absent.",
    ),
    Field::default(
        "secrets_dir",
        Kind::Text(&PATH),
        "/etc/wherry/secrets",
        "Directory of the secrets that a manifest may name: files of root that nobody else can read.",
    ),
    Field::default(
        "trust_dir",
        Kind::Text(&PATH),
        "/etc/wherry/trust",
        "Directory of public keys (NAME.pub, root's): with one there, whatever comes over MQTT must be signed.",
    ),
    Field::optional("variables", Kind::Map(&VARIABLE, &Kind::Text(&ANY), 0, 64), "Values for ${var.NAME} in manifests."),
    Field::optional("users", Kind::Object(&USERS), "Numeric users of the less trusted processes."),
    Field::optional("fetch", Kind::Object(&FETCH), "How images are downloaded."),
    Field::optional("limits", Kind::Object(&LIMITS), "Bounds on images and output."),
    Field::optional("syslog", Kind::Object(&SYSLOG), "The device's system log, for output of containers."),
    Field::default(
        "log_level",
        Kind::Word(&["off", "error", "warn", "info", "debug", "trace"]),
        "info",
        "Least important messages that are logged.",
    ),
];

static BROKER: [Field; 7] = [
    Field::required("host", Kind::Text(&HOST), "DNS name or address."),
    Field::optional("port", Kind::Whole(1, 65_535), "TCP port; 1883, or 8883 with TLS, if absent."),
    Field::default("tls", Kind::BoolOr(&TLS), "false", "TLS; an object names files."),
    Field::optional("username", Kind::Text(&ANY), "MQTT user name."),
    Field::optional("password", Kind::Text(&ANY), "MQTT password."),
    Field::default(
        "keep_alive",
        Kind::Time(5000, 3_600_000),
        "60s",
        "Time between pings; half of it more without an answer, and the link is down.",
    ),
    Field::default(
        "retained",
        Kind::Bool,
        "true",
        "Ask it to keep presence and report; false for a broker that refuses retained messages.",
    ),
];

static TLS: [Field; 3] = [
    Field::optional("ca", Kind::Text(&PATH), "Trusted certificates (PEM); the system's if absent."),
    Field::optional("certificate", Kind::Text(&PATH), "The device's certificate (PEM)."),
    Field::optional("key", Kind::Text(&PATH), "The key to it (PEM)."),
];

static USERS: [Field; 3] = [
    Field::default("agent", Kind::Whole(1, MAX_UID), "65501", "Talks to the network."),
    Field::default("hash", Kind::Whole(1, MAX_UID), "65502", "Computes digests of images."),
    Field::default("unpack", Kind::Whole(1, MAX_UID), "65503", "Unpacks images."),
];

static SYSLOG: [Field; 2] = [
    Field::default("all", Kind::Bool, "false", "Output goes there of every container whose manifest does not say."),
    Field::default("socket", Kind::Text(&PATH), "/dev/log", "Its datagram socket."),
];

static LIMITS: [Field; 4] = [
    Field::default("max_image_bytes", Kind::Size(4096, 1 << 40), "512M", "Most bytes of an image, unpacked."),
    Field::default("max_image_inodes", Kind::Whole(1, 100_000_000), "100000", "Most files, directories and links of an image."),
    Field::default("fetch_timeout_s", Kind::Whole(1, 86_400), "600", "Seconds after which bringing in an image is given up."),
    Field::default(
        "max_log_bytes",
        Kind::Size(64 << 10, 1 << 30),
        "4M",
        "Most memory for the output of all containers; when their rings want more, each has its share.",
    ),
];

static FETCH: [Field; 4] = [
    Field::optional("ca", Kind::Text(&PATH), "Certificates trusted to sign a server's (PEM); the system's if absent."),
    Field::optional("certificate", Kind::Text(&PATH), "The device's certificate (PEM), for servers that ask for one."),
    Field::optional("key", Kind::Text(&PATH), "The key to it (PEM)."),
    Field::optional("proxy", Kind::Object(&PROXY), "HTTP proxy that everything is downloaded through."),
];

static PROXY: [Field; 4] = [
    Field::required("host", Kind::Text(&HOST), "DNS name or address."),
    Field::default("port", Kind::Whole(1, 65_535), "3128", "TCP port."),
    Field::optional("username", Kind::Text(&ANY), "User name, if the proxy wants one."),
    Field::optional("password", Kind::Text(&ANY), "Password to it."),
];

static DOCUMENT: Document<Settings> =
    Document { max: MAX_SETTINGS, fields: &SETTINGS, first: |_| None, convert: settings, secret: Some("password") };

/// Reads the settings. Passwords are never shown in a fault.
///
/// # Errors
/// Every fault of the document.
pub fn parse(bytes: &[u8]) -> Result<Settings, Faults> {
    DOCUMENT.parse(bytes)
}

/// Like [`parse`], but tells warnings of good settings too.
pub fn check(bytes: &[u8]) -> (Option<Settings>, Faults) {
    DOCUMENT.examine(bytes)
}

/// JSON Schema (draft 2020-12) of the settings.
pub fn schema() -> String {
    json_schema::schema("Wherry device settings", &SETTINGS)
}

/// Settings that name every field, for README and as a start for one's own.
pub fn example() -> &'static str {
    include_str!("example.json")
}

fn settings<'a>(view: View<'a>, _: &'a Node<'a>, found: &mut Vec<Found>) -> Option<Settings> {
    let owned = |name| view.text(name).map(str::to_owned);
    let brokers: Option<Vec<_>> = view.items("brokers").iter().map(|node| broker(node, found)).collect();
    let (users, limits, syslog) = (view.object("users"), view.object("limits"), view.object("syslog"));
    let data_dir = owned("data_dir")?;
    apart(view, found);
    distinct(users, found);
    let import_dirs = view.texts("import_dirs").unwrap_or_else(|| vec![format!("{}/import", data_dir.trim_end_matches('/'))]);
    let run_dir = owned("run_dir")?;
    let (secrets_dir, trust_dir) = (owned("secrets_dir")?, owned("trust_dir")?);
    out_of_reach(view, &[&data_dir, &run_dir, &secrets_dir, &trust_dir], &import_dirs, found);
    Some(Settings {
        device: view.parse("device"),
        root: owned("root")?,
        groups: groups(view, found)?,
        brokers: brokers?,
        import_dirs,
        data_dir,
        run_dir,
        cgroup: owned("cgroup")?,
        interval_s: view.parse("interval_s")?,
        bind_sources: view.texts("bind_sources").unwrap_or_default(),
        secrets_dir,
        trust_dir,
        variables: view.entries("variables").iter().filter_map(|m| Some((m.key.to_string(), m.value.text()?.to_owned()))).collect(),
        users: Users { agent: users.parse("agent")?, hash: users.parse("hash")?, unpack: users.parse("unpack")? },
        limits: Limits {
            max_image_bytes: limits.size("max_image_bytes")?,
            max_image_inodes: limits.parse("max_image_inodes")?,
            fetch_timeout_s: limits.parse("fetch_timeout_s")?,
            max_log_bytes: limits.size("max_log_bytes")?,
        },
        fetch: fetch(view, found)?,
        syslog: Syslog { all: syslog.flag("all"), socket: syslog.text("socket")?.to_owned() },
        log_level: view.parse("log_level")?,
    })
}

fn fetch(view: View, found: &mut Vec<Found>) -> Option<Fetch> {
    let Some(node) = view.node("fetch") else { return Some(Fetch { ca: None, client: None, proxy: None }) };
    let view = view.object("fetch");
    let Tls::On { ca, client } = encryption(view, node, found)? else { return None };
    let proxy = match view.node("proxy") {
        None => None,
        Some(_) => Some(proxy(view.object("proxy"), found)?),
    };
    Some(Fetch { ca, client, proxy })
}

fn proxy(view: View, found: &mut Vec<Found>) -> Option<Proxy> {
    let owned = |name| view.text(name).map(str::to_owned);
    if let Some(node) = view.node("password").filter(|_| view.node("username").is_none()) {
        found.push(bad(node, "needs a `username` beside it"));
    }
    // RFC 7617, section 2: the colon ends the name.
    if let Some(node) = view.node("username").filter(|n| n.text().is_some_and(|t| t.contains(':'))) {
        found.push(bad(node, "must not have a colon"));
    }
    let credentials = owned("username").map(|name| (name, owned("password").unwrap_or_default()));
    Some(Proxy { host: owned("host")?, port: view.parse("port")?, credentials })
}

fn bad(node: &Node, message: &str) -> Found {
    Found::at(node, Reason::BadValue, message)
}

fn groups(view: View, found: &mut Vec<Found>) -> Option<Vec<Id>> {
    let items = view.items("groups");
    for (i, node) in items.iter().take(MAX_GROUPS).enumerate() {
        if node.text().is_some() && items[..i].iter().any(|earlier| earlier.text() == node.text()) {
            found.push(bad(node, "is named twice"));
        }
    }
    items.iter().map(|n| n.text()?.parse().ok()).collect()
}

/// Data on the runtime tmpfs would be gone after a reboot, and a tmpfs mounted over data would hide it.
fn apart(view: View, found: &mut Vec<Found>) {
    let (Some(data), Some(run)) = (view.text("data_dir"), view.text("run_dir")) else { return };
    if let Some(node) = view.node("data_dir").or(view.node("run_dir")).filter(|_| below(data, run) || below(run, data)) {
        found.push(bad(node, "data_dir and run_dir must not contain each other"));
    }
}

/// Whoever may write in a bound directory decides what is in those below it.
fn out_of_reach(view: View, own: &[&str], import_dirs: &[String], found: &mut Vec<Found>) {
    for node in view.items("bind_sources") {
        let Some(source) = node.text() else { continue };
        let mut kept = own.iter().copied().chain(import_dirs.iter().map(String::as_str));
        if let Some(dir) = kept.find(|dir| Path::new(dir).starts_with(source)) {
            found.push(bad(node, &format!("must not hold {dir}: a container could replace what is in there")));
        }
    }
}

/// Two processes of one user could trace and signal each other.
fn distinct(users: View, found: &mut Vec<Found>) {
    let names = ["agent", "hash", "unpack"];
    for (i, name) in names.iter().enumerate() {
        let same = names.iter().enumerate().any(|(j, other)| j != i && users.text(other) == users.text(name));
        if let Some(node) = users.node(name).filter(|_| same) {
            found.push(bad(node, "must be another number than the other users'"));
        }
    }
}

fn broker(node: &Node, found: &mut Vec<Found>) -> Option<Broker> {
    let view = View::new(node, &BROKER);
    let owned = |name| view.text(name).map(str::to_owned);
    let tls = match view.node("tls") {
        Some(node) if matches!(node.value, Value::Object(_)) => encryption(view.object("tls"), node, found)?,
        _ if view.flag("tls") => Tls::On { ca: None, client: None },
        _ => Tls::Off,
    };
    // MQTT 3.1.1, section 3.1.2.9: no password without a user name.
    if let Some(node) = view.node("password").filter(|_| view.node("username").is_none()) {
        found.push(bad(node, "needs a `username` beside it"));
    }
    if let Some(node) = view.node("password").filter(|_| tls == Tls::Off) {
        found.push(bad(node, "is sent to the broker unencrypted").hint("set `tls`").warning());
    }
    let port = if tls == Tls::Off { PORT } else { PORT_TLS };
    Some(Broker {
        host: owned("host")?,
        port: view.node("port").map_or(Some(port), |_| view.parse("port"))?,
        tls,
        username: owned("username"),
        password: owned("password"),
        keep_alive_s: u16::try_from(view.time("keep_alive")?.as_secs()).ok()?,
        retained: view.flag("retained"),
    })
}

fn encryption(view: View, node: &Node, found: &mut Vec<Found>) -> Option<Tls> {
    let owned = |name| view.text(name).map(str::to_owned);
    let client = match (owned("certificate"), owned("key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            found.push(bad(node, "`certificate` and `key` belong together"));
            return None;
        }
    };
    Some(Tls::On { ca: owned("ca"), client })
}

#[cfg(test)]
mod tests {
    use super::{MAX_SETTINGS, SETTINGS, Settings, Tls, check, example, parse, schema};
    use crate::manifest::Severity;
    use crate::manifest::shape::{Field, Kind};
    use crate::protocol::Reason;

    fn refused(text: &str, path: &str, reason: Reason) {
        let faults = parse(text.as_bytes()).expect_err(text);
        let errors = faults.0.iter().filter(|f| f.severity == Severity::Error);
        let found: Vec<_> = errors.map(|f| (f.path.as_str(), f.reason)).collect();
        assert_eq!(found, [(path, reason)], "{text}\n{faults}");
    }

    #[test]
    fn empty_settings_are_good_settings() {
        let s = parse(b"{}").unwrap();
        assert_eq!((s.device, s.root.as_str(), s.cgroup.as_str(), s.interval_s), (None, "wherry", "wherry", 60));
        assert_eq!((s.data_dir.as_str(), s.run_dir.as_str()), ("/var/lib/wherry", "/run/wherry"));
        assert_eq!(s.import_dirs, ["/var/lib/wherry/import"]);
        assert_eq!((s.users.agent, s.users.hash, s.users.unpack), (65501, 65502, 65503));
        assert_eq!((s.limits.max_image_bytes, s.limits.max_image_inodes, s.limits.fetch_timeout_s), (512 << 20, 100_000, 600));
        assert_eq!(s.log_level, log::LevelFilter::Info);
        assert!(s.groups.is_empty() && s.brokers.is_empty() && s.bind_sources.is_empty() && s.variables.is_empty());
    }

    #[test]
    fn the_example_is_good_and_names_every_field() {
        let s: Settings = parse(example().as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!((s.brokers[0].port, s.brokers[1].port, s.brokers[1].keep_alive_s), (8883, 1883, 30));
        assert!(matches!(&s.brokers[0].tls, Tls::On { ca: Some(ca), client: Some(_) } if ca == "/etc/wherry/ca.pem"));
        let value: serde_json::Value = serde_json::from_str(example()).unwrap();
        fn walk(fields: &[Field], value: &serde_json::Value) {
            for field in fields {
                let inner = value.get(field.name).unwrap_or_else(|| panic!("the example lacks {}", field.name));
                match field.kind {
                    Kind::Object(fields) | Kind::BoolOr(fields) => walk(fields, inner),
                    Kind::List(Kind::Object(fields), ..) => walk(fields, &inner[0]),
                    _ => {}
                }
            }
        }
        walk(&SETTINGS, &value);
    }

    #[test]
    fn every_fault_is_refused_at_its_place() {
        for (text, path) in [
            (r#"{"device": "a/b"}"#, "device"),
            (r#"{"device": ""}"#, "device"),
            (r#"{"root": "fleet/+"}"#, "root"),
            (r##"{"root": "#"}"##, "root"),
            (r#"{"root": "/fleet"}"#, "root"),
            (r#"{"root": "a//b"}"#, "root"),
            (r#"{"root": "$SYS"}"#, "root"),
            (r#"{"groups": ["a", "a"]}"#, "groups[1]"),
            (r#"{"groups": ["1","2","3","4","5","6","7","8","9"]}"#, "groups"),
            (r#"{"brokers": [{"port": 1}]}"#, "brokers[0]"),
            (r#"{"brokers": [{"host": "a"}, {"host": "b c"}]}"#, "brokers[1].host"),
            (r#"{"brokers": [{"host": "a", "port": 65536}]}"#, "brokers[0].port"),
            (r#"{"brokers": [{"host": "a", "keep_alive": "4s"}]}"#, "brokers[0].keep_alive"),
            (r#"{"brokers": [{"host": "a", "tls": "yes"}]}"#, "brokers[0].tls"),
            (r#"{"brokers": [{"host": "a", "tls": {"ca": "ca.pem"}}]}"#, "brokers[0].tls.ca"),
            (r#"{"brokers": [{"host": "a", "tls": {"key": "/k"}}]}"#, "brokers[0].tls"),
            (r#"{"brokers": [{"host": "a", "password": "p"}]}"#, "brokers[0].password"),
            (r#"{"fetch": {"key": "/k"}}"#, "fetch"),
            (r#"{"fetch": {"ca": "ca.pem"}}"#, "fetch.ca"),
            (r#"{"fetch": {"proxy": {"port": 1}}}"#, "fetch.proxy"),
            (r#"{"fetch": {"proxy": {"host": "p", "password": "x"}}}"#, "fetch.proxy.password"),
            (r#"{"fetch": {"proxy": {"host": "p", "username": "a:b"}}}"#, "fetch.proxy.username"),
            (r#"{"brokers": [{"host":"1"},{"host":"2"},{"host":"3"},{"host":"4"},{"host":"5"}]}"#, "brokers"),
            (r#"{"data_dir": "var"}"#, "data_dir"),
            (r#"{"data_dir": "/run/wherry/data"}"#, "data_dir"),
            (r#"{"cgroup": "/wherry"}"#, "cgroup"),
            (r#"{"cgroup": "../wherry"}"#, "cgroup"),
            (r#"{"interval_s": 0}"#, "interval_s"),
            (r#"{"import_dirs": ["/a/../b"]}"#, "import_dirs[0]"),
            (r#"{"bind_sources": "/a"}"#, "bind_sources"),
            (r#"{"bind_sources": ["/srv", "/var"]}"#, "bind_sources[1]"),
            (r#"{"bind_sources": ["/a"], "import_dirs": ["/ab", "/a/b"]}"#, "bind_sources[0]"),
            (r#"{"secrets_dir": "secrets"}"#, "secrets_dir"),
            (r#"{"bind_sources": ["/etc/wherry"]}"#, "bind_sources[0]"),
            (r#"{"bind_sources": ["/s"], "secrets_dir": "/s/secrets"}"#, "bind_sources[0]"),
            (r#"{"bind_sources": ["/t"], "trust_dir": "/t"}"#, "bind_sources[0]"),
            (r#"{"trust_dir": "trust"}"#, "trust_dir"),
            (r#"{"variables": {"a b": "1"}}"#, "variables[\"a b\"]"),
            (r#"{"variables": {"a": 1}}"#, "variables.a"),
            (r#"{"users": {"agent": 0}}"#, "users.agent"),
            (r#"{"users": {"agent": 65502}}"#, "users.agent"),
            (r#"{"limits": {"max_image_bytes": "1T"}}"#, "limits.max_image_bytes"),
            (r#"{"log_level": "loud"}"#, "log_level"),
        ] {
            refused(text, path, Reason::BadValue);
        }
        refused(r#"{"interval": 5}"#, "interval", Reason::UnknownField);
        refused(r#"{"root": "a", "root": "b"}"#, "root", Reason::Malformed);
        refused(&" ".repeat(MAX_SETTINGS + 1), "", Reason::Oversize);
    }

    #[test]
    fn no_fault_shows_a_password() {
        let one_line = br#"{"brokers": [{"host": "a b", "username": "u", "password": "geheim"}]}"#;
        let faults = parse(one_line).unwrap_err().to_string();
        assert!(faults.contains("\"username\"") && !faults.contains("geheim"), "{faults}");
        let broken = br#"{"brokers": [{"host": "a", "username": "u", "password": "geheim" }"#;
        assert!(!parse(broken).unwrap_err().to_string().contains("geheim"));
        let settings = parse(br#"{"brokers": [{"host": "a", "username": "u", "password": "geheim"}]}"#).unwrap();
        assert!(!format!("{settings:?}").contains("geheim"));
    }

    #[test]
    fn a_password_without_tls_is_a_warning() {
        let (settings, faults) = check(br#"{"brokers": [{"host": "a", "username": "u", "password": "geheim"}]}"#);
        assert!(settings.is_some() && faults.0.len() == 1 && faults.0[0].severity == Severity::Warning, "{faults}");
        assert!(check(example().as_bytes()).1.0.is_empty());
    }

    #[test]
    fn damaged_settings_are_taken_or_refused_without_a_panic() {
        let mut dice = 7u64;
        for _ in 0..5000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = example().as_bytes().to_vec();
            let at = (dice >> 33) as usize % bytes.len();
            bytes[at] ^= 1 << ((dice >> 60) & 7);
            if let Err(faults) = parse(&bytes) {
                assert!(faults.is_refusal() && faults.first_reason() != Reason::Internal, "{faults}");
            }
            assert!(parse(&example().trim_end().as_bytes()[..at.min(bytes.len() - 2)]).is_err());
        }
    }

    #[test]
    fn the_schema_is_json() {
        let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
        assert_eq!(schema["properties"]["limits"]["properties"]["max_image_bytes"]["default"], "512M");
    }
}
