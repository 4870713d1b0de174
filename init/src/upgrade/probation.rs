//! What an image on trial must show before it is kept: the same hardware, a network, its own services through their real
//! interface, and an updater that still works. Deadlines and the soak are those of the state machine; here is only looked.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use boot_manifest::handoff::Command;
use upgrade::{Event, Fingerprint, Phase, Reason, State};

use super::growth::{Growth, Use};
use super::inbox::failure;
use super::{Upgrade, preflight, small_file};
use crate::children::Role;
use crate::console::Level;
use crate::machine::Machine;
use crate::{limits, memory};

/// Where the predecessor left what it saw of the hardware.
const FINGERPRINT: &str = "/phase/fingerprint.json";

/// What the self-test consists of.
const CHECKS: [&str; 5] = ["manifest", "ranges", "tftp", "dhcp", "mdns"];

/// How far a trial is, as far as this side has to know.
#[derive(Debug, Default)]
pub(super) struct Probation {
    identity_passed: bool,
    network_passed: bool,
    self_test: Option<SelfTest>,
    /// Set when everything but the soak was passed.
    soak: Option<Soak>,
    /// When the updater was asked last to prove itself, while it did not.
    dry_run: Option<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Soak {
    growth: Growth,
    looked: Option<Instant>,
}

#[derive(Debug, Default)]
struct SelfTest {
    has_begun: bool,
    results: BTreeMap<String, bool>,
}

impl Upgrade {
    fn is_trial(&self, machine: &Machine) -> bool {
        let state = self.state.as_ref();
        machine.options.upgrades.trial.is_some() && state.is_some_and(State::is_on_trial)
    }

    /// P2: the image is mounted. Whether the hardware is that of before.
    pub(super) fn check_identity(&mut self, machine: &mut Machine) {
        if !self.is_trial(machine) {
            return;
        }
        let bytes = small_file(Path::new(FINGERPRINT), limits::FINGERPRINT_SIZE_MAX);
        let before: Option<Fingerprint> =
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let now = preflight::fingerprint(Path::new("/sys"));
        let missing = before.map(|before| before.missing(&now));
        match missing {
            Some(missing) if missing.is_empty() => {
                self.probation.identity_passed = true;
                self.push(Event::Passed(Phase::Identity));
            }
            Some(missing) => {
                self.push(failure(
                    Reason::Hardware,
                    Phase::Identity,
                    &missing.join(", "),
                ));
            }
            None => {
                let text = "the predecessor did not say what hardware there was";
                self.push(failure(Reason::Hardware, Phase::Identity, text));
            }
        }
        self.drain(machine);
    }

    /// Goes on with what waits for something.
    pub(super) fn look_after_trial(&mut self, machine: &mut Machine) {
        if !self.is_trial(machine) {
            return;
        }
        if self.previous_wanted && machine.serves() {
            self.load_previous(machine);
        }
        let has_address = !machine.status.interfaces.is_empty();
        if self.probation.identity_passed && !self.probation.network_passed && has_address {
            self.probation.network_passed = true;
            self.push(Event::Passed(Phase::Network));
            self.drain(machine);
        }
        let offer = self.running.as_ref().map(|running| running.offer.clone());
        if let Some(test) = &mut self.probation.self_test
            && !test.has_begun
            && machine.serves()
        {
            test.has_begun = true;
            machine.supervise(Role::Probe, offer.as_ref());
        }
        self.look_for_growth(machine);
        if let Some(asked) = &mut self.probation.dry_run
            && asked.is_none_or(|at| at.elapsed() >= limits::DRY_RUN_AGAIN)
            && machine.command(Role::Update, &Command::CheckNow {})
        {
            *asked = Some(Instant::now());
        }
    }

    /// P6: nothing leaks.
    fn look_for_growth(&mut self, machine: &Machine) {
        let Some(soak) = &mut self.probation.soak else {
            return;
        };
        if soak
            .looked
            .is_some_and(|at| at.elapsed() < limits::GROWTH_INTERVAL)
        {
            return;
        }
        soak.looked = Some(Instant::now());
        let grows = machine.processes().find_map(|(name, pid)| {
            let now = Use {
                memory_kib: memory::resident_kib(pid)?,
                files: memory::open_files(pid)?,
            };
            soak.growth.look(name, now)
        });
        if let Some(text) = grows {
            self.probation.soak = None;
            self.push(failure(Reason::Growth, Phase::Soak, &text));
        }
    }

    /// A program was started anew.
    pub(super) fn forget_growth(&mut self, program: &str) {
        if let Some(soak) = &mut self.probation.soak {
            soak.growth.forget(program);
        }
    }

    /// P4.
    pub(super) fn begin_self_test(&mut self, machine: &mut Machine) {
        self.probation.self_test = Some(SelfTest::default());
        self.look_after_trial(machine);
    }

    /// One result of `probe`.
    pub(super) fn take_check(&mut self, machine: &mut Machine, name: &str, ok: bool, reason: &str) {
        let Some(test) = &mut self.probation.self_test else {
            return;
        };
        if !CHECKS.contains(&name) {
            return;
        }
        let word = if ok { "passed" } else { "failed" };
        let text = format!("upgrade: self-test {name} {word}: {reason}");
        let level = if ok { Level::Info } else { Level::Warning };
        test.results.insert(name.to_owned(), ok);
        let passed = CHECKS
            .iter()
            .all(|name| test.results.get(*name) == Some(&true));
        machine.say_for(Role::Probe, level, &text);
        if !ok {
            self.probation.self_test = None;
            let detail = format!("{name}: {reason}");
            self.push(failure(Reason::SelfTest, Phase::Serve, &detail));
        } else if passed {
            self.probation.self_test = None;
            self.push(Event::Passed(Phase::Serve));
        }
    }

    /// `probe` ended. All its results are in.
    pub(super) fn end_self_test(&mut self, machine: &mut Machine) {
        machine.dismiss(Role::Probe);
        if let Some(test) = self.probation.self_test.take() {
            let missing = CHECKS
                .iter()
                .filter(|name| !test.results.contains_key(**name));
            let missing: Vec<&str> = missing.copied().collect();
            let detail = format!("no result of {}", missing.join(", "));
            self.push(failure(Reason::SelfTest, Phase::Serve, &detail));
        }
    }

    /// P5.
    pub(super) fn begin_dry_run(&mut self, machine: &mut Machine) {
        self.probation.dry_run = Some(None);
        self.look_after_trial(machine);
    }

    /// The updater found a manifest that verifies.
    pub(super) fn updater_works(&mut self) {
        if self.probation.dry_run.take().is_some() {
            self.probation.soak = Some(Soak::default());
            self.push(Event::Passed(Phase::Updater));
        }
    }

    /// The updater said how a look ended. One that failed is asked again until the deadline of its phase.
    pub(super) fn updater_said(&mut self, ok: bool, code: &str, reason: &str) {
        if ok {
            return self.updater_works();
        }
        // A source that is down now may be back in a moment; a program that cannot verify will not learn it.
        let is_broken = !matches!(code, "unreachable" | "not-found" | "too-slow" | "cut-short");
        if is_broken && self.probation.dry_run.take().is_some() {
            let detail = format!("{code}: {reason}");
            self.push(failure(Reason::Updater, Phase::Updater, &detail));
        }
    }
}
