//! `serve`: answers devices from a directory, for brokers that keep no retained messages.

use super::args::Call;
use super::document::{Loaded, Ready, examine, told};
use super::keys::SecretKey;
use super::publish::signers;
use super::session::{News, Session, block_on};
use super::settings::{self, Settings};
use super::topics::{self, What};
use super::tree::Language;
use super::watch;
use crate::cli::{print, when};
use crate::exit::{Code, Error, note, visible};
use crate::manifest::{Id, Name, Target, Whom};
use crate::protocol::{Get, Have};
use crate::sys::fd::read_file;
use crate::sys::time::unix_ms;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

/// Most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 10_000;
const TICK: Duration = Duration::from_secs(60);

/// `wherryctl serve DIR`.
///
/// # Errors
/// No such directory, the first connection cannot be made, or nobody reads any more.
pub fn serve(call: &Call) -> Result<u8, Error> {
    let settings = settings::load(call)?;
    let keys = signers(call, &settings)?;
    let dir = PathBuf::from(&call.operands[0]);
    fs::read_dir(&dir).map_err(|e| Error::io(format!("cannot serve {}", dir.display()), &e))?;
    let filters = [topics::out(&settings.root, None, "get")];
    block_on(async {
        let mut session = Session::open(&settings, &filters).await?;
        print::line(&format!("serving {} as fleet {}", dir.display(), settings.root))?;
        loop {
            match answer_all(&mut session, &settings, &dir, &keys).await {
                Err(e) if e.code() == Code::Unavailable => note(&format!("wherryctl: {e}; trying again")),
                Err(e) => return Err(e),
                Ok(never) => match never {},
            }
            session = watch::again(&settings, &filters).await?;
        }
    })
}

async fn answer_all(session: &mut Session, settings: &Settings, dir: &Path, keys: &[SecretKey]) -> Result<std::convert::Infallible, Error> {
    loop {
        let Some((News::Device(heard), message)) = session.next(Instant::now() + TICK).await? else { continue };
        let (What::Get, Ok(get)) = (&heard.what, serde_json::from_slice::<Get>(&message.payload)) else { continue };
        for Newer { target, app, ready } in newer(dir, &settings.root, &heard.device, &get.have, keys) {
            let topic = topics::desired(&settings.root, &target.whom, &app);
            print::line(&format!("{} {}: {topic}, seq {}", when::show(unix_ms()), heard.device, ready.seq))?;
            session.link.publish(topic, ready.payload, false);
        }
        session.link.flush().await?;
    }
}

/// A document that a device does not have.
struct Newer {
    target: Target,
    app: Name,
    ready: Ready,
}

/// What a device lacks of what stands in the directory.
fn newer(dir: &Path, root: &str, device: &Id, have: &[Have], keys: &[SecretKey]) -> Vec<Newer> {
    // `.` and `..` are good ids, but the names of other directories.
    let named = Some(device.as_str()).filter(|id| !matches!(*id, "." | ".."));
    let own = named.map(|id| (Whom::Device(device.clone()), dir.join("device").join(id)));
    let group = |path: PathBuf| Some((Whom::Group(path.file_name()?.to_str()?.parse().ok()?), path));
    let groups = entries(&dir.join("group")).into_iter().filter_map(group);
    let mut found = Vec::new();
    for (whom, folder) in own.into_iter().chain(groups) {
        let target = Target { fleet: root.to_owned(), whom };
        for path in entries(&folder) {
            let Some((loaded, seq)) = document(&path, &target) else { continue };
            let app = loaded.manifest.app.clone();
            let known = have.iter().find(|h| h.app == app && h.target == target).and_then(|h| h.seq);
            if known.is_some_and(|known| known >= seq) {
                continue;
            }
            // What was signed elsewhere stays as it is.
            let keys = if loaded.is_sealed() { &[] } else { keys };
            match loaded.ready(seq, &target).and_then(|ready| loaded.signed(ready, keys)) {
                Ok(ready) => found.push(Newer { target: target.clone(), app, ready }),
                Err(e) => note(&visible(&e.to_string())),
            }
        }
    }
    found
}

/// Entries in the order of their names; none where there is no directory. Names that begin with a dot are somebody else's.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let list = fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_ENTRIES);
    let mut paths: Vec<PathBuf> = list.filter(|e| !e.file_name().to_string_lossy().starts_with('.')).map(|e| e.path()).collect();
    paths.sort();
    paths
}

/// The document in a file, and its number. What is wrong with it is told, and it is left out.
fn document(path: &Path, target: &Target) -> Option<(Loaded, u64)> {
    let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "json" | "toml" | "yaml" | "yml"));
    if !known {
        return None;
    }
    let shown = path.display().to_string();
    match read(path, &shown, target) {
        Ok(found) => Some(found),
        Err(why) => {
            note(&format!("left out: {why}"));
            None
        }
    }
}

fn read(path: &Path, shown: &str, target: &Target) -> Result<(Loaded, u64), String> {
    let bytes = read_file(path, super::document::MAX_FILE).map_err(|e| format!("{shown}: {}", crate::exit::reason(&e)))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: is not UTF-8"))?;
    let (loaded, faults) = examine(shown, Language::of(path.as_os_str(), &text), &text);
    let loaded = loaded.ok_or_else(|| faults.0.first().map_or_else(String::new, |fault| told(shown, fault)))?;
    let named = path.file_stem().and_then(|stem| stem.to_str());
    if named != Some(loaded.manifest.app.as_str()) {
        return Err(format!("{shown}: is for app {}, which is not the name of the file", loaded.manifest.app));
    }
    if loaded.manifest.target.as_ref().is_some_and(|own| own != target) {
        return Err(format!("{shown}: its target is not that of its directory"));
    }
    let seq = loaded.manifest.seq.or_else(|| changed(path)).ok_or_else(|| format!("{shown}: has neither `seq` nor a time of change"))?;
    Ok((loaded, seq))
}

/// When a file was last changed, in milliseconds since 1970.
fn changed(path: &Path) -> Option<u64> {
    let time = fs::metadata(path).ok()?.modified().ok()?;
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok().filter(|ms| *ms > 0)
}
