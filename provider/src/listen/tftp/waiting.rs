//! How the thread waits: for sockets, and until a time.
//!
//! A client that acknowledges one block at a time is idle until the next one comes, and so is the server; a wake-up costs each
//! of them more than the packet itself. So the thread can look for the next packet for a moment before it goes to sleep. That
//! pays where client and server have a processor each, and costs where the client takes its time, or waits for the very
//! processor that is spent on looking. Nobody can know which it is, so it is measured: some packets with, some without, twice;
//! the faster way is kept for some thousand packets. Where there is one processor the thread never looks.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::listen::limits::{TFTP_EVENTS_MAX, TFTP_LOOK_MAX, TFTP_TRIAL, TFTP_TRIAL_HOLDS};

/// What the thread waits for.
pub(super) struct Waiting {
    epoll: OwnedFd,
    trial: Trial,
    is_alone: bool,
}

impl Waiting {
    /// Nothing is waited for yet.
    pub(super) fn new() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            trial: Trial::default(),
            is_alone: processors < 2,
        })
    }

    /// Waits for packets on a socket, until it is closed.
    pub(super) fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(
            &self.epoll,
            socket,
            data,
            epoll::EventFlags::IN,
        )?)
    }

    /// Puts the tokens of the sockets that have something into `tokens`, after `limit` at the latest. `is_busy`: somebody owes
    /// an answer.
    pub(super) fn wait(
        &mut self,
        limit: Option<Duration>,
        is_busy: bool,
        tokens: &mut Vec<u64>,
    ) -> io::Result<()> {
        if !is_busy || self.is_alone {
            self.trial = Trial::default();
            return self.ask(limit, tokens);
        }
        if self.trial.looks(Instant::now()) && self.look(tokens)? {
            return Ok(());
        }
        self.ask(limit, tokens)
    }

    /// Looks for a moment whether something comes.
    fn look(&self, tokens: &mut Vec<u64>) -> io::Result<bool> {
        let began = Instant::now();
        while began.elapsed() < TFTP_LOOK_MAX {
            self.ask(Some(Duration::ZERO), tokens)?;
            if !tokens.is_empty() {
                return Ok(true);
            }
            std::thread::yield_now();
        }
        Ok(false)
    }

    fn ask(&self, limit: Option<Duration>, tokens: &mut Vec<u64>) -> io::Result<()> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut events = [const { MaybeUninit::uninit() }; TFTP_EVENTS_MAX];
        tokens.clear();
        match epoll::wait(&self.epoll, &mut events, limit.as_ref()) {
            Ok((events, _)) => tokens.extend(events.iter().map(|event| event.data.u64())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Which way of waiting is faster just now.
#[derive(Debug, Default)]
struct Trial {
    /// Waits that are left of this phase.
    left: u32,
    /// The phase: looking and sleeping in turns, and then the better of the two.
    phase: usize,
    began: Option<Instant>,
    /// The shortest time that a phase took, asleep and looking.
    shortest: [Option<Duration>; 2],
    looks: bool,
}

/// Phases of a trial; whether they look.
const PHASES: [bool; 4] = [true, false, true, false];

impl Trial {
    /// Whether to look in the wait that begins `now`.
    fn looks(&mut self, now: Instant) -> bool {
        if self.left == 0 {
            self.next_phase(now);
        }
        self.left -= 1;
        self.looks
    }

    fn next_phase(&mut self, now: Instant) {
        if let (Some(began), true) = (self.began, self.phase > 0) {
            let took = now.saturating_duration_since(began);
            let shortest = &mut self.shortest[usize::from(self.looks)];
            *shortest = Some(shortest.map_or(took, |other| other.min(took)));
        }
        self.began = Some(now);
        if let Some(looks) = PHASES.get(self.phase) {
            self.looks = *looks;
            self.left = TFTP_TRIAL;
            self.phase += 1;
            return;
        }
        let [asleep, looking] = self.shortest;
        *self = Self {
            looks: looking < asleep,
            left: TFTP_TRIAL_HOLDS,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the waits after the trial look, when a wait takes so many microseconds.
    fn looks(looking: u64, asleep: u64) -> u32 {
        let (mut trial, mut now) = (Trial::default(), Instant::now());
        let mut wait = || {
            let looks = trial.looks(now);
            now += Duration::from_micros(if looks { looking } else { asleep });
            looks
        };
        let tried = (0..4 * TFTP_TRIAL).filter(|_| wait()).count();
        assert_eq!(tried, 2 * TFTP_TRIAL as usize);
        let looked = (0..TFTP_TRIAL_HOLDS).filter(|_| wait()).count();
        // And again.
        let tried = (0..4 * TFTP_TRIAL).filter(|_| wait()).count();
        assert_eq!(tried, 2 * TFTP_TRIAL as usize);
        u32::try_from(looked).unwrap()
    }

    #[test]
    fn the_faster_way_is_kept() {
        assert_eq!(looks(5, 10), TFTP_TRIAL_HOLDS);
        assert_eq!(looks(30, 8), 0);
    }
}
