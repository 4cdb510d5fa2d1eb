//! `status`: why is it not online?

use super::args::Call;
use super::client::{Client, unexpected};
use super::print::{self, duration};
use crate::exit::{Error, visible};
use crate::ipc::{Link, LinkState, Reply, Request, StatusReport, TrustReport, TrustedKey};
use crate::manifest::Name;
use serde_json::{Value, json};

/// `wherry status`.
pub fn status(call: &Call) -> Result<u8, Error> {
    let Reply::Status(report) = Client::ask(&call.socket(), &Request::Status)? else { return Err(unexpected("status")) };
    if call.json() {
        print::json(&document(&report))?
    } else {
        print::bytes(text(&report).as_bytes())?
    }
    Ok(0)
}

fn text(r: &StatusReport) -> String {
    let agent = r.agent_pid.map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
    let mut lines = vec![
        ("device", format!("{} (root topic {})", r.device, r.root)),
        ("keeper", format!("{} (pid {}, boot {})", r.version, r.pid, r.boot)),
        ("agent", format!("{agent}, restarted {} times", r.agent_restarts)),
        ("cgroup", r.cgroup.clone()),
        ("apps", format!("{} running of {}", r.apps.0, r.apps.1)),
    ];
    lines.extend(hold_line(&r.holds));
    lines.extend(trust_lines(&r.trust));
    lines.extend(r.unsaved.iter().map(|why| ("storage", format!("{why}; after a reboot the device would want what it wanted before"))));
    lines.extend(link_lines(&r.link, r.uptime_s));
    let mut out: String = lines.iter().map(|(name, value)| format!("{name:<14}{}\n", visible(value))).collect();
    let (cause, next) = diagnose(r);
    out.push_str(&format!("\n{}\n", visible(&cause)));
    if let Some(next) = next {
        out.push_str(&format!("  next: {}\n", visible(&next)));
    }
    out
}

/// Also those of which nothing is here, and `wherry ls` has no line.
fn hold_line(holds: &[Name]) -> Option<(&'static str, String)> {
    let names: Vec<&str> = holds.iter().map(Name::as_str).collect();
    (!names.is_empty()).then(|| ("on hold", names.join(", ")))
}

/// How many keys are trusted, and what that means; each with where it comes from.
fn trust_lines(t: &TrustReport) -> Vec<(&'static str, String)> {
    let roots = t.keys.iter().filter(|k| k.root).count();
    let so = match (t.required, t.keys.len()) {
        (false, _) => "no key: what comes over MQTT need not be signed".to_owned(),
        (true, 0) => "no key that counts: nothing is taken over MQTT".to_owned(),
        (true, n) => format!("{n} {}, {roots} of them root: what is unsigned is refused", if n == 1 { "key" } else { "keys" }),
    };
    let key = |k: &TrustedKey| ("key", format!("{}{} ({})", k.id, if k.root { ", root" } else { "" }, k.from));
    let trouble = t.trouble.iter().map(|why| ("trust", why.clone()));
    std::iter::once(("trust", so)).chain(t.keys.iter().map(key)).chain(trouble).collect()
}

fn link_lines(l: &Link, now: u64) -> Vec<(&'static str, String)> {
    let ago = |at: Option<u64>| at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", duration(now.saturating_sub(at))));
    let retry = l.retry_s.map_or_else(String::new, |s| format!(", next attempt in {s}s"));
    let mut lines = vec![
        ("link", format!("{}{retry}", word(l.state))),
        ("broker", if l.broker.is_empty() { "none".into() } else { l.broker.clone() }),
        ("address", l.address.clone().unwrap_or_else(|| "not resolved".into())),
        ("error", l.error.clone().unwrap_or_else(|| "none".into())),
    ];
    for (topic, answer) in &l.subscriptions {
        let answer = answer.map_or_else(|| "refused by the broker".to_owned(), |qos| format!("granted, QoS {qos}"));
        lines.push(("subscription", format!("{topic}: {answer}")));
    }
    lines.push(("last in", ago(l.last_in_s)));
    lines.push(("last out", ago(l.last_out_s)));
    lines.push(("queue", format!("{} waiting, {} given up", l.queued, l.dropped)));
    lines.push(("connections", l.conn.to_string()));
    lines
}

fn word(state: LinkState) -> &'static str {
    match state {
        LinkState::Unconfigured => "unconfigured",
        LinkState::Connecting => "connecting",
        LinkState::Online => "online",
        LinkState::Waiting => "waiting",
        LinkState::Down => "down",
    }
}

/// The most probable cause, and the next step if there is something to do.
fn diagnose(r: &StatusReport) -> (String, Option<String>) {
    let link = &r.link;
    let refused: Vec<&str> = link.subscriptions.iter().filter(|(_, a)| a.is_none()).map(|(t, _)| t.as_str()).collect();
    let (cause, next) = match link.state {
        LinkState::Down => (
            format!("offline: the agent does not run (restarted {} times)", r.agent_restarts),
            "look into wherry's log for the agent's last words".into(),
        ),
        LinkState::Unconfigured => {
            ("offline: no broker is configured".into(), "add one under \"brokers\" in /etc/wherry/settings.json and restart keeper".into())
        }
        LinkState::Online if !refused.is_empty() => (
            format!("online, but deaf: the broker refused the subscription to {}", refused.join(", ")),
            format!("let this device read {}/v1/d/{}/in/# in the broker's access list", r.root, r.device),
        ),
        LinkState::Online if link.queued > 0 && link.last_out_s.is_none() => (
            format!("online, but nothing was acknowledged yet ({} waiting)", link.queued),
            "see whether the broker lets this device write".into(),
        ),
        LinkState::Online => return ("online: all is well".into(), None),
        LinkState::Connecting | LinkState::Waiting => offline(link),
    };
    (cause, Some(next))
}

/// What the last error most probably means, and what to do: the first row of which the error has a word. The words are those of the
/// agent and of the kernel.
const CAUSES: &[(&[&str], &str, &str)] = &[
    (
        &["cannot resolve"],
        "the broker's name cannot be resolved",
        "try `nslookup` with that name, and look at the name servers in /etc/resolv.conf",
    ),
    (
        &["client certificate"],
        "the broker does not accept this device's certificate",
        "see that certificate and key in the settings are those that the broker knows",
    ),
    (&["not valid yet"], "the certificate is not valid yet: the clock is behind", "set the time, or let NTP do it; `date` shows it"),
    (&["has expired"], "the broker's certificate has expired, or the clock is ahead", "compare `date` with the certificate's dates"),
    (
        &["not signed by the authority"],
        "the broker's certificate is not from the configured authority",
        "give this broker's right CA file in /etc/wherry/settings.json",
    ),
    (&["is not for the name"], "the broker's certificate is for another name", "use the name in the certificate as the broker's host"),
    (&["does not speak tls", "tls:"], "TLS fails", "see that the port speaks TLS (usually 8883), and that the CA file fits"),
    (
        &["user name or password", "not authorized"],
        "the broker refuses the login",
        "compare user name and password in /etc/wherry/settings.json with the broker's",
    ),
    (&["client id"], "the broker refuses or replaces this device id", "see that no other device has the same id"),
    (&["refused"], "nobody listens at that address and port", "see that the broker runs and that the port is right (1883 plain, 8883 TLS)"),
    (&["unreachable", "no route"], "there is no route to the broker", "look at the WAN: `ip route`, then ping the address"),
    (&["no answer", "timed out"], "the broker does not answer", "a firewall may drop the packets: try from another network"),
    (
        &["hung up", "closed the connection", "reset"],
        "the broker closes the connection",
        "the broker's log says why; two devices with the same id do this to each other",
    ),
    (&["mqtt 3.1.1", "something else"], "what listens there is no MQTT broker that speaks 3.1.1", "look at host and port in the settings"),
    (&["unavailable"], "the broker says that it is unavailable", "nothing to do here: the next attempt comes by itself"),
];

fn offline(link: &Link) -> (String, String) {
    let Some(error) = &link.error else {
        return (format!("offline: still connecting to {}", link.broker), "wait a moment and ask again".into());
    };
    let lower = error.to_lowercase();
    let found = CAUSES.iter().find(|(words, ..)| words.iter().any(|w| lower.contains(w)));
    let (cause, next) =
        found.map_or((error.as_str(), "the error above is all that is known; the broker's log may say more"), |(_, c, n)| (*c, *n));
    (format!("offline: {cause} ({})", link.broker), next.to_owned())
}

/// The report for programs.
pub fn document(r: &StatusReport) -> Value {
    let (cause, next) = diagnose(r);
    let l = &r.link;
    let subscriptions: Vec<Value> = l.subscriptions.iter().map(|(topic, qos)| json!({"topic": topic, "qos": qos})).collect();
    json!({
        "version": r.version, "device": r.device, "root": r.root, "boot": r.boot, "uptime_s": r.uptime_s, "pid": r.pid,
        "agent": {"pid": r.agent_pid, "restarts": r.agent_restarts}, "cgroup": r.cgroup, "apps": {"running": r.apps.0, "all": r.apps.1},
        "holds": r.holds, "unsaved": r.unsaved, "trust": r.trust,
        "link": {
            "state": l.state, "broker": l.broker, "address": l.address, "error": l.error, "subscriptions": subscriptions,
            "last_in_s": l.last_in_s, "last_out_s": l.last_out_s, "queued": l.queued, "dropped": l.dropped, "conn": l.conn, "retry_s": l.retry_s,
        },
        "cause": cause, "next": next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: LinkState, error: Option<&str>) -> StatusReport {
        StatusReport {
            version: "1".into(),
            device: "r17".parse().unwrap(),
            root: "wherry".into(),
            boot: 3,
            uptime_s: 100,
            pid: 1,
            agent_pid: Some(2),
            agent_restarts: 0,
            link: Link { state, broker: "b:8883".into(), error: error.map(str::to_owned), last_in_s: Some(40), ..Link::default() },
            cgroup: "v2".into(),
            apps: (1, 2),
            unsaved: None,
            trust: TrustReport::default(),
            holds: Vec::new(),
        }
    }

    #[test]
    fn each_error_has_its_cause() {
        for (error, cause) in [
            ("cannot resolve b: Name does not resolve", "name cannot be resolved"),
            ("TLS: the broker's certificate has expired (or the clock of this device is ahead)", "has expired"),
            ("TLS: the broker's certificate is not valid yet (is the clock of this device right?)", "clock is behind"),
            ("TLS: the broker's certificate is not signed by the authority in the CA file", "not from the configured authority"),
            ("TLS: the broker's certificate is not for the name b", "for another name"),
            ("TLS: the broker asks for a client certificate, and none is set", "does not accept this device's certificate"),
            ("TLS: the broker says that our client certificate has expired", "does not accept this device's certificate"),
            ("TLS: the broker does not speak TLS on this port", "TLS fails"),
            ("the broker refused user name or password", "refuses the login"),
            ("the broker refused: not authorized (user name, password, or access list)", "refuses the login"),
            ("the broker refused the client id (the device id)", "device id"),
            ("cannot connect to 192.0.2.1:1883: Connection refused", "nobody listens"),
            ("cannot connect to 192.0.2.1:1883: Network unreachable", "no route"),
            ("cannot connect to 192.0.2.1:1883: no answer within 5 s", "does not answer"),
            ("the broker hung up in place of an answer to CONNECT (does it want TLS?)", "closes the connection"),
            ("something new", "something new"),
        ] {
            let (text, next) = diagnose(&report(LinkState::Waiting, Some(error)));
            assert!(text.starts_with("offline: ") && text.contains(cause) && next.is_some(), "{error}: {text}");
        }
    }

    #[test]
    fn being_online_is_not_enough_when_the_broker_refused_a_subscription() {
        let mut r = report(LinkState::Online, None);
        assert_eq!(diagnose(&r), ("online: all is well".into(), None));
        r.link.subscriptions = vec![("a".into(), Some(1)), ("wherry/v1/d/r17/in/#".into(), None)];
        let (text, next) = diagnose(&r);
        assert!(text.contains("deaf") && next.unwrap().contains("access list"), "{text}");
    }

    #[test]
    fn the_states_without_a_link_say_what_to_do() {
        for (state, cause) in
            [(LinkState::Unconfigured, "no broker"), (LinkState::Down, "agent does not run"), (LinkState::Connecting, "still connecting")]
        {
            let (text, next) = diagnose(&report(state, None));
            assert!(text.contains(cause) && next.is_some(), "{text}");
        }
    }

    #[test]
    fn the_keys_are_counted_and_what_they_mean_is_said() {
        let key = |id: &str, root| TrustedKey { id: id.into(), root, from: "team.pub".into() };
        for (required, keys, words) in [
            (false, vec![], "need not be signed"),
            (true, vec![], "nothing is taken"),
            (true, vec![key("aa84be84e99e0f52", true)], "1 key, 1 of them root"),
            (true, vec![key("aa84be84e99e0f52", true), key("f294675667d2521b", false)], "2 keys, 1 of them root"),
        ] {
            let trust = TrustReport { required, keys, trouble: vec!["x.pub is bad".into()] };
            let shown = text(&StatusReport { trust: trust.clone(), ..report(LinkState::Online, None) });
            assert!(shown.contains(words) && shown.contains("x.pub is bad"), "{shown}");
            assert!(trust.keys.iter().all(|k| shown.contains(&k.id)), "{shown}");
        }
    }

    #[test]
    fn apps_on_hold_are_named_and_without_any_there_is_no_line() {
        let mut r = report(LinkState::Online, None);
        assert!(!text(&r).contains("hold"));
        r.holds = vec!["web".parse().unwrap(), "db".parse().unwrap()];
        assert!(text(&r).contains("\non hold       web, db\n"));
    }

    #[test]
    fn ages_refer_to_the_device_clock() {
        assert!(text(&report(LinkState::Online, None)).contains("last in       1m 0s ago\nlast out      never\n"));
    }
}
