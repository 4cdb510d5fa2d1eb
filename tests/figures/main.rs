//! The figures of README, all in one run, beside the bare floor and beside crun, runc and LXC on the same machine. `tests/bench` builds what is
//! measured and calls this.
//!
//! `cargo test` runs it too, shortly: then it shows that every row still comes out. No time makes it fail.

#[path = "../harness/mod.rs"]
mod harness;

mod floor;
mod memory;
mod starts;
mod table;

use std::path::Path;
use std::time::Duration;
use table::Table;

/// The argument of a whole run; what comes with it: rounds, seconds of idling, `table` or `json`.
const WHOLE: &str = "all";
/// How the short run is called among the tests.
const SHORT: &str = "a_short_run_prints_every_row";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [floor::WORD, root] => floor::serve(Path::new(root)),
        [WHOLE, rounds, idle, form] => {
            let table = whole(rounds.parse().expect("rounds is a number"), Duration::from_secs(idle.parse().expect("idle is in seconds")));
            println!("{}", if *form == "json" { table.json() } else { table.markdown() });
        }
        other => as_a_test(other),
    }
}

fn whole(rounds: usize, idle: Duration) -> Table {
    let mut table = Table::default();
    memory::binary(&mut table);
    // Fewer rounds of many: each has many starts in it.
    starts::measure(&mut table, &[1, 10, 100], |many| (rounds * 2 / (1 + many)).max(3).min(rounds));
    memory::resident(&mut table, 100, 8);
    memory::flash(&mut table, idle);
    table
}

fn short() {
    let mut table = Table::default();
    memory::binary(&mut table);
    starts::measure(&mut table, &[1, 10], |_| 1);
    memory::resident(&mut table, 3, 2);
    memory::flash(&mut table, Duration::from_secs(2));
    let (text, value) = (table.markdown(), table.json());
    println!("{text}");
    let value: harness::Value = serde_json::from_str(&value).unwrap();
    // Both forms have every row, and each row a number that means something.
    let rows = value["rows"].as_array().unwrap();
    assert_eq!(rows.len(), table.rows.len());
    assert_eq!(text.lines().filter(|l| l.starts_with("| ")).count(), rows.len() + 1);
    for row in &table.rows {
        let measured = row.figure.is_finite() && (row.figure > 0.0 || row.what.contains("the machine's") || row.what.contains("flash"));
        assert!(measured, "{row:?}");
    }
}

/// Answers as the test programs of cargo do, which `tests/run` counts.
fn as_a_test(args: &[&str]) {
    let has = |word: &str| args.contains(&word);
    let name = args.iter().find(|a| !a.starts_with("--"));
    let wanted = name.is_none_or(|n| SHORT.contains(n)) && !has("--ignored");
    if has("--list") {
        return println!("{SHORT}: test\n");
    }
    println!("\nrunning {} test", u8::from(wanted));
    if wanted {
        // A panic ends the process, and that is how cargo knows.
        short();
        println!("test {SHORT} ... ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed; 0 ignored; 0 measured; {} filtered out\n", u8::from(wanted), u8::from(!wanted));
}
