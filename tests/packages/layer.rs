//! The Yocto layer: its list of crates, its recipe and its units.

use crate::root::{Scratch, fails, run, tree};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const RECIPE: &str = concat!("yocto/meta-wherry/recipes-containers/wherry/wherry_", env!("CARGO_PKG_VERSION"), ".bb");
const LIST: &str = "yocto/meta-wherry/recipes-containers/wherry/wherry-crates.inc";
const FILES: &str = "yocto/meta-wherry/recipes-containers/wherry/files";

fn read(path: &str) -> String {
    fs::read_to_string(tree(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

/// A crate of the list: `NAME-VERSION` and the SHA-256 of its archive.
struct Crate {
    name: String,
    sha256: String,
}

/// What bitbake would fetch, in the order of the list. Each address has its checksum, and no checksum is without an address.
fn listed() -> Vec<Crate> {
    let list = read(LIST);
    let addresses = list.lines().filter_map(|line| line.trim().strip_prefix("crate://crates.io/"));
    let names: Vec<String> = addresses.map(|a| a.split(';').next().unwrap().replace('/', "-")).collect();
    let sum = |name: &String| {
        let start = format!("SRC_URI[{name}.sha256sum] = \"");
        let line = list.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{name} has no checksum"));
        Crate { name: name.clone(), sha256: line.trim_end_matches('"').to_owned() }
    };
    assert_eq!(list.matches("sha256sum").count(), names.len());
    names.iter().map(sum).collect()
}

#[test]
fn the_list_of_crates_is_that_of_the_lock_file() {
    run(Command::new(tree("yocto/update-crates")).arg("--check"));
    let lock = read("Cargo.lock");
    assert_eq!(listed().len(), lock.matches("\nchecksum = ").count());
}

#[test]
fn a_list_of_crates_that_is_out_of_date_is_found_and_written_anew() {
    let scratch = Scratch::new();
    let at = |path: &str| scratch.path().join(path);
    fs::create_dir_all(at(LIST).parent().unwrap()).unwrap();
    for path in ["yocto/update-crates", LIST, "Cargo.lock"] {
        fs::copy(tree(path), at(path)).unwrap();
    }
    let update = |arguments: &[&str]| {
        let mut command = Command::new(at("yocto/update-crates"));
        command.args(arguments);
        command
    };
    let good = read(LIST);
    for bad in
        [good.replacen("/1.", "/2.", 1), good.replacen(".sha256sum] = \"", ".sha256sum] = \"0", 1), good.replacen("    crate://", "", 1)]
    {
        fs::write(at(LIST), bad).unwrap();
        let (_, said) = fails(&mut update(&["--check"]));
        assert!(said.contains("is not what Cargo.lock says (run yocto/update-crates)"), "{said}");
    }
    run(&mut update(&[]));
    assert_eq!(fs::read_to_string(at(LIST)).unwrap(), good);
    let lock = read("Cargo.lock").replacen("registry+https://github.com/rust-lang/crates.io-index", "git+https://example.org/x", 1);
    fs::write(at("Cargo.lock"), lock).unwrap();
    let (_, said) = fails(&mut update(&[]));
    assert!(said.contains("comes from git+https://example.org/x, bitbake fetches crates from the registry only"), "{said}");
}

#[test]
fn the_licences_are_those_that_the_recipe_says() {
    let recipe = read(RECIPE);
    let sums: Vec<_> = recipe.split_whitespace().filter_map(|word| word.strip_prefix("file://")?.split_once(";md5=")).collect();
    assert_eq!(sums.len(), 2);
    for (file, md5) in sums {
        assert!(run(Command::new("md5sum").arg(tree(file))).starts_with(md5), "{file}");
    }
}

#[test]
fn the_linter_finds_nothing_in_the_layer() {
    let lint = |file: PathBuf| {
        let mut command = Command::new(tree("tests/packages/oelint"));
        command.arg(file);
        command
    };
    let kernel = "yocto/meta-wherry/recipes-kernel/linux/linux-yocto_%.bbappend";
    run(lint(tree(RECIPE)).arg(tree("yocto/meta-wherry/conf/layer.conf")).arg(tree(kernel)));
    let scratch = Scratch::new();
    let bad = scratch.path().join("bad_1.0.bb");
    fs::write(&bad, "SUMMARY = \"A recipe without a licence\"\n").unwrap();
    let (_, said) = fails(&mut lint(bad));
    assert!(said.contains("error:oelint.var.mandatoryvar.LICENSE"), "{said}");
}

/// Where cargo keeps the archives of crates.
fn archives() -> Vec<PathBuf> {
    let home =
        std::env::var_os("CARGO_HOME").map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"), PathBuf::from);
    fs::read_dir(home.join("registry/cache")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Unpacks exactly the crates of the list, each checked by its checksum there, as bitbake does for cargo.
fn vendor(crates: &[Crate], to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    let archives = archives();
    for found in crates {
        let name = format!("{}.crate", found.name);
        let archive = archives.iter().map(|dir| dir.join(&name)).find(|path| path.exists()).unwrap_or_else(|| panic!("no {name}"));
        assert!(run(Command::new("sha256sum").arg(&archive)).starts_with(&found.sha256), "{name} is not the one that is listed");
        run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(to));
        let checksum = format!("{{\"files\":{{}},\"package\":\"{}\"}}", found.sha256);
        fs::write(to.join(&found.name).join(".cargo-checksum.json"), checksum).unwrap();
    }
}

/// Copies what the recipe takes of the source tree.
fn unpack(to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    let recipe = read(RECIPE);
    let files = recipe.split_whitespace().filter_map(|word| word.strip_prefix("file://")?.strip_suffix(";subdir=${BP}"));
    for file in files {
        run(Command::new("cp").args(["-a", "--no-preserve=ownership"]).arg(tree(file)).arg(to));
    }
}

#[test]
fn the_crates_of_the_list_and_the_files_of_the_recipe_are_enough_to_build() {
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("yocto");
    let (vendored, source, home) = (work.join("vendor"), work.join("source"), work.join("home"));
    run(Command::new("cargo").args(["fetch", "--locked", "--quiet"]).current_dir(tree("")));
    vendor(&listed(), &vendored);
    unpack(&source);
    // Without a registry: this home has none.
    fs::create_dir_all(&home).unwrap();
    let replaced = format!("[source.crates-io]\nreplace-with = \"bitbake\"\n[source.bitbake]\ndirectory = {vendored:?}\n");
    fs::write(home.join("config.toml"), replaced).unwrap();
    let mut cargo = Command::new("cargo");
    cargo.args(["check", "--frozen", "--offline", "--quiet", "--bin", "wherry"]).current_dir(&source);
    run(cargo.env("CARGO_HOME", &home).env("CARGO_TARGET_DIR", work.join("target")));
}

#[test]
fn the_settings_of_the_package_are_good() {
    for text in [read(&format!("{FILES}/settings.json")), "{\"cgroup\": \"wherry\"}".into()] {
        wherry::config::parse(text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
    }
    assert!(read(RECIPE).contains("echo '{\"cgroup\": \"wherry\"}' >"));
}

#[test]
fn systemd_understands_the_unit() {
    let scratch = Scratch::new();
    let verify = |text: &str| {
        let unit = scratch.path().join("wherry.service");
        fs::write(&unit, text).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(&unit).env("SYSTEMD_LOG_COLOR", "0").output().unwrap();
        String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let unit = read(&format!("{FILES}/wherry.service")).replace("/usr/bin/wherry", "/bin/true");
    // DelegateSubgroup is known from systemd 254 on, and may be all that an older one does not know.
    let said: Vec<_> =
        verify(&unit).into_iter().filter(|line| line.contains("wherry.service") && !line.contains("'DelegateSubgroup'")).collect();
    assert_eq!(said, Vec::<String>::new());
    let wrong = verify(&unit.replace("KillMode=process", "KillMode=nobody")).join("\n");
    assert!(wrong.contains("Failed to parse kill mode specification"), "{wrong}");
}

#[test]
fn scripts_of_the_layer_can_be_run() {
    for path in ["yocto/update-crates", &format!("{FILES}/wherry.init")] {
        assert_eq!(fs::metadata(tree(path)).unwrap().permissions().mode() & 0o111, 0o111, "{path}");
    }
}
