//! Records on flash and on the runtime tmpfs: a power cut, another version or a container may have written them.

use std::time::Duration;
use wherry::container::exit_record;
use wherry::image::store as images;
use wherry::image::{Config, Digest};
use wherry::keeper::runtime;
use wherry::keeper::store::{self, Crc, Desired};

/// The kinds, by the first byte; the last two with their checksum put right, which mutations do not hit.
const KINDS: usize = 6;

/// What is read can be written, and means the same then.
pub fn records(data: &[u8]) {
    let Some((kind, bytes)) = super::choice(data, KINDS) else { return };
    match kind {
        0 => state(bytes),
        1 => image(bytes),
        2 => {
            if let Some(record) = runtime::decode(bytes) {
                let again = runtime::encode(&record).unwrap();
                assert_eq!(runtime::decode(&again), Some(record));
            }
        }
        3 => {
            if let Some(record) = exit_record::decode(bytes) {
                assert_eq!(exit_record::encode(&record)[..], *bytes);
            }
        }
        4 => state(&with_state_header(bytes)),
        _ => image(&with_image_header(bytes)),
    }
}

fn state(bytes: &[u8]) {
    if let Some((generation, desired)) = store::decode(bytes) {
        let again = store::encode(generation, &desired).unwrap();
        assert_eq!(store::decode(&again), Some((generation, desired)));
    }
}

fn image(bytes: &[u8]) {
    if let Some(record) = images::decode(bytes) {
        let again = images::encode(&record).unwrap();
        assert_eq!(images::decode(&again), Some(record));
    }
}

/// Magic, version, number, length, checksum: 4, 1, 8, 4 and 4 bytes.
fn with_state_header(body: &[u8]) -> Vec<u8> {
    let empty = store::encode(7, &Desired::default()).unwrap();
    let mut said = empty[..13].to_vec();
    said.extend((body.len() as u32).to_le_bytes());
    let sum = checksum(&[&said, body].concat());
    [&said[..], &sum, body].concat()
}

/// Version, checksum of the body.
fn with_image_header(body: &[u8]) -> Vec<u8> {
    let record = wherry::image::Record { digest: Digest::of(b""), layers: Vec::new(), config: Config::default(), unpacked: 0 };
    let version = images::encode(&record).unwrap()[0];
    [&[version][..], &checksum(body), body].concat()
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.add(bytes);
    crc.value().to_le_bytes()
}

/// The bytes of a reference file.
pub fn from_hex(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    text.split_ascii_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// The reference bytes of all records, whole and without their headers.
pub fn seeds() -> Vec<Vec<u8>> {
    let reference = |name: &str| super::files("frames", ".hex").into_iter().find(|(n, _)| n == name).map(|(_, t)| from_hex(&t)).unwrap();
    let (state, image) = (reference("state-record.hex"), reference("image-record.hex"));
    let sample = Duration::from_millis(1);
    let exit = exit_record::encode(&exit_record::ExitRecord { ended: wherry::sys::process::Ended::Code(7), at: sample });
    let whole = [state.clone(), image.clone(), reference("runtime-record.hex"), exit.to_vec(), state[21..].to_vec(), image[5..].to_vec()];
    (0..).zip(whole).map(|(kind, bytes)| [vec![kind], bytes].concat()).collect()
}
