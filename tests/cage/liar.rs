//! The role of unpack in the attacker's hands: it enters the cage as unpack does, then does what the blob says: `cage WORDS` or, without the
//! system call filter, `walls WORDS`.

use super::attempts::attempt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use wherry::finish::Mark;
use wherry::image::fault::fault;
use wherry::image::{Digest, Host, RelPath};
use wherry::ipc::{Conn, Failure, VERSION};
use wherry::protocol::Reason;
use wherry::sys::fd::inherited;
use wherry::sys::socket;
use wherry::unpack::{Content, Found, Job, Report, Totals, confine};

/// As [`wherry::unpack::main`].
pub fn main() -> ExitCode {
    let stage = Conn::new(inherited(3).unwrap());
    let job: Job = stage.recv().unwrap().unwrap();
    let mut input = File::from(inherited(4).unwrap());
    let mut order = String::new();
    input.read_to_string(&mut order).unwrap();
    let (cage, words) = order.split_once(' ').unwrap();
    let root = if cage == "walls" { confine::walls(&stage, &job) } else { confine::enter(&stage, &job) };
    let _root = match root {
        Ok(root) => root,
        Err(failure) => return tell(&stage, &Report::Failed(failure)),
    };
    match words {
        "spin" => loop {
            std::hint::spin_loop();
        },
        "wait" => wait(&stage),
        "wait-after-success" => {
            tell(&stage, &Report::Done(Totals::default()));
            wait(&stage)
        }
        _ => match words.strip_prefix("lie ") {
            Some(lie) => tell_lie(&stage, lie),
            None => tell(&stage, &Report::Failed(fault(Reason::HostileArchive, attempt(words)))),
        },
    }
}

/// For ever: stage sends nothing more.
fn wait(stage: &Conn) -> ExitCode {
    let _ = stage.recv::<()>();
    ExitCode::SUCCESS
}

fn tell(stage: &Conn, report: &Report) -> ExitCode {
    // Stage may have heard enough already.
    let _ = stage.send(report);
    ExitCode::SUCCESS
}

fn repeat(stage: &Conn, times: usize, report: &Report) {
    for _ in 0..times {
        tell(stage, report);
    }
}

fn path(name: &str) -> RelPath {
    RelPath::parse(name.as_bytes()).unwrap()
}

fn tell_lie(stage: &Conn, lie: &str) -> ExitCode {
    let raw = |bytes: &[u8], fds: &[BorrowedFd<'_>]| {
        let _ = socket::send(stage.as_fd(), bytes, fds);
    };
    match lie {
        "too-many-marks" => repeat(stage, 300, &Report::Marks(vec![Mark::Implied(path("d")); 256])),
        "too-long-marks" => {
            let long = path(&format!("{}/x", "n".repeat(250)).repeat(10));
            repeat(stage, 900, &Report::Marks(vec![Mark::Whiteout(long); 20]));
        }
        "too-many-found" => (0..20u32).for_each(|n| {
            let one = |m| Found { path: path(&format!("{n}-{m}")), what: Content::Data { offset: 0, size: 1 } };
            tell(stage, &Report::Found((0..256u32).map(one).collect()));
        }),
        // A report of one mark, an opaque directory with this name, as postcard writes it.
        "mark-climbs" => raw(&[&[VERSION, 1, 1, 1, 9][..], b"../../etc"].concat(), &[]),
        "garbage" => raw(&[VERSION, 200, 200, 200], &[]),
        "other-version" => raw(&[VERSION + 1, 0, 0], &[]),
        "too-long" => raw(&vec![VERSION; wherry::ipc::MAX_FRAME + 100], &[]),
        "too-many-descriptors" => raw(&[VERSION, 0, 0], &[stage.as_fd(); 9]),
        "mark-through-link" => return marked(stage, Mark::Opaque(path("s"))),
        "whiteout-through-link" => return marked(stage, Mark::Whiteout(path("s/canary"))),
        "too-many-layers" => repeat(stage, 128, &layer()),
        "too-long-documents" => {
            for begins in std::iter::once(true).chain(std::iter::repeat_n(false, 160)) {
                tell(stage, &Report::Document { path: path("a"), begins, bytes: vec![b' '; 32 << 10] });
            }
        }
        "too-many-documents" => (0..5000u32).for_each(|n| {
            tell(stage, &Report::Document { path: path(&n.to_string()), begins: true, bytes: Vec::new() });
        }),
        "layer-that-is-not-there" => drop(tell(stage, &layer())),
        "layer-that-is-a-link" => {
            std::os::unix::fs::symlink("/tmp", "/0").unwrap();
            tell(stage, &layer());
        }
        "layer-behind-a-link" => return image(stage),
        "terminal" => {
            let told = Failure { reason: Reason::HostileArchive, message: "\u{1b}[2Jred".to_owned() };
            return tell(stage, &Report::Failed(told));
        }
        "success" | "succeed" => return tell(stage, &Report::Done(Totals::default())),
        "silence" => return ExitCode::SUCCESS,
        _ => panic!("no lie {lie:?}"),
    }
    tell(stage, &Report::Done(Totals::default()))
}

fn layer() -> Report {
    Report::Layer { path: path("blobs/layer"), size: 1, totals: Totals::default() }
}

/// A whole image, whose only layer has a link out and a mark behind it.
fn image(stage: &Conn) -> ExitCode {
    std::fs::create_dir("/0").unwrap();
    std::os::unix::fs::symlink("/tmp", "/0/s").unwrap();
    tell(stage, &Report::Marks(vec![Mark::Opaque(path("s"))]));
    let name = "blobs/sha256/".to_owned() + &Digest::of(b"layer").hex();
    tell(stage, &Report::Layer { path: path(&name), size: 5, totals: Totals::default() });
    let kind = |kind: &str| format!("application/vnd.oci.image.{kind}");
    let entry =
        |kind: &str, bytes: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::of(bytes.as_bytes()), bytes.len());
    let arch = Host::new(std::env::consts::ARCH, "").arch;
    let config = format!(r#"{{"architecture":"{arch}","os":"linux"}}"#);
    let (config_entry, layer) = (entry(&kind("config.v1+json"), &config), entry(&kind("layer.v1.tar"), "layer"));
    let manifest = format!(r#"{{"config":{config_entry},"layers":[{layer}]}}"#);
    let index = format!(r#"{{"manifests":[{}]}}"#, entry(&kind("manifest.v1+json"), &manifest));
    let blob = |bytes: &str| "blobs/sha256/".to_owned() + &Digest::of(bytes.as_bytes()).hex();
    for (name, bytes) in [("index.json".to_owned(), &index), (blob(&manifest), &manifest), (blob(&config), &config)] {
        tell(stage, &Report::Document { path: path(&name), begins: true, bytes: bytes.clone().into_bytes() });
    }
    tell(stage, &Report::Done(Totals::default()))
}

/// A tree with a link out, a mark behind it, and all is well.
fn marked(stage: &Conn, mark: Mark) -> ExitCode {
    std::os::unix::fs::symlink("/tmp", "/s").unwrap();
    tell(stage, &Report::Marks(vec![mark]));
    tell(stage, &Report::Done(Totals::default()))
}
