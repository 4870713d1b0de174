//! What an upgrade asks of the running machine: commands for roles, what children told, and the watchdog's deadlines. Decides
//! nothing.

use std::time::{Duration, Instant};

use boot_manifest::handoff::Command;
use rustix::process::Pid;

use super::{Machine, Note};
use crate::children::Role;
use crate::limits;

impl Machine {
    /// Asks something of a role. Never waits: a role that takes nothing is asked again by whoever wants to know.
    pub(crate) fn command(&mut self, role: Role, command: &Command) -> bool {
        use rustix::net::SendFlags;
        let Some(reports) = self
            .running(role)
            .and_then(|running| running.reports.as_ref())
        else {
            return false;
        };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(reports, &command.encode(), flags).is_ok()
    }

    /// What happened since the last call, for the upgrade.
    pub(crate) fn take_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    pub(super) fn note(&mut self, note: Note) {
        if self.notes.len() < limits::NOTES_MAX {
            self.notes.push_back(note);
        }
    }

    /// Feeds the watchdog until `deadline` (time since the machine started) and never after; `None` is for ever.
    pub(crate) fn feed_until(&mut self, deadline: Option<Duration>) {
        self.feed_until = deadline;
    }

    /// Gives the watchdog a longer time and feeds it: a successor must open it before that is over. Whether there is one.
    pub(crate) fn arm_watchdog_for_jump(&mut self, seconds: u32) -> bool {
        let Some(watchdog) = &mut self.watchdog else {
            return false;
        };
        watchdog.set_timeout(seconds, Instant::now());
        true
    }

    /// Takes that back: there is no jump.
    pub(crate) fn restore_watchdog(&mut self) {
        let seconds = self.options.watchdog_seconds;
        self.arm_watchdog_for_jump(seconds);
    }

    /// Whether `serve` offers the artifacts now.
    pub(crate) fn serves(&self) -> bool {
        self.served_artifacts
    }

    /// Whether a role is kept running.
    pub(crate) fn supervises(&self, role: Role) -> bool {
        self.slots.iter().any(|slot| slot.role == role)
    }

    /// The processes of the roles that run, and PID 1.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&'static str, Pid)> {
        let roles = self.slots.iter();
        let roles = roles.filter_map(|slot| Some((slot.role.name(), slot.running.as_ref()?.pid)));
        std::iter::once(("init", Pid::INIT)).chain(roles)
    }
}
