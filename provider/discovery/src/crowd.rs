//! Which of the machines that fetch the same announce themselves, so that a rack of thousands is no storm of multicast.
//!
//! Pure. Every machine draws an id, and those with the lowest ids announce themselves: all come to the same answer without
//! a word, and nobody takes turns. The others find them all the same, and are found by the list that each of them keeps.
//! Somebody who announces enough low ids silences the honest ones; they still meet by the list at their provider, so this
//! costs time and nothing else.

use std::collections::BTreeSet;

/// Machines that announce themselves. A machine fetches from fewer at once, and whom it does not hear of it learns from these.
pub(crate) const ANNOUNCERS_MAX: usize = 64;

/// Lower ids kept: when some of the first leave, the next ones are known already. A flood gets no more memory.
const KEPT_MAX: usize = 4 * ANNOUNCERS_MAX;

/// The others that announce themselves, as far as they matter.
#[derive(Debug)]
pub(crate) struct Crowd {
    own: String,
    lower: BTreeSet<String>,
}

impl Crowd {
    pub(crate) fn new(own: String) -> Self {
        Self {
            own,
            lower: BTreeSet::new(),
        }
    }

    /// The id of this machine.
    pub(crate) fn own(&self) -> &str {
        &self.own
    }

    /// Somebody else announces itself.
    pub(crate) fn joined(&mut self, id: &str) {
        if id < self.own.as_str() && self.lower.len() < KEPT_MAX {
            self.lower.insert(id.to_owned());
        }
    }

    /// Somebody does not any more.
    pub(crate) fn left(&mut self, id: &str) {
        self.lower.remove(id);
    }

    /// Whether this machine is one of those that announce themselves.
    pub(crate) fn is_to_announce(&self) -> bool {
        self.lower.len() < ANNOUNCERS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> String {
        format!("peer-{number:016x}")
    }

    #[test]
    fn everybody_agrees_on_who_announces() {
        let announcing = (0..1_000).filter(|own| {
            let mut crowd = Crowd::new(id(*own));
            for other in (0..1_000).rev().filter(|other| other != own) {
                crowd.joined(&id(other));
            }
            crowd.is_to_announce()
        });
        assert!(announcing.eq(0..ANNOUNCERS_MAX));
    }

    #[test]
    fn who_leaves_makes_room_for_another() {
        let mut crowd = Crowd::new(id(100));
        for other in 0..ANNOUNCERS_MAX {
            assert!(crowd.is_to_announce());
            crowd.joined(&id(other));
            crowd.joined(&id(other));
        }
        assert!(!crowd.is_to_announce());
        crowd.left(&id(99));
        assert!(!crowd.is_to_announce());
        crowd.left(&id(7));
        assert!(crowd.is_to_announce());
    }

    #[test]
    fn a_flood_of_ids_takes_no_memory() {
        let mut crowd = Crowd::new("z".to_owned());
        for other in 0..100_000 {
            crowd.joined(&id(other));
        }
        assert_eq!(crowd.lower.len(), KEPT_MAX);
    }
}
