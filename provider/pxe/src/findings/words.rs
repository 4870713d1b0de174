//! What a machine wanted, what it got and what it did, in lines for people, in the order of time.

use std::time::Duration;

use serde::Serialize;

use super::http::Fetch;
use super::story::{Answer, Story};
use super::tftp::Transfer;
use crate::Mac;
use crate::client::Firmware;
use crate::dhcp::Kind;

/// Lines of each kind that are shown: more is a machine that goes round in circles, and the last lines say so.
const LINES_MAX: usize = 12;

/// A machine's story in a few lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The machine.
    pub mac: Mac,
    /// What kind it is.
    pub kind: String,
    /// What it asked for.
    pub wanted: Vec<String>,
    /// What it was offered, and by whom.
    pub got: Vec<String>,
    /// What it fetched, and what came of it.
    pub did: Vec<String>,
}

impl Story {
    /// The story in a few lines.
    pub fn summary(&self) -> Summary {
        Summary {
            mac: self.mac,
            kind: self.kind(),
            wanted: self.wanted(),
            got: shortened(
                self.answers
                    .iter()
                    .map(|answer| self.offered(answer))
                    .collect(),
            ),
            did: shortened(self.done()),
        }
    }

    fn kind(&self) -> String {
        let Some(client) = self.first_client() else {
            return "a machine".to_owned();
        };
        let (name, arch) = (client.firmware.name(), client.arch.to_string());
        match client.firmware {
            Firmware::UefiPxe => format!("{arch} PXE"),
            Firmware::UefiHttp => arch,
            Firmware::BiosPxe | Firmware::RaspberryPi => name.to_owned(),
            Firmware::Ipxe { .. } | Firmware::UBoot | Firmware::Phase => format!("{name}, {arch}"),
        }
    }

    /// One line for each firmware that asked.
    fn wanted(&self) -> Vec<String> {
        let mut seen: Vec<(Firmware, String)> = Vec::new();
        for ask in &self.asks {
            let Some(client) = &ask.client else { continue };
            if seen
                .iter()
                .any(|(firmware, _)| *firmware == client.firmware)
            {
                continue;
            }
            let asks = self
                .asks
                .iter()
                .filter(|other| other.firmware() == Some(client.firmware));
            let (discovers, others): (Vec<_>, Vec<_>) =
                asks.partition(|ask| ask.request.kind == Kind::Discover);
            let binl = others
                .iter()
                .filter(|ask| ask.target.port() == crate::dhcp::BOOT_PORT);
            let what = match client.firmware {
                Firmware::UefiHttp => "a URL to boot",
                Firmware::Ipxe { .. } => "a script or a file",
                Firmware::Phase => "its provider",
                _ => "a boot file by PXE",
            };
            let mut line = format!(
                "{}: {what}; asked {} at {}",
                client.firmware.name(),
                count(discovers.len()),
                clock(ask.at)
            );
            match binl.count() {
                0 => {}
                number => line.push_str(&format!(", and on port 4011 {}", count(number))),
            }
            seen.push((client.firmware, line));
        }
        let mut lines: Vec<String> = seen.into_iter().map(|(_, line)| line).collect();
        if let Some(first) = self.six.first {
            let number = count(usize::try_from(self.six.asked).unwrap_or(usize::MAX));
            lines.push(format!(
                "over IPv6: a URL to boot; asked {number} at {}",
                clock(first)
            ));
        }
        lines
    }

    fn offered(&self, answer: &Answer) -> String {
        let mut parts = Vec::new();
        if answer.gives_address() {
            parts.push(format!("the address {}", answer.message.yiaddr));
        }
        match (answer.file(), answer.is_boot()) {
            (Some(file), _) if file.contains("://") => parts.push(format!("the URL {file}")),
            (Some(file), _) => {
                let on = answer
                    .boot_server()
                    .map_or("nobody".to_owned(), |on| on.to_string());
                parts.push(format!("the boot file {file:?} on {on}"));
            }
            (None, true) if answer.is_complete() => parts.push("a PXE menu".to_owned()),
            (None, true) => parts.push("the word to ask it on port 4011".to_owned()),
            (None, false) => {}
        }
        if answer.message.kind == Kind::Nak {
            parts.push("a refusal".to_owned());
        }
        if parts.is_empty() {
            parts.push("nothing".to_owned());
        }
        format!("from {}: {}", answer.server(), parts.join(" and "))
    }

    fn done(&self) -> Vec<String> {
        let transfers = self
            .transfers
            .iter()
            .map(|transfer| (transfer.at, transferred(transfer)));
        let fetches = self
            .fetches
            .iter()
            .flat_map(|fetch| fetched(fetch).into_iter().map(|line| (fetch.at, line)));
        let mut all: Vec<(Duration, String)> = transfers.chain(fetches).collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, line)| line).collect()
    }
}

fn transferred(transfer: &Transfer) -> String {
    let (name, server) = (transfer.shown(), transfer.server.ip());
    let took = transfer.last.saturating_sub(transfer.at);
    let outcome = match &transfer.error {
        _ if transfer.whole => format!(
            "all {} bytes in {:.1} s",
            transfer.bytes,
            took.as_secs_f64()
        ),
        Some(_) if transfer.is_probe() => "asked for its size only".to_owned(),
        Some(error) if error.by_server => format!("refused: error {} {:?}", error.code, error.text),
        Some(error) => format!(
            "broken off by the machine after {} bytes: error {} {:?}",
            transfer.bytes, error.code, error.text
        ),
        None if transfer.answers_from.is_none() => "no answer".to_owned(),
        None => format!("{} bytes so far", transfer.bytes),
    };
    format!("TFTP {server} {name}: {outcome}")
}

fn fetched(fetch: &Fetch) -> Vec<String> {
    let server = fetch.server;
    if fetch.requests.is_empty() {
        let outcome = match () {
            () if fetch.refused => "nobody on that port",
            () if fetch.alert.is_some() => "TLS handshake broken off",
            () if fetch.accepted => "connected",
            () => "no answer",
        };
        return vec![format!("TCP {server}: {outcome}")];
    }
    let line = |(index, asked): (usize, &super::http::Asked)| {
        if let Some((stage, text)) = asked.report() {
            let between = if text.is_empty() { "" } else { ": " };
            return format!("Linux tells {}: {stage}{between}{text}", server.ip());
        }
        let answered = fetch.answers.get(index);
        let outcome = answered.map_or("no answer".to_owned(), |answered| match answered.length {
            Some(length) => format!("{}, {length} bytes", answered.status),
            None => answered.status.to_string(),
        });
        format!("HTTP {server} {} {}: {outcome}", asked.method, asked.path)
    };
    fetch.requests.iter().enumerate().map(line).collect()
}

/// Equal lines become one, and of many the first and the last stay.
fn shortened(lines: Vec<String>) -> Vec<String> {
    let mut kept: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match kept.iter_mut().find(|(known, _)| *known == line) {
            Some((_, number)) => *number += 1,
            None => kept.push((line, 1)),
        }
    }
    let mut shown: Vec<String> = kept
        .into_iter()
        .map(|(line, number)| match number {
            1 => line,
            number => format!("{line} ({number} times)"),
        })
        .collect();
    if shown.len() > LINES_MAX {
        let left_out = shown.len() - LINES_MAX;
        let tail = shown.split_off(shown.len() - LINES_MAX / 2);
        shown.truncate(LINES_MAX / 2);
        shown.push(format!("({left_out} more)"));
        shown.extend(tail);
    }
    shown
}

fn count(number: usize) -> String {
    match number {
        1 => "once".to_owned(),
        number => format!("{number} times"),
    }
}

fn clock(at: Duration) -> String {
    format!("{:.1} s", at.as_secs_f64())
}
