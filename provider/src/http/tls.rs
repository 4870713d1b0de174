//! From an accepted connection to an encrypted one. Knows nothing of certificates: it is given a configuration, and another
//! one when that changes.
//!
//! A client that has not shown that it speaks TLS costs little, and only for so long: the handshake has a deadline, and
//! only so many may be under way, in all and for one address. Plain HTTP is told that this is the wrong port.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http::limits::{
    HANDSHAKE_WAIT_MAX, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, WRONG_SCHEME_REST_MAX,
};
use crate::http::seats::network;

/// What every TLS connection begins with.
const HANDSHAKE_RECORD: u8 = 0x16;

/// The whole answer to plain HTTP.
const WRONG_SCHEME: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 49\r\nConnection: close\r\n\r\nThis port speaks HTTPS: use https:// in the URL.\n";

/// TLS for the connections of a listener.
#[derive(Debug)]
pub(crate) struct Tls {
    config: RwLock<Arc<ServerConfig>>,
    handshakes: Handshakes,
}

impl Tls {
    /// Speaks TLS as `config` says.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        Self {
            config: RwLock::new(config),
            handshakes: Handshakes::default(),
        }
    }

    /// New connections get `config`; those that are open keep theirs.
    pub(crate) fn replace(&self, config: Arc<ServerConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Shakes hands with `client`.
    pub(crate) async fn accept(
        &self,
        client: IpAddr,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let Some(_place) = self.handshakes.enter(client) else {
            return Err(io::Error::other("too many handshakes are under way"));
        };
        let handshake = tokio::time::timeout(HANDSHAKE_WAIT_MAX, self.shake(stream));
        handshake
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn shake(&self, mut stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first[0] == HANDSHAKE_RECORD {
            let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
            return TlsAcceptor::from(config).accept(stream).await;
        }
        if first[0].is_ascii_uppercase() {
            stream.write_all(WRONG_SCHEME).await?;
            stream.shutdown().await?;
            // Closing with unread bytes would take the answer back.
            let rest = &mut stream.take(WRONG_SCHEME_REST_MAX);
            tokio::io::copy(rest, &mut tokio::io::sink()).await?;
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "not TLS"))
    }
}

/// The handshakes under way: in all, and by client network.
#[derive(Debug, Default)]
struct Handshakes(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until it is dropped.
struct Place<'a> {
    handshakes: &'a Handshakes,
    network: IpAddr,
}

impl Handshakes {
    fn enter(&self, client: IpAddr) -> Option<Place<'_>> {
        let network = network(client);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way: usize = all.values().sum();
        if under_way >= HANDSHAKES_MAX {
            return None;
        }
        let of_network = all.entry(network).or_default();
        if *of_network >= HANDSHAKES_PER_ADDRESS_MAX {
            return None;
        }
        *of_network += 1;
        Some(Place {
            handshakes: self,
            network,
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut all = self
            .handshakes
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(of_network) = all.get_mut(&self.network) {
            *of_network -= 1;
            if *of_network == 0 {
                all.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_bounded_by_network_and_in_all() {
        let handshakes = Handshakes::default();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let held: Vec<_> = (0..HANDSHAKES_PER_ADDRESS_MAX)
            .map(|n| handshakes.enter(ip(&format!("2001:db8::{n:x}"))).unwrap())
            .collect();
        assert!(handshakes.enter(ip("2001:db8::ffff")).is_none());
        assert!(handshakes.enter(ip("2001:db8:0:1::1")).is_some());
        drop(held);
        assert!(handshakes.0.lock().unwrap().is_empty(), "nothing is kept");
        let all: Vec<_> = (0..HANDSHAKES_MAX)
            .map(|n| {
                let [.., a, b] = n.to_be_bytes();
                handshakes.enter(IpAddr::from([10, 0, a, b])).unwrap()
            })
            .collect();
        assert!(handshakes.enter(ip("192.0.2.1")).is_none());
        drop(all);
        assert!(handshakes.enter(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn the_answer_to_plain_http_is_well_formed() {
        let text = std::str::from_utf8(WRONG_SCHEME).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    /// A server, and what became of a client that says `bytes` and no more.
    async fn outcome(bytes: &[u8]) -> (io::ErrorKind, tokio::time::Duration) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let tls = Tls::new(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.write_all(bytes).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let began = tokio::time::Instant::now();
        let error = tls.accept(peer.ip(), stream).await.unwrap_err();
        drop(client);
        (error.kind(), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_a_handshake_end_in_time() {
        for bytes in [
            &b""[..],
            b"\x16",
            b"\x16\x03\x01\x02\x00\x01",
            b"GET / HTTP/1.1\r\n",
        ] {
            let (kind, took) = outcome(bytes).await;
            assert_eq!(kind, io::ErrorKind::TimedOut, "{bytes:?}");
            let late = took.saturating_sub(HANDSHAKE_WAIT_MAX);
            assert!(
                took >= HANDSHAKE_WAIT_MAX && late.as_millis() < 100,
                "{took:?}"
            );
        }
        let (kind, took) = outcome(b"\x80\x00").await;
        assert_eq!(kind, io::ErrorKind::InvalidData);
        assert!(took.as_secs() < 1, "{took:?}");
    }
}
