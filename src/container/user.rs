//! `user[:group]` to numbers, by the container's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)); pure.

/// Longest `/etc/passwd` or `/etc/group` that is read, in bytes.
pub const MAX_FILE: usize = 256 * 1024;

/// Most supplementary groups that a user gets.
pub const MAX_GROUPS: usize = 256;

/// Largest number that a user or group may have: the largest of a signed 32 bit integer, as in other runtimes; all ones means "unchanged" to the kernel.
const MAX_ID: u32 = i32::MAX as u32;

/// Who the payload runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: those that list the user, unless a group was asked for.
    pub groups: Vec<u32>,
    /// Home directory of the passwd entry; `/` without one.
    pub home: String,
}

/// Finds out who `wanted` is. Empty is root. A number needs no entry; a name does.
///
/// What is all digits is a number, never a name, also when it is too large: the files are the image's, and an entry whose name is `1000` must not
/// make another user of user 1000 (CVE-2016-3697, CVE-2026-46680).
///
/// # Errors
/// A sentence that names the missing user or group.
pub fn resolve(wanted: &str, passwd: &[u8], group: &[u8]) -> Result<Person, String> {
    let (user, wanted_group) = wanted.split_once(':').map_or((wanted, None), |(u, g)| (u, Some(g).filter(|g| !g.is_empty())));
    let user = if user.is_empty() { "0" } else { user };
    let (entry, uid) = found(user, passwd);
    let uid = uid.ok_or_else(|| format!("cannot find user {user:?}: {}", missing(user, "/etc/passwd")))?;
    let own_gid = entry.as_ref().and_then(|e| number(e.get(3))).unwrap_or(0);
    let home = entry.as_ref().and_then(|e| e.get(5)).filter(|h| h.starts_with('/')).map_or("/", |h| h).to_owned();
    match wanted_group {
        Some(g) => Ok(Person { uid, gid: group_id(g, group)?, groups: Vec::new(), home }),
        None => {
            let groups = entry.and_then(|e| e.first().copied()).map_or_else(Vec::new, |name| groups_of(name, group));
            Ok(Person { uid, gid: own_gid, groups, home })
        }
    }
}

fn group_id(wanted: &str, group: &[u8]) -> Result<u32, String> {
    found(wanted, group).1.ok_or_else(|| format!("cannot find group {wanted:?}: {}", missing(wanted, "/etc/group")))
}

/// The line of a name or number, and the number. The third field is the number in both files.
fn found<'a>(wanted: &str, file: &'a [u8]) -> (Option<Vec<&'a str>>, Option<u32>) {
    if is_number(wanted) {
        let id = number(Some(&wanted));
        let entry = id.and_then(|id| lines(file).find(|e| number(e.get(2)) == Some(id)));
        return (entry, id);
    }
    let entry = lines(file).find(|e| e.first() == Some(&wanted));
    let id = entry.as_ref().and_then(|e| number(e.get(2)));
    (entry, id)
}

fn missing(wanted: &str, file: &str) -> String {
    if is_number(wanted) { format!("the largest number is {MAX_ID}") } else { format!("not in the container's {file}") }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn groups_of(name: &str, group: &[u8]) -> Vec<u32> {
    let listed = lines(group).filter(|e| e.get(3).is_some_and(|members| members.split(',').any(|m| m == name)));
    listed.filter_map(|e| number(e.get(2))).take(MAX_GROUPS).collect()
}

/// Fields of each line that is text and no comment.
fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    let text = file.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    text.map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(|l| l.split(':').collect())
}

fn number(field: Option<&&str>) -> Option<u32> {
    field?.parse().ok().filter(|n| *n <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# comment\napp:x:1000:1001::/home/app:/bin/sh\nodd:x:nonsense:1::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,app\ndialout:x:20:app\napp:x:1001:\n";

    fn check(wanted: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let person = Person { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
        assert_eq!(resolve(wanted, PASSWD, GROUP), Ok(person), "{wanted:?}");
    }

    #[test]
    fn names_and_numbers_find_their_entries() {
        check("", 0, 0, &[10], "/root");
        check("root", 0, 0, &[10], "/root");
        check("app", 1000, 1001, &[10, 20], "/home/app");
        check("1000", 1000, 1001, &[10, 20], "/home/app");
        check("app:dialout", 1000, 20, &[], "/home/app");
        check("app:", 1000, 1001, &[10, 20], "/home/app");
        check(":20", 0, 20, &[], "/root");
    }

    #[test]
    fn a_number_needs_no_entry() {
        check("4242", 4242, 0, &[], "/");
        check("4242:77", 4242, 77, &[], "/");
    }

    #[test]
    fn a_number_is_never_the_name_of_an_entry() {
        const PASSWD: &[u8] = b"1000:x:0:0:root:/evil:/bin/sh\n4294967296:x:0:0::/evil:\n+7:x:0:0::/plus:\napp:x:1000:1001::/home/app:\n";
        const GROUP: &[u8] = b"20:x:0:\n4294967296:x:0:\n";
        let who = |wanted: &str| resolve(wanted, PASSWD, GROUP).map(|p| (p.uid, p.gid, p.home));
        assert_eq!(who("1000"), Ok((1000, 1001, "/home/app".into())));
        assert_eq!(who("1000:20"), Ok((1000, 20, "/home/app".into())));
        assert_eq!(who("1"), Ok((1, 0, "/".into())));
        assert_eq!(who("+7").map(|p| p.2), Ok("/plus".into()), "no number, so a name");
        assert_eq!(who("4294967296"), Err("cannot find user \"4294967296\": the largest number is 2147483647".into()));
        assert_eq!(who("1:4294967296"), Err("cannot find group \"4294967296\": the largest number is 2147483647".into()));
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_refused() {
        for wanted in ["nobody", "app:nogroup", "4294967295", "2147483648", "-1", "odd", "1000:4294967295"] {
            assert!(resolve(wanted, PASSWD, GROUP).is_err(), "{wanted:?}");
        }
    }

    #[test]
    fn files_that_are_not_text_are_survived() {
        assert_eq!(resolve("", b"\xff\xfe\x00:::\n:::::::", b"\x00").map(|p| p.uid), Ok(0));
    }
}
