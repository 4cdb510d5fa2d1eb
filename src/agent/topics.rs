//! The topics of one device: the wire contract's functions with the settings filled in.

use crate::ipc::{AgentSettings, Topic};
use crate::manifest::Id;
use crate::protocol::topics::{self, Incoming};
use rumqttc::QoS;

/// Longest last level of `out/log/…` and `out/res/…` in bytes.
const MAX_SUFFIX: usize = 128;

/// Whose topics.
#[derive(Debug, Clone)]
pub struct Topics {
    root: String,
    device: Id,
    groups: Vec<Id>,
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
        Self { root: settings.root.clone(), device: settings.device.clone(), groups: settings.groups.clone() }
    }

    /// All topic filters to subscribe to, each at QoS 1.
    pub fn filters(&self) -> Vec<String> {
        topics::subscriptions(&self.root, &self.device, &self.groups)
    }

    /// What a topic that something arrived on means; `None` when it is none of ours.
    pub fn parse(&self, topic: &str) -> Option<Incoming> {
        topics::parse(&self.root, &self.device, &self.groups, topic)
    }

    /// How to publish on a topic below `out/`; `None` when its last level is not one that MQTT allows in a topic name.
    pub fn route(&self, topic: &Topic) -> Option<Route> {
        if let Topic::Log(suffix) | Topic::Res(suffix) = topic {
            plain(suffix)?;
        }
        let delivery = topics::delivery(topic);
        Some(Route { topic: topics::out(&self.root, &self.device, topic), qos: qos(delivery.qos), retain: delivery.retain })
    }

    /// Where and how presence goes, also as the will.
    pub fn presence(&self) -> Route {
        let delivery = topics::PRESENCE;
        Route { topic: topics::presence(&self.root, &self.device), qos: qos(delivery.qos), retain: delivery.retain }
    }
}

fn qos(number: u8) -> QoS {
    if number == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
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
        Topics { root: "fleet".into(), device: "router-17".parse().unwrap(), groups: vec![] }
    }

    #[test]
    fn what_we_publish_has_the_contracts_qos_and_retain() {
        let route = |below: &str, qos, retain| Route { topic: format!("fleet/v1/d/router-17/out/{below}"), qos, retain };
        let table = [
            (Topic::Reported, route("reported", QoS::AtLeastOnce, true)),
            (Topic::Ack("web".parse().unwrap()), route("ack/web", QoS::AtLeastOnce, false)),
            (Topic::Log("web/nginx".into()), route("log/web/nginx", QoS::AtMostOnce, false)),
        ];
        for (topic, expected) in table {
            assert_eq!(topics().route(&topic), Some(expected));
        }
        assert_eq!(topics().presence(), route("presence", QoS::AtLeastOnce, true));
    }

    #[test]
    fn a_wildcard_in_an_outgoing_topic_is_refused() {
        for bad in ["", "a+", "#", "a\0b", &"x".repeat(129)] {
            assert_eq!(topics().route(&Topic::Res(bad.into())), None, "{bad:?}");
            assert_eq!(topics().route(&Topic::Log(bad.into())), None, "{bad:?}");
        }
    }
}
