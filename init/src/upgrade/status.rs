//! What people and programs are shown: `/run/phase/upgrade.json`, which `serve` hands out, and lines on the screen.
//!
//! The file is written anew and renamed on every change, so a reader sees a whole one. It names the nonce that the next
//! order must sign: made here, new after each order that was taken, so no order works twice, and no clock is needed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use boot_manifest::Nonce;
use upgrade::{OrderStatus, Refusal, Status};

use super::Upgrade;
use crate::console::Level;
use crate::machine::Machine;
use crate::{root, settings};

/// What was shown last.
#[derive(Debug, Default)]
pub(super) struct Published {
    shown: Vec<u8>,
    nonce: Option<Nonce>,
    order: Option<OrderStatus>,
    /// A file that cannot be written is complained about once.
    complained: bool,
}

impl Published {
    /// What the next order must name.
    pub(super) fn nonce(&self) -> Option<Nonce> {
        self.nonce
    }

    /// An order was taken: its nonce is used up.
    pub(super) fn took_order(&mut self, order: &boot_manifest::Order, client: &str) {
        self.order = Some(OrderStatus {
            nonce: order.nonce.to_string(),
            action: order.action.as_str().to_owned(),
            ok: true,
            reason: None,
            client: client.to_owned(),
        });
        self.nonce = settings::random_bytes().map(Nonce::from_bytes);
    }

    /// The state machine did not obey the last order.
    pub(super) fn refused_order(&mut self, refusal: Refusal) {
        if let Some(order) = &mut self.order {
            order.ok = false;
            order.reason = Some(refusal);
        }
    }
}

impl Upgrade {
    /// Shows what changed.
    pub(super) fn publish(&mut self, machine: &mut Machine) {
        let Some(state) = &self.state else {
            return;
        };
        let published = &mut self.published;
        if published.nonce.is_none() {
            published.nonce = settings::random_bytes().map(Nonce::from_bytes);
        }
        let mut status = state.status(settings::uptime());
        status.nonce = published.nonce.map(|nonce| nonce.to_string());
        status.last_order.clone_from(&published.order);
        let lines = lines(&status);
        if machine.status.upgrade != lines {
            machine.status.upgrade = lines;
            machine.console.touch(std::time::Instant::now());
        }
        let Ok(text) = serde_json::to_vec(&status) else {
            return;
        };
        if text == published.shown {
            return;
        }
        match write_whole(Path::new(root::STATE), "upgrade.json", &text) {
            Ok(()) => published.shown = text,
            Err(error) if !published.complained => {
                published.complained = true;
                let text = format!("warning: upgrade: its state cannot be shown: {error}");
                machine.console.say(Level::Warning, &text);
            }
            Err(_) => {}
        }
    }
}

/// Writes a file beside the one it replaces, and renames it.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = folder.join(format!("{name}.new"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o444)
        .open(&fresh)?;
    file.write_all(bytes)?;
    fs::rename(&fresh, folder.join(name))
}

/// The rows of the screen: which image runs, whether a cold start proved it, and what is on trial.
fn lines(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(trial) = &status.trial {
        lines.push(format!("on trial {}: {}", trial.id, trial.phase));
    } else if let Some(running) = &status.running {
        let proved = if running.proved {
            "proved by a cold start"
        } else {
            "not proved by a cold start yet"
        };
        let image = &running.image;
        lines.push(format!("{} from {}, {proved}", image.version, image.place));
    }
    match (&status.candidate, status.waits) {
        (Some(candidate), Some(refusal)) => {
            lines.push(format!("{} waits: {refusal}", candidate.version));
        }
        (Some(candidate), None) => {
            lines.push(format!("{}: {}", candidate.version, status.stage));
        }
        (None, _) => {}
    }
    let failed = status.quarantine.last();
    lines.extend(failed.map(|failed| {
        let failure = &failed.failure;
        let digest = failed.digest.to_string();
        let short: String = digest.chars().take("sha256:".len() + 12).collect();
        format!("{short} failed ({}): {}", failure.phase, failure.reason)
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["first", "the second one", "3"] {
            write_whole(folder.path(), "upgrade.json", text.as_bytes()).unwrap();
            let found = fs::read_to_string(folder.path().join("upgrade.json")).unwrap();
            assert_eq!(found, text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
