//! The presence message and the will.

use serde::Serialize;

#[derive(Serialize)]
struct Presence<'a> {
    state: &'a str,
    boot: u64,
    conn: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_s: Option<u32>,
}

/// Published after every connection.
pub fn online(boot: u64, conn: u64, interval_s: u32) -> Vec<u8> {
    json(&Presence { state: "online", boot, conn, version: Some(env!("CARGO_PKG_VERSION")), interval_s: Some(interval_s) })
}

/// The will, and what is published before an orderly end. Readers ignore it when its `boot` and `conn` are below those they know:
/// a broker may send the will of a dead connection after the next one is there.
pub fn offline(boot: u64, conn: u64) -> Vec<u8> {
    json(&Presence { state: "offline", boot, conn, version: None, interval_s: None })
}

fn json(presence: &Presence<'_>) -> Vec<u8> {
    serde_json::to_vec(presence).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn presence_is_what_the_contract_shows() {
        let online = String::from_utf8(super::online(12, 3, 60)).unwrap();
        assert_eq!(online, format!(r#"{{"state":"online","boot":12,"conn":3,"version":"{}","interval_s":60}}"#, env!("CARGO_PKG_VERSION")));
        assert_eq!(super::offline(12, 3), br#"{"state":"offline","boot":12,"conn":3}"#);
    }
}
