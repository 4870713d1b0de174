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

    /// Each role fills its own share only, and none that of what PID 1 saw itself: one that was taken over and floods its
    /// socket must not hide the orders of an operator, the results of a self-test, or that a program ends again and again.
    pub(super) fn note(&mut self, note: Note) {
        let share = share_of(&note);
        let kept = self.notes.iter().filter(|kept| share_of(kept) == share);
        if kept.count() < limits::NOTES_MAX {
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

/// Whose share of the notes it takes; `None` is that of PID 1.
fn share_of(note: &Note) -> Option<Role> {
    match note {
        Note::Report(role, ..) => Some(*role),
        Note::Restarted(_) | Note::Ended(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use boot_manifest::handoff::Report;

    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn a_role_that_floods_hides_nothing_of_others() {
        let mut machine = machine();
        let offer = || Report::Offer {
            origin: "http://a".to_owned(),
        };
        for _ in 0..10 * limits::NOTES_MAX {
            machine.note(Note::Report(Role::Update, offer(), Vec::new()));
        }
        let order = Report::Order {
            client: "b".to_owned(),
        };
        machine.note(Note::Report(Role::Serve, order, Vec::new()));
        machine.note(Note::Restarted(Role::Net));
        machine.note(Note::Ended(Role::Probe));
        let notes: Vec<Note> = std::iter::from_fn(|| machine.take_note()).collect();
        let [offers @ .., order, restarted, ended] = &notes[..] else {
            panic!("{notes:?}")
        };
        assert_eq!(offers.len(), limits::NOTES_MAX);
        assert!(matches!(order, Note::Report(Role::Serve, ..)));
        assert!(matches!(restarted, Note::Restarted(Role::Net)));
        assert!(matches!(ended, Note::Ended(Role::Probe)));
    }
}
