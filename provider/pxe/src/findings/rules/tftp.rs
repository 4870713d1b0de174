//! Rules about TFTP.

use std::time::Duration;

use super::super::limits::{
    BLOCK_IN_FRAME, REPEATS_MIN, REPEATS_PERCENT, STEP_WAIT, TRANSFER_WAIT,
};
use super::super::story::Story;
use super::super::tftp::Transfer;
use super::{Found, bad, seconds, since, times, warn};

/// TFTP's "file not found".
const NOT_FOUND: u16 = 1;

/// TFTP's "these options do not suit me" (RFC 2347).
const OPTIONS_REFUSED: u16 = 8;

/// The last block before the counter wraps.
const COUNTER_MAX: u64 = 65_535;

fn answered(transfer: &Transfer) -> bool {
    transfer.answers_from.is_some()
}

pub(super) fn closed(story: &Story, _now: Duration) -> Option<Found> {
    let transfer = story.transfers.iter().find(|transfer| {
        let is_refused = story
            .refused
            .iter()
            .any(|(at, about)| *about == transfer.server && *at >= transfer.at);
        is_refused && !answered(transfer)
    })?;
    let server = transfer.server;
    bad(
        format!(
            "it asked {server} for {}, and there is nobody on that port",
            transfer.shown()
        ),
        format!(
            "start a TFTP server on {}: plasmd serve is one, unless --no-tftp or --tftp-port says otherwise",
            server.ip()
        ),
    )
}

pub(super) fn blocked(story: &Story, now: Duration) -> Option<Found> {
    let transfer = story.transfers.iter().find(|transfer| {
        let is_refused = story
            .refused
            .iter()
            .any(|(_, about)| *about == transfer.server);
        !answered(transfer) && !is_refused && since(transfer.at, now, STEP_WAIT)
    })?;
    bad(
        format!(
            "it asked {} {} for {}, and no answer came",
            transfer.server,
            times(transfer.asked.into()),
            transfer.shown()
        ),
        format!(
            "open UDP port {} in the firewall of {}, and see that a TFTP server runs there (plasmd doctor)",
            transfer.server.port(),
            transfer.server.ip()
        ),
    )
}

pub(super) fn answers_lost(story: &Story, now: Duration) -> Option<Found> {
    let transfer = story.transfers.iter().find(|transfer| {
        let silent = transfer.client_last == transfer.at || transfer.asked > 1;
        let insisted =
            transfer.asked > 1 || transfer.repeated > 0 || since(transfer.at, now, TRANSFER_WAIT);
        let server_spoke = answered(transfer) && transfer.error.is_none();
        server_spoke && silent && insisted && transfer.acknowledged == 0 && !transfer.whole
    })?;
    let from = transfer.answers_from?;
    bad(
        format!(
            "{from} answered its question for {}, and it went on as if nothing had come",
            transfer.shown()
        ),
        "let UDP from the boot server through to the machine from every port above 1023, or send all from one port: plasmd serve \
         --tftp-single-port",
    )
}

/// Whether a name holds what nobody would write.
fn is_garbled(name: &[u8]) -> bool {
    name.iter().any(|byte| !(b' '..=b'~').contains(byte))
}

pub(super) fn name(story: &Story, _now: Duration) -> Option<Found> {
    let transfer = story
        .transfers
        .iter()
        .find(|transfer| is_garbled(&transfer.name))?;
    let message = format!("it asked for {}", transfer.shown());
    let advice = "the DHCP server must end option 67 with a NUL inside its length, or put a pad (0) behind it; plasmd does so, and takes \
                  such names as they were meant";
    match transfer.whole {
        true => warn(message, advice),
        false => bad(message, advice),
    }
}

pub(super) fn not_found(story: &Story, _now: Duration) -> Option<Found> {
    let refused = |transfer: &&Transfer| {
        transfer
            .error
            .as_ref()
            .is_some_and(|error| error.by_server && error.code == NOT_FOUND)
    };
    let transfer = story
        .transfers
        .iter()
        .filter(|transfer| !is_garbled(&transfer.name))
        .rfind(refused)?;
    // Loaders ask for files that need not be there, before or after the one that counts (C32).
    if story.succeeded_near(transfer.at) {
        return None;
    }
    bad(
        format!("{} has no {}", transfer.server.ip(), transfer.shown()),
        format!(
            "put the file there, or correct the name in the DHCP server; names are case-sensitive on many servers, and a folder may \
             be missing. plasmd on {} only offers what it has",
            transfer.server.ip()
        ),
    )
}

pub(super) fn refused(story: &Story, _now: Duration) -> Option<Found> {
    let (transfer, error) = story.transfers.iter().find_map(|transfer| {
        let error = transfer.error.as_ref()?;
        (error.by_server && error.code != NOT_FOUND && !transfer.whole).then_some((transfer, error))
    })?;
    if story.succeeded_after(transfer.last) {
        return None;
    }
    bad(
        format!(
            "{} refused {}: error {} {:?}",
            transfer.server.ip(),
            transfer.shown(),
            error.code,
            error.text
        ),
        format!(
            "look at the log of the TFTP server on {}: permissions of the file, or too many transfers",
            transfer.server.ip()
        ),
    )
}

/// The first option that was granted wrongly: not asked for, or raised, or another timeout.
fn wrong_grant(transfer: &Transfer) -> Option<String> {
    let granted = transfer.granted.as_ref()?;
    granted.iter().find_map(|(name, value)| {
        let Some(asked) = transfer.option(name) else {
            return Some(format!("{name}={value}, which was not asked for"));
        };
        let (asked, got) = (asked.parse::<u64>().ok()?, value.parse::<u64>().ok()?);
        let is_wrong = match name.as_str() {
            "blksize" | "windowsize" => got > asked,
            "timeout" => got != asked,
            _ => false,
        };
        is_wrong.then(|| format!("{name}={got} instead of {asked}"))
    })
}

pub(super) fn options(story: &Story, _now: Duration) -> Option<Found> {
    let (transfer, wrong) = story
        .transfers
        .iter()
        .find_map(|transfer| Some((transfer, wrong_grant(transfer)?)))?;
    let message = format!("{} granted {wrong}", transfer.server.ip());
    let advice = format!(
        "update or replace the TFTP server on {}",
        transfer.server.ip()
    );
    match transfer.whole {
        true => warn(message, advice),
        false => bad(message, advice),
    }
}

pub(super) fn given_up(story: &Story, _now: Duration) -> Option<Found> {
    let (transfer, error) = story.transfers.iter().find_map(|transfer| {
        let error = transfer.error.as_ref()?;
        let plain = !error.by_server && !transfer.is_probe() && !transfer.whole;
        plain.then_some((transfer, error))
    })?;
    if story.succeeded_after(transfer.last) || wrong_grant(transfer).is_some() {
        return None;
    }
    let what = match error.code {
        OPTIONS_REFUSED => {
            "does not like the options it was granted: serve it without (dnsmasq: tftp-no-blocksize)"
        }
        _ => {
            "broke the transfer off: too little memory for the file, or it saw something it does not expect; its screen says more"
        }
    };
    bad(
        format!(
            "it gave {} up after {} bytes: error {} {:?}",
            transfer.shown(),
            transfer.bytes,
            error.code,
            error.text
        ),
        format!("the firmware {what}"),
    )
}

/// Whether data flowed and then nothing did.
fn is_stuck(transfer: &Transfer, now: Duration) -> bool {
    let begun = transfer.blocks > 0 && transfer.acknowledged > 0;
    begun
        && !transfer.whole
        && transfer.error.is_none()
        && since(transfer.client_last, now, TRANSFER_WAIT)
}

pub(super) fn counter(story: &Story, now: Duration) -> Option<Found> {
    let transfer = story.transfers.iter().find(|transfer| {
        let at_end = (COUNTER_MAX - 1..=COUNTER_MAX + 64).contains(&transfer.acknowledged);
        at_end && (is_stuck(transfer, now) || transfer.error.is_some())
    })?;
    bad(
        format!(
            "{} stopped at block {}, after {} bytes",
            transfer.shown(),
            transfer.acknowledged,
            transfer.bytes
        ),
        "this firmware cannot take a file of more than 65535 blocks by TFTP: boot by HTTP, or give it a small loader (iPXE) that does",
    )
}

pub(super) fn stuck(story: &Story, now: Duration) -> Option<Found> {
    let transfer = story
        .transfers
        .iter()
        .find(|transfer| is_stuck(transfer, now) && transfer.acknowledged < COUNTER_MAX - 1)?;
    if story.succeeded_after(transfer.last) {
        return None;
    }
    let message = format!(
        "{} stopped after {} of {} bytes; the machine said nothing for {}",
        transfer.shown(),
        transfer.bytes,
        transfer
            .size()
            .map_or("unknown".to_owned(), |size| size.to_string()),
        seconds(now.min(story.last).saturating_sub(transfer.client_last))
    );
    if story.fragments > 0 || transfer.block_size > BLOCK_IN_FRAME {
        return bad(
            message,
            format!(
                "blocks of {} bytes do not fit into a frame of this network and are sent in parts, which firmware cannot join: limit the block \
                 size of the TFTP server to {BLOCK_IN_FRAME} or less (plasmd does)",
                transfer.block_size
            ),
        );
    }
    bad(
        message,
        "a firewall that forgets the connection, a cable, or a machine that hung: look at its screen. Larger files go better by HTTP",
    )
}

pub(super) fn repeats(story: &Story, _now: Duration) -> Option<Found> {
    let transfer = story.transfers.iter().find(|transfer| {
        transfer.repeated >= REPEATS_MIN
            && transfer.repeated * 100 > transfer.highest * REPEATS_PERCENT
            && transfer.acknowledged > 0
    })?;
    warn(
        format!(
            "{} of {} blocks of {} were sent again",
            transfer.repeated,
            transfer.highest,
            transfer.shown()
        ),
        "look at the cable, the switch port (speed and duplex) and other load on this network",
    )
}
