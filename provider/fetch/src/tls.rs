//! Whose TLS certificates are believed. Integrity does not rest on this: the manifest is signed. TLS keeps others on the
//! way from seeing what is fetched, and from stopping it selectively.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use boot_manifest::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limits::CERTIFICATES_SIZE_MAX;

/// Whom to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The certificate authorities of this system.
    System,
    /// Those in a PEM file, and no others.
    File(PathBuf),
    /// The server whose certificate, or the public key in it (SubjectPublicKeyInfo), has this SHA-256, and no other;
    /// names and dates in the certificate do not matter then.
    Pin(Digest),
}

impl Trust {
    /// Speaks TLS over `stream` with the server that `host` names, for callers that ask one thing and need no [`Fetcher`].
    ///
    /// # Errors
    /// One sentence about why the server is not believed, or cannot be spoken to.
    ///
    /// [`Fetcher`]: crate::Fetcher
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let connector = TlsConnector::from(Arc::new(config(self)?));
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let connected = connector.connect(name, stream).await;
        connected.map_err(|error| {
            reason(&error).unwrap_or_else(|| format!("during the TLS handshake: {error}"))
        })
    }
}

/// What TLS needs to know, or one sentence about why there is none.
pub(crate) fn config(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    let mut config = match trust {
        Trust::Pin(pin) => {
            let verifier = Arc::new(Pinned {
                pin: *pin,
                provider,
            });
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        }
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::File(path) => builder.with_root_certificates(roots_of(path)?),
    }
    .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = match found.errors.first() {
            Some(error) => format!(": {error}"),
            None => String::new(),
        };
        return Err(format!(
            "this system has no certificates to check https servers with{why}"
        ));
    }
    Ok(roots)
}

fn roots_of(path: &std::path::Path) -> Result<RootCertStore, String> {
    use io::Read as _;

    let failed = |reason: String| format!("{}: {reason}", path.display());
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut pem = Vec::new();
    file.take(CERTIFICATES_SIZE_MAX + 1)
        .read_to_end(&mut pem)
        .map_err(|error| failed(error.to_string()))?;
    if pem.len() as u64 > CERTIFICATES_SIZE_MAX {
        return Err(failed("is too large for certificates".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("has no certificate (PEM)".to_owned()));
    }
    Ok(roots)
}

/// What is wrong with the TLS of a server; nothing when the connection just ended.
pub(crate) fn reason(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            match (why.is::<WrongPin>(), why.to_string()) {
                (true, text) => text,
                (false, text) if text.contains("CaUsedAsEndEntity") => {
                    "the server's certificate is an authority's own; pin it instead".to_owned()
                }
                (false, text) => format!("invalid peer certificate: {text}"),
            }
        }
        rustls::Error::InvalidMessage(_) => {
            format!("this is not TLS; is it an http server? ({error})")
        }
        error => error.to_string(),
    })
}

/// Believes one certificate or key.
#[derive(Debug)]
struct Pinned {
    pin: Digest,
    provider: Arc<CryptoProvider>,
}

/// Another certificate than the pinned one.
#[derive(Debug, thiserror::Error)]
#[error("the server has another certificate than the pinned one: its key is {key}")]
struct WrongPin {
    key: Digest,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let key = Digest::of(&key);
        if key == self.pin || Digest::of(end_entity) == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = OtherError(Arc::new(WrongPin { key }));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(
            wrong,
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
