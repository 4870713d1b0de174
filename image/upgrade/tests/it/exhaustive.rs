//! Every story, broken at every point in every way: each write and each effect is cut, torn, reordered, refused once or
//! acknowledged and lost (faults 1 to 3). The invariants hold all the time (`check`), and in the end the machine serves a
//! committed image and can be upgraded again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use upgrade::{Action, Mode, Phase, ResetCause};

use crate::disk::{Kind, Wrong};
use crate::stories::order;
use crate::world::{Behaviour, World, digest, release};

/// A story: the machine before it, and what happens. It ends with the machine at rest.
#[derive(Clone, Copy)]
struct Story {
    name: &'static str,
    releases: &'static [(&'static str, u64, Behaviour)],
    prepare: fn(&mut World),
    /// How many releases the source has, run by run; the machine is switched off and on between them.
    published: &'static [usize],
}

const GOOD: Behaviour = Behaviour::Good;

const STORIES: &[Story] = &[
    Story {
        name: "upgrade and cold proof",
        releases: &[("v2", 2, GOOD)],
        prepare: |_| {},
        published: &[1, 1],
    },
    Story {
        name: "three upgrades",
        releases: &[("v2", 2, GOOD), ("v3", 3, GOOD), ("v4", 4, GOOD)],
        prepare: |_| {},
        published: &[1, 2, 3],
    },
    Story {
        name: "hangs after the jump",
        releases: &[("v2", 2, Behaviour::Hangs(Phase::Jump))],
        prepare: |_| {},
        published: &[1],
    },
    Story {
        name: "dies in the soak",
        releases: &[("v2", 2, GOOD), ("v3", 3, Behaviour::Panics(Phase::Soak))],
        prepare: |_| {},
        published: &[1, 2],
    },
    Story {
        name: "fails its self-test",
        releases: &[("v2", 2, Behaviour::Fails(Phase::Serve))],
        prepare: |_| {},
        published: &[1],
    },
    Story {
        name: "never has a network",
        releases: &[("v2", 2, Behaviour::Stalls(Phase::Network))],
        prepare: |_| {},
        published: &[1],
    },
    Story {
        name: "does not start from cold",
        releases: &[("v2", 2, GOOD), ("v3", 3, Behaviour::HangsCold)],
        prepare: |_| {},
        published: &[1, 1, 2, 2],
    },
    Story {
        name: "decays after its proof",
        releases: &[("v2", 2, Behaviour::Decays)],
        prepare: |_| {},
        published: &[1, 1, 1],
    },
    Story {
        name: "rollback by order",
        releases: &[("v2", 2, GOOD)],
        prepare: |world| {
            world
                .orders
                .push_back(("trial", order(Action::Commit, false)));
            world
                .orders
                .push_back(("idle", order(Action::Rollback, false)));
        },
        published: &[1, 1],
    },
    Story {
        name: "staged, then applied by order",
        releases: &[("v2", 2, GOOD)],
        prepare: |world| {
            world.policy.mode = Mode::Staged;
            world
                .orders
                .push_back(("staged", order(Action::Apply, false)));
        },
        published: &[1],
    },
    Story {
        name: "failed, then forced",
        releases: &[("v2", 2, Behaviour::Fails(Phase::Updater))],
        prepare: |world| {
            world
                .orders
                .push_back(("trial", order(Action::Check, false)));
            world.orders.push_back(("idle", order(Action::Apply, true)));
        },
        published: &[1],
    },
    Story {
        name: "two triggers",
        releases: &[("v2", 2, GOOD), ("v3", 3, GOOD)],
        prepare: |world| {
            for stage in [
                "fetching",
                "writing",
                "asking",
                "preparing",
                "jumping",
                "trial",
            ] {
                world.orders.push_back((stage, order(Action::Apply, false)));
            }
        },
        published: &[1, 2],
    },
];

impl Story {
    fn world(&self) -> World {
        let releases: Vec<_> = self
            .releases
            .iter()
            .map(|(version, sequence, behaviour)| release(version, *sequence, *behaviour))
            .collect();
        let mut world = World::new(&releases);
        (self.prepare)(&mut world);
        world
    }

    fn tell(&self, world: &mut World) {
        for published in self.published {
            world.published = *published;
            world.run();
            self.ends_well(world);
        }
    }

    /// It serves a version that was committed; the stories' bad ones never are, except those that only a cold start finds.
    fn ends_well(&self, world: &World) {
        let version = world.version();
        let release = self.releases.iter().find(|(name, ..)| *name == version);
        let is_good = release.is_none_or(|(_, _, behaviour)| {
            matches!(
                behaviour,
                Behaviour::Good | Behaviour::HangsCold | Behaviour::Decays
            )
        });
        assert!(is_good, "rests in {version}");
    }

    /// The story with these faults, then what must hold after any of them.
    fn broken(&self, faults: &[(usize, Wrong)], cut_seen_as: ResetCause) {
        let mut world = self.world();
        world.cut_seen_as = cut_seen_as;
        world.disk.faults = faults.to_vec();
        let told = catch_unwind(AssertUnwindSafe(|| {
            self.tell(&mut world);
            self.can_be_upgraded(&mut world);
        }));
        if let Err(cause) = told {
            eprintln!(
                "story: {}\nfaults: {faults:?}, seen as {cut_seen_as:?}\n{}",
                self.name,
                world.log.join("\n")
            );
            resume_unwind(cause);
        }
    }

    /// The next good release is taken, whatever happened before: an image that cannot be upgraded is a failed image.
    fn can_be_upgraded(&self, world: &mut World) {
        world.disk.faults.clear();
        world.orders.clear();
        world.policy.mode = Mode::Auto;
        world.releases.push(release("v9", 9, GOOD));
        world.published = world.releases.len();
        // A first start may still have to clear up after the fault.
        for _ in 0..2 {
            if world.version() != "v9" {
                world.run();
            }
        }
        assert_eq!(world.version(), "v9", "it cannot be upgraded any more");
        assert!(world.witness.tried(&digest("v9")) >= 1);
    }

    /// What the disk is asked for when nothing goes wrong.
    fn operations(&self) -> Vec<Kind> {
        let mut world = self.world();
        self.tell(&mut world);
        world.disk.operations
    }
}

/// Prefixes, suffixes and every other block: the orders in which a disk may write eight blocks.
const TORN: [u8; 8] = [0x00, 0x01, 0x0f, 0x7f, 0x80, 0xf0, 0x55, 0xff];

/// Every way in which the mains can fail in an operation.
fn cuts(kind: Kind) -> Vec<Wrong> {
    let cut = |mask| Wrong::Cut { mask };
    match kind {
        Kind::Effect => vec![cut(0)],
        Kind::Record => TORN.into_iter().map(cut).chain([Wrong::CutAfter]).collect(),
        Kind::Piece => (0..8).map(cut).chain([Wrong::CutAfter]).collect(),
        Kind::Flush => vec![cut(0), Wrong::CutAfter],
    }
}

/// Every way in which an operation can fail and say so.
fn errors(kind: Kind) -> Vec<Wrong> {
    let error = |mask| Wrong::Error { mask };
    match kind {
        Kind::Effect => Vec::new(),
        Kind::Record => [0x00, 0x3c, 0xff].into_iter().map(error).collect(),
        Kind::Piece | Kind::Flush => vec![error(0)],
    }
}

/// Every way in which an operation can be acknowledged and lost.
fn lies(kind: Kind) -> Vec<Wrong> {
    let masks: &[u8] = match kind {
        Kind::Effect => &[],
        Kind::Record | Kind::Piece | Kind::Flush => &[0x00, 0x05, 0xff],
    };
    masks
        .iter()
        .map(|mask| Wrong::Lie { mask: *mask })
        .collect()
}

fn break_everywhere(ways: fn(Kind) -> Vec<Wrong>) {
    let mut runs = 0;
    for story in STORIES {
        for (at, kind) in story.operations().into_iter().enumerate() {
            for wrong in ways(kind) {
                story.broken(&[(at, wrong)], ResetCause::Unknown);
                runs += 1;
            }
        }
    }
    assert!(runs > 300, "only {runs} runs: the stories are empty");
}

#[test]
fn every_story_survives_a_power_cut_at_every_point_fault_1() {
    break_everywhere(cuts);
}

#[test]
fn every_story_survives_one_error_at_every_write_fault_3() {
    break_everywhere(errors);
}

/// A cut that is seen for what it is: the trial is an accident and is repeated once.
#[test]
fn a_cut_that_is_known_as_one_is_forgiven_once_and_no_more() {
    for story in [&STORIES[0], &STORIES[4]] {
        for (at, kind) in story.operations().into_iter().enumerate() {
            for wrong in cuts(kind) {
                story.broken(&[(at, wrong)], ResetCause::Power);
            }
        }
    }
}

/// Only the first three blocks and the last differ between two ledgers of this story; the others are zero in both.
#[test]
fn every_tear_of_every_record_of_an_upgrade() {
    let story = &STORIES[0];
    for (at, kind) in story.operations().into_iter().enumerate() {
        if kind == Kind::Record {
            for mask in (0..8).chain(0x80..0x88) {
                story.broken(&[(at, Wrong::Cut { mask })], ResetCause::Unknown);
            }
        }
    }
}

/// A disk that lies from some point on, and loses what it likes when the mains fail later.
#[test]
fn every_story_survives_a_lying_disk_fault_2() {
    for story in STORIES {
        let operations = story.operations();
        for (at, kind) in operations.iter().enumerate() {
            for lie in lies(*kind) {
                // Soon, and much later.
                for cut in [at + 1, at + 5, at + 20] {
                    let faults = [(at, lie), (cut, Wrong::Cut { mask: 0 })];
                    story.broken(&faults, ResetCause::Unknown);
                }
            }
        }
    }
}

#[test]
fn two_power_cuts_at_any_two_points_of_an_upgrade() {
    let story = &STORIES[0];
    let operations = story.operations().len();
    for first in 0..operations {
        // The recovery after the first cut has operations of its own.
        for second in first + 1..operations + 12 {
            let faults = [
                (first, Wrong::Cut { mask: 0x0f }),
                (second, Wrong::CutAfter),
            ];
            story.broken(&faults, ResetCause::Unknown);
        }
    }
}
