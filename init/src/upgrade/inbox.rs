//! Makes events of what children report.
//!
//! A role may have been taken over, so nothing of a report is believed that was not verified here: an offer is a manifest
//! with good signatures, an order has those of an operator and the nonce of this moment. Everything else is a hint.

use std::fs::File;
use std::os::unix::fs::FileExt;

use boot_manifest::handoff::Report;
use boot_manifest::{Expiry, Manifest, Verified};
use upgrade::{Candidate, Event, Phase, Reason, Sizes};

use super::{Offered, Upgrade};
use crate::children::Role;
use crate::console::Level;
use crate::machine::{Machine, Note};
use crate::plan::Refusal;
use crate::{limits, verify};

impl Upgrade {
    /// Takes everything that children told since the last look.
    pub(super) fn take_notes(&mut self, machine: &mut Machine) {
        while let Some(note) = machine.take_note() {
            match note {
                Note::Report(role, report, files) => self.take_report(machine, role, report, files),
                Note::Restarted(Role::Stage | Role::Report) => {}
                Note::Restarted(role) => {
                    self.forget_growth(role.name());
                    self.push(Event::ChildRestarted(role.name().to_owned()));
                }
                Note::Ended(Role::Probe) => self.end_self_test(machine),
                Note::Ended(_) => {}
            }
        }
        let serves = machine.serves();
        if serves != self.served {
            self.served = serves;
            self.push(Event::Serving(serves));
        }
    }

    fn take_report(&mut self, machine: &mut Machine, role: Role, report: Report, files: Vec<File>) {
        match report {
            Report::Offer { origin } => match self.judge_offer(&origin, files) {
                Ok(Some(candidate)) => {
                    self.updater_works();
                    self.push(Event::Offered(Box::new(candidate)));
                }
                Ok(None) => self.updater_works(),
                Err(Refusal { code, reason }) => {
                    let text = format!("refused: {code}: offer of {origin}: {reason}");
                    machine.say_for(role, Level::Warning, &text);
                }
            },
            Report::Checked {
                code, ok, reason, ..
            } => {
                self.updater_said(ok, &code, &reason);
                self.push(Event::Checked { code, ok });
            }
            Report::Neighbours { live, same } => self.push(Event::Neighbours { live, same }),
            Report::Turn {
                granted,
                by,
                reason,
            } => self.push(Event::Turn {
                granted,
                by,
                reason,
            }),
            Report::Freshness { fresh: true, .. } => {}
            Report::Freshness { origin, reason, .. } => {
                let text = format!("warning: upgrade: {origin} may hold something back: {reason}");
                machine.say_for(role, Level::Warning, &text);
            }
            Report::Check { name, ok, reason } => self.take_check(machine, &name, ok, &reason),
            Report::Order { client } => self.take_order(machine, &client, files),
            Report::Ready {}
            | Report::Network { .. }
            | Report::Serving { .. }
            | Report::Request { .. }
            | Report::Progress { .. }
            | Report::Failed { .. }
            | Report::Handoff(_) => {}
        }
    }

    /// Verifies a manifest that `update` found. `None` is what runs here.
    fn judge_offer(
        &mut self,
        origin: &str,
        files: Vec<File>,
    ) -> Result<Option<Candidate>, Refusal> {
        let Some(running) = &self.running else {
            return Ok(None);
        };
        let mut files = files.into_iter();
        let none = || Refusal::new("bad-handoff", "an offer without a manifest");
        let manifest = files.next().ok_or_else(none)?;
        let roots = match files.next() {
            Some(file) => sealed_bytes("roots", &file, boot_manifest::ROOT_CHAIN_SIZE_MAX)?,
            None => Vec::new(),
        };
        let manifest = sealed_bytes("manifest", &manifest, boot_manifest::MANIFEST_SIZE_MAX)?;
        let identity = self.identity.after(&roots)?;
        let channel = running.offer.channel.parse().ok();
        let policy = identity.policy(channel.as_ref(), Expiry::Report);
        let manifest = verify::manifest(&manifest, &policy)?;
        let digest = manifest.digest();
        if digest == running.image.digest {
            return Ok(None);
        }
        let origin = crate::cmdline::url(origin)
            .ok_or_else(|| Refusal::new("bad-handoff", "an offer from nowhere"))?;
        let candidate = candidate(&manifest, &origin)?;
        self.offered.retain(|one| one.digest != digest);
        self.offered.push_back(Offered {
            digest,
            origin: origin.clone(),
        });
        while self.offered.len() > limits::OFFERS_KEPT {
            self.offered.pop_front();
        }
        Ok(Some(candidate))
    }

    /// An order counts once its signatures were checked against the operator keys and it names the nonce of this moment.
    fn take_order(&mut self, machine: &mut Machine, client: &str, files: Vec<File>) {
        let result = self.judge_order(files);
        match result {
            Ok(order) => {
                let text = format!("upgrade: {client} orders {}", order.action.as_str());
                machine.say_for(Role::Serve, Level::Info, &text);
                self.published.took_order(&order, client);
                self.push(Event::Ordered(upgrade::Order {
                    action: order.action,
                    digest: order.digest,
                    force: order.force,
                }));
            }
            Err(Refusal { code, reason }) => {
                let text = format!("refused: {code}: an order of {client}: {reason}");
                machine.say_for(Role::Serve, Level::Warning, &text);
            }
        }
    }

    fn judge_order(&self, files: Vec<File>) -> Result<boot_manifest::Order, Refusal> {
        let none = || Refusal::new("bad-handoff", "an order without bytes");
        let file = files.into_iter().next().ok_or_else(none)?;
        let bytes = sealed_bytes("order", &file, boot_manifest::ORDER_SIZE_MAX)?;
        let nonce = self
            .published
            .nonce()
            .ok_or_else(|| Refusal::new("no-nonce", "this machine has no random numbers yet"))?;
        let order = boot_manifest::verify_order(&bytes, &self.identity.trust, &nonce)
            .map_err(|error| Refusal::new(error.code(), error.to_string()))?;
        Ok((*order).clone())
    }
}

/// What the state machine wants to know of a manifest whose signatures are good.
fn candidate(manifest: &Verified<Manifest>, origin: &str) -> Result<Candidate, Refusal> {
    let size = |name| verify::artifact(manifest, name).map(|artifact| artifact.size);
    let (kernel, initramfs, rootfs) = (size("kernel")?, size("initramfs")?, size("rootfs")?);
    Ok(Candidate {
        digest: manifest.digest(),
        version: manifest.version.clone(),
        sequence: manifest.sequence,
        generation: manifest.generation,
        security_version: manifest.security_version,
        sizes: Sizes {
            kernel,
            initramfs,
            rootfs,
            slot: super::slots::needed(manifest)?,
        },
        expired: manifest.expired(),
        origin: origin.to_owned(),
    })
}

/// The bytes of a file that nobody can change any more.
fn sealed_bytes(name: &str, file: &File, size_max: usize) -> Result<Vec<u8>, Refusal> {
    verify::sealed(name, file)?;
    let size = verify::size(name, file)?;
    let size = usize::try_from(size).ok().filter(|size| *size <= size_max);
    let size = size.ok_or_else(|| {
        let reason = format!("{name}: more than {size_max} bytes");
        Refusal::new("too-large", reason)
    })?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| verify::io(name, &error))?;
    Ok(bytes)
}

/// A failure of the image on trial, for the record.
pub(super) fn failure(reason: Reason, phase: Phase, detail: &str) -> Event {
    Event::GateFailed(upgrade::Failure::new(reason, phase, detail))
}
