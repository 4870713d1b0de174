//! Whether what was found is the newest there is: somebody with a freshness key is asked with a number that nobody has used
//! before, which a mirror that is held back cannot answer.
//!
//! No clock is involved. A statement that is missing, or says that there is something newer than anybody offers, is a reason
//! to warn; it never stops serving, and never an upgrade to what was found.

use std::time::Duration;

use boot_manifest::limits::FRESHNESS_SIZE_MAX;
use boot_manifest::{
    Arch, Channel, Counters, Freshness, Nonce, StatementError, TrustRoot, verify_freshness,
};
use fetch::{FetchError, Fetcher, Url};

use super::limits::{FRESHNESS_ASKED_MAX, FRESHNESS_BUDGET};
use super::look;

/// Why a server gives no statement.
#[derive(Debug, thiserror::Error)]
pub(super) enum FreshError {
    /// It has none.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is not believed.
    #[error("{url}: {source}")]
    Statement {
        /// What was asked.
        url: Url,
        /// Which check failed.
        source: StatementError,
    },
}

/// What was learned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What was found is the newest.
    Fresh {
        /// Who says so.
        origin: String,
        /// The newest.
        sequence: u64,
    },
    /// There is something newer than anybody gave.
    HeldBack {
        /// Who says so.
        origin: String,
        /// The newest.
        sequence: u64,
        /// For people.
        reason: String,
    },
    /// Nobody could say.
    Unknown,
}

/// Asks some of these servers, in their order, until one can say.
pub(super) async fn ask(
    manifests: &[Url],
    root: &TrustRoot,
    (channel, arch): (&Channel, Arch),
    newest: Counters,
) -> Verdict {
    for manifest in manifests.iter().take(FRESHNESS_ASKED_MAX) {
        match statement(manifest, root, channel, arch).await {
            Ok(statement) => return judge(&manifest.host_header(), &statement, newest),
            Err(error) => tracing::debug!(%error, "no statement"),
        }
    }
    Verdict::Unknown
}

async fn statement(
    manifest: &Url,
    root: &TrustRoot,
    channel: &Channel,
    arch: Arch,
) -> Result<Freshness, FreshError> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| FetchError::Local(format!("there are no random numbers: {error}")))?;
    let nonce = Nonce::from_bytes(random);
    let question = format!("/freshness?nonce={nonce}&channel={channel}&arch={arch}");
    let url = manifest.join(&question).map_err(FetchError::Url)?;
    let bytes = Fetcher::new(look::patience())
        .document(&url, FRESHNESS_SIZE_MAX)
        .await?;
    let verified = verify_freshness(&bytes, root, &nonce, channel, arch);
    let verified = verified.map_err(|source| FreshError::Statement { url, source })?;
    Ok(Freshness::clone(&verified))
}

/// Compares a statement with the newest that anybody gave.
fn judge(origin: &str, statement: &Freshness, newest: Counters) -> Verdict {
    let (origin, sequence) = (origin.to_owned(), statement.sequence);
    let said = (statement.generation, statement.sequence);
    if said <= (newest.generation, newest.sequence) {
        return Verdict::Fresh { origin, sequence };
    }
    let reason = format!(
        "sequence {sequence} of generation {} exists, and nobody who was asked has it",
        statement.generation
    );
    Verdict::HeldBack {
        origin,
        sequence,
        reason,
    }
}

/// Whether it must be said that nobody could tell: `silent` is how long that has been so, and `is_expected` whether there
/// are freshness keys at all.
pub(super) fn is_overdue(silent: Duration, is_expected: bool) -> bool {
    is_expected && silent >= FRESHNESS_BUDGET
}

#[cfg(test)]
mod tests {
    use boot_manifest::Digest;

    use super::*;

    #[test]
    fn a_newer_one_that_nobody_has_is_held_back() {
        let statement = |generation, sequence| Freshness {
            nonce: Nonce::from_bytes([1; 16]),
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            generation,
            sequence,
            digest: Digest::of(b"x"),
        };
        let newest = Counters {
            generation: 2,
            sequence: 7,
            security_version: 1,
        };
        for (generation, sequence, held_back) in [
            (2, 7, false),
            (2, 6, false),
            (1, 99, false),
            (2, 8, true),
            (3, 1, true),
        ] {
            let verdict = judge("a", &statement(generation, sequence), newest);
            let found = matches!(verdict, Verdict::HeldBack { .. });
            assert_eq!(found, held_back, "{generation}.{sequence}");
        }
    }

    #[test]
    fn silence_matters_where_there_are_keys_and_after_a_while() {
        assert!(!is_overdue(FRESHNESS_BUDGET, false));
        assert!(!is_overdue(FRESHNESS_BUDGET / 2, true));
        assert!(is_overdue(FRESHNESS_BUDGET, true));
    }
}
