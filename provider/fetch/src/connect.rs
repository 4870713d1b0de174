//! Opening connections: names, addresses, proxies, TLS. One deadline covers all of it.
//!
//! A proxy is asked for `http` files by their whole URL, and for a tunnel (`CONNECT`) to `https` servers, so it never
//! sees what TLS protects. Which one, if any, is what the environment says. Only proxies that are spoken to in plain
//! HTTP are known.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::FetchError;
use crate::limits::{HEADERS_MAX, PROXY_ANSWER_SIZE_MAX, READ_BUFFER_SIZE};
use crate::tls::{self, Trust};
use crate::url::{Url, UrlError, printable};

/// How servers are reached. Without anything set: directly, and in plain HTTP only.
#[derive(Debug, Default)]
pub(crate) struct Dialer {
    /// Whom to believe in TLS; nothing where TLS is not spoken.
    trust: Option<Trust>,
    /// Made of `trust` when the first `https` server is connected to.
    tls: OnceLock<Arc<ClientConfig>>,
    proxies: Option<Matcher>,
}

/// A connection to a server, perhaps by way of a proxy.
pub(crate) struct Connection {
    pub(crate) url: Url,
    sender: SendRequest<Empty<Bytes>>,
    /// Moves the bytes; aborted with the connection.
    driver: JoinHandle<()>,
    /// The proxy that reads the requests, if one does.
    proxy: Option<Intercept>,
    /// Of the other end.
    address: Option<SocketAddr>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Waits until a request can be sent.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        self.sender.ready().await
    }

    /// Sends a request and waits for the header of the answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.send_request(request).await
    }

    /// The address of the other end.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What stands in the first line of a request for `url`: a proxy needs all of it.
    pub(crate) fn target(&self, url: &Url) -> String {
        match self.proxy {
            None => url.target().to_owned(),
            Some(_) => url.to_string(),
        }
    }

    /// What the proxy wants to know about this client.
    pub(crate) fn proxy_credentials(&self) -> Option<HeaderValue> {
        self.proxy.as_ref()?.basic_auth().cloned()
    }
}

impl Dialer {
    pub(crate) fn new(trust: Option<Trust>, proxies_from_environment: bool) -> Self {
        Self {
            trust,
            tls: OnceLock::new(),
            proxies: proxies_from_environment.then(Matcher::from_env),
        }
    }

    /// Whether `https` servers can be connected to.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.trust.is_some()
    }

    /// Opens a connection for requests to the server of `url`.
    pub(crate) async fn connect(
        &self,
        url: &Url,
        deadline: Duration,
    ) -> Result<Connection, FetchError> {
        let tls = if url.is_https() {
            Some(self.tls(url)?)
        } else {
            None
        };
        let began = Instant::now();
        let proxy = self.proxy(url)?;
        let stream = match &proxy {
            None => connect_to(url, url.host(), url.port(), deadline).await?,
            Some((_, host, port)) => connect_to(url, host, *port, deadline).await?,
        };
        let address = stream.peer_addr().ok();
        let left = deadline.saturating_sub(began.elapsed());
        let opening = async {
            match (tls, proxy) {
                (None, proxy) => handshake(url, stream, proxy.map(|found| found.0)).await,
                (Some(tls), proxy) => {
                    let mut stream = stream;
                    if let Some((proxy, host, port)) = proxy {
                        let name = format!("{host}:{port}");
                        open_tunnel(&mut stream, url, &proxy)
                            .await
                            .map_err(|reason| {
                                unreachable(url, format!("the proxy {name} {reason}"))
                            })?;
                    }
                    let stream = speak_tls(url, stream, tls).await?;
                    handshake(url, stream, None).await
                }
            }
        };
        let mut opened = timeout(left, opening).await.unwrap_or_else(|_| {
            let reason = format!("connected, and then silent for {left:?}");
            Err(unreachable(url, reason))
        })?;
        opened.address = address;
        Ok(opened)
    }

    /// Whether requests to the server of `url` go by way of a proxy, usable or not.
    pub(crate) fn has_proxy_for(&self, url: &Url) -> bool {
        !matches!(self.proxy(url), Ok(None))
    }

    fn tls(&self, url: &Url) -> Result<Arc<ClientConfig>, FetchError> {
        if let Some(tls) = self.tls.get() {
            return Ok(Arc::clone(tls));
        }
        let Some(trust) = &self.trust else {
            return Err(FetchError::Url(UrlError::Https(url.to_string())));
        };
        let tls = Arc::new(tls::config(trust).map_err(FetchError::Local)?);
        Ok(Arc::clone(self.tls.get_or_init(|| tls)))
    }

    /// The proxy for a URL, with its host and port.
    fn proxy(&self, url: &Url) -> Result<Option<(Intercept, String, u16)>, FetchError> {
        let Some(proxies) = &self.proxies else {
            return Ok(None);
        };
        // An address with a zone is no URI for others; it is on this link, so there is no proxy to it.
        let Ok(uri) = url.to_string().parse::<Uri>() else {
            return Ok(None);
        };
        let Some(proxy) = proxies.intercept(&uri) else {
            return Ok(None);
        };
        let uri = proxy.uri();
        let usable = uri.host().filter(|_| uri.scheme_str() == Some("http"));
        let Some(host) = usable else {
            let scheme = printable(uri.scheme_str().unwrap_or_default());
            return Err(FetchError::Local(format!(
                "the environment names a proxy for {url} that speaks {scheme}; only http proxies are supported"
            )));
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(80);
        Ok(Some((proxy, host, port)))
    }
}

fn unreachable(url: &Url, reason: String) -> FetchError {
    FetchError::Unreachable {
        url: url.clone(),
        reason,
    }
}

/// Connects to one of the addresses of a host; the deadline covers name look-up and all of them.
async fn connect_to(
    url: &Url,
    host: &str,
    port: u16,
    deadline: Duration,
) -> Result<TcpStream, FetchError> {
    let began = Instant::now();
    let looked_up = timeout(deadline, lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = match looked_up {
        Err(_) => {
            let reason = format!("no answer about the name {host} within {deadline:?}");
            return Err(unreachable(url, reason));
        }
        Ok(Err(error)) => {
            let reason = format!("the name {host} cannot be looked up: {error}");
            return Err(ours(&error).unwrap_or_else(|| unreachable(url, reason)));
        }
        Ok(Ok(addresses)) => addresses.collect(),
    };
    let mut reason = format!("the name {host} has no address");
    for (index, address) in addresses.iter().enumerate() {
        // What is left is shared, so that one dead address does not use up the time of the next.
        let left = deadline.saturating_sub(began.elapsed());
        let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match timeout(left / others, TcpStream::connect(address)).await {
            Err(_) => reason = format!("{address} does not answer"),
            Ok(Err(error)) => {
                if let Some(error) = ours(&error) {
                    return Err(error);
                }
                reason = format!("{address}: {error}");
            }
            Ok(Ok(stream)) => {
                // One small request is all this side ever sends: Nagle's algorithm could only delay it.
                return match stream.set_nodelay(true) {
                    Ok(()) => Ok(stream),
                    Err(error) => Err(unreachable(url, format!("{address}: {error}"))),
                };
            }
        }
    }
    Err(unreachable(url, reason))
}

/// An error that says something about this machine, not about a server.
fn ours(error: &io::Error) -> Option<FetchError> {
    let text = match rustix::io::Errno::from_io_error(error)? {
        rustix::io::Errno::MFILE => "this process may not open more files or connections",
        rustix::io::Errno::NFILE => "this machine has no room for more open files",
        rustix::io::Errno::NOBUFS | rustix::io::Errno::NOMEM => {
            "this machine has no memory for another connection"
        }
        _ => return None,
    };
    Some(FetchError::Local(format!("{text}: {error}")))
}

/// Asks a proxy to pass bytes on to the server of `url`.
async fn open_tunnel(stream: &mut TcpStream, url: &Url, proxy: &Intercept) -> Result<(), String> {
    let host = url.host();
    let host = if host.contains(':') {
        format!("[{host}]:{}", url.port())
    } else {
        format!("{host}:{}", url.port())
    };
    let mut request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    if let Some(credentials) = proxy.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(credentials.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let failed = |error: io::Error| format!("ended the connection: {error}");
    stream.write_all(&request).await.map_err(failed)?;
    let mut answer = Vec::new();
    // Byte by byte, because what follows is the server's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= PROXY_ANSWER_SIZE_MAX {
            return Err("does not end its answer".to_owned());
        }
        answer.push(stream.read_u8().await.map_err(failed)?);
    }
    let line = answer
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1));
    match status {
        Some(status) if status.len() == 3 && status.starts_with('2') => Ok(()),
        _ => Err(format!("refused a tunnel to {host}: {}", printable(&line))),
    }
}

async fn speak_tls(
    url: &Url,
    stream: TcpStream,
    config: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, FetchError> {
    // The zone of an address is this machine's business.
    let host = url.host().split('%').next().unwrap_or_default().to_owned();
    let name = ServerName::try_from(host).map_err(|error| FetchError::Tls {
        url: url.clone(),
        reason: error.to_string(),
    })?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| match tls::reason(&error) {
        Some(reason) => FetchError::Tls {
            url: url.clone(),
            reason,
        },
        None => unreachable(url, format!("during the TLS handshake: {error}")),
    })
}

async fn handshake<T>(
    url: &Url,
    stream: T,
    proxy: Option<Intercept>,
) -> Result<Connection, FetchError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(READ_BUFFER_SIZE)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(url, error.to_string()))?;
    let driver = tokio::spawn(async move {
        // Whatever ends the connection is told to the request that waits for it.
        if let Err(error) = driver.await {
            tracing::trace!(%error, "connection ended");
        }
    });
    Ok(Connection {
        url: url.clone(),
        sender,
        driver,
        proxy,
        address: None,
    })
}
