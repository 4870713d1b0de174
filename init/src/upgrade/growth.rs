//! Whether the programs of an image on trial keep growing: a leak that would end the machine weeks later.
//!
//! Pure: figures in, a verdict out. A program that fills its caches grows too, but stops; a leak grows from every look to the
//! next. So only what grew at each of the last looks, and by much in all, is called growth.

use std::collections::{BTreeMap, VecDeque};

/// What a program has in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) memory_kib: u64,
    pub(super) files: u64,
}

/// Looks in a row that must all show growth: with a look every five seconds a minute of it.
const LOOKS: usize = 12;

/// Memory that a program may gain meanwhile: sixteen connections of `serve` with their buffers, and the pages that it reads.
const MEMORY_KIB_MAX: u64 = 12 << 10;

/// Open files that it may gain meanwhile: a crowd that connects.
const FILES_MAX: u64 = 64;

/// The last looks at each program.
#[derive(Debug, Default)]
pub(super) struct Growth {
    seen: BTreeMap<String, VecDeque<Use>>,
}

impl Growth {
    /// Notes what a program has in use. The text says what grows.
    pub(super) fn look(&mut self, program: &str, now: Use) -> Option<String> {
        let looks = self.seen.entry(program.to_owned()).or_default();
        looks.push_back(now);
        while looks.len() > LOOKS {
            looks.pop_front();
        }
        let first = looks.front().copied().filter(|_| looks.len() == LOOKS)?;
        let grows = |figure: fn(&Use) -> u64, most: u64| {
            let figures: Vec<u64> = looks.iter().map(figure).collect();
            let gained = figure(&now).saturating_sub(figure(&first));
            figures.windows(2).all(|pair| pair[0] < pair[1]) && gained > most
        };
        if grows(|one| one.memory_kib, MEMORY_KIB_MAX) {
            let (from, to) = (first.memory_kib, now.memory_kib);
            return Some(format!("{program}: {from} KiB became {to}"));
        }
        if grows(|one| one.files, FILES_MAX) {
            let (from, to) = (first.files, now.files);
            return Some(format!("{program}: {from} open files became {to}"));
        }
        None
    }

    /// A program that was started anew begins anew.
    pub(super) fn forget(&mut self, program: &str) {
        self.seen.remove(program);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(memory_kib: impl Fn(u64) -> u64, files: impl Fn(u64) -> u64, expected: Option<&str>) {
        let mut growth = Growth::default();
        let mut found = None;
        for look in 0..30 {
            let now = Use {
                memory_kib: memory_kib(look),
                files: files(look),
            };
            found = found.or(growth.look("serve", now));
        }
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn a_leak_is_told_from_a_cache_that_fills() {
        check(|_| 9000, |_| 20, None);
        check(
            |look| 9000 + look * 2048,
            |_| 20,
            Some("serve: 9000 KiB became 31528"),
        );
        check(|look| 9000 + look.min(8) * 4096, |_| 20, None);
        check(|look| 9000 + look * 100, |_| 20, None);
        check(
            |look| 9000 + look % 2 * 40_000,
            |look| 20 + look % 3 * 500,
            None,
        );
        check(
            |_| 9000,
            |look| 20 + look * 10,
            Some("serve: 20 open files became 130"),
        );
    }

    #[test]
    fn a_program_that_starts_anew_begins_anew() {
        let mut growth = Growth::default();
        for look in 0..40 {
            if look % 10 == 0 {
                growth.forget("net");
            }
            let now = Use {
                memory_kib: look * 10_000,
                files: 1,
            };
            assert_eq!(growth.look("net", now), None);
        }
    }
}
