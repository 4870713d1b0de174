//! Whether this provider can do its work. Every check looks, and every check can fail.

use std::os::fd::AsFd as _;

use boot_manifest::{Arch, Chained, Channel, Expect, Expiry, Floor, TrustRoot, verify_chained};
use serde::Serialize;

use crate::http::target::ArtifactTarget;
use crate::serve::catalog::{Catalog, now};
use crate::serve::limits::{ACCEPT_FAILURE_MEMORY, DISK_FREE_MIN};
use crate::serve::metrics::{Metrics, get};
use crate::serve::signed::SignedFile;
use crate::serve::tls::shown::Shown;

/// The outcome, as `/health` shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Health {
    /// `healthy` or `unhealthy`.
    pub(crate) status: &'static str,
    /// Each check.
    pub(crate) checks: Checks,
    /// Artifacts that can be served.
    pub(crate) artifacts: usize,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
    /// What is worth knowing and not wrong.
    pub(crate) notes: Vec<String>,
    /// When the manifest signed elsewhere expires, in seconds since 1970.
    #[serde(skip)]
    pub(crate) manifest_expires: Option<i64>,
}

/// The checks: true is good.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Checks {
    /// There is a kernel, and every artifact can be opened and is what the signed manifest names.
    pub(crate) artifacts_readable: bool,
    /// At least 100 MB are free, unless the file system is read-only or memory.
    pub(crate) disk_space_ok: bool,
    /// The signed manifest can be read and, when a trust root is known, verifies.
    pub(crate) manifest_ok: bool,
    /// Every artifact of the folder could be hashed, or will be.
    pub(crate) hashes_ok: bool,
    /// New clients are accepted: there are places, descriptors and memory for them.
    pub(crate) listener_ok: bool,
}

impl Checks {
    /// Each check with its name.
    pub(crate) fn named(&self) -> [(&'static str, bool); 5] {
        [
            ("artifacts_readable", self.artifacts_readable),
            ("disk_space_ok", self.disk_space_ok),
            ("manifest_ok", self.manifest_ok),
            ("hashes_ok", self.hashes_ok),
            ("listener_ok", self.listener_ok),
        ]
    }
}

impl Health {
    /// Whether all checks passed.
    pub(crate) fn is_good(&self) -> bool {
        self.checks.named().iter().all(|(_, is_good)| *is_good)
    }
}

/// What is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// What is served.
    pub(crate) catalog: &'a Catalog,
    /// The channel that has to work.
    pub(crate) channel: &'a Channel,
    /// Its architecture.
    pub(crate) arch: Arch,
    /// Whose manifests are believed.
    pub(crate) root: Option<&'a TrustRoot>,
    /// How accepting goes.
    pub(crate) metrics: &'a Metrics,
    /// Files that could not be hashed, and why.
    pub(crate) unhashable: &'a [String],
    /// The certificate of HTTPS.
    pub(crate) certificate: Option<&'a Shown>,
}

/// Looks at the folder, at the file system and at the listening sockets.
pub(crate) fn check(subject: Subject<'_>) -> Health {
    let Subject {
        catalog,
        channel,
        arch,
        root,
        ..
    } = subject;
    let mut problems = Vec::new();
    let mut notes = Vec::new();
    let scan = catalog.store().scan(channel, arch);
    for problem in &scan.problems {
        let list = if problem.reason.is_fault() {
            &mut problems
        } else {
            &mut notes
        };
        list.push(problem.to_string());
    }
    if scan.found.is_empty() {
        problems.push(format!("no artifacts found for {channel}/{arch}"));
    } else if !scan
        .found
        .iter()
        .any(|found| found.artifact.as_str() == "kernel")
    {
        problems.push("manifest missing required artifact: kernel".to_owned());
    }
    let mut artifacts_readable = problems.is_empty();
    let mut manifest_expires = None;
    let manifest_ok = match catalog.signed(channel, arch) {
        Ok(None) => {
            if catalog.signer().is_none() {
                notes.push("the manifest is unsigned: clients will refuse it".to_owned());
            }
            true
        }
        Ok(Some(signed)) => {
            let before = problems.len();
            manifest_expires = signed.view.as_ref().ok().map(|view| view.expires_at.unix());
            check_named(catalog, channel, arch, &signed, &mut problems, &mut notes);
            artifacts_readable &= problems.len() == before;
            check_signed(
                catalog,
                &signed,
                (channel, arch),
                root,
                &mut problems,
                &mut notes,
            )
        }
        Err(refusal) => {
            problems.push(refusal.to_string());
            false
        }
    };
    let disk_space_ok = disk_space_ok(catalog, &mut problems);
    let hashes_ok = subject.unhashable.is_empty();
    problems.extend_from_slice(subject.unhashable);
    let listener_ok = listener_ok(subject.metrics, &mut problems);
    // Like that of a manifest, its end does not stop serving: HTTP goes on, and who pins it does not look.
    notes.extend(subject.certificate.and_then(|shown| shown.ending(now())));
    let checks = Checks {
        artifacts_readable,
        disk_space_ok,
        manifest_ok,
        hashes_ok,
        listener_ok,
    };
    let artifacts = scan.found.len();
    let mut health = Health {
        status: "healthy",
        checks,
        artifacts,
        problems,
        notes,
        manifest_expires,
    };
    if !health.is_good() {
        health.status = "unhealthy";
    }
    health
}

/// Whether the files a signed manifest names are there and have its digests, as far as they were hashed.
fn check_named(
    catalog: &Catalog,
    channel: &Channel,
    arch: Arch,
    signed: &SignedFile,
    problems: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    let Ok(view) = &signed.view else { return };
    for named in &view.artifacts {
        let name = &named.filename;
        match catalog.store().find(channel, arch.as_str(), name) {
            Err(error) => {
                problems.push(format!("{name}: named by the signed manifest, but {error}"))
            }
            Ok(file) if file.size() != named.size => problems.push(format!(
                "{name}: has {} bytes, the signed manifest names {}; not served",
                file.size(),
                named.size
            )),
            Ok(file) => match catalog.known_digest(&file) {
                Some(digest) if digest != named.digest => problems.push(format!(
                    "{name}: is {digest}, the signed manifest names {}; not served",
                    named.digest
                )),
                Some(_) => {}
                None => notes.push(format!("{name}: is not hashed yet")),
            },
        }
    }
}

/// Whether clients that trust `root` would accept the manifest. Without a root only its form is looked at.
fn check_signed(
    catalog: &Catalog,
    signed: &SignedFile,
    (channel, arch): (&Channel, Arch),
    root: Option<&TrustRoot>,
    problems: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> bool {
    if let Err(error) = &signed.view {
        problems.push(format!("manifest.json: {error}"));
        return false;
    }
    let Some(root) = root else { return true };
    let expect = Expect {
        now: now(),
        floor: Floor::default(),
        channel: Some(channel),
        arch: Some(arch),
        // Expiry stops upgrading, never serving.
        expiry: Expiry::Report,
    };
    let roots = match catalog.roots(channel, arch) {
        Ok(roots) => roots,
        Err(refusal) => {
            problems.push(refusal.to_string());
            return false;
        }
    };
    match verify_chained(&signed.bytes, roots.as_deref(), root, &expect) {
        Ok(Chained {
            manifest: verified, ..
        }) => {
            if verified.expired() {
                notes.push(format!(
                    "manifest.json: expired at {}; clients will not upgrade to it",
                    verified.expires_at
                ));
            }
            true
        }
        Err(error) => {
            problems.push(format!("manifest.json: {error}"));
            false
        }
    }
}

/// Whether accepting worked lately. A process that hangs altogether does not answer at all.
fn listener_ok(metrics: &Metrics, problems: &mut Vec<String>) -> bool {
    let failed = metrics
        .last_accept_failure()
        .filter(|ago| *ago < ACCEPT_FAILURE_MEMORY);
    if let Some(ago) = failed {
        let seconds = ago.as_secs();
        problems.push(format!(
            "new clients could not be accepted {seconds} s ago, for want of descriptors or memory"
        ));
    }
    let (open, places) = (
        get(&metrics.connections_open),
        get(&metrics.connections_max),
    );
    let is_full = places > 0 && open >= places;
    if is_full {
        problems.push(format!(
            "all {places} places for connections are taken; new clients wait"
        ));
    }
    failed.is_none() && !is_full
}

/// Free space matters only where somebody can put a release: not on read-only media, and in memory the size is chosen.
fn disk_space_ok(catalog: &Catalog, problems: &mut Vec<String>) -> bool {
    let folder = catalog.store().root();
    let (Ok(space), Ok(kind)) = (
        rustix::fs::fstatvfs(folder.as_fd()),
        rustix::fs::fstatfs(folder.as_fd()),
    ) else {
        problems.push("the artifacts directory cannot be examined".to_owned());
        return false;
    };
    let is_read_only = space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let is_ok = has_room(is_read_only, is_memory(kind.f_type), free);
    if !is_ok {
        problems.push(format!(
            "only {free} bytes are free in the artifacts directory; {DISK_FREE_MIN} are wanted"
        ));
    }
    is_ok
}

fn has_room(is_read_only: bool, is_memory: bool, free: u64) -> bool {
    is_read_only || is_memory || free >= DISK_FREE_MIN
}

/// tmpfs and ramfs.
fn is_memory(file_system: i64) -> bool {
    matches!(file_system, 0x0102_1994 | 0x8584_58f6)
}

/// The files of a folder whose digests are not known yet.
pub(crate) fn unhashed(catalog: &Catalog, channel: &Channel, arch: Arch) -> Vec<ArtifactTarget> {
    let scan = catalog.store().scan(channel, arch);
    let target = |found: &artifact_store::Found| ArtifactTarget {
        channel: channel.clone(),
        arch,
        spelling: arch.as_str().to_owned(),
        name: found.file.name().clone(),
    };
    scan.found
        .iter()
        .filter(|found| catalog.known_digest(&found.file).is_none())
        .map(target)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::add;

    #[test]
    fn a_listener_that_fails_or_is_full_is_not_good() {
        let metrics = Metrics::default();
        let mut problems = Vec::new();
        assert!(listener_ok(&metrics, &mut problems));
        metrics.accept_failed();
        assert!(!listener_ok(&metrics, &mut problems));
        let metrics = Metrics::default();
        add(&metrics.connections_max, 2);
        add(&metrics.connections_open, 1);
        assert!(listener_ok(&metrics, &mut problems));
        add(&metrics.connections_open, 1);
        assert!(!listener_ok(&metrics, &mut problems));
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn space_counts_where_releases_can_be_put() {
        assert!(has_room(false, false, DISK_FREE_MIN));
        assert!(!has_room(false, false, DISK_FREE_MIN - 1));
        assert!(has_room(true, false, 0));
        assert!(has_room(false, true, 0));
        assert!(is_memory(0x0102_1994));
        assert!(!is_memory(0xef53));
    }
}
