//! What is fuzzed, and what must hold for every input. `tests/fuzz_inputs.rs` compiles this file too, so that inputs that once
//! crashed run with the ordinary tests.

mod archive;
mod documents;
mod frames;
mod kernel;
#[path = "../../hostile/recipe.rs"]
#[allow(dead_code)]
mod recipe;
mod records;
#[path = "../../image/tarball.rs"]
#[allow(dead_code)]
mod tarball;
mod tree;

/// One target: takes any bytes, panics if something is wrong.
pub struct Target {
    /// For `tests/fuzz/run`, and the name of its directories.
    pub name: &'static str,
    /// What reads the bytes.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "archive", run: archive::archive, seeds: archive::seeds },
    Target { name: "inflate", run: archive::inflate, seeds: archive::compressed_seeds },
    Target { name: "tree", run: tree::tree, seeds: archive::seeds },
    Target { name: "image", run: documents::image, seeds: documents::image_seeds },
    Target { name: "manifest", run: documents::manifest, seeds: documents::manifest_seeds },
    Target { name: "settings", run: documents::settings, seeds: documents::settings_seeds },
    Target { name: "command", run: documents::command, seeds: documents::command_seeds },
    Target { name: "signed", run: documents::signed, seeds: documents::signed_seeds },
    Target { name: "frames", run: frames::frames, seeds: frames::seeds },
    Target { name: "records", run: records::records, seeds: records::seeds },
    Target { name: "kernel", run: kernel::kernel, seeds: kernel::seeds },
];

/// The directory `tests/` of the project.
fn tests() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if here.ends_with("fuzz") { here.join("..") } else { here.join("tests") }
}

/// The bytes of every file below a directory of `tests/` whose name ends so.
fn files(dir: &str, end: &str) -> Vec<(String, Vec<u8>)> {
    let (mut pending, mut found) = (vec![tests().join(dir)], Vec::new());
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(&at).unwrap_or_else(|e| panic!("cannot read {}: {e}", at.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push((path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "tests/{dir} has no *{end}");
    found
}

/// The first byte chooses among `n` readers; the rest is for it.
fn choice(data: &[u8], n: usize) -> Option<(usize, &[u8])> {
    data.split_first().map(|(first, rest)| (usize::from(*first) % n, rest))
}

/// Each input with each of `n` choices before it.
fn with_choices(inputs: impl IntoIterator<Item = Vec<u8>>, n: u8) -> Vec<Vec<u8>> {
    inputs.into_iter().flat_map(|input| (0..n).map(move |first| [&[first][..], &input].concat())).collect()
}

/// What a person is shown holds no control character but line ends.
fn is_printable(text: &str) {
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "a control character is printed: {text:?}");
}
