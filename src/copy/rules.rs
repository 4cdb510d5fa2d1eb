//! Where a copy goes: the rules of `docker cp`. Pure.

/// What a copy finds at its destination, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing; what it would lie in is there.
    Nothing,
    /// A file, or anything else that is no directory.
    File,
    /// A directory.
    Dir,
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The destination itself.
    As,
    /// An entry of the source's name in the destination.
    Inside,
    /// What is in the source, in the destination.
    Merge,
}

/// `dir`: the source is a directory; `merge`: it was written with `/.` behind it; `slash`: the destination was written with `/` behind it.
///
/// # Errors
/// Why there is no such copy.
pub fn decide(dir: bool, merge: bool, found: Found, slash: bool) -> Result<Put, &'static str> {
    match (dir, found) {
        (false, Found::Nothing) if slash => Err("there is no such directory"),
        (false, Found::File) if slash => Err("it is not a directory"),
        (false, Found::Nothing | Found::File) | (true, Found::Nothing) => Ok(Put::As),
        (true, Found::File) => Err("a directory cannot take the place of a file"),
        (true, Found::Dir) if merge => Ok(Put::Merge),
        (_, Found::Dir) => Ok(Put::Inside),
    }
}

/// A path without what is written behind it, its last part, and whether that was `/.`, which means what is in it, or `/`, which
/// follows a link. `/` itself has no name, so what is in it is meant.
pub fn source(path: &str) -> (&str, &str, bool, bool) {
    let (bare, dot) = match path.strip_suffix("/.") {
        Some(bare) => (bare, true),
        None => (path, path == "."),
    };
    let trimmed = bare.trim_end_matches('/');
    let follow = dot || trimmed.len() < bare.len();
    let name = trimmed.rsplit('/').next().unwrap_or_default();
    match name {
        "" if path.starts_with('/') => ("/", ".", true, true),
        _ => (trimmed, name, dot, follow),
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, Put, decide, source};

    #[test]
    fn a_copy_goes_where_docker_puts_it() {
        use Found::{Dir, File, Nothing};
        for (dir, merge, found, slash, put) in [
            (false, false, Nothing, false, Some(Put::As)),
            (false, false, Nothing, true, None),
            (false, false, File, false, Some(Put::As)),
            (false, false, File, true, None),
            (false, false, Dir, false, Some(Put::Inside)),
            (false, false, Dir, true, Some(Put::Inside)),
            (true, false, Nothing, false, Some(Put::As)),
            (true, false, Nothing, true, Some(Put::As)),
            (true, true, Nothing, false, Some(Put::As)),
            (true, false, File, false, None),
            (true, true, File, false, None),
            (true, false, Dir, false, Some(Put::Inside)),
            (true, false, Dir, true, Some(Put::Inside)),
            (true, true, Dir, false, Some(Put::Merge)),
            (true, true, Dir, true, Some(Put::Merge)),
        ] {
            assert_eq!(decide(dir, merge, found, slash).ok(), put, "{dir} {merge} {found:?} {slash}");
        }
    }

    #[test]
    fn what_is_written_behind_a_source_says_what_is_meant() {
        for (path, expect) in [
            ("/a/b", ("/a/b", "b", false, false)),
            ("/a/b/", ("/a/b", "b", false, true)),
            ("/a/b/.", ("/a/b", "b", true, true)),
            ("/", ("/", ".", true, true)),
            ("/.", ("/", ".", true, true)),
            ("x", ("x", "x", false, false)),
            (".", (".", ".", true, true)),
            ("./x", ("./x", "x", false, false)),
        ] {
            assert_eq!(source(path), expect, "{path}");
        }
    }
}
