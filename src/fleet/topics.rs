//! Topics of the wire contract from the operator's side: what every device says, and where desired state stands.

use super::progress::Subject;
use crate::manifest::{Id, Name, Whom};
use crate::protocol::topics;

/// A message of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whose.
    pub device: Id,
    /// Which.
    pub what: What,
}

/// Which message of a device it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the topics of the wire contract")]
pub enum What {
    Presence,
    Reported,
    Ack(Name),
    Keyset,
    Get,
    Stats,
    Res(String),
}

/// Filter for a topic of one device, or of all.
pub fn out(root: &str, device: Option<&Id>, rest: &str) -> String {
    format!("{root}/v1/d/{}/out/{rest}", device.map_or("+", Id::as_str))
}

/// What a topic below `out` means; `None` for what is none of ours, or not asked for here.
pub fn heard(root: &str, topic: &str) -> Option<Heard> {
    let rest = topic.strip_prefix(root)?.strip_prefix("/v1/d/")?;
    let levels: Vec<&str> = rest.split('/').collect();
    let [device, "out", path @ ..] = levels.as_slice() else { return None };
    let what = match path {
        ["presence"] => What::Presence,
        ["reported"] => What::Reported,
        ["ack", app] => What::Ack(app.parse().ok()?),
        ["keyset"] => What::Keyset,
        ["get"] => What::Get,
        ["stats"] => What::Stats,
        ["res", id] => What::Res((*id).to_owned()),
        _ => return None,
    };
    Some(Heard { device: device.parse().ok()?, what })
}

/// Where the desired state of an app stands.
pub fn desired(root: &str, whom: &Whom, app: &Name) -> String {
    match whom {
        Whom::Device(id) => format!("{root}/v1/d/{id}/in/desired/{app}"),
        Whom::Group(id) => format!("{root}/v1/g/{id}/desired/{app}"),
    }
}

/// Where the keyset of a device or group stands.
pub fn keyset(root: &str, whom: &Whom) -> String {
    match whom {
        Whom::Device(id) => format!("{root}/v1/d/{id}/in/keyset"),
        Whom::Group(id) => format!("{root}/v1/g/{id}/keyset"),
    }
}

/// Filters for the keysets of every device, and of every group.
pub fn keysets_everywhere(root: &str) -> [String; 2] {
    [format!("{root}/v1/d/+/in/keyset"), format!("{root}/v1/g/+/keyset")]
}

impl Subject {
    /// Where a document of it stands.
    pub fn topic(&self, root: &str, whom: &Whom) -> String {
        match self {
            Self::App(app) => desired(root, whom, app),
            Self::Keyset => keyset(root, whom),
        }
    }

    /// Filters for the documents of it of every device.
    pub fn everywhere(&self, root: &str) -> Vec<String> {
        match self {
            Self::App(app) => vec![desired_everywhere(root, app)],
            Self::Keyset => keysets_everywhere(root).into(),
        }
    }

    /// Where a device tells of it.
    pub fn answers(&self) -> String {
        match self {
            Self::App(app) => format!("ack/{app}"),
            Self::Keyset => "keyset".to_owned(),
        }
    }
}

/// Whose keyset stands there.
pub fn whose_keyset(root: &str, topic: &str) -> Option<Whom> {
    let levels: Vec<&str> = topic.strip_prefix(root)?.strip_prefix("/v1/")?.split('/').collect();
    match levels.as_slice() {
        ["d", id, "in", "keyset"] => id.parse().ok().map(Whom::Device),
        ["g", id, "keyset"] => id.parse().ok().map(Whom::Group),
        _ => None,
    }
}

/// Filter for the desired state of an app of every device.
pub fn desired_everywhere(root: &str, app: &Name) -> String {
    format!("{root}/v1/d/+/in/desired/{app}")
}

/// Where a command to a device goes.
pub fn command(root: &str, device: &Id, id: &str) -> String {
    format!("{root}/v1/d/{device}/in/cmd/{id}")
}

/// A topic for which a device answers, and which only a reader has to know by its full name.
pub fn answer(root: &str, device: &Id, id: &str) -> String {
    topics::out(root, device, &crate::ipc::Topic::Res(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::Topic;

    #[test]
    fn what_a_device_says_is_read_as_the_device_writes_it() {
        let (root, device): (_, Id) = ("site/wherry", "router-17".parse().unwrap());
        let app = || "web".parse().unwrap();
        for (topic, what) in [
            (Topic::Reported, What::Reported),
            (Topic::Ack(app()), What::Ack(app())),
            (Topic::Keyset, What::Keyset),
            (Topic::Get, What::Get),
            (Topic::Stats, What::Stats),
            (Topic::Res("7f".into()), What::Res("7f".into())),
        ] {
            assert_eq!(heard(root, &topics::out(root, &device, &topic)), Some(Heard { device: device.clone(), what }));
        }
        assert_eq!(heard(root, &topics::presence(root, &device)), Some(Heard { device: device.clone(), what: What::Presence }));
        assert_eq!(out(root, Some(&device), "presence"), topics::presence(root, &device));
    }

    #[test]
    fn what_is_published_is_what_the_device_reads() {
        let (root, device, group): (_, Id, Id) = ("a", "r".parse().unwrap(), "g".parse().unwrap());
        let app: Name = "web".parse().unwrap();
        for topic in [
            desired(root, &Whom::Device(device.clone()), &app),
            desired(root, &Whom::Group(group.clone()), &app),
            keyset(root, &Whom::Device(device.clone())),
            keyset(root, &Whom::Group(group.clone())),
            command(root, &device, "7f"),
        ] {
            assert!(topics::parse(root, &device, std::slice::from_ref(&group), &topic).is_some(), "{topic}");
        }
    }

    #[test]
    fn a_topic_tells_whose_keyset_stands_there() {
        for whom in [Whom::Device("r".parse().unwrap()), Whom::Group("g".parse().unwrap())] {
            assert_eq!(whose_keyset("a/b", &keyset("a/b", &whom)), Some(whom));
        }
        for topic in ["a/v1/d/r/out/keyset", "a/v1/g/g/desired/keyset", "a/v1/d/r/in/keyset/x", "b/v1/d/r/in/keyset"] {
            assert_eq!(whose_keyset("a", topic), None, "{topic}");
        }
    }

    #[test]
    fn other_topics_are_not_read() {
        for topic in [
            "",
            "a/v1/d/r/out",
            "a/v1/d/r/out/log/x",
            "a/v1/d/r/in/desired/web",
            "a/v1/d/r/out/ack/WEB",
            "a/v1/d/r x/out/get",
            "a/v2/d/r/out/get",
            "b/v1/d/r/out/get",
            "a/v1/d/r/out/ack/web/x",
        ] {
            assert_eq!(heard("a", topic), None, "{topic}");
        }
    }
}
