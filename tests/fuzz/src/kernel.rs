//! Texts of the kernel, and the container's user database, which is as hostile as its image.

use wherry::cgroup::{Layout, parse};
use wherry::container::user;
use wherry::stats::device;

const READERS: [fn(&str); 7] = [
    |text| {
        let _ = (parse::number(text), parse::limit(text), parse::field(text, "usage_usec"), parse::field(text, ""));
    },
    |text| {
        let _ = (parse::io_stat(text), parse::blkio(text));
    },
    |text| {
        let _ = parse::net_dev(text);
    },
    |text| {
        let _ = parse::pressure(text);
    },
    |text| {
        if let Ok(layout) = Layout::from_mountinfo(text, "/root") {
            assert!(layout.v1.len() <= 64, "{} hierarchies", layout.v1.len());
            let _ = (layout.kind(), layout.describe());
        }
    },
    |text| {
        let _ = (device::mem_available(text), device::pss(text), device::load1(text), device::written(text, 8, 0), device::has_disk(text));
    },
    |text| {
        let (wanted, files) = text.split_once('\n').unwrap_or((text, ""));
        let (passwd, group) = files.as_bytes().split_at(files.len() / 2);
        if let Err(message) = user::resolve(wanted, passwd, group) {
            super::is_printable(&message);
        }
    },
];

/// The first byte chooses the file.
pub fn kernel(data: &[u8]) {
    if let Some((reader, bytes)) = super::choice(data, READERS.len()) {
        READERS[reader](&String::from_utf8_lossy(bytes));
    }
}

/// The captured trees, and the texts of this machine.
pub fn seeds() -> Vec<Vec<u8>> {
    let own = ["meminfo", "loadavg", "diskstats", "net/dev", "self/smaps_rollup"].map(|name| std::fs::read(format!("/proc/{name}")));
    let user = b"app:extra\nroot:x:0:0:root:/:/bin/sh\napp:x:1234:1235:App:/work:/bin/sh\nroot:x:0:\nextra:x:1236:app\n".to_vec();
    let captured = super::files("cgroupfs", "").into_iter().map(|(_, bytes)| bytes);
    super::with_choices(captured.chain(own.into_iter().flatten()).chain([user]).filter(|b| b.len() < 8192), READERS.len() as u8)
}
