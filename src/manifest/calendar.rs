//! Times of the wall clock as documents and people write them (RFC 3339, in UTC). Pure.

const DAY_MS: u64 = 24 * 3600 * 1000;

/// `2026-01-31`, `2026-01-31T23:59` or `2026-01-31T23:59:59`, with Z behind it or not, in milliseconds since 1970.
pub fn read(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let numbers = |text: &str, by: char| text.split(by).map(number).collect::<Option<Vec<u64>>>();
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    let ([year, month, day], [hour, minute, ..]) = (&date[..], &time[..]) else { return None };
    let (year, month, day) = (*year, *month, *day);
    let second = time.get(2).copied().unwrap_or(0);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && (*hour < 24 && *minute < 60 && second < 60 && time.len() <= 3);
    in_range.then(|| days(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000)
}

/// `02:00Z` or `02:00:30Z`, in seconds of the day.
pub fn daytime(text: &str) -> Option<u32> {
    let two = |part: &str, most: u64| number(part).filter(|n| part.len() == 2 && *n <= most);
    let mut parts = text.strip_suffix('Z')?.split(':');
    let (hour, minute) = (two(parts.next()?, 23)?, two(parts.next()?, 59)?);
    let second = parts.next().map_or(Some(0), |part| two(part, 59))?;
    let seconds = (hour * 60 + minute) * 60 + second;
    parts.next().is_none().then(|| u32::try_from(seconds).ok())?
}

/// `02:00Z`, or `02:00:30Z` where there are seconds.
pub fn show_daytime(seconds: u32) -> String {
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if second == 0 { format!("{hour:02}:{minute:02}Z") } else { format!("{hour:02}:{minute:02}:{second:02}Z") }
}

fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 4 && text.bytes().all(|c| c.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 on.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|y| 365 + u64::from(is_leap(y))).sum();
    years + (1..month).map(|m| days_of(year, m)).sum::<u64>() + day - 1
}

/// `2026-01-31T23:59:59Z`.
pub fn show(unix_ms: u64) -> String {
    let (mut day, seconds) = (unix_ms / DAY_MS, unix_ms % DAY_MS / 1000);
    let (mut year, mut month) = (1970, 1);
    // A clock that is wrong may say any time; after the last year that has four digits, nobody looks any more.
    while day >= 365 + u64::from(is_leap(year)) && year < 9999 {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    while day >= days_of(year, month) && month < 12 {
        day -= days_of(year, month);
        month += 1;
    }
    format!("{year}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", day + 1, seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `2026-01-31T23:59:59Z` and nothing else, as documents have it, in milliseconds since 1970.
pub fn exact(text: &str) -> Option<u64> {
    read(text).filter(|ms| show(*ms) == text)
}
