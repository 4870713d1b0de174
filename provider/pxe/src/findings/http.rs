//! TCP and HTTP seen from beside: one connection of a machine. Only heads are read, and only where a segment begins with one:
//! firmware's requests and our answers do.

use std::net::SocketAddr;
use std::time::Duration;

use super::limits::{REQUESTS_MAX, TEXT_MAX};
use crate::packet::{Flags, Payload};

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) at: Duration,
    pub(super) last: Duration,
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    /// How often it was tried to open.
    pub(super) tries: u32,
    pub(super) accepted: bool,
    pub(super) refused: bool,
    pub(super) requests: Vec<Asked>,
    pub(super) answers: Vec<Answered>,
    /// The alert with which a TLS handshake ended: whether the machine sent it, and its number.
    pub(super) alert: Option<(bool, u8)>,
    /// Whether the server closed it.
    pub(super) closed: bool,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) agent: String,
}

impl Asked {
    /// What Linux tells its provider: the stage it reached, and the reason of a failure.
    pub(super) fn report(&self) -> Option<(String, String)> {
        let (path, query) = self.path.split_once('?')?;
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(known, _)| *known == name)?;
            Some(decoded(value))
        };
        let is_report = self.method == "POST" && path == "/boot/report";
        is_report.then(|| Some((value("stage")?, value("text").unwrap_or_default())))?
    }
}

/// A value of a query without its percent signs.
fn decoded(value: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), value.as_bytes());
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let byte = digit(high)
                    .zip(digit(low))
                    .map(|(high, low)| high << 4 | low);
                byte.and_then(|byte| u8::try_from(byte).ok())
                    .zip(Some(tail))
            }
            _ => None,
        };
        let plain = if *first == b'+' { b' ' } else { *first };
        let (byte, tail) = escaped.unwrap_or((plain, tail));
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) length: Option<u64>,
    pub(super) kind: String,
    pub(super) location: String,
    /// Whether the server said that it closes.
    pub(super) closes: bool,
}

impl Fetch {
    pub(super) fn new(at: Duration, client: SocketAddr, server: SocketAddr) -> Self {
        Self {
            at,
            last: at,
            client,
            server,
            tries: 0,
            accepted: false,
            refused: false,
            requests: Vec::new(),
            answers: Vec::new(),
            alert: None,
            closed: false,
        }
    }

    /// Takes a segment of it.
    pub(super) fn take(
        &mut self,
        at: Duration,
        source: SocketAddr,
        flags: Flags,
        payload: &Payload,
    ) {
        let from_client = source == self.client;
        self.last = at;
        match (from_client, flags.syn) {
            (true, true) => self.tries += 1,
            (false, true) => self.accepted = true,
            _ => {}
        }
        self.refused |= !from_client && flags.rst && !self.accepted;
        if let [21, 3, _, _, _, _, number, ..] = payload.bytes[..]
            && self.requests.is_empty()
        {
            self.alert = Some((from_client, number));
        }
        if from_client && self.requests.len() < REQUESTS_MAX {
            self.requests.extend(request(&payload.bytes));
        } else if !from_client && self.answers.len() < self.requests.len() {
            self.answers.extend(answer(&payload.bytes));
        }
        self.closed |= !from_client && (flags.fin || flags.rst);
    }

    /// Whether a request was answered with content.
    pub(super) fn is_answered(&self) -> bool {
        let mut pairs = self.requests.iter().zip(&self.answers);
        pairs.any(|(asked, answered)| asked.method == "GET" && matches!(answered.status, 200 | 206))
    }

    /// Whether UEFI's own HTTP client asks: it says so (C44).
    pub(super) fn is_firmware(&self) -> bool {
        let mut requests = self.requests.iter();
        requests.any(|asked| asked.agent.starts_with("UefiHttpBoot"))
    }
}

fn request(bytes: &[u8]) -> Option<Asked> {
    let text = head(bytes)?;
    let mut words = text.lines().next()?.split(' ');
    let (method, path, version) = (words.next()?, words.next()?, words.next()?);
    let known = ["GET", "HEAD", "POST", "PUT"].contains(&method);
    (known && version.starts_with("HTTP/1")).then(|| Asked {
        method: method.to_owned(),
        path: path.chars().take(TEXT_MAX).collect(),
        agent: field(&text, "user-agent"),
    })
}

fn answer(bytes: &[u8]) -> Option<Answered> {
    let text = head(bytes)?;
    let mut words = text.lines().next()?.split(' ');
    let version = words.next()?;
    let status = words.next()?.parse().ok()?;
    version.starts_with("HTTP/1").then(|| Answered {
        status,
        length: field(&text, "content-length").parse().ok(),
        kind: field(&text, "content-type"),
        location: field(&text, "location"),
        closes: version == "HTTP/1.0" || field(&text, "connection").eq_ignore_ascii_case("close"),
    })
}

/// The head of a message, as far as the segment has it.
fn head(bytes: &[u8]) -> Option<String> {
    if !bytes.first()?.is_ascii_uppercase() {
        return None;
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let head = bytes.get(..end.unwrap_or(bytes.len()))?;
    head.is_ascii()
        .then(|| String::from_utf8_lossy(head).into_owned())
}

fn field(head: &str, name: &str) -> String {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
    let value = found.map_or("", |(_, value)| value.trim());
    value.chars().take(TEXT_MAX).collect()
}
