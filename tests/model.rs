//! The desired state as a model: keeper's own decisions, in every order of documents, broken lines, images, deaths of programs, kills of keeper and power
//! cuts. Whatever happens, two versions never run at once, no number sinks, each version has one end, and at rest what should run does.
//!
//! The model has one app of one container, the device's topic and two groups'. What keeper does once it has decided is done here as there (`model/deploy.rs`
//! beside keeper's); a write to flash succeeds or is cut. The command line's own apps, several containers, hours, holds at the device, the connectivity guard and a full flash
//! are left to the tests of a real keeper.

#[path = "model/catalog.rs"]
mod catalog;
#[path = "model/check.rs"]
mod check;
#[path = "model/decisions.rs"]
mod decisions;
#[path = "model/deploy.rs"]
mod deploy;
#[path = "model/explore.rs"]
mod explore;
#[path = "model/ghost.rs"]
mod ghost;
#[path = "model/mutants.rs"]
mod mutants;
#[path = "model/world.rs"]
mod world;

use catalog::{Catalog, Line};
use decisions::SHIPPED;
use explore::{everything, shrink, tell, walk};
use mutants::MUTANTS;

/// Also a thorough check, which takes minutes: one more disturbance, and a hundred times as many walks.
fn is_thorough() -> bool {
    std::env::var_os("WHERRY_MODEL").is_some_and(|word| word == "thorough")
}

/// Every world that three disturbances, at any moments, make of these documents, `least` as many as when this was written. A disturbance is a document, a cut, or whatever else need not happen.
#[track_caller]
fn check_everything(least: usize, lines: &[Line]) {
    let (catalog, disturbances) = (Catalog::new(lines), 3 + usize::from(is_thorough()));
    match everything(&catalog, &SHIPPED, disturbances) {
        Ok(extent) => {
            println!("{} worlds by {} steps, with {disturbances} disturbances", extent.worlds, extent.steps);
            assert!(extent.worlds >= least, "only {} worlds were seen, and there were {least}", extent.worlds);
        }
        Err(story) => panic!("{}", shrink(&catalog, &SHIPPED, story).show(&catalog)),
    }
}

#[test]
fn updates_removals_and_what_is_lifted_come_to_their_one_end() {
    check_everything(
        3584,
        &[
            ("one", "device", 1, "run works a"),
            ("two", "device", 2, "run works b check"),
            ("other two", "device", 2, "run broken c"),
            ("gone", "device", 3, "remove"),
            ("lifted", "device", 3, "inherit"),
        ],
    );
}

#[test]
fn versions_that_do_not_work_leave_the_one_before_running() {
    check_everything(
        12995,
        &[
            ("one", "device", 1, "run works a"),
            ("sick", "device", 2, "run sick b"),
            ("ends", "device", 3, "run ends c"),
            ("missing", "device", 4, "run missing d"),
        ],
    );
}

#[test]
fn of_several_topics_the_one_with_precedence_runs() {
    check_everything(
        8913,
        &[
            ("one", "device", 1, "run works a"),
            ("gone", "device", 2, "remove"),
            ("lifted", "device", 3, "inherit"),
            ("near", "near", 1, "run works b check"),
            ("near gone", "near", 2, "remove"),
            ("far", "far", 1, "run works c"),
        ],
    );
}

#[test]
fn a_rollout_runs_where_it_reaches_and_takes_nothing_away() {
    check_everything(
        5081,
        &[
            ("one", "device", 1, "run works a"),
            ("none", "device", 2, "run works b 0%"),
            ("all", "device", 3, "run works b 100%"),
            ("less", "device", 4, "run works b 0%"),
            ("near none", "near", 1, "run works n 0%"),
            ("near all", "near", 2, "run works n 100%"),
        ],
    );
}

#[test]
fn documents_without_numbers_run_in_the_order_in_which_they_come() {
    check_everything(
        4082,
        &[
            ("a", "device", 0, "run works a"),
            ("b", "device", 0, "run works b"),
            ("gone", "device", 0, "remove"),
            ("numbered", "device", 1, "run works c"),
            ("numbered gone", "device", 2, "remove"),
        ],
    );
}

/// Of everything.
const LINES: [Line; 16] = [
    ("one", "device", 1, "run works a"),
    ("two", "device", 2, "run works b check"),
    ("other two", "device", 2, "run broken c"),
    ("gone", "device", 3, "remove"),
    ("lifted", "device", 4, "inherit"),
    ("ends", "device", 5, "run ends d"),
    ("none", "device", 6, "run works a 0%"),
    ("all", "device", 7, "run works a 100%"),
    ("bare", "device", 0, "run works g"),
    ("near one", "near", 1, "run works n"),
    ("near sick", "near", 2, "run sick o"),
    ("near gone", "near", 3, "remove"),
    ("near missing", "near", 4, "run missing p"),
    ("far one", "far", 1, "run works r check"),
    ("far none", "far", 2, "run works s 0%"),
    ("far gone", "far", 3, "remove"),
];
/// Moves of one walk.
const LENGTH: usize = 60;

#[test]
fn random_walks_of_sixty_moves_find_nothing_wrong() {
    let (catalog, walks) = (Catalog::new(&LINES), if is_thorough() { 100_000 } else { 1000 });
    let moves: usize = (1..=walks)
        .map(|seed| walk(&catalog, &SHIPPED, seed, LENGTH).unwrap_or_else(|story| panic!("walk {seed}: {}", story.show(&catalog))))
        .sum();
    println!("{walks} walks of {moves} moves");
}

/// Longest story that is still quickly read.
const SHORT: usize = 9;

#[test]
fn a_decision_that_is_wrong_is_found_by_a_short_story() {
    let catalog = Catalog::new(&LINES);
    for (what, decisions) in &MUTANTS {
        let Some(story) = (1..1000).find_map(|seed| walk(&catalog, decisions, seed, LENGTH).err()) else {
            panic!("nothing is found wrong when {what}");
        };
        println!("when {what}: {}", story.show(&catalog));
        assert!(story.moves.len() <= SHORT, "when {what}, this is long: {}", story.show(&catalog));
        assert_eq!(tell(&catalog, &SHIPPED, &story.moves, 1), None, "the same is wrong with what ships");
    }
}
