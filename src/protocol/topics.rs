//! Topics of the wire contract: building, subscribing, and saying what came in.

use crate::ipc::{Origin, Topic};
use crate::manifest::{Id, Name};

/// How a message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// MQTT quality of service: 0 or 1.
    pub qos: u8,
    /// The broker keeps the newest one for later subscribers.
    pub retain: bool,
}

/// How presence is published, also as the will.
pub const PRESENCE: Delivery = Delivery { qos: 1, retain: true };

/// What came in on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Desired state of an app.
    Desired {
        /// By the device's own topic, or a group's.
        origin: Origin,
        /// The app of the topic.
        app: Name,
    },
    /// Signed settings.
    Config,
    /// Signed keys.
    Keyset {
        /// By the device's own topic, or a group's.
        origin: Origin,
    },
    /// A command.
    Command {
        /// Its id: 1 to 64 of `A-Za-z0-9_.-`, so that it fits into the answer's topic.
        id: String,
    },
}

/// Topic of a message from this device.
pub fn out(root: &str, device: &Id, topic: &Topic) -> String {
    let rest = match topic {
        Topic::Reported => "reported".to_owned(),
        Topic::Ack(app) => format!("ack/{app}"),
        Topic::Get => "get".to_owned(),
        Topic::Stats => "stats".to_owned(),
        Topic::Log(container) => format!("log/{container}"),
        Topic::Res(id) => format!("res/{id}"),
        Topic::Keyset => "keyset".to_owned(),
    };
    format!("{root}/v1/d/{device}/out/{rest}")
}

/// Topic of the device's presence and will.
pub fn presence(root: &str, device: &Id) -> String {
    format!("{root}/v1/d/{device}/out/presence")
}

/// How a message from this device is published.
pub fn delivery(topic: &Topic) -> Delivery {
    match topic {
        Topic::Reported => Delivery { qos: 1, retain: true },
        Topic::Ack(_) | Topic::Get | Topic::Res(_) | Topic::Keyset => Delivery { qos: 1, retain: false },
        Topic::Stats | Topic::Log(_) => Delivery { qos: 0, retain: false },
    }
}

/// What this device subscribes to, all with QoS 1; the device's own filter comes first.
pub fn subscriptions(root: &str, device: &Id, groups: &[Id]) -> Vec<String> {
    let own = format!("{root}/v1/d/{device}/in/#");
    let of_group = |group: &Id| ["desired/+", "keyset"].map(|rest| format!("{root}/v1/g/{group}/{rest}"));
    std::iter::once(own).chain(groups.iter().flat_map(of_group)).collect()
}

/// What a topic means for this device; `None` for what is not for it, or is none of ours.
pub fn parse(root: &str, device: &Id, groups: &[Id], topic: &str) -> Option<Incoming> {
    let rest = topic.strip_prefix(root)?.strip_prefix("/v1/")?;
    let mut levels = rest.split('/');
    let (kind, whom) = (levels.next()?, levels.next()?);
    let path: Vec<&str> = levels.collect();
    match (kind, path.as_slice()) {
        ("g", rest) => {
            let origin = Origin::Group(groups.iter().find(|g| g.as_str() == whom)?.clone());
            match rest {
                ["desired", app] => Some(Incoming::Desired { origin, app: app.parse().ok()? }),
                ["keyset"] => Some(Incoming::Keyset { origin }),
                _ => None,
            }
        }
        ("d", _) if whom != device.as_str() => None,
        ("d", ["in", "desired", app]) => Some(Incoming::Desired { origin: Origin::Device, app: app.parse().ok()? }),
        ("d", ["in", "config"]) => Some(Incoming::Config),
        ("d", ["in", "keyset"]) => Some(Incoming::Keyset { origin: Origin::Device }),
        ("d", ["in", "cmd", id]) => id.parse::<Id>().ok().map(|id| Incoming::Command { id: id.into() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Delivery, Incoming, delivery, out, parse, presence, subscriptions};
    use crate::ipc::{Origin, Topic};
    use crate::manifest::Id;

    fn id(s: &str) -> Id {
        s.parse().unwrap()
    }

    #[test]
    fn every_topic_from_the_device_is_as_the_contract_says() {
        let app = || "web".parse().unwrap();
        for (topic, path, qos, retain) in [
            (Topic::Reported, "reported", 1, true),
            (Topic::Ack(app()), "ack/web", 1, false),
            (Topic::Get, "get", 1, false),
            (Topic::Stats, "stats", 0, false),
            (Topic::Log("nginx".into()), "log/nginx", 0, false),
            (Topic::Res("42".into()), "res/42", 1, false),
            (Topic::Keyset, "keyset", 1, false),
        ] {
            assert_eq!(out("site/wherry", &id("router-17"), &topic), format!("site/wherry/v1/d/router-17/out/{path}"));
            assert_eq!(delivery(&topic), Delivery { qos, retain });
        }
        assert_eq!(presence("wherry", &id("r")), "wherry/v1/d/r/out/presence");
    }

    #[test]
    fn the_device_reads_its_own_topics_and_those_of_its_groups() {
        let read = |topic: &str| parse("a/b", &id("r"), &[id("g1"), id("g2")], topic);
        let desired = |origin| Some(Incoming::Desired { origin, app: "web".parse().unwrap() });
        assert_eq!(read("a/b/v1/d/r/in/desired/web"), desired(Origin::Device));
        assert_eq!(read("a/b/v1/g/g2/desired/web"), desired(Origin::Group(id("g2"))));
        assert_eq!(read("a/b/v1/d/r/in/config"), Some(Incoming::Config));
        assert_eq!(read("a/b/v1/d/r/in/keyset"), Some(Incoming::Keyset { origin: Origin::Device }));
        assert_eq!(read("a/b/v1/g/g1/keyset"), Some(Incoming::Keyset { origin: Origin::Group(id("g1")) }));
        assert_eq!(read("a/b/v1/d/r/in/cmd/7f.1"), Some(Incoming::Command { id: "7f.1".into() }));
        assert_eq!(subscriptions("a/b", &id("r"), &[id("g1")]), ["a/b/v1/d/r/in/#", "a/b/v1/g/g1/desired/+", "a/b/v1/g/g1/keyset"]);
    }

    #[test]
    fn what_is_not_for_this_device_is_not_read() {
        for topic in [
            "",
            "a",
            "a/b/v1/d/other/in/desired/web",
            "a/b/v1/g/g3/desired/web",
            "a/b/v1/g/g3/keyset",
            "a/b/v1/g/g1/keyset/x",
            "a/b/v1/d/other/in/keyset",
            "a/b/v2/d/r/in/desired/web",
            "a/bc/v1/d/r/in/config",
            "a/b/v1/d/r/in/desired/WEB",
            "a/b/v1/d/r/in/desired/web/x",
            "a/b/v1/d/r/in/desired",
            "a/b/v1/d/r/out/ack/web",
            "a/b/v1/d/r/in/cmd/",
            "a/b/v1/d/r/in/cmd/a b",
            "a/b/v1/g/g1/in/desired/web",
            "/a/b/v1/d/r/in/config",
            "a/b/v1/d/r/in/config/",
        ] {
            assert_eq!(parse("a/b", &id("r"), &[id("g1"), id("g2")], topic), None, "{topic}");
        }
    }
}
