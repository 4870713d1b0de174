//! Why a fetch failed: one variant for each thing a caller, a person or a test can tell apart.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use boot_manifest::{ChainError, Digest, VerifyError};
use http::StatusCode;

use crate::pace::TooSlow;
use crate::url::{Url, UrlError};

/// Why a manifest or artifact could not be fetched. Nothing that did not verify was kept.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is not one this crate can fetch.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// No connection.
    #[error("{url}: cannot be reached: {reason}")]
    Unreachable {
        /// What was asked for.
        url: Url,
        /// What was tried and what came of it.
        reason: String,
    },
    /// The server does not have it.
    #[error("{url}: not found ({status})")]
    NotFound {
        /// What was asked for.
        url: Url,
        /// 404 or 410.
        status: StatusCode,
    },
    /// The server answered something else than the file.
    #[error("{url}: the server refused: {status}")]
    Refused {
        /// What was asked for.
        url: Url,
        /// Its answer.
        status: StatusCode,
    },
    /// The server has no place for this request now.
    #[error("{url}: the server is busy, and asks to come again in {after:?}")]
    Busy {
        /// What was asked for.
        url: Url,
        /// When it wants to be asked again.
        after: Duration,
    },
    /// Too many redirects.
    #[error("{from}: redirects to {to}; {followed} redirects are followed")]
    Redirect {
        /// The last one that was asked.
        from: Url,
        /// Where it would have gone on.
        to: Url,
        /// How many were followed.
        followed: u32,
    },
    /// It redirects away from TLS.
    #[error("{from}: redirects to {to}, which is not protected by TLS; that is not followed")]
    Downgrade {
        /// The one that was asked.
        from: Url,
        /// Where it would have gone on.
        to: Url,
    },
    /// The server's TLS is not believed.
    #[error("{url}: TLS: {reason}")]
    Tls {
        /// What was asked for.
        url: Url,
        /// What is wrong with it.
        reason: String,
    },
    /// What came back is not HTTP, or not an answer to what was asked.
    #[error("{url}: not a valid HTTP answer: {reason}")]
    NotHttp {
        /// What was asked for.
        url: Url,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection ended too early.
    #[error("{url}: the transfer was cut short after {received} bytes: {reason}")]
    CutShort {
        /// What was asked for.
        url: Url,
        /// Bytes of the body that had arrived.
        received: u64,
        /// What ended it.
        reason: String,
    },
    /// The server has fewer bytes than the manifest says.
    #[error("{url}: the server has {found} bytes, the manifest says {expected}")]
    TooShort {
        /// What was asked for.
        url: Url,
        /// Of the manifest.
        expected: u64,
        /// Of the server.
        found: u64,
    },
    /// Too little came in too long a time.
    #[error("{url}: too slow: {slow}")]
    TooSlow {
        /// What was asked for.
        url: Url,
        /// What took too long.
        slow: TooSlow,
    },
    /// The server sends more than there can be.
    #[error("{url}: the server sends {} bytes, {limit} are expected", found.map_or("more".to_owned(), |found| found.to_string()))]
    TooLarge {
        /// What was asked for.
        url: Url,
        /// How much was accepted at most.
        limit: u64,
        /// What the server announced, if it did.
        found: Option<u64>,
    },
    /// The bytes are not what the manifest names.
    #[error(transparent)]
    BadHash(#[from] Box<BadHash>),
    /// The manifest does not verify.
    #[error("{url}: {source}")]
    Verify {
        /// Where it came from.
        url: Url,
        /// Which check failed.
        source: VerifyError,
    },
    /// The root chain beside the manifest does not lead to the keys that signed it.
    #[error("{url}: {source}")]
    Roots {
        /// Where the manifest came from.
        url: Url,
        /// Which check failed.
        source: Box<ChainError>,
    },
    /// The manifest has no such artifact.
    #[error("the manifest has no artifact {name} (it has: {})", has.join(", "))]
    NoSuchArtifact {
        /// What was asked for.
        name: String,
        /// What there is.
        has: Vec<String>,
    },
    /// Chunks are missing and there is nobody to ask.
    #[error("there is no place to fetch the artifact {name} from")]
    NoSource {
        /// What was asked for.
        name: String,
    },
    /// Every source failed.
    #[error("no source could give {name}: {}", list(errors))]
    Exhausted {
        /// What was asked for.
        name: String,
        /// Of each source, the last one.
        errors: Vec<FetchError>,
    },
    /// Several sources together were not done in time.
    #[error("{name}: not done within {limit:?}: {}", brought(sources))]
    TooLate {
        /// What was asked for.
        name: String,
        /// The time it had.
        limit: Duration,
        /// What each source was, and the bytes that it brought.
        sources: Vec<(Url, u64)>,
    },
    /// This machine is in the way: no more connections, no certificates.
    #[error("{0}")]
    Local(String),
    /// The place for the bytes failed: disk full, no permission, no memory.
    #[error(transparent)]
    Sink(Box<dyn Error + Send + Sync>),
}

/// A chunk that arrived with other bytes than the manifest names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url}: bad hash: {artifact} ({filename}) chunk {chunk}, bytes {}-{}: expected {expected}, computed {computed}",
    range.start, range.end - 1
)]
pub struct BadHash {
    /// Where it came from.
    pub url: Url,
    /// Name of the artifact.
    pub artifact: String,
    /// Its file name.
    pub filename: String,
    /// Number of the chunk, from 0.
    pub chunk: usize,
    /// Which bytes of the file.
    pub range: Range<u64>,
    /// The digest the manifest names.
    pub expected: Digest,
    /// The digest of what arrived.
    pub computed: Digest,
}

impl FetchError {
    /// A stable name for programs and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Url(_) => "bad-url",
            Self::Unreachable { .. } => "unreachable",
            Self::NotFound { .. } | Self::NoSource { .. } => "not-found",
            Self::Refused { .. }
            | Self::Busy { .. }
            | Self::Redirect { .. }
            | Self::Downgrade { .. } => "refused-status",
            Self::Tls { .. } => "bad-certificate",
            Self::NotHttp { .. } => "not-http",
            Self::CutShort { .. } | Self::TooShort { .. } => "cut-short",
            Self::TooSlow { .. } | Self::TooLate { .. } => "too-slow",
            Self::TooLarge { .. } => "too-large",
            Self::BadHash(_) => "bad-hash",
            Self::Verify { source, .. } => source.code(),
            Self::Roots { source, .. } => source.code(),
            Self::NoSuchArtifact { .. } => "no-such-artifact",
            Self::Exhausted { errors, .. } => shared_code(errors),
            Self::Local(_) | Self::Sink(_) => "local",
        }
    }

    /// Whether the same request may well succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::CutShort { .. } | Self::Busy { .. } => true,
            Self::TooSlow { slow, .. } => !matches!(
                slow,
                TooSlow::Total { .. } | TooSlow::Others { .. } | TooSlow::Stalled
            ),
            Self::Refused { status, .. } => {
                matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Exhausted { errors, .. } => errors.iter().any(Self::is_transient),
            Self::Url(_)
            | Self::NotFound { .. }
            | Self::Redirect { .. }
            | Self::Downgrade { .. }
            | Self::Tls { .. }
            | Self::Local(_)
            | Self::NotHttp { .. }
            | Self::TooShort { .. }
            | Self::TooLarge { .. }
            | Self::BadHash(_)
            | Self::Verify { .. }
            | Self::Roots { .. }
            | Self::NoSuchArtifact { .. }
            | Self::NoSource { .. }
            | Self::TooLate { .. }
            | Self::Sink(_) => false,
        }
    }

    pub(crate) fn not_http(url: &Url, reason: String) -> Self {
        Self::NotHttp {
            url: url.clone(),
            reason,
        }
    }

    pub(crate) fn too_slow(url: &Url, slow: TooSlow) -> Self {
        Self::TooSlow {
            url: url.clone(),
            slow,
        }
    }

    pub(crate) fn cut_short(url: &Url, received: u64, reason: impl Into<String>) -> Self {
        Self::CutShort {
            url: url.clone(),
            received,
            reason: reason.into(),
        }
    }

    /// The error for an answer that is neither 200 nor, where it was asked for, 206.
    pub(crate) fn status(url: &Url, status: StatusCode) -> Self {
        let url = url.clone();
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Self::NotFound { url, status },
            _ => Self::Refused { url, status },
        }
    }
}

/// The code that all errors have, or the one that says that they differ.
fn shared_code(errors: &[FetchError]) -> &'static str {
    let mut codes = errors.iter().map(FetchError::code);
    match codes.next() {
        Some(first) if codes.all(|code| code == first) => first,
        _ => "all-failed",
    }
}

fn list(errors: &[FetchError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn brought(sources: &[(Url, u64)]) -> String {
    let texts = sources
        .iter()
        .map(|(url, bytes)| format!("{url} brought {bytes} bytes"));
    texts.collect::<Vec<String>>().join(", ")
}

/// The text of an error and of what caused it, where the causes add something.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
