//! The first lines of the log: where, what, and what does not work. Reads nothing that serving would not read.

use crate::config::Source;
use crate::serve::app::App;
use crate::serve::catalog::now;
use crate::serve::confine;

/// What an operator wants to see first: where, what, and what does not work.
pub(super) fn summarise(app: &App, connections_max: usize) {
    let store = app.catalog.store();
    let (channel, arch) = (&app.channel, app.arch);
    let urls = app.process.urls();
    let mut urls = urls.iter();
    tracing::info!(
        url = %urls.next().map_or("", String::as_str), artifacts = %store.path().display(), channel = %channel,
        arch = %arch, connections_max, dht = app.dht.state(), mdns = app.announcement.state(), "serving"
    );
    if let Some(line) = app.boot.summary() {
        tracing::info!("{line}");
    }
    let in_force = app.in_force();
    if let Some(file) = &in_force.file {
        tracing::info!(file = %file.display(), "configuration file");
    }
    for setting in &in_force.settings {
        if setting.source != Source::Default {
            let value = setting.values.join(",");
            tracing::info!(key = setting.key, value, from = %setting.source, "setting");
        }
    }
    for url in urls {
        tracing::info!(url, "serving here too");
    }
    if let Some(certificates) = &app.certificates {
        let shown = certificates.shown();
        tracing::info!(
            pin = shown.pin,
            fingerprint = shown.fingerprint,
            authority_fingerprint = shown.authority_fingerprint,
            expires_at = shown.expires_at.map(tracing::field::display),
            "certificate"
        );
        if let Some(ending) = shown.ending(now()) {
            tracing::warn!("{ending}");
        }
    }
    let (mode, confinement) = app.process.confinement;
    tracing::info!(
        sandbox = %confinement, uid = rustix::process::geteuid().as_raw(), pid = std::process::id(), "confined"
    );
    confine::warn(mode, confinement);
    let scan = store.scan(channel, arch);
    for found in &scan.found {
        tracing::info!(
            artifact = %found.artifact, file = %found.file.name(), size = found.file.size(), "artifact"
        );
    }
    for problem in &scan.problems {
        if problem.reason.is_fault() {
            tracing::error!("{problem}");
        } else {
            tracing::warn!("{problem}");
        }
    }
    if scan.found.is_empty() {
        let path = store.path().display();
        tracing::warn!(
            "no artifacts found for {channel}/{arch}: expected \
             {path}/{channel}/{arch}/{{vmlinuz,initramfs.img,rootfs.squashfs}} \
             (vmlinuz required, initramfs.img recommended, rootfs.squashfs optional)"
        );
    }
    match (app.catalog.signed(channel, arch), app.catalog.signer()) {
        (Ok(Some(signed)), signer) => {
            if signer.is_some() {
                tracing::warn!(
                    "--key is not used for {channel}/{arch}: its manifest.json was signed elsewhere"
                );
            }
            match &signed.view {
                Ok(view) => tracing::info!(
                    sequence = view.sequence, version = view.version, expires_at = %view.expires_at,
                    "manifest.json is served as it was signed elsewhere"
                ),
                Err(error) => tracing::error!("manifest.json: {error}"),
            }
        }
        (Err(refusal), _) => tracing::error!("{refusal}"),
        (Ok(None), Some(signer)) => {
            tracing::info!(key_id = %signer.key.public().key_id(), "manifests are signed here");
        }
        (Ok(None), None) => tracing::warn!(
            "manifests are unsigned: clients will refuse them; use --key FILE, or put a signed manifest.json there"
        ),
    }
}
