//! DHCPv6 seen from beside (RFC 8415, RFC 5970): what a machine asked for over IPv6, and whether anybody named a boot file.

use std::time::Duration;

use crate::packet::Payload;

/// Where clients and servers listen.
pub(super) const PORTS: [u16; 2] = [546, 547];

/// Options inside a message that are looked at: relays nest, firmware sends ten.
const OPTIONS_MAX: usize = 64;

/// What became of the questions.
#[derive(Clone, Debug, Default)]
pub(super) struct Six {
    /// When it asked, and how often.
    pub(super) first: Option<Duration>,
    pub(super) last: Duration,
    pub(super) asked: u32,
    /// Answers, and the boot URL of the last one that had one.
    pub(super) answered: u32,
    pub(super) url: Option<String>,
}

/// Messages of clients: SOLICIT, REQUEST, INFORMATION-REQUEST.
const QUESTIONS: [u8; 3] = [1, 3, 11];

/// Messages of servers: ADVERTISE, REPLY.
const ANSWERS: [u8; 2] = [2, 7];

/// Whether a client asks for something to boot: it names its architecture (option 61) or asks for the URL (59 in option 6).
pub(super) fn asks_to_boot(payload: &Payload) -> bool {
    let [kind, _, _, _, rest @ ..] = &payload.bytes[..] else {
        return false;
    };
    let asks = options(rest).any(|(code, value)| {
        let wanted = value.as_chunks().0;
        code == 61 || code == 6 && wanted.iter().any(|pair| u16::from_be_bytes(*pair) == 59)
    });
    QUESTIONS.contains(kind) && asks
}

impl Six {
    pub(super) fn take(&mut self, at: Duration, payload: &Payload) {
        let [kind, _, _, _, rest @ ..] = &payload.bytes[..] else {
            return;
        };
        if QUESTIONS.contains(kind) {
            self.first = self.first.or(Some(at));
            self.last = at;
            self.asked = self.asked.saturating_add(1);
        } else if ANSWERS.contains(kind) {
            self.answered = self.answered.saturating_add(1);
            let url = options(rest).find(|(code, _)| *code == 59);
            let url = url.map(|(_, url)| String::from_utf8_lossy(url).into_owned());
            self.url = url.or_else(|| self.url.take());
        }
    }
}

fn options(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    let next = move || {
        let [a, b, c, d, tail @ ..] = rest else {
            return None;
        };
        let size = usize::from(u16::from_be_bytes([*c, *d]));
        let (value, tail) = tail.split_at_checked(size)?;
        rest = tail;
        Some((u16::from_be_bytes([*a, *b]), value))
    };
    std::iter::from_fn(next).take(OPTIONS_MAX)
}
