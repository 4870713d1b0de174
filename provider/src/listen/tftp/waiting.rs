//! How the thread waits: for sockets, and until a time.
//!
//! A client that acknowledges one block at a time is idle until the next one comes, and so is the server; a wake-up costs each
//! of them more than the packet itself. So while packets come within microseconds, the thread looks for the next one for a
//! moment before it goes to sleep. It stops to do so as soon as that does not pay, gives way to whoever else has work, and
//! never does it where there is one processor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::listen::limits::{TFTP_EVENTS_MAX, TFTP_LOOK_MAX, TFTP_LOOKS_MAX};

/// What the thread waits for.
pub(super) struct Waiting {
    epoll: OwnedFd,
    /// How often looking may fail before the thread sleeps at once.
    looks: u32,
    is_alone: bool,
}

impl Waiting {
    /// Nothing is waited for yet.
    pub(super) fn new() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            looks: 0,
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
        if is_busy && self.looks > 0 && !self.is_alone {
            let began = Instant::now();
            while began.elapsed() < TFTP_LOOK_MAX {
                self.ask(Some(Duration::ZERO), tokens)?;
                if !tokens.is_empty() {
                    self.looks = TFTP_LOOKS_MAX;
                    return Ok(());
                }
                std::thread::yield_now();
            }
            self.looks -= 1;
        }
        let began = Instant::now();
        self.ask(limit, tokens)?;
        if !tokens.is_empty() && is_busy && began.elapsed() < TFTP_LOOK_MAX {
            self.looks = TFTP_LOOKS_MAX;
        }
        Ok(())
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
