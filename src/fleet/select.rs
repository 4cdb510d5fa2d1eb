//! Selectors: which devices, by what they say of themselves. Pure.

use super::seen::{Device, Link};
use crate::cli::args::nearest;
use crate::cli::print::parse_size;
use crate::manifest::Id;
use crate::protocol::About;
use std::cmp::Ordering;
use std::time::Duration;

/// Terms that must all be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    key: Key,
    comparison: Comparison,
    value: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Device,
    Link,
    Version,
    Kernel,
    Board,
    Arch,
    Isolation,
    Feature,
    Missing,
    App,
    Schema,
    Ram,
    FlashFree,
}

const KEYS: [(&str, Key); 13] = [
    ("device", Key::Device),
    ("link", Key::Link),
    ("version", Key::Version),
    ("kernel", Key::Kernel),
    ("board", Key::Board),
    ("arch", Key::Arch),
    ("isolation", Key::Isolation),
    ("feature", Key::Feature),
    ("missing", Key::Missing),
    ("app", Key::App),
    ("schema", Key::Schema),
    ("ram", Key::Ram),
    ("flash_free", Key::FlashFree),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Is,
    IsNot,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// Longer ones first.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("!=", Comparison::IsNot),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("=", Comparison::Is),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Text(String),
    Release(String),
    Number(u64),
}

impl std::str::FromStr for Selector {
    type Err = String;
    /// `KEY OP VALUE`, joined by commas. What has no operator belongs to the value before: names of boards have commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut pieces: Vec<String> = Vec::new();
        for piece in text.split(',') {
            match pieces.last_mut().filter(|_| !piece.contains(['=', '<', '>'])) {
                Some(before) => *before = format!("{before},{piece}"),
                None => pieces.push(piece.to_owned()),
            }
        }
        pieces.iter().map(|piece| term(piece.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn term(text: &str) -> Result<Term, String> {
    let at = text.find(['=', '<', '>', '!']).ok_or_else(|| format!("{text:?} has no comparison (such as arch=arm64)"))?;
    let (word, rest) = (text[..at].trim(), &text[at..]);
    let found = COMPARISONS.iter().find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?.trim())));
    let (comparison, value) = found.ok_or_else(|| format!("{text:?} has no comparison (such as arch=arm64)"))?;
    let key = KEYS.iter().find(|(name, _)| *name == word).map(|(_, key)| *key).ok_or_else(|| {
        let names: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
        match nearest(word, &names) {
            Some(name) => format!("{word:?} is nothing that a device says of itself; did you mean {name}?"),
            None => format!("{word:?} is nothing that a device says of itself; known: {}", names.join(", ")),
        }
    })?;
    if value.is_empty() {
        return Err(format!("{text:?} compares with nothing"));
    }
    let value = expected(key, value).map_err(|e| format!("{text:?}: the value {e}"))?;
    if matches!(value, Expected::Text(_)) && !matches!(comparison, Comparison::Is | Comparison::IsNot) {
        return Err(format!("{text:?}: {word} has no order, only = and != make sense"));
    }
    Ok(Term { key, comparison, value })
}

fn expected(key: Key, value: &str) -> Result<Expected, String> {
    match key {
        Key::Version | Key::Kernel => match value.starts_with(|c: char| c.is_ascii_digit()) {
            true => Ok(Expected::Release(value.to_owned())),
            false => Err("must be a release such as 0.2 or 6.1".into()),
        },
        Key::Schema => value.parse().map(Expected::Number).map_err(|_| "must be a number".into()),
        Key::Ram | Key::FlashFree => parse_size(value).map(Expected::Number),
        Key::Link if !["online", "offline", "silent", "unknown"].contains(&value) => {
            Err("must be online, offline, silent or unknown".into())
        }
        _ => Ok(Expected::Text(value.to_owned())),
    }
}

impl Selector {
    /// Whether it means this device, at `now`. What a device did not say of itself is never what is asked for.
    pub fn means(&self, id: &Id, device: &Device, now: Duration) -> bool {
        self.0.iter().all(|term| term.holds(id, device, now))
    }
}

impl Term {
    fn holds(&self, id: &Id, device: &Device, now: Duration) -> bool {
        match self.key {
            Key::Device => self.text(id.as_str()),
            Key::Link => self.text(Link::word(device.link(now))),
            Key::App => self.contains(device.apps.0.iter().map(|(name, _)| name.as_str())),
            _ => device.about.as_ref().is_some_and(|about| self.about(about)),
        }
    }

    fn about(&self, about: &About) -> bool {
        match self.key {
            Key::Version => self.release(&about.version, true),
            Key::Kernel => self.release(&about.kernel, false),
            Key::Board => self.text(&about.board),
            Key::Arch => self.text(&about.arch),
            Key::Isolation => self.text(&about.isolation),
            Key::Feature => self.contains(about.features.iter().map(String::as_str)),
            Key::Missing => self.contains(about.missing.0.iter().map(|(name, _)| name.as_str())),
            Key::Schema => self.number(Some(about.schema[1].into())),
            Key::Ram => self.number(about.ram),
            Key::FlashFree => self.number(about.flash_free),
            Key::Device | Key::Link | Key::App => false,
        }
    }

    fn text(&self, is: &str) -> bool {
        matches!(&self.value, Expected::Text(text) if (text == is) == (self.comparison == Comparison::Is))
    }

    fn contains<'a>(&self, mut list: impl Iterator<Item = &'a str>) -> bool {
        matches!(&self.value, Expected::Text(text) if list.any(|is| is == text) == (self.comparison == Comparison::Is))
    }

    fn number(&self, is: Option<u64>) -> bool {
        matches!((&self.value, is), (Expected::Number(number), Some(is)) if self.fits(is.cmp(number)))
    }

    fn release(&self, is: &str, with_candidates: bool) -> bool {
        matches!(&self.value, Expected::Release(release) if self.fits(compare(is, release, with_candidates)))
    }

    fn fits(&self, order: Ordering) -> bool {
        match self.comparison {
            Comparison::Is => order.is_eq(),
            Comparison::IsNot => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::AtMost => order.is_le(),
            Comparison::More => order.is_gt(),
            Comparison::AtLeast => order.is_ge(),
        }
    }
}

/// The order of two releases: their numbers one after the other, a missing one being 0. `with_candidates`: `1.0-rc1` is before `1.0`, as Semantic
/// Versioning has it; behind the dash of a kernel's release stands what the distribution made of it.
fn compare(a: &str, b: &str, with_candidates: bool) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        let front = text.split(['-', '+', '_']).next().unwrap_or(text);
        let number = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        let mut numbers: Vec<u64> = front.split('.').map(number).collect();
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        numbers
    };
    let candidate = |text: &str| text.split_once('-').map(|(_, rest)| rest.to_owned());
    let order = numbers(a).cmp(&numbers(b));
    match (candidate(a), candidate(b)) {
        (x, y) if order.is_eq() && with_candidates => match (x, y) {
            (Some(x), Some(y)) => x.cmp(&y),
            (x, y) => y.is_some().cmp(&x.is_some()),
        },
        _ => order,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::seen::Fleet;
    use crate::fleet::topics::{Heard, What};

    fn means(selector: &str) -> bool {
        let about = r#"{"version":"0.1.3","schema":[1,2],"features":["cgroup2","idmap"],"missing":{"psi":"CONFIG_PSI"},"board":"glinet,gl-mt300n","arch":"arm64","kernel":"6.1.0-18-arm64","ram":134217728,"flash_free":null,"isolation":"container"}"#;
        let report = format!(r#"{{"wherry":1,"about":{about},"apps":{{}}}}"#);
        let mut fleet = Fleet::default();
        let id: Id = "r".parse().unwrap();
        fleet.take(&Heard { device: id.clone(), what: What::Reported }, report.as_bytes(), Duration::ZERO);
        let selector: Selector = selector.parse().unwrap_or_else(|e| panic!("{selector}: {e}"));
        selector.means(&id, &fleet.devices[&id], Duration::ZERO)
    }

    #[test]
    fn a_selector_means_what_all_its_terms_say() {
        for (selector, expected) in [
            ("arch=arm64", true),
            ("arch!=arm64", false),
            ("arch=arm64,version<0.2", true),
            ("arch=arm64, version < 0.1", false),
            ("version>=0.1.3", true),
            ("version<=0.1.2", false),
            ("version=0.1.3.0", true),
            ("version>0.1.3-rc1", true),
            ("kernel>=6.1", true),
            ("kernel>6.1", false),
            ("board=glinet,gl-mt300n,arch=arm64", true),
            ("board=glinet", false),
            ("feature=idmap", true),
            ("feature!=idmap", false),
            ("feature!=psi", true),
            ("missing=psi", true),
            ("ram>=128M", true),
            ("ram<128M", false),
            ("flash_free>0", false),
            ("schema>=2", true),
            ("device=r,link=unknown", true),
            ("app=web", false),
            ("app!=web", true),
        ] {
            assert_eq!(means(selector), expected, "{selector}");
        }
    }

    #[test]
    fn a_selector_that_means_nothing_is_refused() {
        for (selector, sentence) in [
            ("", "\"\" has no comparison"),
            ("arm64", "\"arm64\" has no comparison"),
            ("arch!arm64", "has no comparison"),
            ("arch=", "compares with nothing"),
            ("arhc=arm64", "did you mean arch?"),
            ("colour=red", "known: device, link"),
            ("arch<arm64", "arch has no order"),
            ("version=new", "the value must be a release"),
            ("ram>lots", "the value must be a number of bytes"),
            ("link=up", "the value must be online, offline, silent or unknown"),
            ("=x", "is nothing that a device says of itself"),
        ] {
            let found = selector.parse::<Selector>().expect_err(selector);
            assert!(found.contains(sentence), "{selector}: {found}");
        }
    }

    #[test]
    fn releases_have_an_order() {
        for (a, b, order) in [
            ("0.2", "0.10", Ordering::Less),
            ("1.0-rc1", "1.0", Ordering::Less),
            ("1.0-rc1", "1.0-rc2", Ordering::Less),
            ("1", "1.0.0", Ordering::Equal),
            ("1.0.1-rc1", "1.0", Ordering::Greater),
        ] {
            assert_eq!(compare(a, b, true), order, "{a} {b}");
            assert_eq!(compare(b, a, true), order.reverse(), "{b} {a}");
        }
        assert_eq!(compare("6.1-rc1", "6.1", false), Ordering::Equal);
    }
}
