//! Every message between our processes: each comes from one that may have been taken over.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wherry::ipc::{FromAgent, FromLaunch, FromStage, Reply, Request, ToAgent, ToLaunch, ToStage, Topic, decode, encode};
use wherry::{hash, unpack};

type Reader = fn(&[u8]);

/// In the order of the names in `tests/frames`, then those that live no longer than one image.
const READERS: [(&str, Reader); 13] = [
    ("from-agent", read::<FromAgent>),
    ("to-agent", read::<ToAgent>),
    ("topic", read::<Topic>),
    ("request", read::<Request>),
    ("reply", read::<Reply>),
    ("to-stage", read::<ToStage>),
    ("from-stage", read::<FromStage>),
    ("to-launch", read::<ToLaunch>),
    ("from-launch", read::<FromLaunch>),
    ("", read::<unpack::Job>),
    ("", read::<unpack::Report>),
    ("", read::<hash::Job>),
    ("", read::<hash::Report>),
];

/// What is read can be written, and means the same then.
fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = decode::<T>(bytes) else { return };
    let again = encode(&message).expect("what was read can be written");
    let twice = decode::<T>(&again).expect("what was written can be read");
    assert_eq!(encode(&twice).unwrap(), again);
}

/// The first byte chooses the message.
pub fn frames(data: &[u8]) {
    if let Some((reader, bytes)) = super::choice(data, READERS.len()) {
        READERS[reader].1(bytes);
    }
}

/// The reference bytes of all messages.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |(name, text): (String, Vec<u8>)| {
        let kind = name.rsplit_once('-')?.0;
        let reader = READERS.iter().position(|(n, _)| *n == kind)?;
        Some([vec![reader as u8], super::records::from_hex(&text)].concat())
    };
    let version = wherry::ipc::VERSION;
    let zeros = (9..13).flat_map(|reader| (0..3).map(move |variant| [&[reader, version, variant][..], &[0; 40]].concat()));
    super::files("frames", ".hex").into_iter().filter_map(frame).chain(zeros).collect()
}
