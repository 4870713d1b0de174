//! TLS in front of a test's server, and proxies on the way to it: programs of other people, as small as they can be.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, KeyUsagePurpose, PublicKeyData as _};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// Speaks TLS with clients and passes what they say on. It ends with this value.
pub(crate) struct TlsFront {
    address: SocketAddr,
    /// The authority that signed the certificate.
    pub(crate) authority: String,
    /// The certificate itself, and the key in it, as DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) key_info: Vec<u8>,
    _runtime: Runtime,
}

impl TlsFront {
    /// In front of the server at `url`, for the names in the certificate.
    pub(crate) fn start(url: &str, names: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let target = address_of(url);
        let (runtime, listener) = listen();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Clients that do not believe the certificate end the handshake.
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut server = TcpStream::connect(target).await.unwrap();
                    let _gone = copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        Self {
            address,
            authority: issuer.pem(),
            certificate: certificate.der().to_vec(),
            key_info: key.subject_public_key_info(),
            _runtime: runtime,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

/// A proxy that answers `CONNECT` with a tunnel, and passes everything else to a server as it is.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl Proxy {
    /// Everything goes to the server at `url`, whatever name clients say; or nothing, with `refusal` as the answer.
    pub(crate) fn start(url: &str, refusal: Option<&'static str>) -> Self {
        let target = address_of(url);
        let (runtime, listener) = listen();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let tunnel = text.starts_with("CONNECT ");
                    seen.lock().unwrap().push(text);
                    if let Some(refusal) = refusal {
                        let _gone = stream.write_all(refusal.as_bytes()).await;
                        return;
                    }
                    let mut server = TcpStream::connect(target).await.unwrap();
                    if tunnel {
                        let answer = b"HTTP/1.1 200 Connection established\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    } else {
                        server.write_all(&head).await.unwrap();
                    }
                    let _gone = copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        Self {
            address,
            heads,
            _runtime: runtime,
        }
    }

    /// The header of the first request on each connection.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn listen() -> (Runtime, TcpListener) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    (runtime, listener)
}

fn address_of(url: &str) -> SocketAddr {
    let authority = url.split("://").nth(1).unwrap();
    authority.split('/').next().unwrap().parse().unwrap()
}
