//! The certificate of the provider: read from files, or made here once and kept. What is done with it is in [`crate::http::tls`].
//!
//! TLS keeps what is fetched from those who listen; whether it is genuine is shown by the signatures of the manifest alone.
//! A reload that fails leaves the certificate that is in force.

pub(crate) mod made;
pub(crate) mod shown;
mod validity;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::exit::CommandError;
use crate::http::tls::Tls;
use crate::serve::args::TlsArgs;
use crate::serve::limits::PEM_SIZE_MAX;
use crate::serve::reload::Outcome;
use crate::serve::tls::made::Made;
use crate::serve::tls::shown::Shown;

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// A file cannot be read, made or written.
    #[error("{}: {error}", path.display())]
    File {
        path: PathBuf,
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Content { path: PathBuf, reason: String },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Making(#[from] rcgen::Error),
}

impl Problem {
    fn file(path: &Path, error: std::io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            error,
        }
    }

    fn content(path: &Path, reason: impl ToString) -> Self {
        Self::Content {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Where the certificate comes from.
#[derive(Debug)]
enum Source {
    /// Somebody else looks after it.
    Files { certificate: PathBuf, key: PathBuf },
    /// It was made here.
    Made(Made),
}

/// A certificate with its key, as clients will see it.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// The certificate in force, and where the next one comes from.
#[derive(Debug)]
pub(crate) struct Certificates {
    source: Source,
    tls: Arc<Tls>,
    shown: RwLock<Shown>,
    /// One reload at a time.
    reloading: Mutex<()>,
}

impl Certificates {
    /// Reads or makes the certificate.
    pub(super) fn open(args: &TlsArgs) -> Result<Self, CommandError> {
        let source = match (&args.tls_cert, &args.tls_key) {
            (Some(certificate), Some(key)) => Source::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            _ => Source::Made(Made::at(&args.state_dir())),
        };
        source.warn_if_others_can_read();
        let identity = source.read();
        let loaded = identity.and_then(|identity| source.load(identity));
        let (config, shown) = loaded.map_err(|problem| {
            let hint = match &source {
                Source::Files { .. } => {
                    "--tls-cert takes a PEM file with the certificate and those of its issuers, --tls-key the PEM file of its private key"
                }
                Source::Made(_) => {
                    "--state-dir names a directory that may be written; a damaged certificate or key there is made again once it is removed"
                }
            };
            CommandError::local(format!("TLS: {problem}")).hint(hint)
        })?;
        Ok(Self {
            source,
            tls: Arc::new(Tls::new(config)),
            shown: RwLock::new(shown),
            reloading: Mutex::new(()),
        })
    }

    /// What connections are encrypted with.
    pub(super) fn tls(&self) -> Arc<Tls> {
        Arc::clone(&self.tls)
    }

    /// What people can compare.
    pub(crate) fn shown(&self) -> Shown {
        self.shown
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the files again, or makes a new certificate when the addresses of this machine have changed. New connections
    /// get it. After an error the one in force stays.
    pub(crate) fn reload(&self) -> Result<Outcome, Problem> {
        let _one = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (config, shown) = self.source.load(self.source.read()?)?;
        let mut current = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        if *current == shown {
            return Ok(Outcome::Same);
        }
        self.tls.replace(config);
        *current = shown;
        Ok(Outcome::Changed)
    }

    /// Files that a reload reads, beside the directory of [`Certificates::state`].
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match &self.source {
            Source::Files { certificate, key } => vec![certificate.clone(), key.clone()],
            Source::Made(_) => Vec::new(),
        }
    }

    /// The directory of a certificate that was made here, which a reload may write to.
    pub(super) fn state(&self) -> Option<&Path> {
        match &self.source {
            Source::Files { .. } => None,
            Source::Made(made) => Some(made.folder()),
        }
    }
}

impl Source {
    fn warn_if_others_can_read(&self) {
        use std::os::unix::fs::PermissionsExt as _;

        let Self::Files { key, .. } = self else {
            return;
        };
        let mode = std::fs::metadata(key).map_or(0, |about| about.permissions().mode());
        // A group for keys is usual.
        if mode & 0o007 != 0 {
            tracing::warn!(file = %key.display(), "the key of the certificate can be read by everybody; run chmod o= on it");
        }
    }

    fn read(&self) -> Result<Identity, Problem> {
        match self {
            Self::Made(made) => made.identity(&made::names()),
            Self::Files { certificate, key } => Ok(Identity {
                chain: read_chain(certificate)?,
                key: read_key(key)?,
            }),
        }
    }

    fn load(&self, identity: Identity) -> Result<(Arc<ServerConfig>, Shown), Problem> {
        let (path, authority) = match self {
            Self::Files { certificate, .. } => (certificate.clone(), None),
            Self::Made(made) => (made.certificate(), Some(made.authority()?)),
        };
        let shown = Shown::of(&identity.chain, authority.as_ref())
            .map_err(|error| Problem::content(&path, error))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(identity.chain, identity.key)
            })
            .map_err(|error| Problem::content(&path, error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((Arc::new(config), shown))
    }
}

/// Every certificate of a PEM file.
pub(crate) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let pem = read_pem(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::content(path, error))?;
    if chain.is_empty() {
        return Err(Problem::content(path, "holds no certificate in PEM form"));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::from_pem_slice(&read_pem(path)?).map_err(|error| {
        let reason = match error {
            rustls_pki_types::pem::Error::NoItemsFound => {
                "holds no private key in PEM form".to_owned()
            }
            other => other.to_string(),
        };
        Problem::content(path, reason)
    })
}

/// A PEM file, wiped from memory after use: it may hold a key.
fn read_pem(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, Problem> {
    let failed = |error| Problem::file(path, error);
    let file = std::fs::File::open(path).map_err(failed)?;
    // Room for all of it from the start: growing would leave copies behind.
    let mut pem = zeroize::Zeroizing::new(Vec::with_capacity(PEM_SIZE_MAX + 1));
    file.take(PEM_SIZE_MAX as u64 + 1)
        .read_to_end(&mut pem)
        .map_err(failed)?;
    if pem.len() > PEM_SIZE_MAX {
        return Err(Problem::content(
            path,
            format!("has more than {PEM_SIZE_MAX} bytes"),
        ));
    }
    Ok(pem)
}
