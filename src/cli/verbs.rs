//! The table of commands. The parser, the help, the manual and the completions all read this one.

use super::args::Call;
use super::{apply, attach, check, control, copy, diag, events, exec, help, list, logs, run, stats, status, validate};
use crate::exit::{CODES, Code, Error};

/// A program with commands: this one, or another that has its command line read and its help printed by the same rules.
pub struct Program {
    /// What one types.
    pub name: &'static str,
    /// The hint where no command is what was typed.
    pub lists: &'static str,
    /// The hint where an option stands before the command that has it.
    pub before: &'static str,
    /// How its help begins, up to the commands.
    pub head: &'static str,
    /// Its commands, in the order of the help.
    pub verbs: &'static [Verb],
    /// Options of every command.
    pub options: &'static [Opt],
    /// These in short, for the help of one command.
    pub always: &'static str,
    /// What its help says of settings and variables, up to the exit codes.
    pub notes: &'static str,
    /// Exit codes with their meaning.
    pub codes: &'static [(Code, &'static str)],
    /// How its help ends, behind these.
    pub tail: &'static str,
}

/// The program on devices.
pub static WHERRY: Program = Program {
    name: "wherry",
    lists: "`wherry help` lists the commands",
    before: "options of a command stand behind it: `wherry COMMAND --option`",
    head: "Wherry: containers small enough for a router.\n\nusage: wherry [--json] [--socket PATH] COMMAND ...\n\n",
    verbs: VERBS,
    options: GLOBAL,
    always: "-h, --json, --socket PATH",
    notes: "\nenvironment:\n  WHERRY_SOCKET   keeper's socket\n  WHERRY_LOG      off, error, warn, info, debug or trace\n\nexit codes:\n",
    codes: CODES,
    tail: "  exec, run and attach: the program's own code, or 128 and the number of the signal that ended it\n\n\
           `wherry help COMMAND` shows its options and examples\n",
};

/// One command.
pub struct Verb {
    /// What one types.
    pub name: &'static str,
    /// Operands and the most used options.
    pub synopsis: &'static str,
    /// What it does, in one line.
    pub line: &'static str,
    /// What one should know before using it.
    pub text: &'static str,
    /// Its own options.
    pub options: &'static [Opt],
    /// Command lines with what they do.
    pub examples: &'static [(&'static str, &'static str)],
    /// Fewest operands.
    pub min: u16,
    /// Most operands.
    pub max: u16,
    /// All behind the first operand belongs to a program.
    pub rest: bool,
    /// It ends as a program ends.
    pub as_program: bool,
    /// What does it; `None` for a role, which `main` starts before the command line is looked at.
    pub run: Option<Run>,
}

/// Does what a command line asks for; gives the exit code.
pub type Run = fn(&Call) -> Result<u8, Error>;

/// One option.
pub struct Opt {
    /// `-x`.
    pub short: Option<char>,
    /// `--long`.
    pub long: &'static str,
    /// What follows it.
    pub takes: Takes,
    /// What it does.
    pub help: &'static str,
}

/// What follows an option.
#[derive(Clone, Copy)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// A value, shown by this name.
    Value(&'static str),
    /// A whole number, if one stands there.
    Number(&'static str),
}

/// An option that is given or not.
pub const fn flag(short: Option<char>, long: &'static str, help: &'static str) -> Opt {
    Opt { short, long, takes: Takes::Nothing, help }
}

/// An option with a value.
pub const fn value(short: Option<char>, long: &'static str, name: &'static str, help: &'static str) -> Opt {
    Opt { short, long, takes: Takes::Value(name), help }
}

/// Options of every command.
pub const GLOBAL: &[Opt] = &[
    flag(Some('h'), "help", "show this help"),
    flag(None, "json", "answer in JSON, for programs"),
    value(None, "socket", "PATH", "keeper's socket (default: $WHERRY_SOCKET, else /run/wherry/control.sock)"),
    flag(Some('V'), "version", "show the version"),
];

/// Most apps in one command.
const MAX_HELD: u16 = 64;

/// What most commands have in common.
pub const PLAIN: Verb = Verb {
    name: "",
    synopsis: "",
    line: "",
    text: "",
    options: &[],
    examples: &[],
    min: 0,
    max: 0,
    rest: false,
    as_program: false,
    run: None,
};

impl Verb {
    /// An error of this command with the exit code that it has there.
    pub fn failed(&self, e: Error) -> Error {
        if self.as_program { e.instead_of_program() } else { e }
    }
}

/// All commands, in the order of the help.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "run",
        synopsis: "[--rm] [-d | -it] [-e K=V]... [-m SIZE] [-v SRC:DST] IMAGE-PATH [CMD...]",
        line: "make a manifest for an image, apply it, and show the output until it ends",
        text: "\
IMAGE-PATH is an OCI layout directory or a tar file on this device (OCI archive, docker archive, or a plain root
file system), or a reference such as oci:/path:tag, or the URL of such a file: then --digest says what it must be, and
--type what it is. CMD replaces the image's command; its entrypoint stays.
Without --name, the app is called after the image with a random ending. It is never restarted by itself.
Ctrl-C stops it; with -it, Ctrl-C goes to the program like every key, but for those of --detach-keys: they leave it running.
The exit code is the program's own, or 128 and the number of the signal that ended it; 125 when wherry failed, 126 when the
program cannot be run, 127 when it is not there.",
        options: &[
            flag(None, "rm", "remove the app when it has ended"),
            flag(Some('d'), "detach", "do not wait: print the app's name and return"),
            flag(Some('i'), "interactive", "pass standard input"),
            flag(Some('t'), "tty", "give it a terminal"),
            value(None, "detach-keys", "KEYS", "keys that leave its terminal (default: ctrl-p,ctrl-q)"),
            value(Some('e'), "env", "K=V", "set a variable; K alone takes its value from the caller"),
            value(Some('m'), "memory", "SIZE", "limit of memory, such as 64M"),
            value(None, "cpus", "N", "limit of CPU time, such as 0.5"),
            value(None, "pids", "N", "limit of processes and threads"),
            value(Some('v'), "volume", "SRC:DST[:ro]", "bind the path SRC of the device to DST; a SRC without / is a named volume"),
            value(Some('u'), "user", "USER[:GROUP]", "run as this user of the image"),
            value(Some('w'), "workdir", "DIR", "working directory"),
            value(None, "digest", "sha256:HEX", "what the image must be; for a URL, of the file"),
            value(None, "type", "TYPE", "of a URL: rootfs, oci-archive or docker-archive"),
            value(None, "name", "NAME", "name of the app"),
            value(None, "net", "none|host", "network: none (loopback alone), or the device's own"),
            flag(None, "read-only", "no writable layer over the image"),
            value(None, "hostname", "NAME", "host name inside"),
            flag(None, "print-manifest", "print the manifest and do nothing"),
        ],
        examples: &[
            ("wherry run --rm -it ./busybox.tar sh", "a shell, and nothing stays"),
            ("wherry run -d --name web -m 64M --net host oci:/srv/images/nginx:1.27", "in the background"),
            ("wherry run --print-manifest --name web ./nginx > web.json", "the beginning of a manifest of your own"),
        ],
        min: 1,
        max: 1,
        rest: true,
        as_program: true,
        run: Some(run::run),
    },
    Verb {
        name: "apply",
        synopsis: "[--no-wait] FILE|-",
        line: "bring an app to what a manifest says",
        text: "\
FILE is a manifest or a tombstone of at most 32 KiB; - is standard input. It is checked here first. Each step is shown
until the app runs, or is rejected or failed, with the reason's word in parentheses. What ran before then runs still, or
again: a new version is on trial until its containers are healthy or, without a health check, have run for three seconds.
With --json, each step is one JSON document on its own line.",
        options: &[flag(None, "no-wait", "return as soon as keeper has accepted it")],
        examples: &[
            ("wherry apply web.json", "start or change the app"),
            ("wherry run --print-manifest --name web ./nginx | wherry apply -", "by a pipe"),
        ],
        min: 1,
        max: 1,
        run: Some(apply::apply),
        ..PLAIN
    },
    Verb {
        name: "rm",
        synopsis: "[--volumes] APP",
        line: "stop and remove an app that was applied on this device",
        text: "Volumes stay unless --volumes says otherwise. An app that came by MQTT is removed there, by a tombstone.",
        options: &[flag(None, "volumes", "remove its volumes too")],
        examples: &[("wherry rm web", "stop and remove it")],
        min: 1,
        max: 1,
        run: Some(apply::remove),
        ..PLAIN
    },
    Verb {
        name: "ls",
        line: "list apps and containers",
        text: "\
STATE is waiting, fetching, created, starting, running, paused, stopping, exited, restarting, or failed; of an app
without containers, the state of its manifest. UP is the time since the start. A * behind an app says that it was stopped or
started by hand. Notes below the table say what is on hold, what limits the kernel cannot enforce, and why a container failed.",
        examples: &[("wherry ls", "what runs"), ("wherry ls --json", "the same for a program")],
        run: Some(list::list),
        ..PLAIN
    },
    Verb {
        name: "info",
        synopsis: "APP[/CONTAINER]",
        line: "show all settings of an app, as they are in force",
        text: "What the manifest says and what follows where it says nothing. With /CONTAINER, only that container.",
        examples: &[("wherry info web/nginx", "one container"), ("wherry info web --json", "as a JSON document")],
        min: 1,
        max: 1,
        run: Some(list::info),
        ..PLAIN
    },
    Verb {
        name: "start",
        synopsis: "APP[/CONTAINER]",
        line: "start what was stopped by hand, or has ended",
        text: "Without /CONTAINER, all containers of the app.",
        examples: &[("wherry start web", "all its containers")],
        min: 1,
        max: 1,
        run: Some(control::start),
        ..PLAIN
    },
    Verb {
        name: "stop",
        synopsis: "APP[/CONTAINER]",
        line: "stop by hand, until started again or changed by a newer manifest",
        text: "Sends the stop signal, and SIGKILL after the manifest's timeout. Returns when it is stopped.",
        examples: &[("wherry stop web/nginx", "one container")],
        min: 1,
        max: 1,
        run: Some(control::stop),
        ..PLAIN
    },
    Verb {
        name: "restart",
        synopsis: "APP[/CONTAINER]",
        line: "stop and start",
        text: "Returns when it runs again.",
        examples: &[("wherry restart web", "all its containers")],
        min: 1,
        max: 1,
        run: Some(control::restart),
        ..PLAIN
    },
    Verb {
        name: "hold",
        synopsis: "APP...",
        line: "keep apps as they are, whatever the fleet publishes, until unhold",
        text: "\
What runs goes on to run, and of what does not run nothing is started: newer manifests, and removals, that come by MQTT are
checked, kept and answered `held`. Holds outlast a reboot. A deployment that is in work is finished first. What is applied,
removed, started and stopped on this device is done all the same. All of the apps are held or, if one is unknown, none.",
        examples: &[("wherry hold web db", "both stay as they are"), ("wherry hold web && wherry status", "status names what is on hold")],
        min: 1,
        max: MAX_HELD,
        run: Some(control::hold),
        ..PLAIN
    },
    Verb {
        name: "unhold",
        synopsis: "APP...",
        line: "let apps go on to the newest that the fleet has published",
        text: "The newest manifest that was held is deployed, or the app removed, at once; or as its rollout and its window say.",
        examples: &[("wherry unhold web", "it goes on")],
        min: 1,
        max: MAX_HELD,
        run: Some(control::unhold),
        ..PLAIN
    },
    Verb {
        name: "logs",
        synopsis: "[-f] [-n LINES] [--since TIME] [-t] APP[/CONTAINER]",
        line: "print the output of containers",
        text: "\
Prints what the container wrote to its standard output and error, byte for byte, as far as its ring in memory holds it; it begins
with a whole line. Of an app with several containers, line by line in the order of the second, each with its name before it.
How many bytes were lost is said on standard error. Times are those of the device's clock as it is now, to the second.
After kill -9 of keeper, only what its pipe holds is left (64 KiB). With --json, each piece is one JSON document:
container, time, text (bytes that are not UTF-8 become U+FFFD) and lost.",
        options: &[
            flag(Some('f'), "follow", "stay until the container ends"),
            value(Some('n'), "tail", "LINES", "only so many of the last lines of each container; all is all"),
            value(None, "since", "TIME", "only what is not older: 10m, or 2026-01-31T23:59:59Z"),
            flag(Some('t'), "timestamps", "begin each line with the time when it came"),
        ],
        examples: &[
            ("wherry logs -n 20 web/nginx", "the last lines"),
            ("wherry logs -f web", "all its containers, as it comes"),
            ("wherry logs --since 10m -t web/nginx", "lately, with times"),
        ],
        min: 1,
        max: 1,
        run: Some(logs::logs),
        ..PLAIN
    },
    Verb {
        name: "events",
        synopsis: "[--past] [--since TIME] [APP]",
        line: "show what happens: starts, ends, restarts, health, deployments, the link",
        text: "\
Shows the last events that keeper has in memory, then each one as it happens, until interrupted. Events before keeper's start
are not known. Who reads too slowly is told how many were lost. With APP, only what happens to that app and its containers.
With --json, each event is one JSON document on its own line: what is keeper, link, agent, app, image, adopted, started,
stopping, exited, restarting, failed, health, or oom (the kernel killed a process for lack of memory); ended says how.",
        options: &[
            flag(None, "past", "only what has happened: do not wait for more"),
            value(None, "since", "TIME", "only what is not older, such as 10m"),
        ],
        examples: &[("wherry events", "as it happens"), ("wherry events --past --since 1h web", "what happened to an app lately")],
        max: 1,
        run: Some(events::events),
        ..PLAIN
    },
    Verb {
        name: "exec",
        synopsis: "[-it | -d] [-u USER] [-w DIR] [-e K=V]... APP[/CONTAINER] CMD...",
        line: "run a program in a running container",
        text: "\
The program joins all namespaces and the control group of the container and keeps its limits and its system call filter.
With -i it has the caller's own standard input, and always the caller's own output and error, but never the caller's terminal:
what is one is reached by a pipe. With -t it has a terminal of its own. When the caller goes (Ctrl-C, a closed terminal, kill),
the program gets SIGHUP, and two seconds later its session is killed; --detach-keys leave it running, its output is dropped.
It gets SIGHUP as well if keeper is killed, unless it was started with -d.
The exit code is the program's own, or 128 and the number of the signal that ended it; 125 when wherry failed, 126 when the
program cannot be run, 127 when it is not there. With -d it is 0 once the program runs; it runs without input and output.
With --json, one JSON document on standard error says how it ended: standard output is the program's.",
        options: &[
            flag(Some('i'), "interactive", "pass standard input; without, it is empty"),
            flag(Some('t'), "tty", "give it a terminal; with -i, standard input must be one"),
            flag(Some('d'), "detach", "do not wait for its end"),
            value(None, "detach-keys", "KEYS", "keys that leave its terminal (default: ctrl-p,ctrl-q); \"\" for none"),
            value(Some('u'), "user", "USER[:GROUP]", "run as this user of the image"),
            value(Some('w'), "workdir", "DIR", "working directory"),
            value(Some('e'), "env", "K=V", "set a variable; K alone takes its value from the caller"),
        ],
        examples: &[("wherry exec -it web sh", "a shell"), ("wherry exec web cat /etc/passwd > passwd", "its output to a file")],
        min: 1,
        max: 1,
        rest: true,
        as_program: true,
        run: Some(exec::exec),
    },
    Verb {
        name: "attach",
        synopsis: "[--no-stdin] [--detach-keys KEYS] APP[/CONTAINER]",
        line: "sit at the console of a running container",
        text: "\
Shows the output of the container from now on, and passes standard input to it if its manifest says \"stdin\": \"open\" (or
\"once\": then its input ends with the first who leaves). With \"terminal\": true it has a terminal, whose size follows the
caller's. Several may be attached at once; all see the output. A console outlives keeper: attach again after its restart.
Output waits for an attached reader as long as that reads on. The keys leave the container running, as does Ctrl-C without a
terminal. The exit code is that of the container's program if that ended, 0 after the keys, 125 when wherry failed.",
        options: &[
            flag(None, "no-stdin", "only watch"),
            value(None, "detach-keys", "KEYS", "keys that leave the terminal (default: ctrl-p,ctrl-q); \"\" for none"),
        ],
        examples: &[("wherry attach game", "leave it with Ctrl-P Ctrl-Q"), ("wherry attach --no-stdin web/nginx > out", "only watch")],
        min: 1,
        max: 1,
        as_program: true,
        run: Some(attach::attach),
        ..PLAIN
    },
    Verb {
        name: "cp",
        synopsis: "[-a] APP[/CONTAINER]:/PATH DST|-, or SRC|- APP[/CONTAINER]:/PATH",
        line: "copy files and directories out of a running container, or into it",
        text: "\
A copy goes where docker cp puts it: into DST if that is a directory, under the source's name; else it becomes DST, whose
directory must be there. A directory written with /. behind it means what is in it. A link is copied as a link, or followed if
written with / behind it. - is a tar archive on standard output or input. What is made belongs to the caller (inside: to
the container's root); -a keeps owners by number. Set-user-id bits do not come out of a container. A file that is there is
replaced when all of the new one has come. Devices, sockets and pipes are left out with a remark.",
        options: &[flag(Some('a'), "archive", "keep owners, by number; outside, as root only")],
        examples: &[
            ("wherry cp web:/etc/nginx .", "a directory out of a container"),
            ("wherry cp ./site/. web:/www", "what is in a directory, into a container"),
            ("wherry cp web/db:/data - > data.tar", "as an archive"),
        ],
        min: 2,
        max: 2,
        run: Some(copy::copy),
        ..PLAIN
    },
    Verb {
        name: "stats",
        synopsis: "[--watch [SECONDS]]",
        line: "show what each container uses",
        text: "\
CPU% is of one CPU, between two readings one second apart. WORKING-SET is memory without what the kernel can drop at once. OOM
counts processes that the kernel killed for lack of memory, THROTTLED is the time held back by the CPU limit. NET and IO are
bytes in / out since the start. A - is a figure that this kernel cannot give; the reason stands below the table.",
        options: &[Opt {
            short: None,
            long: "watch",
            takes: Takes::Number("SECONDS"),
            help: "again every SECONDS (default 2), until interrupted",
        }],
        examples: &[("wherry stats", "once"), ("wherry stats --watch 5", "every five seconds"), ("wherry stats --json", "for a program")],
        run: Some(stats::stats),
        ..PLAIN
    },
    Verb {
        name: "status",
        line: "show the device and its link: why is it not online?",
        text: "\
Shows the broker, the address its name resolved to, the last error (name, TCP, TLS, login), the broker's answer to each
subscription, the age of the last message each way, and what waits to be sent. The last line names the most
probable cause and what to do next.",
        examples: &[("wherry status", "for a person"), ("wherry status --json", "for a program: link.state is online when all is well")],
        run: Some(status::status),
        ..PLAIN
    },
    Verb {
        name: "check",
        line: "tell whether this kernel has what containers need",
        text: "\
Looks, changes nothing, and needs no keeper. Each fact is present, degraded, missing, or unknown where nothing tells, with what
follows from it and the switches of kernel, OpenWrt and Yocto that add it. A probe decides; behind a fact that none can tell
stands the file with the kernel's configuration that did. The exit code is 0 when containers can run here, else 1.",
        examples: &[("wherry check", "before the installation"), ("wherry check --json", "for a program: usable is true or false")],
        run: Some(check::check),
        ..PLAIN
    },
    Verb {
        name: "diag",
        synopsis: "[-o FILE]",
        line: "collect what helps to help, without secrets, in one JSON document",
        text: "\
Version, check, status, apps, the last events and log lines of keeper, settings, manifests, images, control groups and mounts.
Everything in it stands on a list: passwords, secrets, contents of files, values of variables, arguments of programs and their
output are not on it. Paths, names, addresses and names of variables are: read it before you pass it on. Works
without keeper too, with less in it.",
        options: &[value(Some('o'), "output", "FILE", "a new file, readable by its owner alone; else standard output")],
        examples: &[("wherry diag -o wherry.json", "for a report")],
        run: Some(diag::diag),
        ..PLAIN
    },
    Verb {
        name: "validate",
        synopsis: "FILE...",
        line: "check manifests, settings, policies, envelopes and keys, and print every fault",
        text: "\
What a file is, follows from its content. A signature is verified by the device alone; of a public key the number is shown.
Needs no keeper. - is standard input. The exit code is 65 when a file has a fault.",
        examples: &[("wherry validate web.json", "a manifest"), ("wherry validate /etc/wherry/settings.json", "the device's settings")],
        min: 1,
        max: u16::MAX,
        run: Some(validate::validate),
        ..PLAIN
    },
    Verb {
        name: "schema",
        line: "print the JSON Schema of the manifest",
        text: "For editors and for programs that write manifests.",
        examples: &[("wherry schema > wherry.schema.json", "into a file")],
        run: Some(validate::schema),
        ..PLAIN
    },
    Verb {
        name: "version",
        line: "show the version of this program and of keeper",
        text: "Both differ after an installation until `wherry upgrade`.",
        examples: &[("wherry version", "both, if keeper runs")],
        run: Some(control::version),
        ..PLAIN
    },
    Verb {
        name: "upgrade",
        line: "let keeper take over the program now on disk, while containers run on",
        text: "Keeper keeps its process id and its containers. The agent is started again.",
        examples: &[("wherry upgrade && wherry version", "after an installation")],
        run: Some(control::upgrade),
        ..PLAIN
    },
    Verb {
        name: "keeper",
        synopsis: "[--config PATH]",
        line: "the daemon, started by the device's service manager",
        text: "Owns the containers. Settings are in /etc/wherry/settings.json unless named otherwise; `wherry validate` checks them.",
        options: &[value(Some('c'), "config", "PATH", "the settings file")],
        examples: &[("wherry keeper --config ./settings.json", "in the foreground, with settings of its own")],
        ..PLAIN
    },
    Verb {
        name: "help",
        synopsis: "[COMMAND]",
        line: "show all commands, or one with its options and examples",
        text: "With --json, the table of commands and options, for programs that make completions.",
        examples: &[("wherry help run", "all about one command")],
        max: 1,
        run: Some(help::verb),
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_described_and_shown_by_example() {
        for v in VERBS {
            assert!(!v.line.is_empty() && !v.text.is_empty() && !v.examples.is_empty(), "{}", v.name);
            assert!(v.min <= v.max, "{}", v.name);
            for (command, _) in v.examples {
                assert!(command.contains(&format!("wherry {}", v.name)), "{command}");
            }
        }
    }

    #[test]
    fn no_option_has_two_meanings() {
        for v in VERBS {
            let all: Vec<&Opt> = v.options.iter().chain(GLOBAL).collect();
            for (i, a) in all.iter().enumerate() {
                for b in &all[i + 1..] {
                    assert!(a.long != b.long && (a.short.is_none() || a.short != b.short), "{}: {}", v.name, a.long);
                }
            }
        }
    }

    #[test]
    fn the_help_fits_a_terminal_that_is_not_wide() {
        for v in VERBS {
            assert!(v.line.len() <= 80, "{}", v.name);
            assert!(v.text.lines().all(|l| l.len() <= 130), "{}", v.name);
        }
    }
}
