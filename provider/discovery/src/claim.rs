//! The name this provider is announced by, and what to do when somebody else has it too.
//!
//! Pure: what was heard and the time are arguments. A provider knows what it said itself by a number that each run of it
//! draws and announces, so its own words, however they come back, are never taken for another's, whatever addresses are
//! in them. Of two providers with one name the one with the lower number takes another, once; whoever claims every name
//! there is gets a few renames and no more.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

/// Before the host name in the instance name.
const INSTANCE_PREFIX: &str = "plasmd-";

/// Digits that make a name another one: of 65,536 names one is free on any LAN.
const SUFFIX_LENGTH: usize = 4;

/// The longest host label (RFC 1035) less the prefix of the instance name and what is added to tell names apart.
const HOST_LENGTH_MAX: usize = 63 - INSTANCE_PREFIX.len() - 1 - SUFFIX_LENGTH;

/// Renames in [`RENAME_WINDOW`]. One is enough for any honest neighbour, two for bad luck.
const RENAMES_MAX: usize = 3;

/// See [`RENAMES_MAX`].
const RENAME_WINDOW: Duration = Duration::from_secs(60);

/// Renames in the life of the program: each makes every client forget a provider and learn another.
const RENAMES_EVER_MAX: usize = 8;

/// An announcement that was heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Its instance name.
    pub(crate) instance: &'a str,
    /// The number of the run that says so, if it has any.
    pub(crate) run: Option<&'a str>,
    /// Whether it leads to this machine and this port all the same, for example because an earlier run said it.
    pub(crate) is_this_machine: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Fine,
    /// The same is announced again: the other gives way, but clients believe it until they hear us.
    Repeat,
    /// There is a new name, which is to be announced.
    Renamed,
}

/// A name, and who it is that claims it.
#[derive(Debug)]
pub(crate) struct Claim {
    label: String,
    suffix: Option<String>,
    run: String,
    renames: Vec<Instant>,
    is_settled: bool,
}

impl Claim {
    /// A claim for the name of a machine; characters that are not of host names become hyphens.
    pub(crate) fn new(host: &str) -> Self {
        Self {
            label: host_label(host),
            suffix: None,
            run: format!("{:016x}", random()),
            renames: Vec::new(),
            is_settled: false,
        }
    }

    /// The instance name, which is the host name of its addresses as well.
    pub(crate) fn instance(&self) -> String {
        let label = &self.label;
        match &self.suffix {
            Some(suffix) => format!("{INSTANCE_PREFIX}{label}-{suffix}"),
            None => format!("{INSTANCE_PREFIX}{label}"),
        }
    }

    /// The number of this run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// Whether somebody else has this name.
    pub(crate) fn is_others(&self, seen: &Seen<'_>) -> bool {
        seen.instance.eq_ignore_ascii_case(&self.instance())
            && seen.run != Some(self.run())
            && !seen.is_this_machine
    }

    /// What an announcement means for this name.
    pub(crate) fn judge(&mut self, seen: &Seen<'_>, now: Instant) -> Verdict {
        if self.is_settled || !self.is_others(seen) {
            return Verdict::Fine;
        }
        // Programs without a number do not know this rule, so they need not give way.
        match seen.run {
            Some(theirs) if theirs < self.run() => Verdict::Repeat,
            _ => self.rename(now),
        }
    }

    /// Takes another name, unless that was done too often.
    pub(crate) fn rename(&mut self, now: Instant) -> Verdict {
        let is_late = |at: &&Instant| now.saturating_duration_since(**at) < RENAME_WINDOW;
        let lately = self.renames.iter().filter(is_late).count();
        if lately >= RENAMES_MAX || self.renames.len() >= RENAMES_EVER_MAX {
            self.is_settled = true;
            tracing::warn!(
                name = self.instance(),
                "somebody on this network announces every name that this provider takes: it keeps the last one"
            );
            return Verdict::Fine;
        }
        let taken = self.instance();
        self.renames.push(now);
        self.suffix = Some(format!("{:0SUFFIX_LENGTH$x}", random() & 0xffff));
        let name = self.instance();
        tracing::info!(taken, name, "the name is somebody else's on this network");
        Verdict::Renamed
    }
}

/// A number that two runs do not share. It is no secret.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A host name as one DNS label.
fn host_label(host: &str) -> String {
    let label: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .take(HOST_LENGTH_MAX)
        .map(|letter| match letter.is_ascii_alphanumeric() {
            true => letter.to_ascii_lowercase(),
            false => '-',
        })
        .collect();
    match label.trim_matches('-') {
        "" => "phase".to_owned(),
        label => label.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Later than any number that is drawn, and earlier.
    const HIGH: &str = "g";
    const LOW: &str = "";

    fn seen<'a>(instance: &'a str, run: Option<&'a str>) -> Seen<'a> {
        Seen {
            instance,
            run,
            is_this_machine: false,
        }
    }

    #[test]
    fn a_host_name_becomes_a_label_whatever_it_is() {
        for (host, label) in [
            ("phase-1", "phase-1"),
            ("Phase_1.example.net", "phase-1"),
            ("", "phase"),
            ("...", "phase"),
            ("ä\u{1b}[2J", "2j"),
        ] {
            assert_eq!(host_label(host), label, "{host:?}");
        }
        let mut claim = Claim::new(&"a".repeat(200));
        claim.rename(Instant::now());
        assert_eq!(claim.instance().len(), 63);
    }

    #[test]
    fn its_own_words_never_make_it_rename() {
        let (mut claim, now) = (Claim::new("vm"), Instant::now());
        let run = claim.run().to_owned();
        for _ in 0..1_000 {
            let verdict = claim.judge(&seen("plasmd-vm", Some(&run)), now);
            assert_eq!(verdict, Verdict::Fine);
        }
        let earlier_run = Seen {
            is_this_machine: true,
            ..seen("plasmd-vm", Some(HIGH))
        };
        assert_eq!(claim.judge(&earlier_run, now), Verdict::Fine);
        assert_eq!(claim.instance(), "plasmd-vm");
    }

    #[test]
    fn of_two_with_one_name_one_takes_another() {
        let now = Instant::now();
        for (instance, run, expected) in [
            ("plasmd-vm", Some(HIGH), Verdict::Renamed),
            ("PLASMD-VM", Some(HIGH), Verdict::Renamed),
            ("plasmd-vm", None, Verdict::Renamed),
            ("plasmd-vm", Some(LOW), Verdict::Repeat),
            ("plasmd-other", Some(HIGH), Verdict::Fine),
        ] {
            let mut claim = Claim::new("vm");
            assert_eq!(claim.judge(&seen(instance, run), now), expected);
            let is_kept = claim.instance() == "plasmd-vm";
            assert_eq!(is_kept, expected != Verdict::Renamed);
        }
        let [mut one, mut other] = ["vm", "vm"].map(Claim::new);
        let (first, second) = (one.run().to_owned(), other.run().to_owned());
        let verdicts = [
            one.judge(&seen("plasmd-vm", Some(&second)), now),
            other.judge(&seen("plasmd-vm", Some(&first)), now),
        ];
        assert!(verdicts.contains(&Verdict::Renamed) && verdicts.contains(&Verdict::Repeat));
    }

    #[test]
    fn whoever_claims_every_name_gets_a_few_renames_and_no_more() {
        let start = Instant::now();
        for (pause, expected) in [(0, RENAMES_MAX), (5, RENAMES_MAX), (61, RENAMES_EVER_MAX)] {
            let mut claim = Claim::new("vm");
            let mut renames = 0;
            for round in 0..1_000 {
                let now = start + Duration::from_secs(round * pause);
                let name = claim.instance();
                let verdict = claim.judge(&seen(&name, Some(HIGH)), now);
                renames += usize::from(verdict == Verdict::Renamed);
            }
            assert_eq!(renames, expected, "every {pause} s");
        }
    }
}
