//! Hostile archives: each file of `tests/hostile/cases` describes one and says what must come of it, a refusal in exactly these words or
//! exactly this tree. Every one goes the real way, through stage, hash and the caged unpack, and none may leave or change anything else.
//!
//! `WHERRY_BLESS=1 cargo test --test hostile` writes the expectations anew; read the difference before you commit it.
//! Needs root and the programs gzip, zstd, tar, umoci, getfattr.

#[path = "image/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "hostile/recipe.rs"]
mod recipe;
#[path = "image/tarball.rs"]
#[allow(dead_code)]
mod tarball;

use bench::{Answer, Bench, Layout, overlay, run};
use recipe::Recipe;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use wherry::image::{Form, Record, Source};

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/cases");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn hostile_archives_end_in_their_refusal_or_their_tree_and_touch_nothing_else() {
    const WORKERS: usize = 2;
    let files = cases();
    assert!(files.len() >= 120, "only {} cases", files.len());
    std::thread::scope(|scope| {
        let work = |n: usize| {
            let place = Place::new(&format!("hostile-{n}"));
            files.iter().skip(n).step_by(WORKERS).filter_map(|file| check(file, &place).err()).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..WORKERS).map(|n| scope.spawn(move || work(n))).collect();
        let faults: Vec<String> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
        assert!(faults.is_empty(), "\n{}", faults.join("\n\n"));
    });
}

/// A store, and a directory outside it that nothing may reach.
struct Place {
    bench: Bench,
    outside: String,
}

impl Place {
    fn new(name: &str) -> Self {
        let bench = Bench::new(name);
        let outside = bench.path("outside");
        fs::create_dir_all(format!("{outside}/dir")).unwrap();
        fs::write(format!("{outside}/canary"), "sings").unwrap();
        fs::write(format!("{outside}/dir/canary"), "sings").unwrap();
        drop(bench.store());
        Self { bench, outside }
    }

    /// Everything that is not the tree of a layer.
    fn rest(&self) -> Vec<String> {
        let mut lines = listing(Path::new(&self.outside), true);
        lines.extend(["staging", "layers", "images", ""].iter().map(|dir| format!("{:?}", bench::names(&self.bench.data().join(dir)))));
        lines
    }
}

fn check(file: &Path, place: &Place) -> Result<(), String> {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let recipe = Recipe::parse(&fs::read_to_string(file).unwrap(), &place.outside);
    let before = place.rest();
    let whole = bytes(&recipe, &recipe.archives[0], place);
    let mut found = match recipe.cuts {
        None => outcome(&recipe, &whole, place),
        Some(step) => (0..whole.len()).step_by(step).map(|cut| brief(cut, &outcome(&recipe, &whole[..cut], place))).collect(),
    };
    found = found.replace(&place.outside, "@OUT@");
    let refused = recipe.expected.starts_with("refused");
    let once_more = recipe.cuts.is_none() && (recipe.is_image || refused);
    let in_one_pass = once_more.then(|| downloaded(&recipe, &whole, place).replace(&place.outside, "@OUT@"));
    let after = place.rest();
    if before != after {
        return Err(format!("{name}: something is left or changed: {before:#?} {after:#?}"));
    }
    if std::env::var_os("WHERRY_BLESS").is_some() {
        fs::write(file, recipe.head + &found).unwrap();
        return Ok(());
    }
    if found != recipe.expected {
        return Err(format!("{name}: expected\n{}found\n{found}", recipe.expected));
    }
    match in_one_pass {
        // As a layer it may have another fault, but it has one.
        Some(found) if !recipe.is_image && found.starts_with("refused") => Ok(()),
        Some(found) if found != recipe.expected => Err(format!("{name}: in one pass, expected\n{}found\n{found}", recipe.expected)),
        _ => Ok(()),
    }
}

fn bytes(recipe: &Recipe, archive: &[u8], place: &Place) -> Vec<u8> {
    let filtered = match &recipe.filter {
        Some(filter) => fs::read(place.bench.piped("filtered", archive, &format!("{{ {filter}; }}"))).unwrap(),
        None => archive.to_vec(),
    };
    let mut all = [&recipe.around.0[..], &filtered, &recipe.around.1].concat();
    all.truncate(recipe.keep.unwrap_or(all.len()));
    all
}

/// Brings it in and says what came of it; the store is empty again after that.
fn outcome(recipe: &Recipe, first: &[u8], place: &Place) -> String {
    let bench = &place.bench;
    let source = if recipe.is_image {
        Source::OciDir { path: layout(recipe, first, place), tag: Some("t".into()) }
    } else {
        Source::Rootfs { path: bench.file("archive", first) }
    };
    told(recipe, bench.stage(source, |job| (job.max_bytes, job.max_inodes) = recipe.limits), place)
}

/// The same as an archive of an image that comes over the network, and so in one pass.
fn downloaded(recipe: &Recipe, first: &[u8], place: &Place) -> String {
    let archive = place.bench.packed(&layout(recipe, first, place));
    told(recipe, place.bench.fetch(Form::OciArchive, &archive, |job| (job.max_bytes, job.max_inodes) = recipe.limits), place)
}

fn layout(recipe: &Recipe, first: &[u8], place: &Place) -> String {
    let more = recipe.archives[1..].iter().map(|archive| bytes(recipe, archive, place));
    let layers: Vec<Vec<u8>> = [first.to_vec()].into_iter().chain(more).collect();
    Layout::new(&place.bench, &layers.iter().map(Vec::as_slice).collect::<Vec<_>>()).write("layout")
}

fn told(recipe: &Recipe, answer: Answer, place: &Place) -> String {
    let bench = &place.bench;
    let text = match answer {
        Err((reason, message)) => {
            if message.contains(char::is_control) {
                return format!("a control character in {message:?}\n");
            }
            let own = message.strip_prefix("cannot take apart http://localhost/image.tar: ").unwrap_or(&message);
            let layer = ["cannot unpack layer sha256:", "cannot unpack blobs/sha256/"].iter().find_map(|prefix| own.strip_prefix(prefix));
            let own = layer.map_or(own, |rest| rest.split_once(": ").unwrap().1);
            bench.store_is_empty();
            format!("refused {reason}: {own}\n")
        }
        Ok(record) => {
            let lines = taken(recipe, &record, place);
            let compared = compare(recipe, &record, place);
            bench.store().collect_garbage(&[]).unwrap();
            bench.store_is_empty();
            lines + &compared
        }
    };
    let _ = fs::remove_dir_all(bench.path("layout"));
    text
}

fn taken(recipe: &Recipe, record: &Record, place: &Place) -> String {
    let dirs = place.bench.store().layer_dirs(record);
    let tree = |dir: &String| listing(&place.bench.data().join(dir), recipe.times).join("\n") + "\n";
    if let [one] = &dirs[..] {
        return tree(one);
    }
    dirs.iter().enumerate().map(|(n, dir)| format!("layer {n}\n{}", tree(dir))).collect()
}

/// A cut archive in one line.
fn brief(cut: usize, outcome: &str) -> String {
    let one =
        if outcome.starts_with("refused") { outcome.trim_end().to_owned() } else { format!("taken, {} lines", outcome.lines().count()) };
    format!("{cut}: {one}\n")
}

/// Says where the tree differs from what another program makes of the same archive, where that is safe to ask.
fn compare(recipe: &Recipe, record: &Record, place: &Place) -> String {
    let bench = &place.bench;
    let Some(program) = &recipe.compare else { return String::new() };
    let other = bench.path("other");
    let dirs = bench.store().layer_dirs(record);
    let (ours, root) = if program == "umoci" {
        run("umoci", &["unpack", "--image", &format!("{}:t", bench.path("layout")), "other"], bench.dir());
        (overlay(&bench.data(), &dirs, |root| listing(root, recipe.times)), format!("{other}/rootfs"))
    } else {
        fs::create_dir(&other).unwrap();
        let tar = ["--numeric-owner", "--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability", "-xpf"];
        run("tar", &[&tar[..], &[&bench.path("archive"), "-C", &other]].concat(), bench.dir());
        (listing(&bench.data().join(&dirs[0]), recipe.times), other.clone())
    };
    let theirs = listing(Path::new(&root), recipe.times);
    fs::remove_dir_all(other).unwrap();
    for dir in ["empty", "merged"] {
        let _ = fs::remove_dir(bench.data().join(dir));
    }
    let one_sided =
        |who: &str, a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).map(|l| format!("{who}: {l}\n")).collect::<String>();
    one_sided(&format!("only by {program}"), &theirs, &ours) + &one_sided("only here", &ours, &theirs)
}

// ---- trees as text ----

/// A line for everything below `root`, and one for each of its extended attributes.
fn listing(root: &Path, times: bool) -> Vec<String> {
    let mut lines = Vec::new();
    walk(root, root, times, &mut lines);
    let attributes = run("getfattr", &["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."], root);
    let mut file = "";
    for line in attributes.lines() {
        match line.strip_prefix("# file: ") {
            Some(name) => file = name,
            None if line.is_empty() || line.starts_with("security.selinux") => {}
            None => lines.push(format!("attribute {file} {line}")),
        }
    }
    lines
}

fn walk(root: &Path, at: &Path, times: bool, lines: &mut Vec<String>) {
    let meta = fs::symlink_metadata(at).unwrap();
    let kind = meta.file_type();
    let (what, more) = match kind {
        _ if kind.is_dir() => ("dir", String::new()),
        _ if kind.is_symlink() => ("symlink", format!(" -> {}", shown(fs::read_link(at).unwrap().as_os_str().as_bytes()))),
        _ if kind.is_fifo() => ("fifo", String::new()),
        _ if kind.is_char_device() && meta.rdev() == 0 => ("whiteout", String::new()),
        _ if kind.is_file() => ("file", format!(" links={} {}", meta.nlink(), content(&fs::read(at).unwrap()))),
        _ => ("device", meta.rdev().to_string()),
    };
    let name = shown(at.strip_prefix(root).unwrap().as_os_str().as_bytes());
    let time = if times { format!(" @{}.{:09}", meta.mtime(), meta.mtime_nsec()) } else { String::new() };
    lines.push(format!("{what} {:04o} {}:{}{time} ./{name}{more}", meta.mode() & 0o7777, meta.uid(), meta.gid()));
    if kind.is_dir() {
        let mut names: Vec<PathBuf> = fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        names.iter().for_each(|name| walk(root, name, times, lines));
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn content(bytes: &[u8]) -> String {
    const MOST: usize = 40;
    if bytes.len() <= MOST { format!("\"{}\"", shown(bytes)) } else { format!("{} bytes", bytes.len()) }
}
