//! When a device may begin with a document that is for certain hours. Pure.

use crate::manifest::{Manifest, Window, show_daytime, show_time};

const DAY_MS: u64 = 24 * 3600 * 1000;
/// 1970 began on a Thursday.
const FIRST_WEEKDAY: u64 = 3;

/// Whether a window is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It is.
    Now,
    /// It will be, at this time in milliseconds since 1970.
    At(u64),
    /// Nobody knows what time it is.
    Unknown,
}

/// Whether a window is open at `clock`: in milliseconds since 1970, absent where the device does not know the time. From is inside, to is outside.
pub fn opening(window: &Window, clock: Option<u64>) -> Opening {
    let Some(now) = clock else { return Opening::Unknown };
    let (from, to) = (u64::from(window.from) * 1000, u64::from(window.to) * 1000);
    let length = (to + DAY_MS - from) % DAY_MS;
    let today = now / DAY_MS;
    // That of yesterday may be open across midnight; that of today, if it is over and the only one of the week, opens again in a week.
    let days = (today.saturating_sub(1)..=today + 7).filter(|day| window.days >> ((day + FIRST_WEEKDAY) % 7) & 1 == 1);
    match days.map(|day| day * DAY_MS + from).find(|start| now < start + length) {
        Some(start) if start <= now => Opening::Now,
        Some(start) => Opening::At(start),
        None => Opening::Unknown,
    }
}

/// Why a device does not begin with a document yet.
pub fn outside(m: &Manifest, clock: Option<u64>) -> Option<String> {
    let window = m.rollout.as_ref()?.window.as_ref()?;
    match opening(window, clock) {
        Opening::Now => None,
        Opening::At(start) => Some(format!("its window opens at {}", show_time(start))),
        Opening::Unknown => {
            let (from, to) = (show_daytime(window.from), show_daytime(window.to));
            Some(format!("it is for the hours from {from} to {to}, and this device does not know the time: its clock is not synchronized"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Opening, opening, outside};
    use crate::manifest::{Window, calendar, parse};

    fn ms(time: &str) -> u64 {
        calendar::exact(time).unwrap()
    }

    fn window(from: &str, to: &str, days: u8) -> Window {
        let seconds = |text: &str| calendar::daytime(text).unwrap();
        Window { from: seconds(from), to: seconds(to), days }
    }

    const DAILY: u8 = 0b111_1111;
    const WEEKEND: u8 = 0b110_0000;
    const MONDAY: u8 = 0b000_0001;

    /// 2026-01-31 is a Saturday, 2024-02-29 a Thursday.
    #[test]
    fn a_window_is_open_from_its_first_second_to_the_one_before_its_last() {
        for (from, to, days, now, expect) in [
            ("02:00Z", "05:00Z", DAILY, "2026-01-31T01:59:59Z", "2026-01-31T02:00:00Z"),
            ("02:00Z", "05:00Z", DAILY, "2026-01-31T02:00:00Z", "now"),
            ("02:00Z", "05:00Z", DAILY, "2026-01-31T04:59:59Z", "now"),
            ("02:00Z", "05:00Z", DAILY, "2026-01-31T05:00:00Z", "2026-02-01T02:00:00Z"),
            ("00:00Z", "00:00:01Z", DAILY, "2026-01-31T00:00:00Z", "now"),
            ("00:00Z", "00:00:01Z", DAILY, "2026-01-31T00:00:01Z", "2026-02-01T00:00:00Z"),
            // To midnight, and across it.
            ("22:00Z", "00:00Z", DAILY, "2026-01-31T23:59:59Z", "now"),
            ("22:00Z", "00:00Z", DAILY, "2026-02-01T00:00:00Z", "2026-02-01T22:00:00Z"),
            ("22:30Z", "03:00Z", DAILY, "2026-01-31T22:29:59Z", "2026-01-31T22:30:00Z"),
            ("22:30Z", "03:00Z", DAILY, "2026-02-01T02:59:59Z", "now"),
            ("22:30Z", "03:00Z", DAILY, "2026-02-01T03:00:00Z", "2026-02-01T22:30:00Z"),
            ("05:00Z", "02:00Z", DAILY, "2026-02-01T01:00:00Z", "now"),
            ("05:00Z", "02:00Z", DAILY, "2026-02-01T03:00:00Z", "2026-02-01T05:00:00Z"),
            // On certain days; a window that crosses midnight belongs to the day on which it opens.
            ("02:00Z", "05:00Z", WEEKEND, "2026-01-30T03:00:00Z", "2026-01-31T02:00:00Z"),
            ("02:00Z", "05:00Z", WEEKEND, "2026-01-31T03:00:00Z", "now"),
            ("02:00Z", "05:00Z", WEEKEND, "2026-02-01T06:00:00Z", "2026-02-07T02:00:00Z"),
            ("22:30Z", "03:00Z", WEEKEND, "2026-01-31T01:00:00Z", "2026-01-31T22:30:00Z"),
            ("22:30Z", "03:00Z", WEEKEND, "2026-02-02T02:59:59Z", "now"),
            ("22:30Z", "03:00Z", WEEKEND, "2026-02-02T23:00:00Z", "2026-02-07T22:30:00Z"),
            ("02:00Z", "05:00Z", MONDAY, "2026-02-02T05:00:00Z", "2026-02-09T02:00:00Z"),
            ("02:00Z", "05:00Z", MONDAY, "2026-02-02T01:00:00Z", "2026-02-02T02:00:00Z"),
            // Over the ends of months and years, and on the first day of the calendar.
            ("02:00Z", "05:00Z", DAILY, "2024-02-29T06:00:00Z", "2024-03-01T02:00:00Z"),
            ("23:00Z", "01:00Z", DAILY, "2025-12-31T23:30:00Z", "now"),
            ("23:00Z", "01:00Z", DAILY, "2026-01-01T00:30:00Z", "now"),
            ("02:00Z", "05:00Z", MONDAY, "1970-01-01T00:00:00Z", "1970-01-05T02:00:00Z"),
            ("22:00Z", "05:00Z", DAILY, "1970-01-01T01:00:00Z", "1970-01-01T22:00:00Z"),
        ] {
            let expect = if expect == "now" { Opening::Now } else { Opening::At(ms(expect)) };
            assert_eq!(opening(&window(from, to, days), Some(ms(now))), expect, "{from} to {to} on {days:07b} at {now}");
        }
    }

    #[test]
    fn the_second_in_which_it_opens_is_found_from_every_second_of_a_week() {
        let window = window("23:59:58Z", "00:00:03Z", WEEKEND);
        let start = ms("2026-01-31T23:59:58Z");
        for second in 0..5 * 24 * 3600 {
            let now = start - second * 1000;
            let expect = if second == 0 { Opening::Now } else { Opening::At(start) };
            assert_eq!(opening(&window, Some(now)), expect, "{second} s before");
        }
        assert_eq!(opening(&window, Some(start - 1)), Opening::At(start));
    }

    #[test]
    fn who_does_not_know_the_time_waits_and_says_so() {
        let document = |rollout: &str| {
            let text = format!(
                r#"{{"wherry": 1, "app": "web", "rollout": {rollout}, "containers": {{"main": {{"image": {{"ref": "oci:/i"}}}}}}}}"#
            );
            parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
        };
        let m = document(r#"{"percent": 100, "window": {"from": "22:00Z", "to": "05:00:30Z", "days": ["sat", "sun"]}}"#);
        let now = |time: &str| outside(&m, Some(ms(time)));
        assert_eq!(now("2026-01-31T23:00:00Z"), None);
        assert_eq!(now("2026-01-31T05:00:30Z").as_deref(), Some("its window opens at 2026-01-31T22:00:00Z"));
        let unknown = outside(&m, None).unwrap();
        assert!(unknown.contains("from 22:00Z to 05:00:30Z") && unknown.ends_with("not synchronized"), "{unknown}");
        assert_eq!(outside(&document(r#"{"percent": 1}"#), None), None);
    }
}
