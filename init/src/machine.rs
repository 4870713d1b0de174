//! The one loop: signals, children, power button, watchdog, console.
//!
//! Everything that takes long calls [`Machine::turn`] between its steps, so the machine stays in hand while it copies,
//! hashes or waits. `init` has one thread, and this is the only place that waits for events, reaps or restarts children.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use boot_manifest::handoff::{HandoffRecord, Report};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions};

use crate::children::{self, Offer, Role, Running};
use crate::cmdline::Options;
use crate::console::{Console, Level};
use crate::control::{self, Budget, Lines, Received, Throttle};
use crate::limits;
use crate::plan::{Refusal, Stop};
use crate::power::PowerKeys;
use crate::screen::Status;
use crate::settings;
use crate::supervise::{Ended, Restarts};
use crate::sys;
use crate::watchdog::Watchdog;

mod reports;
mod upgrades;

/// How the machine is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    PowerOff,
    Restart,
    /// Into the kernel that was loaded.
    Kexec,
}

/// A role that is kept running.
#[derive(Debug)]
struct Slot {
    role: Role,
    arguments: Vec<String>,
    running: Option<Running>,
    restarts: Restarts,
    /// When to start it, while it does not run.
    start_at: Option<Instant>,
    /// Its work is done: it is not started again.
    is_dismissed: bool,
    lines: Lines,
    /// What its reports may make `init` write. Not that of its lines, so that chatter hides no report.
    reports: Budget,
}

/// What `stage` brought.
#[derive(Debug)]
pub(crate) enum Staged {
    /// Files that are not verified yet.
    Handoff(HandoffRecord, Vec<File>),
    /// It gave up.
    Failed(Refusal),
}

/// What an upgrade wants to know of the children.
#[derive(Debug)]
pub(crate) enum Note {
    /// A report about upgrades, with the files beside it. Nothing of it is verified.
    Report(Role, Report, Vec<File>),
    /// A child ended by itself and is started again.
    Restarted(Role),
    /// A child whose work it is to end did so.
    Ended(Role),
}

/// The running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) options: Options,
    pub(crate) console: Console,
    pub(crate) status: Status,
    pub(crate) watchdog: Option<Watchdog>,
    signals: OwnedFd,
    keys: PowerKeys,
    slots: Vec<Slot>,
    ending: Option<Ending>,
    /// The shutdown has begun: children that end stay ended.
    stopping: bool,
    staged: Option<Staged>,
    /// For the upgrade, the oldest first. What does not fit is dropped: every sender repeats itself.
    notes: VecDeque<Note>,
    /// The watchdog is fed until this time since the machine started, and never after; `None` is for ever.
    feed_until: Option<Duration>,
    served_artifacts: bool,
    announced: Option<String>,
    progress: Throttle,
    /// When to tell how much memory is in use; `None` before the first announcement and after it was told.
    memory_due: Option<Instant>,
    memory_told: bool,
    /// How far the boot came, and after which uptime; the provider it came from is told once it serves.
    reached: Vec<(&'static str, Duration)>,
    last_scan: Option<Instant>,
}

impl Machine {
    pub(crate) fn new(
        options: Options,
        console: Console,
        signals: OwnedFd,
        watchdog: Option<Watchdog>,
    ) -> Self {
        Self {
            options,
            console,
            status: Status::default(),
            watchdog,
            signals,
            keys: PowerKeys::default(),
            slots: Vec::new(),
            ending: None,
            stopping: false,
            staged: None,
            notes: VecDeque::new(),
            feed_until: None,
            served_artifacts: false,
            announced: None,
            progress: Throttle::default(),
            memory_due: None,
            memory_told: false,
            reached: Vec::new(),
            last_scan: None,
        }
    }

    /// What `report` is told so that the provider lists this machine for others that fetch the same; a machine that gives
    /// nothing is not listed.
    fn registration(&self) -> Vec<String> {
        match &self.status.artifacts {
            Some(artifacts) if self.options.shares() => {
                let (manifest, port) = (&artifacts.digest, self.options.port);
                vec![format!("--manifest={manifest}"), format!("--port={port}")]
            }
            _ => Vec::new(),
        }
    }

    /// Keeps a role running from now on.
    pub(crate) fn supervise(&mut self, role: Role, offer: Option<&Offer>) {
        let mut arguments = children::arguments(role, &self.options, &self.status.host, offer);
        if role == Role::Report {
            arguments.extend(self.reached.iter().flat_map(|(stage, uptime)| {
                [
                    "--stage".to_owned(),
                    format!("{stage}={}", uptime.as_millis()),
                ]
            }));
            arguments.extend(self.registration());
        }
        self.supervise_with(role, arguments);
    }

    /// Keeps a role running that is told something of its own.
    pub(crate) fn supervise_with(&mut self, role: Role, arguments: Vec<String>) {
        let slot = Slot {
            role,
            arguments,
            running: None,
            restarts: Restarts::default(),
            start_at: Some(Instant::now()),
            is_dismissed: false,
            lines: Lines::new(),
            reports: Budget::default(),
        };
        self.slots.push(slot);
        self.start_due(Instant::now());
    }

    /// Ends a role and forgets it: it is not started again.
    pub(crate) fn dismiss(&mut self, role: Role) {
        for slot in self.slots.iter_mut().filter(|slot| slot.role == role) {
            slot.start_at = None;
            slot.is_dismissed = true;
            if let Some(running) = &slot.running {
                children::kill(role, running);
            }
        }
        let until = Instant::now() + limits::CHILD_KILL_WAIT;
        while self.is_running(role) && Instant::now() < until {
            self.wait_for_events(Duration::from_millis(50));
        }
        self.slots.retain(|slot| slot.role != role);
        // What it sent after the first handoff would hold memory that the successor needs.
        self.forget(role);
        self.status.progress = None;
    }

    /// Notes a stage of the boot.
    pub(crate) fn reached(&mut self, stage: &'static str) {
        self.reached.push((stage, settings::uptime()));
    }

    fn is_running(&self, role: Role) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.role == role && slot.running.is_some())
    }

    /// What `stage` brought since the last call.
    pub(crate) fn take_staged(&mut self) -> Option<Staged> {
        self.staged.take()
    }

    /// The end that somebody asked for.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Asks for an end. The first one counts, because it is being carried out.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Handles what happened and waits at most `wait` for more.
    pub(crate) fn turn(&mut self, wait: Duration) -> Result<(), Stop> {
        self.wait_for_events(wait);
        if self.ending.is_some() && !self.stopping {
            Err(Stop::Ending)
        } else {
            Ok(())
        }
    }

    fn wait_for_events(&mut self, wait: Duration) {
        let now = Instant::now();
        let due = self
            .next_deadline()
            .map_or(limits::HEARTBEAT, |at| at.saturating_duration_since(now));
        let ready = self.poll(wait.min(due).min(limits::HEARTBEAT));
        if ready.signals {
            self.take_signals();
        }
        if ready.keys && self.keys.pressed() {
            self.console
                .say(Level::Info, "the power button was pressed");
            self.end(Ending::PowerOff);
        }
        for role in ready.roles {
            self.take_from_child(role);
        }
        let now = Instant::now();
        self.start_due(now);
        let may_feed = self
            .feed_until
            .is_none_or(|deadline| settings::uptime() < deadline);
        if let Some(watchdog) = &mut self.watchdog
            && !self.stopping
            && may_feed
        {
            watchdog.feed_if_due(now);
        }
        if self
            .last_scan
            .is_none_or(|at| now.duration_since(at) >= limits::HEARTBEAT)
        {
            self.keys
                .rescan(Path::new("/sys/class/input"), Path::new("/dev/input"));
            self.last_scan = Some(now);
        }
        self.announce();
        self.tell_left_out(now);
        self.tell_memory(now);
        self.console.tick(now, settings::uptime(), &self.status);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let starts = self.slots.iter().filter_map(|slot| slot.start_at);
        starts
            .chain(self.console.next_tick())
            .chain(self.memory_due)
            .min()
    }

    fn poll(&self, wait: Duration) -> Ready {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(
            self.keys
                .fds()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        let keys = fds.len();
        let mut roles = Vec::new();
        for slot in &self.slots {
            let Some(running) = &slot.running else {
                continue;
            };
            for fd in running.reports.iter().chain(&running.output) {
                roles.push(slot.role);
                fds.push(PollFd::new(fd, PollFlags::IN));
            }
        }
        let children = fds.len();
        fds.extend(
            self.console
                .waiting()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)),
        );
        let timeout = Timespec::try_from(wait).ok();
        // EINTR cannot happen: every signal is blocked. Any other error turns the loop once more, after its timers.
        let _turns_again = rustix::event::poll(&mut fds, timeout.as_ref());
        let has_event = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let mut roles: Vec<Role> = roles
            .into_iter()
            .zip(&fds[keys..children])
            .filter_map(|(role, fd)| has_event(fd).then_some(role))
            .collect();
        roles.dedup();
        Ready {
            signals: has_event(&fds[0]),
            keys: fds[1..keys].iter().any(has_event),
            roles,
        }
    }

    fn take_signals(&mut self) {
        while let Some(signal) = sys::next_signal(self.signals.as_fd()) {
            match signal {
                libc::SIGCHLD => {}
                // Ctrl-alt-del, `reboot`.
                libc::SIGINT | libc::SIGTERM => self.end(Ending::Restart),
                // `poweroff`, and the power-failure signal of UPS programs.
                libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGPWR => self.end(Ending::PowerOff),
                _ => {}
            }
        }
        self.reap();
    }

    /// The only place that collects ended processes: children of ours, and orphans that the kernel gave to PID 1.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let ended = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Ended::Code(code),
                        (None, Some(signal)) => Ended::Signal(signal),
                        (None, None) => continue,
                    };
                    self.child_ended(pid, ended);
                }
                Err(rustix::io::Errno::INTR) => {}
                // ECHILD: there is no child at all.
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn child_ended(&mut self, pid: Pid, ended: Ended) {
        let is_it = |slot: &&mut Slot| {
            slot.running
                .as_ref()
                .is_some_and(|running| running.pid == pid)
        };
        let Some(slot) = self.slots.iter_mut().find(is_it) else {
            return;
        };
        let role = slot.role;
        // Its last reports and lines may say why.
        self.take_from_child(role);
        let now = Instant::now();
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.role == role) else {
            return;
        };
        let Some(running) = slot.running.take() else {
            return;
        };
        let console = &mut self.console;
        slot.lines
            .finish(now, |line| console.child(role.name(), line));
        if self.stopping {
            return;
        }
        // `stage` ends when it brought something or failed for good, `report` when it told or gave up; the others have work
        // for ever.
        // `probe` ends when it tried everything.
        let is_done = match role {
            Role::Report => true,
            Role::Stage => self.staged.is_some(),
            Role::Probe => ended == Ended::Code(0),
            Role::Net | Role::Serve | Role::Dht | Role::Update => false,
        };
        if is_done || slot.is_dismissed {
            if is_done && !slot.is_dismissed {
                self.note(Note::Ended(role));
            }
            return;
        }
        let next = slot
            .restarts
            .ended(now, now.duration_since(running.started));
        slot.start_at = Some(next);
        let delay = next.saturating_duration_since(now).as_secs_f32();
        console.say(
            Level::Warning,
            &format!(
                "warning: {} {ended}; it starts again in {delay:.1} s",
                role.name()
            ),
        );
        self.status.restarts = self.slots.iter().map(|slot| slot.restarts.total()).sum();
        self.forget(role);
        self.note(Note::Restarted(role));
        self.console.touch(now);
    }

    /// What a dead role reported is not true any more.
    fn forget(&mut self, role: Role) {
        match role {
            Role::Net | Role::Report | Role::Dht | Role::Update | Role::Probe => {}
            Role::Serve => {
                self.served_artifacts = false;
                self.announced = None;
                self.status.urls.clear();
                self.status.advertised = false;
            }
            Role::Stage => self.staged = None,
        }
    }

    fn start_due(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        for slot in &mut self.slots {
            if slot.start_at.is_none_or(|at| at > now) {
                continue;
            }
            slot.start_at = None;
            match children::start(slot.role, &slot.arguments, &self.options, now) {
                Ok(running) => slot.running = Some(running),
                Err(error) => {
                    slot.start_at = Some(slot.restarts.ended(now, Duration::ZERO));
                    let text = format!("warning: {} cannot be started: {error}", slot.role.name());
                    self.console.say(Level::Warning, &text);
                }
            }
        }
    }

    fn take_from_child(&mut self, role: Role) {
        for _ in 0..limits::REPORTS_PER_TURN {
            let Some(running) = self.running(role) else {
                return;
            };
            let Some(reports) = &running.reports else {
                break;
            };
            match control::receive(reports) {
                Received::Report(report, files) => self.take_report(role, report, files),
                Received::Garbage(reason) => {
                    let text = format!(
                        "warning: {} sent something that is no report: {reason}",
                        role.name()
                    );
                    self.say_for(role, Level::Warning, &text);
                }
                Received::Nothing => break,
                Received::Closed => {
                    running.reports = None;
                    break;
                }
            }
        }
        let now = Instant::now();
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.role == role) else {
            return;
        };
        let console = &mut self.console;
        if let Some(running) = &mut slot.running
            && let Some(output) = &running.output
        {
            let is_open = control::read_output(output, &mut slot.lines, now, |line| {
                console.child(role.name(), line)
            });
            if !is_open {
                running.output = None;
            }
        }
    }

    fn running(&mut self, role: Role) -> Option<&mut Running> {
        self.slots
            .iter_mut()
            .find(|slot| slot.role == role)?
            .running
            .as_mut()
    }

    /// Ends all children: TERM, a bounded wait, KILL, a bounded wait. Before a jump `net` is told by USR1 that a successor
    /// goes on with its addresses, so that it gives none back.
    pub(crate) fn stop_children(&mut self, ending: Ending) {
        use rustix::process::Signal;
        self.stopping = true;
        for slot in &self.slots {
            if let Some(running) = &slot.running {
                let signal = match (ending, slot.role) {
                    (Ending::Kexec, Role::Net) => Signal::USR1,
                    _ => Signal::TERM,
                };
                let _gone = rustix::process::kill_process_group(running.pid, signal);
            }
        }
        self.wait_for_children(limits::CHILD_STOP_WAIT);
        for slot in &self.slots {
            if let Some(running) = &slot.running {
                let text = format!("warning: {} did not end in time: killed", slot.role.name());
                self.console.say(Level::Warning, &text);
                children::kill(slot.role, running);
            }
        }
        self.wait_for_children(limits::CHILD_KILL_WAIT);
    }

    fn wait_for_children(&mut self, most: Duration) {
        let until = Instant::now() + most;
        while self.slots.iter().any(|slot| slot.running.is_some()) && Instant::now() < until {
            self.wait_for_events(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// What poll found.
struct Ready {
    signals: bool,
    keys: bool,
    roles: Vec<Role>,
}

#[cfg(test)]
pub(crate) mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::screen::Artifacts;

    pub(crate) fn machine() -> Machine {
        machine_on(Path::new("/nonexistent"))
    }

    /// A machine whose console and kernel log are files in `dev`, if they are there.
    fn machine_on(dev: &Path) -> Machine {
        // A closed pipe brings no signal.
        let (signals, _closed) = std::io::pipe().unwrap();
        let console = Console::open(Path::new("/nonexistent"), dev);
        Machine::new(Options::default(), console, signals.into(), None)
    }

    /// A role that was started, as far as the loop can see; returns the child's end of its reports, and of its output.
    fn start(machine: &mut Machine, role: Role) -> (OwnedFd, std::io::PipeWriter) {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (reports, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let (output, their_output) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&output, true).unwrap();
        machine.slots.push(Slot {
            role,
            arguments: Vec::new(),
            running: Some(Running {
                pid: Pid::INIT,
                started: Instant::now(),
                reports: Some(reports),
                output: Some(output.into()),
            }),
            restarts: Restarts::default(),
            start_at: None,
            is_dismissed: false,
            lines: Lines::new(),
            reports: Budget::default(),
        });
        (theirs, their_output)
    }

    #[test]
    fn a_second_handoff_is_dropped_with_its_sender() {
        let mut machine = machine();
        let record = HandoffRecord {
            origin: String::new(),
            fds: Vec::new(),
        };
        machine.staged = Some(Staged::Handoff(record, Vec::new()));
        machine.dismiss(Role::Stage);
        assert!(machine.take_staged().is_none());
    }

    #[test]
    fn a_machine_that_gives_is_listed_where_it_came_from() {
        let mut machine = machine();
        assert!(machine.registration().is_empty(), "nothing is served yet");
        let digest = boot_manifest::Digest::of(b"manifest");
        machine.status.artifacts = Some(crate::screen::Artifacts {
            digest: digest.to_string(),
            ..crate::screen::Artifacts::default()
        });
        let expected = [format!("--manifest={digest}"), "--port=8080".to_owned()];
        assert_eq!(machine.registration(), expected);
        (machine.options, _) = crate::cmdline::parse("phase.share=off");
        assert!(machine.registration().is_empty());
    }

    #[test]
    fn a_child_that_closes_its_lines_does_not_keep_the_loop_turning() {
        let mut machine = machine();
        let (theirs, their_output) = start(&mut machine, Role::Serve);
        drop(theirs);
        drop(their_output);
        assert_eq!(machine.poll(Duration::ZERO).roles, [Role::Serve]);
        machine.take_from_child(Role::Serve);
        assert_eq!(machine.poll(Duration::ZERO).roles, []);
    }

    #[test]
    fn reports_write_no_more_lines_than_output_may() {
        let dev = tempfile::tempdir().unwrap();
        let log = dev.path().join("kmsg");
        std::fs::write(&log, "").unwrap();
        let mut machine = machine_on(dev.path());
        let (net, _net_output) = start(&mut machine, Role::Net);
        let (stage, _stage_output) = start(&mut machine, Role::Stage);
        let network = |number: u32| Report::Network {
            interface: "eth0".to_owned(),
            addresses: vec![format!("192.0.2.{number}/24")],
            source: "dhcp".to_owned(),
        };
        for number in 0..200 {
            let failed = Report::Failed {
                code: "x".to_owned(),
                reason: "y".to_owned(),
                retryable: true,
            };
            let strange = Report::Request {
                client: String::new(),
                line: String::new(),
                status: 200,
                bytes: 0,
            };
            for packet in [b"garbage".to_vec(), failed.encode(), strange.encode()] {
                send(&net, &packet);
            }
            send(&net, &network(number).encode());
            let progress = Report::Progress {
                what: number.to_string(),
                done: 1,
                total: 2,
            };
            send(&stage, &progress.encode());
            machine.take_from_child(Role::Net);
            machine.take_from_child(Role::Stage);
        }
        let lines = |wanted: &str| {
            let log = std::fs::read_to_string(&log).unwrap();
            log.lines().filter(|line| line.contains(wanted)).count()
        };
        let most = limits::CHILD_LINES_MAX as usize;
        assert_eq!((lines("net"), lines("fetching")), (most, most));
        // What a report says still counts.
        assert_eq!(
            machine.status.interfaces[0].addresses,
            ["192.0.2.199/24"],
            "the screen is behind"
        );

        // The serving line waits for the next window, and how much was left out is said once.
        machine.served_artifacts = true;
        machine.status.artifacts = Some(Artifacts::default());
        machine.announce();
        assert_eq!(lines("serving"), 0);
        for _ in 0..2 {
            machine.tell_left_out(Instant::now() + limits::CHILD_LINES_WINDOW);
        }
        assert_eq!(lines("net reported too much: 740 lines were left out"), 1);
        assert_eq!(lines("left out"), 2);
        machine.announce();
        assert_eq!(lines("serving"), 1);
    }

    fn send(socket: &OwnedFd, packet: &[u8]) {
        rustix::net::send(socket, packet, rustix::net::SendFlags::empty()).unwrap();
    }
}
