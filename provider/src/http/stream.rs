//! The bytes of one connection, plain or encrypted.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The bytes of one connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// The socket, when what is written goes over it as it is.
    fn socket(&self) -> Option<&TcpStream>;
}

impl Stream for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Stream for TlsStream<TcpStream> {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

#[cfg(test)]
impl Stream for tokio::io::DuplexStream {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}
