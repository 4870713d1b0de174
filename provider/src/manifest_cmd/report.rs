//! What the manifest commands say, as text and as JSON. Every text tells first whether anything was verified.

use std::fmt::Write as _;
use std::path::Path;

use boot_manifest::{KeyId, Manifest, SecretKey, UnverifiedView, Verified, VerifyError};
use serde_json::{Value, json};

use crate::trust::Trust;

/// Whether what is shown was verified.
pub(super) struct Status {
    signers: Option<Vec<KeyId>>,
    expired: bool,
}

impl Status {
    pub(super) fn of(verified: Option<&Verified<Manifest>>) -> Self {
        Self {
            signers: verified.map(|verified| verified.signers().to_vec()),
            expired: verified.is_some_and(Verified::expired),
        }
    }
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a KeyId>) -> String {
    let ids: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
    if ids.is_empty() {
        "nobody".to_owned()
    } else {
        ids.join(", ")
    }
}

/// The object for programs, with the newline that ends it.
fn object(value: &Value) -> String {
    format!("{value:#}\n")
}

/// After signing: what the signers have just vouched for.
pub(super) fn signed(out: &Path, manifest: &Manifest, keys: &[SecretKey]) -> String {
    let signers: Vec<KeyId> = keys.iter().map(|key| key.public().key_id()).collect();
    merged(out, manifest, &signers)
}

/// The same with the ids of those who signed.
pub(super) fn merged(out: &Path, manifest: &Manifest, signers: &[KeyId]) -> String {
    let kind = if signers.is_empty() {
        "draft, not signed: add signatures with `plasmd manifest sign`".to_owned()
    } else {
        format!("signed by {}", ids(signers))
    };
    format!("{}: {kind}\n{}", out.display(), contents(manifest))
}

/// The members of a payload, for people.
fn contents(manifest: &Manifest) -> String {
    let mut text = format!(
        "version     {} (sequence {}, security version {}, key generation {})\nfor         {}/{}\nvalid       {} to {}\ncmdline     {}\n",
        manifest.version,
        manifest.sequence,
        manifest.security_version,
        manifest.generation,
        manifest.channel,
        manifest.arch,
        manifest.created_at,
        manifest.expires_at,
        manifest.cmdline,
    );
    for artifact in &manifest.artifacts {
        let (name, file, size) = (&artifact.name, &artifact.filename, artifact.size);
        let _ = writeln!(text, "{name:<11} {file}, {size} bytes, {}", artifact.digest);
    }
    text
}

pub(super) fn shown_text(
    view: &UnverifiedView,
    payload: Option<&Manifest>,
    status: &Status,
) -> String {
    let mut text = match &status.signers {
        Some(signers) => format!("VERIFIED    signed by {}\n", ids(signers)),
        None => format!(
            "UNVERIFIED  claims to be signed by {}; anybody may have written this (-k FILE.pub verifies)\n",
            ids(&view.key_ids)
        ),
    };
    if status.expired {
        text += "EXPIRED     see the dates below\n";
    }
    match payload {
        Some(payload) => text += &contents(payload),
        None => {
            let _ = writeln!(
                text,
                "version     {} (sequence {})\nfor         {}/{}\nvalid       {} to {}",
                view.version,
                view.sequence,
                view.channel,
                view.arch,
                view.created_at,
                view.expires_at
            );
            for artifact in &view.artifacts {
                let (name, file, size) = (&artifact.name, &artifact.filename, artifact.size);
                let _ = writeln!(text, "{name:<11} {file}, {size} bytes, {}", artifact.digest);
            }
        }
    }
    text
}

pub(super) fn shown_json(
    view: &UnverifiedView,
    payload: Option<&Manifest>,
    status: &Status,
) -> String {
    let artifact = |artifact: &boot_manifest::UnverifiedArtifact| {
        json!({
            "name": artifact.name,
            "filename": artifact.filename,
            "size_bytes": artifact.size,
            "hash": artifact.digest,
            "download_url": artifact.download_url,
        })
    };
    object(&json!({
        "verified": status.signers.is_some(),
        "signers": status.signers,
        "claimed_signers": view.key_ids,
        "expired": status.expired,
        "manifest_version": view.sequence,
        "security_version": payload.map(|payload| payload.security_version),
        "generation": payload.map(|payload| payload.generation),
        "version": view.version,
        "channel": view.channel,
        "arch": view.arch,
        "created_at": view.created_at,
        "expires_at": view.expires_at,
        "cmdline": payload.map(|payload| &payload.cmdline),
        "artifacts": view.artifacts.iter().map(artifact).collect::<Vec<_>>(),
    }))
}

pub(super) fn verified_text(file: &Path, trust: &Trust, manifest: &Verified<Manifest>) -> String {
    let expired = if manifest.expired() {
        "EXPIRED     accepted on request\n"
    } else {
        ""
    };
    let note = trust
        .development_note()
        .map(|note| format!("note        {note}\n"));
    format!(
        "VERIFIED    {}\nsigned by   {} (trusted by {})\n{expired}{}{}",
        file.display(),
        ids(manifest.signers()),
        trust.file.display(),
        note.unwrap_or_default(),
        contents(manifest)
    )
}

pub(super) fn verified_json(file: &Path, trust: &Trust, manifest: &Verified<Manifest>) -> String {
    object(&json!({
        "status": "VERIFIED",
        "manifest": file.display().to_string(),
        "digest": manifest.digest(),
        "manifest_version": manifest.sequence,
        "security_version": manifest.security_version,
        "version": manifest.version,
        "channel": manifest.channel,
        "arch": manifest.arch,
        "created_at": manifest.created_at,
        "expires_at": manifest.expires_at,
        "expired": manifest.expired(),
        "key_ids": manifest.signers(),
        "trusted_by": trust.file.display().to_string(),
        "development_key": trust.root.is_development(),
        "error": null,
        "code": null,
    }))
}

pub(super) fn refused_json(file: &Path, error: &VerifyError) -> String {
    object(&json!({
        "status": "FAILED",
        "manifest": file.display().to_string(),
        "error": error.to_string(),
        "code": error.code(),
    }))
}
