//! What becomes of transfers, told to the counters, the log and, on the appliance, to the screen.

use std::net::SocketAddr;
use std::time::Instant;

use crate::listen::tftp::Told;
use crate::log::Lines;
use crate::machines::event::{Carrier, Event};
use crate::serve::metrics::{Metrics, TftpEnd, add};

/// Counts and logs. What firmware does on purpose is no warning (C27); what one forged packet causes fills no log.
pub(crate) fn count_and_log(metrics: &Metrics, lines: &Lines, peer: SocketAddr, told: &Told) {
    let client = peer.ip().to_canonical();
    match told {
        Told::Started { name, size } => {
            add(&metrics.tftp_transfers_total, 1);
            tracing::debug!(%client, file = shown(name), size, "TFTP begins");
        }
        Told::Sent {
            name,
            bytes,
            took,
            resent,
        } => {
            metrics.tftp_ended(TftpEnd::Sent);
            add(&metrics.tftp_bytes_total, *bytes);
            add(&metrics.tftp_resent_blocks_total, *resent);
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                %client, file = shown(name), bytes, millis, resent, "boot file sent over TFTP"
            );
        }
        Told::SizeOnly { name } => {
            metrics.tftp_ended(TftpEnd::SizeTold);
            tracing::debug!(%client, file = shown(name), "a TFTP client asked for the size only");
        }
        Told::Aborted {
            name,
            bytes,
            resent,
            why,
        } => {
            metrics.tftp_ended(TftpEnd::Aborted);
            add(&metrics.tftp_bytes_total, *bytes);
            add(&metrics.tftp_resent_blocks_total, *resent);
            if lines.may_tell(Instant::now()) {
                tracing::warn!(
                    %client, file = shown(name), bytes, resent, "a transfer over TFTP broke off: {why}"
                );
            }
        }
        Told::Refused { name, why } => {
            metrics.tftp_ended(TftpEnd::Refused);
            if lines.may_tell(Instant::now()) {
                tracing::info!(%client, file = shown(name), "refused over TFTP: {why}");
            }
        }
    }
}

/// A name as clients send it, for one line of a log.
fn shown(name: &str) -> String {
    name.chars().flat_map(char::escape_default).collect()
}

/// What it means for the machine. Asking for a size only means nothing.
pub(crate) fn event(told: &Told) -> Option<Event> {
    let via = Carrier::Tftp;
    // As HTTP calls the same file.
    let as_served = |name: &String| name.replace('\\', "/").trim_start_matches('/').to_owned();
    Some(match told {
        Told::Started { name, .. } => Event::FileStarted {
            name: as_served(name),
            via,
        },
        Told::Sent { name, bytes, .. } => Event::FileSent {
            name: as_served(name),
            bytes: *bytes,
            via,
        },
        Told::SizeOnly { .. } => return None,
        Told::Aborted {
            name, bytes, why, ..
        } => Event::FileAborted {
            name: as_served(name),
            bytes: *bytes,
            via,
            why: why.clone(),
        },
        Told::Refused { name, why } => Event::FileRefused {
            name: as_served(name),
            via,
            why: why.clone(),
        },
    })
}
