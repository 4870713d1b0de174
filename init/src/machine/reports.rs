//! What children report, and what the console says about it.
//!
//! A role may have been taken over: each is believed only what is its business, and every string is cleaned before it is
//! shown. Nothing here mounts, executes or boots anything.

use std::fmt::Write as _;
use std::fs::File;
use std::time::Instant;

use boot_manifest::handoff::Report;
use rustix::process::Pid;

use super::{Machine, Note, Staged};
use crate::children::Role;
use crate::console::Level;
use crate::limits;
use crate::memory::{self, Memory};
use crate::plan::Refusal;
use crate::screen::{self, Interface};
use crate::settings;

/// The stage that ends a boot.
const SERVING: &str = "serving";

impl Machine {
    /// A line of `init` that a child is the cause of. Each child may cause as many as it may print, so that one that was
    /// taken over cannot drown the console; how many were left out is said once.
    pub(crate) fn say_for(&mut self, role: Role, level: Level, text: &str) {
        let now = Instant::now();
        self.tell_left_out(now);
        let slot = self.slots.iter_mut().find(|slot| slot.role == role);
        if slot.is_none_or(|slot| slot.reports.allows(now)) {
            self.console.say(level, text);
        }
    }

    /// Says how many lines [`Self::say_for`] left out, when that is over or goes on for long.
    pub(super) fn tell_left_out(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if let Some(dropped) = slot.reports.take_dropped(now) {
                let text = format!(
                    "warning: {} reported too much: {dropped} lines were left out",
                    slot.role.name()
                );
                self.console.say(Level::Warning, &text);
            }
        }
    }

    /// Whether [`Self::say_for`] would say it.
    fn may_say_for(&mut self, role: Role) -> bool {
        let now = Instant::now();
        let slot = self.slots.iter_mut().find(|slot| slot.role == role);
        slot.is_none_or(|slot| slot.reports.has_room(now))
    }

    /// Believes of each role only what is its business.
    pub(super) fn take_report(&mut self, role: Role, report: Report, files: Vec<File>) {
        match (role, report) {
            (_, Report::Ready {}) => {}
            (
                Role::Net,
                Report::Network {
                    interface,
                    addresses,
                    source,
                },
            ) => {
                self.take_network(Interface {
                    name: interface,
                    addresses,
                    source,
                });
            }
            (Role::Serve, Report::Serving { advertised, .. }) => {
                self.served_artifacts = true;
                self.status.advertised = advertised;
            }
            (
                Role::Serve,
                Report::Request {
                    client,
                    line,
                    status,
                    bytes,
                },
            ) => {
                self.status.add_request(screen::printable(&format!(
                    "{client}  {line}  {status}  {bytes} bytes"
                )));
                return;
            }
            (Role::Stage, Report::Progress { what, done, total }) => {
                let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
                self.status.progress = Some(screen::printable(&format!("{what}, {percent} %")));
                if self
                    .progress
                    .allows(&what, Instant::now(), limits::PROGRESS_INTERVAL)
                {
                    let text = format!("fetching {what}: {percent} % of {} KiB", total >> 10);
                    self.say_for(role, Level::Info, &text);
                }
            }
            (Role::Stage, Report::Handoff(record)) => {
                self.staged = Some(Staged::Handoff(record, files))
            }
            (
                _,
                Report::Failed {
                    code,
                    reason,
                    retryable,
                },
            ) => {
                self.take_failure(role, &code, reason, retryable);
            }
            (
                Role::Update,
                report @ (Report::Offer { .. }
                | Report::Checked { .. }
                | Report::Neighbours { .. }
                | Report::Turn { .. }
                | Report::Freshness { .. }),
            )
            | (Role::Probe, report @ Report::Check { .. })
            | (Role::Serve, report @ Report::Order { .. }) => {
                self.note(Note::Report(role, report, files));
                return;
            }
            (_, report) => {
                let kind = format!("{report:?}");
                let kind = kind.split([' ', '(']).next().unwrap_or_default();
                let text = format!("warning: {} has no business to report {kind}", role.name());
                self.say_for(role, Level::Warning, &text);
            }
        }
        self.console.touch(Instant::now());
    }

    /// `stage` gives up for good, or says why it tries again; the others only say what is wrong.
    fn take_failure(&mut self, role: Role, code: &str, reason: String, retryable: bool) {
        let code = screen::printable(code);
        if role != Role::Stage {
            let text = format!("warning: {}: {reason} [{code}]", role.name());
            self.say_for(role, Level::Warning, &text);
        } else if retryable {
            // It writes each attempt to its log; here only the reason counts, as long as it stays the same.
            self.status.activity = screen::printable(&format!("trying again: {reason} [{code}]"));
        } else {
            self.staged = Some(Staged::Failed(Refusal::new(code, reason)));
        }
    }

    fn take_network(&mut self, mut interface: Interface) {
        interface.name = screen::printable(&interface.name);
        interface.source = screen::printable(&interface.source);
        interface
            .addresses
            .iter_mut()
            .for_each(|address| *address = screen::printable(address));
        let Interface {
            name,
            addresses,
            source,
        } = &interface;
        if addresses.is_empty() {
            if self.status.interfaces.iter().any(|old| old.name == *name) {
                let text = format!("network {name} has no address any more");
                self.say_for(Role::Net, Level::Info, &text);
            }
        } else {
            let text = format!("network {name} {} ({source})", addresses.join(" "));
            self.say_for(Role::Net, Level::Info, &text);
        }
        // A report holds all addresses of its interface.
        self.status
            .interfaces
            .retain(|old| old.name != interface.name);
        if !interface.addresses.is_empty() {
            self.status.interfaces.push(interface);
        }
        self.status.interfaces.truncate(limits::INTERFACES_MAX);
    }

    /// Says where the manifest is, once there is a server and an address, and again when that changes.
    pub(super) fn announce(&mut self) {
        if !self.served_artifacts {
            return;
        }
        let urls = screen::manifest_urls(&self.status.interfaces, self.options.port);
        if urls != self.status.urls {
            self.status.urls.clone_from(&urls);
            self.console.touch(Instant::now());
        }
        let Some((url, artifacts)) = urls.first().zip(self.status.artifacts.as_ref()) else {
            return;
        };
        if self.announced.as_ref() != Some(url) {
            let after = settings::uptime().as_secs_f32();
            let text = format!(
                "serving {url} manifest {} after {after:.2} s",
                artifacts.digest
            );
            // Programs wait for this line, so one that addresses come and go too fast for is put off, not left out.
            if !self.may_say_for(Role::Net) {
                return;
            }
            self.say_for(Role::Net, Level::Info, &text);
            self.announced = Some(url.clone());
            self.report_to_origin();
            if !self.memory_told {
                self.memory_due = Some(Instant::now() + limits::MEMORY_SETTLE);
                self.memory_told = true;
            }
        }
    }

    /// Has the provider told that this machine serves, and list it for others, the first time it does.
    fn report_to_origin(&mut self) {
        let serves_already = self.reached.iter().any(|(stage, _)| *stage == SERVING);
        if self.options.told_of_the_boot().is_some() && !serves_already {
            self.reached(SERVING);
            self.supervise(Role::Report, None);
        }
    }

    /// Says once what the programs use, for operators who size machines.
    pub(super) fn tell_memory(&mut self, now: Instant) {
        if self.memory_due.is_none_or(|at| at > now) {
            return;
        }
        self.memory_due = None;
        let resident = |pid| memory::resident_kib(pid).unwrap_or(0);
        let mut text = format!("memory init {} KiB", resident(Pid::INIT));
        for slot in &self.slots {
            if let Some(running) = &slot.running {
                let _infallible =
                    write!(text, " {} {} KiB", slot.role.name(), resident(running.pid));
            }
        }
        let Memory { total, available } = memory::now();
        let _infallible = write!(
            text,
            " available {} of {} KiB",
            available >> 10,
            total >> 10
        );
        self.console.say(Level::Info, &text);
    }
}
