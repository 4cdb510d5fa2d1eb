//! Topic names, QoS and retain flags of the wire contract.

use crate::ipc::{AgentSettings, Origin, Topic};
use crate::manifest::{Id, Name};
use rumqttc::QoS;

/// Longest last level of `out/log/…` and `out/res/…` in bytes.
const MAX_SUFFIX: usize = 128;

/// The topics of one device.
#[derive(Debug, Clone)]
pub struct Topics {
    device: String,
    /// Prefix of each group's desired-state topics, with the group.
    groups: Vec<(String, Id)>,
}

/// What arrived, by its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// Desired state of an app.
    Desired(Origin, Name),
    /// A command with its id.
    Command(String),
}

/// How to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Full topic name.
    pub topic: String,
    /// Delivery guarantee.
    pub qos: QoS,
    /// The broker keeps the last one for whoever subscribes later.
    pub retain: bool,
}

impl Topics {
    /// The topics that follow from the settings.
    pub fn new(settings: &AgentSettings) -> Self {
        let AgentSettings { root, device, groups, .. } = settings;
        let groups = groups.iter().map(|g| (format!("{root}/v1/g/{g}/desired/"), g.clone())).collect();
        Self { device: format!("{root}/v1/d/{device}/"), groups }
    }

    /// All topic filters to subscribe to, each at QoS 1.
    pub fn filters(&self) -> Vec<String> {
        let own = ["in/desired/+", "in/cmd/+"].map(|below| format!("{}{below}", self.device));
        own.into_iter().chain(self.groups.iter().map(|(prefix, _)| format!("{prefix}+"))).collect()
    }

    /// What a topic that something arrived on means; `None` when it is none of ours.
    pub fn parse(&self, topic: &str) -> Option<Arrival> {
        for (prefix, group) in &self.groups {
            if let Some(app) = topic.strip_prefix(prefix.as_str()) {
                return Some(Arrival::Desired(Origin::Group(group.clone()), app.parse().ok()?));
            }
        }
        let below = topic.strip_prefix(self.device.as_str())?;
        match below.strip_prefix("in/desired/") {
            Some(app) => Some(Arrival::Desired(Origin::Device, app.parse().ok()?)),
            None => Some(Arrival::Command(below.strip_prefix("in/cmd/")?.parse::<Id>().ok()?.into())),
        }
    }

    /// How to publish on a topic below `out/`; `None` when its last level is not one that MQTT allows in a topic name.
    pub fn route(&self, topic: &Topic) -> Option<Route> {
        use QoS::{AtLeastOnce, AtMostOnce};
        let (below, qos, retain) = match topic {
            Topic::Reported => ("reported".into(), AtLeastOnce, true),
            Topic::Get => ("get".into(), AtLeastOnce, false),
            Topic::Ack(app) => (format!("ack/{app}"), AtLeastOnce, false),
            Topic::Stats => ("stats".into(), AtMostOnce, false),
            Topic::Log(container) => (format!("log/{}", plain(container)?), AtMostOnce, false),
            Topic::Res(id) => (format!("res/{}", plain(id)?), AtLeastOnce, false),
        };
        Some(Route { topic: format!("{}out/{below}", self.device), qos, retain })
    }

    /// Where presence and the will go, retained, at QoS 1.
    pub fn presence(&self) -> String {
        format!("{}out/presence", self.device)
    }
}

/// A broker disconnects whoever publishes to a name with a wildcard or a NUL (MQTT 3.1.1, section 4.7).
fn plain(suffix: &str) -> Option<&str> {
    let good = |c: char| !matches!(c, '+' | '#') && !c.is_control();
    (!suffix.is_empty() && suffix.len() <= MAX_SUFFIX && suffix.chars().all(good)).then_some(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        Topics::new(&AgentSettings {
            device: "router-17".parse().unwrap(),
            root: "fleet".into(),
            groups: vec!["lab".parse().unwrap()],
            brokers: vec![],
            boot: 1,
            interval_s: 60,
            uid: None,
            conn: 0,
        })
    }

    #[test]
    fn every_topic_that_arrives_is_understood_or_refused() {
        let app = || "web".parse().unwrap();
        let table = [
            ("fleet/v1/d/router-17/in/desired/web", Some(Arrival::Desired(Origin::Device, app()))),
            ("fleet/v1/g/lab/desired/web", Some(Arrival::Desired(Origin::Group("lab".parse().unwrap()), app()))),
            ("fleet/v1/d/router-17/in/cmd/a1", Some(Arrival::Command("a1".into()))),
            ("fleet/v1/g/other/desired/web", None),
            ("fleet/v1/d/router-17/in/desired/Web", None),
            ("fleet/v1/d/router-17/in/desired/web/more", None),
            ("fleet/v1/d/router-17/in/cmd/", None),
            ("fleet/v1/d/router-17/out/reported", None),
            ("fleet/v1/d/router-18/in/desired/web", None),
            ("", None),
        ];
        for (topic, meaning) in table {
            assert_eq!(topics().parse(topic), meaning, "{topic}");
        }
    }

    #[test]
    fn filters_name_device_commands_and_each_group() {
        let wanted = ["fleet/v1/d/router-17/in/desired/+", "fleet/v1/d/router-17/in/cmd/+", "fleet/v1/g/lab/desired/+"];
        assert_eq!(topics().filters(), wanted);
    }

    #[test]
    fn what_we_publish_has_the_contracts_qos_and_retain() {
        let table = [
            (Topic::Reported, "reported", QoS::AtLeastOnce, true),
            (Topic::Get, "get", QoS::AtLeastOnce, false),
            (Topic::Ack("web".parse().unwrap()), "ack/web", QoS::AtLeastOnce, false),
            (Topic::Stats, "stats", QoS::AtMostOnce, false),
            (Topic::Log("web/nginx".into()), "log/web/nginx", QoS::AtMostOnce, false),
            (Topic::Res("a1".into()), "res/a1", QoS::AtLeastOnce, false),
        ];
        for (topic, below, qos, retain) in table {
            let route = topics().route(&topic).unwrap();
            assert_eq!(route, Route { topic: format!("fleet/v1/d/router-17/out/{below}"), qos, retain });
        }
    }

    #[test]
    fn a_wildcard_in_an_outgoing_topic_is_refused() {
        for bad in ["", "a+", "#", "a\0b", &"x".repeat(129)] {
            assert_eq!(topics().route(&Topic::Res(bad.into())), None, "{bad:?}");
            assert_eq!(topics().route(&Topic::Log(bad.into())), None, "{bad:?}");
        }
    }
}
