//! The table of commands. The parser and the help read this one.

use super::{command, compose, diff, keyset, publish, serve, settings, sign, status, stream, watch};
use crate::cli::verbs::{Opt, PLAIN, Program, Verb, flag, value};
use crate::cli::{help, print};
use crate::exit::Code;
use crate::protocol;

/// The operator's program.
pub static WHERRYCTL: Program = Program {
    name: "wherryctl",
    lists: "`wherryctl help` lists the commands",
    before: "options of a command stand behind it: `wherryctl COMMAND --option`",
    head: "wherryctl: a fleet of Wherry devices, by way of its MQTT broker.\n\nusage: wherryctl [OPTION...] COMMAND ...\n\n",
    verbs: VERBS,
    options: GLOBAL,
    always: "-h, --json, --config FILE, --broker ADDRESS, --root TOPIC",
    notes: settings::HELP,
    codes: CODES,
    tail: "\n`wherryctl help COMMAND` shows its options and examples\n",
};

const CODES: &[(Code, &str)] = &[
    (Code::Ok, "done"),
    (Code::Failed, "a device rejected it or failed; of diff: something differs"),
    (Code::Usage, "wrong command line"),
    (Code::BadData, "wrong content in a document or in the settings"),
    (Code::NoInput, "a file is missing or cannot be read"),
    (Code::Unavailable, "the broker cannot be reached, or a device did not answer or end in time"),
    (Code::Internal, "a fault of wherryctl itself"),
    (Code::CannotCreate, "a file cannot be made"),
    (Code::Io, "reading or writing failed"),
    (Code::NoPermission, "not allowed, by the system or by the broker"),
];

/// Options of every command.
pub const GLOBAL: &[Opt] = &[
    flag(Some('h'), "help", "show this help"),
    flag(None, "json", "answer in JSON, for programs"),
    value(None, "config", "FILE", "settings (default: ~/.config/wherry/wherryctl.toml)"),
    value(None, "broker", "ADDRESS", "mqtts://HOST[:PORT], mqtt://HOST[:PORT] or HOST[:PORT]"),
    value(None, "root", "TOPIC", "root topic of the fleet (default: wherry)"),
    flag(Some('V'), "version", "show the version"),
];

const DEVICE: Opt = value(Some('d'), "device", "ID", "for this device; may be given several times");
const GROUP: Opt = value(Some('g'), "group", "ID", "for all members of this group, now and later");
const WHERE: Opt = value(Some('w'), "where", "SELECTOR", "for each device that this means now, such as arch=arm64,version<0.2");
const TIMEOUT: Opt = value(None, "timeout", "TIME", "how long devices may take (default: 5m)");
const NO_WAIT: Opt = flag(None, "no-wait", "return once the broker has it");
const DRY_RUN: Opt = flag(None, "dry-run", "check, say what would be published, and publish nothing");
const EXPECT: Opt = value(None, "expect", "N", "of a group: so many devices must answer (default: those known to be in it, at least one)");
const KEY: Opt = value(Some('k'), "key", "FILE", "sign with this secret key; may be given several times (default: `signing_key`)");
const LISTEN: Opt = value(None, "listen", "TIME", "listen so long first: who is silent for three intervals is then told as silent");

const COMMAND: &[Opt] = &[
    DEVICE,
    value(Some('g'), "group", "ID", "for each device that has an app by way of this group"),
    WHERE,
    KEY,
    value(None, "timeout", "TIME", "how long devices may take (default: 30s)"),
];

const COMMANDS: &str = "\
The command is for the session that each device is in: who is not online does not get it later. The answer says that it is
begun; what comes of it shows in `wherryctl watch`. It ends well when all have said so. With --json, each answer is one JSON
document on its own line.";

const SELECTORS: &str = "\
A selector is KEY=VALUE, joined by commas, all of which must hold; != < <= > >= compare too. Keys: device, link (online,
offline, silent, unknown), version, kernel, board, arch, isolation, feature, missing, app, schema, ram, flash_free.";

/// All commands, in the order of the help.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "apply",
        synopsis: "(-d ID | -g ID | -w SELECTOR) FILE...",
        line: "publish manifests or a keyset, and follow them on the devices",
        text: "\
FILE is a manifest or a tombstone in JSON, TOML or YAML, by its ending; - is standard input. All are checked here first, by
the parser of the devices. `seq` and `target` are put in: seq is the clock's milliseconds, and always above what the broker
and the devices have; a larger one in the file counts. Without -d, -g or -w, the file's own `target` says whom it is for.
Published retained: who is offline gets it later. Each step of each device is shown; it ends well when all of them run it. A
lost connection is made again, and what was missed is learnt from the reports. A group's members are not known to the broker:
those count that have answered, and those whose report names the group. A selector is KEY=VALUE, joined by commas, all of
which must hold; != < <= > >= compare too. Keys: device, link (online, offline, silent, unknown), version, kernel, board,
arch, isolation, feature, missing, app, schema, ram, flash_free. With --json, each step is one JSON document on its own line,
and the last line has all outcomes.
A keyset (`wherryctl keyset new`) must be signed by a root key, here with -k or before by `wherryctl sign`. It ends well when
all devices have accepted it. What it would lock out is told before. One that is refused by all is taken back from the
broker, unless --no-wait or an interrupt came before.",
        options: &[DEVICE, GROUP, WHERE, TIMEOUT, EXPECT, KEY, NO_WAIT, DRY_RUN],
        examples: &[
            ("wherryctl apply -d router-17 web.yaml", "one device"),
            ("wherryctl apply -g site-north --expect 12 web.toml dns.toml", "a group of twelve"),
            ("wherryctl apply -w 'arch=arm64,version>=0.1' --dry-run web.json", "who would get it?"),
            ("wherryctl apply -g all -k root.sec keys.json", "which keys count from now on"),
        ],
        min: 1,
        max: 256,
        run: Some(publish::apply),
        ..PLAIN
    },
    Verb {
        name: "rm",
        synopsis: "[--volumes] (-d ID | -g ID | -w SELECTOR) APP",
        line: "remove an app, by a tombstone",
        text: "\
The tombstone takes the manifest's place at the broker, so that a device that is offline now removes the app later. Volumes
stay unless --volumes says otherwise.",
        options: &[flag(None, "volumes", "remove its volumes too"), DEVICE, GROUP, WHERE, TIMEOUT, EXPECT, KEY, NO_WAIT, DRY_RUN],
        examples: &[("wherryctl rm -d router-17 web", "stop and remove it"), ("wherryctl rm -g site-north web", "of a whole group")],
        min: 1,
        max: 1,
        run: Some(publish::remove),
        ..PLAIN
    },
    Verb {
        name: "status",
        synopsis: "[DEVICE]",
        line: "show what runs where; of one device, all that it says of itself",
        text: "\
From what the broker keeps: each device's presence and report. LINK is online, offline, unknown, or silent: said to be online,
and then nothing for more than three of its intervals (only --listen can tell). A late will, of a session before, is ignored.",
        options: &[WHERE, LISTEN],
        examples: &[("wherryctl status", "every app of every device"), ("wherryctl status router-17 --json", "one device, for a program")],
        max: 1,
        run: Some(status::status),
        ..PLAIN
    },
    Verb {
        name: "devices",
        synopsis: "[-w SELECTOR]",
        line: "list the devices with their release, board and memory",
        text: SELECTORS,
        options: &[WHERE, LISTEN],
        examples: &[
            ("wherryctl devices", "all that the broker knows"),
            ("wherryctl devices -w link=online,flash_free<8M", "who runs out of flash?"),
        ],
        run: Some(status::devices),
        ..PLAIN
    },
    Verb {
        name: "watch",
        synopsis: "[DEVICE...]",
        line: "show steps, reports and presence as they come",
        text: "Until it is interrupted; a lost connection is made again. With --json, one document for each message, with its topic.",
        examples: &[("wherryctl watch", "the whole fleet"), ("wherryctl watch router-17 --json", "one device, for a program")],
        max: 256,
        run: Some(watch::watch),
        ..PLAIN
    },
    Verb {
        name: "diff",
        synopsis: "(-d ID | -g ID | -w SELECTOR) FILE",
        line: "show what apply would change",
        text: "\
Compares the file with what the broker keeps, as devices understand both: defaults are filled in, sizes and times are numbers,
and seq and target do not count. The exit code is 0 if nothing differs, and 1 if something does.",
        options: &[DEVICE, GROUP, WHERE],
        examples: &[("wherryctl diff -g site-north web.yaml", "before apply")],
        min: 1,
        max: 1,
        run: Some(diff::diff),
        ..PLAIN
    },
    Verb {
        name: "start",
        synopsis: "(-d ID | -g ID | -w SELECTOR) APP[/CONTAINER]",
        line: "start the containers of an app that were stopped by `wherryctl stop`",
        text: COMMANDS,
        options: COMMAND,
        examples: &[("wherryctl start -d router-17 web", "all of them"), ("wherryctl start -d router-17 web/nginx", "one of them")],
        min: 1,
        max: 1,
        run: Some(|call| command::send(call, protocol::Verb::Start)),
        ..PLAIN
    },
    Verb {
        name: "stop",
        synopsis: "(-d ID | -g ID | -w SELECTOR) APP[/CONTAINER]",
        line: "stop containers, until they are started or another document comes",
        text: COMMANDS,
        options: COMMAND,
        examples: &[("wherryctl stop -g site-north web", "on each device that has an app by the group")],
        min: 1,
        max: 1,
        run: Some(|call| command::send(call, protocol::Verb::Stop)),
        ..PLAIN
    },
    Verb {
        name: "restart",
        synopsis: "(-d ID | -g ID | -w SELECTOR) APP[/CONTAINER]",
        line: "stop containers and start them again",
        text: COMMANDS,
        options: COMMAND,
        examples: &[("wherryctl restart -w app=web,link=online web", "wherever it is")],
        min: 1,
        max: 1,
        run: Some(|call| command::send(call, protocol::Verb::Restart)),
        ..PLAIN
    },
    Verb {
        name: "retry",
        synopsis: "(-d ID | -g ID | -w SELECTOR) APP",
        line: "let devices try again what failed",
        text: "\
Sends the command `retry` for the session that a device is in, and shows its answer: whether another attempt is begun.
What comes of it shows in `wherryctl watch`. Applying the file again, with its new number, does the same.",
        options: COMMAND,
        examples: &[("wherryctl retry -d router-17 web", "try it again")],
        min: 1,
        max: 1,
        run: Some(|call| command::send(call, protocol::Verb::Retry)),
        ..PLAIN
    },
    Verb {
        name: "prune",
        synopsis: "(-d ID | -g ID | -w SELECTOR)",
        line: "let devices remove images and layers that nothing needs",
        text: COMMANDS,
        options: COMMAND,
        examples: &[("wherryctl prune -w flash_free<8M", "where flash is short")],
        run: Some(|call| command::send(call, protocol::Verb::Prune)),
        ..PLAIN
    },
    Verb {
        name: "diag",
        synopsis: "(-d ID | -g ID | -w SELECTOR)",
        line: "fetch the support bundle of devices, without secrets",
        text: "\
What `wherry diag` collects on a device, as far as an answer of 192 KiB holds it. Of one device the bundle is printed as it is; of
several, each is one JSON document on its own line, with the device.",
        options: COMMAND,
        examples: &[("wherryctl diag -d router-17 > router-17.json", "for a report")],
        run: Some(|call| command::send(call, protocol::Verb::Diag)),
        ..PLAIN
    },
    Verb {
        name: "logs",
        synopsis: "[-f] [-n LINES] DEVICE APP[/CONTAINER]",
        line: "show what containers on a device have printed",
        text: "\
Of an app with several containers, all of them, as it came. Bytes that the device has no more are counted on standard error.
With --json, one frame of the answer in each line. Interrupted, it ends at the device too.",
        options: &[
            flag(Some('f'), "follow", "go on with what comes"),
            value(None, "for", "TIME", "follow for so long (default, and most: 10m)"),
            value(Some('n'), "tail", "LINES", "at most so many of the last lines of each container, or all"),
            KEY,
        ],
        examples: &[
            ("wherryctl logs -n 50 router-17 web/nginx", "the last lines"),
            ("wherryctl logs -f router-17 web", "all containers of the app, as it comes"),
        ],
        min: 2,
        max: 2,
        run: Some(stream::logs),
        ..PLAIN
    },
    Verb {
        name: "exec",
        synopsis: "[-e NAME=VALUE] [-u USER] DEVICE APP[/CONTAINER] -- PROGRAM [ARG...]",
        line: "run a program in a container on a device",
        text: "\
Only where the device's policy has \"exec\": true. Without input and without a terminal; what it prints to standard output and
standard error goes there, as fast as the broker takes it. It is killed with all that it started when its time is over, when
this command is interrupted, or when the device loses its broker. Ends as the program does: with its code, or 128 and the
number of the signal; 125 if it was not run, 126 if it cannot be, 127 if it is not there.",
        options: &[
            value(Some('e'), "env", "NAME=VALUE", "a variable for it; may be given several times"),
            value(Some('u'), "user", "USER[:GROUP]", "run it as this user (default: the container's)"),
            value(None, "timeout", "TIME", "how long it may take (default: 30s, most: 10m)"),
            KEY,
        ],
        examples: &[
            ("wherryctl exec router-17 web -- nginx -t", "is its configuration right?"),
            ("wherryctl exec --timeout 5m router-17 web/nginx -- sh -c 'du -s /*'", "a shell's line"),
        ],
        min: 3,
        max: 258,
        run: Some(stream::exec),
        ..PLAIN
    },
    Verb {
        name: "serve",
        synopsis: "DIR",
        line: "answer devices in place of retained messages",
        text: "\
For brokers that keep no retained messages. A device says with `get` what it has; what is newer in DIR is published for it:
  DIR/device/ID/APP.json     for one device
  DIR/group/ID/APP.json      for the members of a group
or .toml, .yaml, .yml; a tombstone is a file with `remove = true`. The number is `seq` in the file, or else when the file was
last changed. Files are read at each `get`; a bad one is told and left out. Documents of groups go to the group's topic
whenever a device does not have them, for nobody says who is in a group. Runs until it is interrupted; a lost connection is
made again. With -k, documents are signed as they are published; a file may be an envelope too.",
        options: &[KEY],
        examples: &[("wherryctl serve /srv/fleet", "beside the broker, as a service")],
        min: 1,
        max: 1,
        run: Some(serve::serve),
        ..PLAIN
    },
    Verb {
        name: "import",
        synopsis: "compose FILE",
        line: "make a manifest of a compose file",
        text: "\
Prints one manifest with a container for each service, as JSON. Every line of FILE that cannot be mapped is told on standard
error as FILE:LINE:COLUMN; the rest is still made. Devices take no images from registries yet: put in where they are
(image.ref).",
        options: &[value(None, "app", "NAME", "name of the app (default: `name` in the file, else the name of its directory)")],
        examples: &[("wherryctl import compose docker-compose.yml > web.json", "a first version of a manifest")],
        min: 2,
        max: 2,
        run: Some(compose::import),
        ..PLAIN
    },
    Verb {
        name: "keygen",
        synopsis: "NAME",
        line: "make a key that signs",
        text: "\
Writes NAME.sec, which signs and is yours alone, and NAME.pub, which goes to the devices (/etc/wherry/trust). Both have the
format of signify and usign; NAME.sec has no passphrase. A device with a public key takes nothing unsigned any more.",
        examples: &[("wherryctl keygen team", "team.sec and team.pub")],
        min: 1,
        max: 1,
        run: Some(sign::keygen),
        ..PLAIN
    },
    Verb {
        name: "keyset",
        synopsis: "new [--root-key FILE.pub]... [-k FILE.pub]... | show",
        line: "make a keyset, which says which keys count, or show those in force",
        text: "\
new prints a keyset with these keys, to be limited by hand (`apps`, `targets`, `min_seq`), and published by `wherryctl apply`;
with -d or -g also with `target` and `seq`, to be signed on a machine without a network. A key of --root-key may sign
everything, keysets too; one of -k manifests and commands. A keyset replaces the one before it as a whole.
show prints what the broker keeps, and which keys each device trusts, those of its files included.
To replace a key that signs: name the old one and the new one in a keyset, apply it, sign with the new one, and apply a keyset
without the old one. Keep the root key elsewhere, and its public half in a file on each device: the last root key cannot be
removed over the network.",
        options: &[
            value(None, "root-key", "FILE", "public key that may sign everything; may be given several times"),
            value(Some('k'), "key", "FILE", "public key that may sign manifests and commands; may be given several times"),
            DEVICE,
            GROUP,
            WHERE,
        ],
        examples: &[
            ("wherryctl keyset new -k old.pub -k new.pub > keys.json", "both may sign"),
            ("wherryctl apply -g all -k root.sec keys.json", "tell the devices"),
            ("wherryctl keyset show -d router-17", "what is in force there"),
        ],
        min: 1,
        max: 1,
        run: Some(keyset::keyset),
        ..PLAIN
    },
    Verb {
        name: "sign",
        synopsis: "-k KEY.sec... FILE",
        line: "put a document into a signed envelope, without a broker",
        text: "\
Prints the envelope. FILE is a manifest with `seq`, `target` and a digest for each image, a tombstone, or a keyset; or an
envelope, to which a signature is added. `wherryctl apply` publishes envelopes as they are, and signs by itself
with -k; so it does with keysets.",
        options: &[KEY],
        examples: &[
            ("wherryctl sign -k team.sec web.json > web.envelope", "on a machine without a network"),
            ("wherryctl sign -k second.sec web.envelope", "one more signature"),
        ],
        min: 1,
        max: 1,
        run: Some(sign::sign),
        ..PLAIN
    },
    Verb {
        name: "verify",
        synopsis: "-k KEY.pub... FILE",
        line: "check the signatures of an envelope",
        text: "\
Says of each signature whether it is good. The exit code is 0 if one is good, which is enough for a device that trusts its
key, and 1 if none is. With --json, the document in the envelope is shown too.",
        options: &[value(Some('k'), "key", "FILE", "public key to check with; may be given several times")],
        examples: &[("wherryctl verify -k team.pub web.envelope", "is it what the team signed?")],
        min: 1,
        max: 1,
        run: Some(sign::verify),
        ..PLAIN
    },
    Verb {
        name: "version",
        line: "show the version of this program",
        text: "Of devices, `wherryctl devices` shows it.",
        examples: &[("wherryctl version", "which release is it?")],
        run: Some(|_| print::line(&format!("wherryctl {}", env!("CARGO_PKG_VERSION"))).map(|()| 0)),
        ..PLAIN
    },
    Verb {
        name: "help",
        synopsis: "[COMMAND]",
        line: "show all commands, or one with its options and examples",
        text: "With --json, the table of commands and options, for programs that make completions.",
        examples: &[("wherryctl help apply", "all about one command")],
        max: 1,
        run: Some(|call| help::asked(&WHERRYCTL, call)),
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_its_help_and_it_fits_a_terminal_that_is_not_wide() {
        for verb in VERBS {
            assert!(!verb.examples.is_empty() && !verb.text.is_empty(), "{}", verb.name);
            assert!(verb.examples.iter().any(|(line, _)| line.contains(&format!("wherryctl {}", verb.name))), "{}", verb.name);
            let text = help::one(&WHERRYCTL, verb);
            assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
        }
        let text = help::all(&WHERRYCTL);
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    }

    #[test]
    fn no_option_has_two_meanings() {
        for verb in VERBS {
            let all: Vec<&Opt> = verb.options.iter().chain(GLOBAL).collect();
            for (i, a) in all.iter().enumerate() {
                let same = |b: &&&Opt| a.long == b.long || (a.short.is_some() && a.short == b.short);
                assert!(!all[i + 1..].iter().any(|b| same(&b)), "{}: {}", verb.name, a.long);
            }
        }
    }
}
