//! The manifests beside the artifacts: whether clients will believe them, and for how long.

use artifact_store::MANIFEST_FILE;
use boot_manifest::{
    ChainedError, Expect, Expiry, Floor, MANIFEST_SIZE_MAX, Timestamp, TrustRoot, verify_chained,
    view,
};

use crate::doctor::artifacts::Release;
use crate::doctor::finding::Finding;
use crate::doctor::limits::EXPIRY_WARNING_DAYS;
use crate::trust;

/// Looks at each release's manifest. Gives the newest time of creation, which no clock can be behind.
pub(super) fn check(
    releases: &[Release],
    root: Option<&TrustRoot>,
    provider_signs: bool,
    now: Timestamp,
) -> (Vec<Finding>, Option<Timestamp>) {
    let mut newest: Option<Timestamp> = None;
    let findings = releases.iter().map(|release| {
        let (finding, created_at) = one(release, root, provider_signs, now);
        newest = newest.max(created_at);
        finding
    });
    (findings.collect(), newest)
}

fn one(
    release: &Release,
    root: Option<&TrustRoot>,
    provider_signs: bool,
    now: Timestamp,
) -> (Finding, Option<Timestamp>) {
    let name = format!("{}/{}", release.channel, release.arch);
    let file = release.folder.join(MANIFEST_FILE);
    if !file.exists() && provider_signs {
        let message = format!("{name}: signed by the provider itself, with its `key`");
        return (Finding::ok("manifest", message), None);
    }
    if !file.exists() {
        let finding = Finding::warn(
            "manifest",
            format!("{name}: none beside the artifacts"),
            "sign one: plasmd manifest create --key FILE; or let the provider do it: plasmd serve --key FILE",
        );
        return (finding, None);
    }
    let bytes = match trust::read(&file, MANIFEST_SIZE_MAX, "manifest") {
        Ok(bytes) => bytes,
        Err(error) => {
            let advice = "make it readable to the service: chmod a+r";
            return (Finding::bad("manifest", error.to_string(), advice), None);
        }
    };
    let shown = match view(&bytes) {
        Ok(shown) => shown,
        Err(error) => {
            let advice = "sign it anew: plasmd manifest create --key FILE";
            return (
                Finding::bad("manifest", format!("{name}: {error}"), advice),
                None,
            );
        }
    };
    if let Some(root) = root {
        let expect = Expect {
            now,
            floor: Floor::default(),
            channel: Some(&release.channel),
            arch: Some(release.arch),
            // Times are judged below, and expiry never stops serving.
            expiry: Expiry::Report,
        };
        let roots = match trust::roots_beside(&file) {
            Ok(roots) => roots,
            Err(error) => {
                let advice = "make it readable to the service: chmod a+r";
                return (Finding::bad("manifest", error.to_string(), advice), None);
            }
        };
        if let Err(error) = verify_chained(&bytes, roots.as_deref(), root, &expect) {
            let advice = match &error {
                ChainedError::Chain(_) => Some("make the chain anew: plasmd root append"),
                ChainedError::Manifest(error) => trust::hint(error),
            };
            let advice = advice.unwrap_or("sign it anew: plasmd manifest create --key FILE");
            return (
                Finding::bad("manifest", format!("{name}: {error}"), advice),
                None,
            );
        }
    }
    let signed = if root.is_some() {
        "verified"
    } else {
        "not verified: no trust root is configured"
    };
    let expires_at = shown.expires_at;
    let finding = if now >= expires_at {
        Finding::bad(
            "manifest",
            format!("{name}: expired at {expires_at}"),
            "sign a new one: plasmd manifest create --key FILE",
        )
    } else if now.plus_days(EXPIRY_WARNING_DAYS) >= expires_at {
        Finding::warn(
            "manifest",
            format!("{name}: expires soon, at {expires_at}"),
            "sign a new one: plasmd manifest create --key FILE",
        )
    } else if root.is_none() {
        Finding::warn(
            "manifest",
            format!("{name}: {signed}; expires {expires_at}"),
            "name the keys that clients trust: plasmd doctor --trust-root FILE, or put them into /etc/phase/trust-root.json",
        )
    } else {
        Finding::ok(
            "manifest",
            format!("{name}: {signed}, expires {expires_at}"),
        )
    };
    (finding, Some(shown.created_at))
}
