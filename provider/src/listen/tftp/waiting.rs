//! How the thread waits: for sockets, and until a time.
//!
//! A client that acknowledges one block at a time is idle until the next one comes, and so is the server; a wake-up costs each
//! of them more than the packet itself. So while packets come within microseconds, the thread looks for the next one for a
//! moment before it goes to sleep. Where that does not pay, because the client takes its time, or waits for the very processor
//! that is spent on looking, the thread sleeps at once, and tries again some hundred packets later. Where there is one
//! processor it never looks.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::listen::limits::{
    TFTP_EVENTS_MAX, TFTP_LOOK_MAX, TFTP_LOOK_PAUSE, TFTP_LOOKS_FAILED_MAX,
};

/// What the thread waits for.
pub(super) struct Waiting {
    epoll: OwnedFd,
    /// How often looking failed in a row.
    failed: u32,
    /// How many waits are without looking.
    pause: u32,
    is_alone: bool,
}

impl Waiting {
    /// Nothing is waited for yet.
    pub(super) fn new() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            failed: 0,
            pause: 0,
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
        if is_busy && !self.is_alone {
            if self.pause > 0 {
                self.pause -= 1;
            } else if self.look(tokens)? {
                return Ok(());
            }
        }
        self.ask(limit, tokens)
    }

    /// Looks for a moment whether something comes.
    fn look(&mut self, tokens: &mut Vec<u64>) -> io::Result<bool> {
        let began = Instant::now();
        while began.elapsed() < TFTP_LOOK_MAX {
            self.ask(Some(Duration::ZERO), tokens)?;
            if !tokens.is_empty() {
                self.failed = 0;
                return Ok(true);
            }
            std::thread::yield_now();
        }
        self.failed += 1;
        if self.failed >= TFTP_LOOKS_FAILED_MAX {
            (self.failed, self.pause) = (0, TFTP_LOOK_PAUSE);
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
