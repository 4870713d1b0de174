//! One transfer: what to send after each packet and each silence.
//!
//! ```text
//!            options            ACK 0              ACK of the last block
//! start ───────────────> OACK ────────> window 1 ─> window 2 ... ──────> Sent
//!   │       none                           ^
//!   └───────────────────────────────────────┘
//! ACK inside the window     the window begins again behind it (RFC 7440, 4), once in a round trip
//! ACK of what was known     nothing is sent (RFC 1123, 4.2.3.1: the sorcerer's apprentice); but if the client says nothing
//!                           better within two round trips, it is believed
//! silence                   what was sent last is sent again, after a wait that doubles; a few times only to a client that
//!                           never said anything, because its address may be forged
//! ERROR                     the end, whatever it says
//! ```
//!
//! Never sends more than one window for one packet or one silence, so nobody is made to flood anybody. Blocks are counted in 64
//! bits; on the wire the counter goes from 65,535 to 0 (C30).

use std::time::Duration;

use super::limits::{HEADER_SIZE, LAST_PATIENCE, TEXT_SIZE_MAX, TWICE_WITHIN, UNHEARD_RESENDS_MAX};
use super::pace::Pace;
use super::packet;
use super::terms::Terms;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until [`Session::deadline`].
    Wait,
    /// Send [`Session::oack`].
    Oack,
    /// Send these blocks.
    Data(Blocks),
    /// Nothing ever again.
    End(End),
}

/// Blocks in a row, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// The first.
    pub first: u64,
    /// How many there are, at least one.
    pub count: u16,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client has everything. Many leave without saying so: then `is_confirmed` is false.
    Sent {
        /// Whether it said so.
        is_confirmed: bool,
    },
    /// The client wanted to know the size and no more (C27); firmware does that before it comes again.
    SizeTold,
    /// The client gave up and said so.
    Aborted {
        /// The code of its ERROR packet.
        code: u16,
        /// Its words, on one line.
        text: String,
    },
    /// The client says nothing any more.
    Silent,
    /// Nobody has the client's port any more.
    Gone,
}

/// One transfer of one file to one client.
#[derive(Debug, Clone)]
pub struct Session {
    terms: Terms,
    size: u64,
    /// The number of the last block.
    last: u64,
    pace: Pace,
    phase: Phase,
    /// All blocks up to this one are acknowledged.
    acked: u64,
    /// The last block that was sent since.
    sent: u64,
    /// The highest block that ever was.
    highest: u64,
    /// When the window was sent, unless parts of it were sent before.
    measuring: Option<Duration>,
    /// When blocks of the window on its way were sent before.
    again: Option<Again>,
    /// Whether a repeated acknowledgement has shortened the wait for this window already.
    is_hinted: bool,
    deadline: Duration,
    /// When the client said something new last.
    heard: Duration,
    /// Whether it said anything since its request.
    is_heard: bool,
    resent: u64,
}

/// Blocks that were sent again.
#[derive(Debug, Clone, Copy)]
struct Again {
    /// When.
    at: Duration,
    /// The highest one that had been sent before.
    highest: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The OACK is not acknowledged.
    Options,
    /// Blocks are on their way.
    Data,
    Over,
}

impl Session {
    /// A transfer of `size` bytes that begins now, and its first step.
    pub fn start(terms: Terms, size: u64, now: Duration) -> (Self, Step) {
        let mut session = Self {
            pace: Pace::new(terms.wait_max),
            last: size / u64::from(terms.block_size) + 1,
            terms,
            size,
            phase: Phase::Data,
            acked: 0,
            sent: 0,
            highest: 0,
            measuring: None,
            again: None,
            is_hinted: false,
            deadline: now,
            heard: now,
            is_heard: false,
            resent: 0,
        };
        let step = if session.terms.oack.is_some() {
            session.phase = Phase::Options;
            session.measuring = Some(now);
            session.wait(now);
            Step::Oack
        } else {
            session.window(now)
        };
        (session, step)
    }

    /// What was agreed on.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The packet of [`Step::Oack`].
    pub fn oack(&self) -> &[u8] {
        self.terms.oack.as_deref().unwrap_or_default()
    }

    /// When [`Session::expired`] is to be called, unless a packet comes before.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Bytes of the file that the client has for sure.
    pub fn acknowledged_bytes(&self) -> u64 {
        self.size.min(self.acked * u64::from(self.terms.block_size))
    }

    /// Blocks that were sent more than once.
    pub fn resent_blocks(&self) -> u64 {
        self.resent
    }

    /// Whether these are the last of the file.
    pub fn is_end(&self, blocks: Blocks) -> bool {
        blocks.first + u64::from(blocks.count) > self.last
    }

    /// Where the blocks lie in the file: the offset of the first byte, and how many bytes there are.
    pub fn place(&self, blocks: Blocks) -> (u64, usize) {
        let size = u64::from(self.terms.block_size);
        let start = (blocks.first - 1) * size;
        let end = (start + u64::from(blocks.count) * size).min(self.size);
        (start, usize::try_from(end - start).unwrap_or(0))
    }

    /// The four bytes before the block with this number.
    pub fn header(block: u64) -> [u8; HEADER_SIZE] {
        let [a, b] = packet::DATA.to_be_bytes();
        let [c, d] = wire_number(block).to_be_bytes();
        [a, b, c, d]
    }

    /// A packet of the client came.
    pub fn received(&mut self, packet: &[u8], now: Duration) -> Step {
        if self.phase == Phase::Over {
            return Step::Wait;
        }
        let Some((opcode, rest)) = packet::opcode(packet) else {
            return Step::Wait;
        };
        match (opcode, rest.first_chunk::<2>()) {
            (packet::ACK, Some(block)) => self.acknowledged(u16::from_be_bytes(*block), now),
            (packet::ERROR, code) => {
                let code = code.map_or(0, |code| u16::from_be_bytes(*code));
                self.refused(code, rest.get(2..).unwrap_or_default())
            }
            _ => Step::Wait,
        }
    }

    /// The time of [`Session::deadline`] has come.
    pub fn expired(&mut self, now: Duration) -> Step {
        if self.phase == Phase::Over || now < self.deadline {
            return Step::Wait;
        }
        let is_last = self.sent == self.last;
        let patience = match is_last {
            true => LAST_PATIENCE,
            false => self.terms.patience,
        };
        let is_nobody = !self.is_heard && self.pace.silences() >= UNHEARD_RESENDS_MAX;
        if is_nobody || now.saturating_sub(self.heard) >= patience {
            return self.end(match (is_last, self.has_nothing()) {
                (true, _) => End::Sent {
                    is_confirmed: false,
                },
                (false, true) if self.terms.asks_for_size => End::SizeTold,
                (false, _) => End::Silent,
            });
        }
        self.pace.silent();
        self.measuring = None;
        if self.phase == Phase::Options {
            self.wait(now);
            return Step::Oack;
        }
        self.window(now)
    }

    /// The kernel says that nobody listens at the client's port.
    pub fn unreachable(&mut self) -> End {
        self.phase = Phase::Over;
        match (self.sent == self.last, self.has_nothing()) {
            (true, _) => End::Sent {
                is_confirmed: false,
            },
            (false, true) if self.terms.asks_for_size => End::SizeTold,
            (false, _) => End::Gone,
        }
    }

    /// The client sent its request once more: what answers it was lost, if it has not begun.
    pub fn asked_again(&mut self, now: Duration) -> Step {
        if !self.has_nothing() || self.phase == Phase::Over {
            return Step::Wait;
        }
        self.measuring = None;
        match self.phase {
            Phase::Options => {
                self.wait(now);
                Step::Oack
            }
            _ => self.window(now),
        }
    }

    /// Whether the client goes on just now, so that its request, when it comes once more, was on its way twice.
    pub fn is_going_on(&self, now: Duration) -> bool {
        self.is_heard && now.saturating_sub(self.heard) < TWICE_WITHIN
    }

    /// Whether the client never said anything: then nobody knows whether its address is its own.
    pub fn is_unheard(&self) -> bool {
        !self.is_heard
    }

    /// Whether the client has acknowledged no block yet.
    pub fn has_nothing(&self) -> bool {
        self.acked == 0
    }

    fn acknowledged(&mut self, block: u16, now: Duration) -> Step {
        if self.phase == Phase::Options {
            if block != 0 {
                return Step::Wait;
            }
            self.phase = Phase::Data;
            self.progress(now);
            return self.window(now);
        }
        // Less than a window apart, so the low 16 bits say which one it is.
        let ahead = u64::from(block.wrapping_sub(wire_number(self.acked)));
        if ahead == 0 {
            return self.hint(now);
        }
        if self.acked + ahead > self.sent {
            return Step::Wait;
        }
        self.acked += ahead;
        self.progress(now);
        if self.acked == self.last {
            return self.end(End::Sent { is_confirmed: true });
        }
        match self.again {
            Some(again) if self.acked < self.sent => {
                if now.saturating_sub(again.at) < self.pace.shortest() {
                    // The client cannot know yet of what was sent again; it answers what was on its way before.
                    self.is_hinted = false;
                    return self.hint(now);
                }
                if self.acked == again.highest {
                    return self.widen(now);
                }
                self.window(now)
            }
            _ => self.window(now),
        }
    }

    /// The client had all that was sent again, so the rest of that window is new to it: what is missing of the next one follows.
    /// Beginning again behind it would be the apprentice once more.
    fn widen(&mut self, now: Duration) -> Step {
        let first = self.sent + 1;
        let end = self.last.min(self.acked + u64::from(self.terms.window));
        self.is_hinted = false;
        self.wait(now);
        let count = u16::try_from((end + 1).saturating_sub(first)).unwrap_or(0);
        if count == 0 {
            return Step::Wait;
        }
        self.sent = end;
        self.highest = self.highest.max(end);
        Step::Data(Blocks { first, count })
    }

    fn progress(&mut self, now: Duration) {
        if let Some(since) = self.measuring.take() {
            self.pace.measured(now.saturating_sub(since));
        }
        self.pace.went_on();
        self.heard = now;
        self.is_heard = true;
    }

    /// The client has said this before. Either it was late, or what is on its way was lost.
    fn hint(&mut self, now: Duration) -> Step {
        if !self.is_hinted {
            self.is_hinted = true;
            self.deadline = self.deadline.min(now + self.pace.hint_wait());
        }
        Step::Wait
    }

    /// Sends what follows the last acknowledged block.
    fn window(&mut self, now: Duration) -> Step {
        let first = self.acked + 1;
        let left = self.last - self.acked;
        let count =
            u16::try_from(left).map_or(self.terms.window, |left| left.min(self.terms.window));
        self.sent = self.acked + u64::from(count);
        let is_new = first > self.highest;
        (self.measuring, self.again) = match is_new {
            true => (Some(now), None),
            false => {
                let highest = self.highest;
                (None, Some(Again { at: now, highest }))
            }
        };
        self.resent += (self.highest.min(self.sent) + 1).saturating_sub(first);
        self.highest = self.highest.max(self.sent);
        self.is_hinted = false;
        self.wait(now);
        Step::Data(Blocks { first, count })
    }

    fn wait(&mut self, now: Duration) {
        self.deadline = now + self.pace.wait();
    }

    fn refused(&mut self, code: u16, text: &[u8]) -> Step {
        let end = if self.terms.asks_for_size && self.has_nothing() && code != OPTIONS_REFUSED {
            End::SizeTold
        } else {
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = text.iter().take(TEXT_SIZE_MAX);
            let text = text.map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => ' ',
            });
            End::Aborted {
                code,
                text: text.collect(),
            }
        };
        self.end(end)
    }

    fn end(&mut self, end: End) -> Step {
        self.phase = Phase::Over;
        Step::End(end)
    }
}

/// The code of a client that does not like the answer to its options (RFC 2347).
const OPTIONS_REFUSED: u16 = 8;

/// A block's number in packets.
fn wire_number(block: u64) -> u16 {
    (block & 0xffff) as u16
}

#[cfg(test)]
mod tests;
