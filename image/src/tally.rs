//! Reads what test programs print and counts it.
//!
//! Understands libtest's lines, which libtest-mimic prints too, and one of ours: a test that cannot do its work on this machine
//! prints `SKIPPED: <name>: <reason>` and ends. libtest knows no such outcome and calls it passed; here it counts as skipped.

use std::collections::BTreeMap;

/// What came of a number of tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that did what they should.
    pub passed: u64,
    /// Names of those that did not.
    pub failed: Vec<String>,
    /// Tests that did not do their work, by name, with the reason.
    pub skipped: BTreeMap<String, String>,
}

impl Tally {
    /// One thing that passed.
    pub fn one_passed() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    /// One thing that failed.
    pub fn one_failed(name: &str) -> Self {
        Self {
            failed: vec![name.into()],
            ..Self::default()
        }
    }

    /// One thing that was skipped.
    pub fn one_skipped(name: &str, reason: &str) -> Self {
        Self {
            skipped: BTreeMap::from([(name.into(), reason.into())]),
            ..Self::default()
        }
    }

    /// Adds another tally, marking its names with the suite they come from.
    pub fn add(&mut self, suite: &str, other: Self) {
        self.passed += other.passed;
        self.failed.extend(
            other
                .failed
                .into_iter()
                .map(|name| format!("{suite}: {name}")),
        );
        self.skipped.extend(
            other
                .skipped
                .into_iter()
                .map(|(name, why)| (format!("{suite}: {name}"), why)),
        );
    }

    /// Whether nothing ran and nothing was even skipped.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The line every run ends with.
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }
}

/// Counts the tests in the output of one or more test programs.
pub fn read(output: &str) -> Tally {
    let mut tally = Tally::default();
    let mut program = Program::default();
    for line in output.lines() {
        if let Some((name, reason)) = skipped(line) {
            program.skipped.insert(name.into(), reason.into());
        } else if let Some((name, outcome)) = outcome(line) {
            match outcome.split_once(',').map_or(outcome, |(word, _)| word) {
                "FAILED" => program.failed.push(name.into()),
                "ignored" => {
                    let reason = outcome
                        .split_once(", ")
                        .map_or("ignored", |(_, reason)| reason);
                    program.ignored.insert(name.into(), reason.into());
                }
                _ => {}
            }
        } else if let Some(counts) = result(line) {
            std::mem::take(&mut program).close(counts, &mut tally);
        }
    }
    // A program that died before its result: what it said of failures still holds.
    tally.failed.append(&mut program.failed);
    tally
}

/// What one test program has said so far.
#[derive(Default)]
struct Program {
    failed: Vec<String>,
    ignored: BTreeMap<String, String>,
    skipped: BTreeMap<String, String>,
}

impl Program {
    fn close(mut self, counts: Counts, tally: &mut Tally) {
        // A skip line of a test that the program counts as ignored only gives the reason.
        let counted_as_passed = self
            .skipped
            .keys()
            .filter(|name| !self.ignored.contains_key(*name))
            .count() as u64;
        tally.passed += counts.passed.saturating_sub(counted_as_passed);
        self.ignored.append(&mut self.skipped);
        for number in self.ignored.len() as u64..counts.ignored {
            self.ignored
                .insert(format!("unnamed test {}", number + 1), "ignored".into());
        }
        for number in self.failed.len() as u64..counts.failed {
            self.failed.push(format!("unnamed test {}", number + 1));
        }
        tally.skipped.append(&mut self.ignored);
        tally.failed.append(&mut self.failed);
    }
}

#[derive(Clone, Copy)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// `SKIPPED: name: reason`
fn skipped(line: &str) -> Option<(&str, &str)> {
    line.trim_start()
        .strip_prefix("SKIPPED: ")?
        .split_once(": ")
}

/// `test name ... ok`
fn outcome(line: &str) -> Option<(&str, &str)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.trim_end(), outcome.trim()))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
fn result(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let part = counts
            .split(';')
            .map(str::trim)
            .find(|part| part.ends_with(word))?;
        part.strip_suffix(word)?.trim().parse().ok()
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, passed: u64, failed: &[&str], skipped: &[(&str, &str)]) {
        let tally = read(output);
        let expected = Tally {
            passed,
            failed: failed.iter().map(|name| (*name).to_owned()).collect(),
            skipped: skipped
                .iter()
                .map(|(name, why)| ((*name).to_owned(), (*why).to_owned()))
                .collect(),
        };
        assert_eq!(tally, expected, "{output}");
    }

    #[test]
    fn results_of_several_programs_are_added() {
        check("", 0, &[], &[]);
        check(
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            3,
            &[],
            &[],
        );
        check(
            "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED\n\ntest result: FAILED. 1 passed; 1 failed; \
             0 ignored; 0 measured; 0 filtered out\n   Doc-tests x\ntest result: ok. 2 passed; 0 failed; 0 ignored; \
             0 measured; 0 filtered out\n",
            3,
            &["a::c"],
            &[],
        );
    }

    #[test]
    fn skips_are_not_passes() {
        check(
            "test a ... ok\ntest b ... ok\n---- b stdout ----\nSKIPPED: b: no root: cannot make namespaces\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n",
            1,
            &[],
            &[("b", "no root: cannot make namespaces")],
        );
        check(
            "SKIPPED: b: no kvm\ntest b ... ignored\ntest c ... ignored, slow\n\
             test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured\n",
            1,
            &[],
            &[("b", "no kvm"), ("c", "slow")],
        );
    }

    #[test]
    fn what_has_no_name_is_counted_and_what_died_is_not_lost() {
        check(
            "test result: FAILED. 0 passed; 2 failed; 1 ignored; 0 measured\n",
            0,
            &["unnamed test 1", "unnamed test 2"],
            &[("unnamed test 1", "ignored")],
        );
        check(
            "test a ... FAILED\nerror: killed by a signal\n",
            0,
            &["a"],
            &[],
        );
    }

    #[test]
    fn other_text_is_no_test() {
        check(
            "test result: garbled\ntesting 1 2 3\nSKIPPED without colons\ntest result: ok. x passed; y failed",
            0,
            &[],
            &[],
        );
    }

    #[test]
    fn the_summary_is_one_line() {
        let mut all = Tally::one_passed();
        all.add("unit", Tally::one_failed("a"));
        all.add("machines", Tally::one_skipped("b", "no root"));
        assert_eq!(all.summary(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(all.failed, ["unit: a"]);
        assert!(all.skipped.contains_key("machines: b"));
        assert!(!all.is_empty() && Tally::default().is_empty());
    }
}
