//! `IMAGE-PATH` of `wherry run`: from a path as one types it to an image reference.

use crate::exit::{Code, Error};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

/// Most entries of a tar file that are looked at: an archive of an image has far fewer.
const MAX_ENTRIES: usize = 4096;

/// Beginnings of a reference that names a path on the device.
const SCHEMES: [&str; 5] = ["oci:", "oci-archive:", "docker-archive:", "rootfs:", "squashfs:"];

/// The reference for a word of the command line; relative paths become absolute, since keeper has another working directory.
pub fn reference(word: &str) -> Result<String, Error> {
    if is_url(word) {
        return Ok(word.to_owned());
    }
    if let Some(scheme) = SCHEMES.iter().find(|s| word.starts_with(**s)) {
        return Ok(format!("{scheme}{}", absolute(&word[scheme.len()..])?));
    }
    let what = format!("cannot use image {word}");
    let path = match std::fs::canonicalize(word) {
        Ok(path) => path,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Error::io(what, &e).hint("an image is a path on this device, or a reference such as oci:/path:tag"));
        }
        Err(e) => return Err(Error::io(what, &e)),
    };
    let scheme = if path.is_dir() { layout(&path, &what)? } else { archive(&path, &what)? };
    let text = path.to_str().ok_or_else(|| Error::usage(format!("{what}: its path is not UTF-8")))?;
    // In a reference, what follows a colon is a tag.
    if text.contains(':') {
        return Err(
            Error::usage(format!("{what}: its path {text} has a colon")).hint("a link without a colon beside it does not help; move it")
        );
    }
    Ok(format!("{scheme}:{text}"))
}

/// A file on a web server.
pub fn is_url(word: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| word.starts_with(scheme))
}

fn absolute(path: &str) -> Result<String, Error> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let here = std::env::current_dir().map_err(|e| Error::io("cannot find the working directory", &e))?;
    let mut out = PathBuf::new();
    for part in here.join(path).components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out.into_os_string().into_string().map_err(|_| Error::usage("the working directory is not UTF-8"))
}

/// The path as an absolute one, for a bind mount.
pub fn device_path(path: &str) -> Result<String, Error> {
    absolute(path)
}

fn layout(dir: &Path, what: &str) -> Result<&'static str, Error> {
    if dir.join("oci-layout").is_file() {
        return Ok("oci");
    }
    Err(Error::new(Code::BadData, format!("{what}: a directory without a file oci-layout"))
        .hint("a root file system is taken as a tar file: `tar -C DIR -cf rootfs.tar .`"))
}

fn archive(path: &Path, what: &str) -> Result<&'static str, Error> {
    let mut file = File::open(path).map_err(|e| Error::io(what, &e))?;
    let mut head = [0; 4];
    let n = file.read(&mut head).map_err(|e| Error::io(what, &e))?;
    // Only a plain root file system may be compressed: gzip (RFC 1952), zstd (RFC 8878).
    if head[..n].starts_with(&[0x1f, 0x8b]) || head[..n] == [0x28, 0xb5, 0x2f, 0xfd] {
        return Ok("rootfs");
    }
    if &head[..n] == b"hsqs" {
        return Ok("squashfs");
    }
    let fresh = File::open(path).map_err(|e| Error::io(what, &e))?;
    match peek(fresh) {
        Ok(Some(scheme)) => Ok(scheme),
        Ok(None) => Err(Error::new(Code::BadData, format!("{what}: neither an image archive nor a root file system"))
            .hint("say what it is: oci-archive:PATH, docker-archive:PATH, or rootfs:PATH")),
        Err(e) => Err(Error::new(Code::BadData, format!("{what}: not a tar file ({e})"))),
    }
}

/// What the names in a tar file say. Contents are skipped over, never read; names that need an extra entry (longer than 100
/// bytes) are none that we look for, so such entries are not interpreted either.
fn peek(file: File) -> std::io::Result<Option<&'static str>> {
    let mut archive = tar::Archive::new(file);
    let (mut docker, mut rootfs) = (false, false);
    for entry in archive.entries_with_seek()?.raw(true).take(MAX_ENTRIES) {
        let entry = entry?;
        let path = entry.path_bytes();
        let name = path.strip_prefix(b"./").unwrap_or(&path);
        match name {
            // `docker save` of today writes both; the OCI side has digests of manifests.
            b"oci-layout" => return Ok(Some("oci-archive")),
            b"manifest.json" => docker = true,
            _ => rootfs |= is_root_directory(name),
        }
    }
    Ok(match (docker, rootfs) {
        (true, _) => Some("docker-archive"),
        (_, true) => Some("rootfs"),
        _ => None,
    })
}

/// True for what stands at the top of a root file system (Filesystem Hierarchy Standard 3.0).
fn is_root_directory(name: &[u8]) -> bool {
    const TOP: [&[u8]; 10] = [b"bin", b"dev", b"etc", b"lib", b"opt", b"proc", b"sbin", b"tmp", b"usr", b"var"];
    let first = name.split(|c| *c == b'/').next().unwrap_or_default();
    TOP.contains(&first)
}

/// A name for an app from an image's reference: the last part of its path, without ending and tag.
pub fn base_name(reference: &str) -> String {
    const LONGEST: usize = 24;
    let path = SCHEMES.iter().find_map(|s| reference.strip_prefix(s)).unwrap_or(reference);
    let path = if is_url(path) { path.split('?').next().unwrap_or_default() } else { path };
    let last = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
    let stem = last.split([':', '.']).next().unwrap_or_default().to_ascii_lowercase();
    let plain: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(LONGEST).collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "app".into() } else { plain.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_last_part_of_the_path() {
        for (reference, name) in [
            ("oci:/srv/images/nginx:1.27", "nginx"),
            ("rootfs:/srv/alpine-3.20.tar.gz", "alpine-3"),
            ("oci-archive:/a/My_App.tar", "my-app"),
            ("https://images.example:8443/v1/web.tar.gz?key=1/2", "web"),
            ("oci:/", "app"),
            ("rootfs:/x/-.tar", "app"),
            ("rootfs:/x/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.tar", "aaaaaaaaaaaaaaaaaaaaaaaa"),
        ] {
            assert_eq!(base_name(reference), name, "{reference}");
            assert!(base_name(reference).parse::<crate::manifest::Name>().is_ok(), "{reference}");
        }
    }

    #[test]
    fn a_relative_reference_becomes_absolute() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(reference("oci:a/../b/./c:t").unwrap(), format!("oci:{}/b/c:t", here.display()));
        assert_eq!(reference("oci:/a/../b").unwrap(), "oci:/a/../b");
    }
}
