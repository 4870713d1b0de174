//! A client that asks again and again over one connection and reads each answer whole, without looking at its bytes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use anyhow::{Context, Result, bail};

use super::limits::{ASKER_LIMIT, HEAD_BYTES_MAX};

/// A connection that is kept alive.
#[derive(Debug)]
pub struct Asker {
    stream: BufReader<TcpStream>,
}

/// The head of an answer, as far as a bench needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    length: u64,
}

impl Asker {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn to(address: SocketAddr) -> Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, ASKER_LIMIT)?)
    }

    /// Asks over a connection that is there already.
    ///
    /// # Errors
    /// When the socket takes no deadlines.
    pub fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ASKER_LIMIT))?;
        stream.set_write_timeout(Some(ASKER_LIMIT))?;
        Ok(Self {
            stream: BufReader::with_capacity(16 * 1024, stream),
        })
    }

    /// Asks for `path`, or these bytes of it, and returns the length of the body.
    ///
    /// # Errors
    /// When the answer is not a success or does not come whole.
    pub fn get(&mut self, path: &str, range: Option<Range<u64>>) -> Result<u64> {
        self.send(path, range)?;
        let head = self.head()?;
        if !matches!(head.status, 200 | 206) {
            bail!("{path}: status {}", head.status);
        }
        let mut body = self.stream.by_ref().take(head.length);
        let read = std::io::copy(&mut body, &mut std::io::sink())?;
        if read != head.length {
            bail!("{path}: {read} bytes of {}", head.length);
        }
        Ok(read)
    }

    /// Sends a request and waits for nothing.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn send(&mut self, path: &str, range: Option<Range<u64>>) -> Result<()> {
        let range = range.map_or_else(String::new, |range| {
            format!("Range: bytes={}-{}\r\n", range.start, range.end - 1)
        });
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{range}\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        Ok(())
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    fn head(&mut self) -> Result<Head> {
        let mut text = String::new();
        let mut limited = self.stream.by_ref().take(HEAD_BYTES_MAX);
        loop {
            let count = limited.read_line(&mut text)?;
            if count == 0 {
                bail!("the connection was closed after {text:?}");
            }
            if text.ends_with("\r\n\r\n") {
                return parse(&text).with_context(|| format!("no HTTP answer: {text:?}"));
            }
        }
    }
}

fn parse(head: &str) -> Option<Head> {
    let mut lines = head.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.1 ")?
        .get(..3)?
        .parse()
        .ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    })?;
    Some(Head { status, length })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    /// A server that gives everybody `body` for every request, and cuts `connections_max`-th connections and later ones.
    pub(in crate::bench) fn tiny_server(body: &'static [u8], connections_max: usize) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(connections_max) {
                std::thread::spawn(move || serve(stream.unwrap(), body));
            }
        });
        address
    }

    fn serve(stream: TcpStream, body: &[u8]) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut stream = stream;
        while let Some(Ok(line)) = lines.next() {
            if line.is_empty() {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                // The client may have gone.
                let _ = stream.write_all(&[head.as_bytes(), body].concat());
            }
        }
    }

    #[test]
    fn many_answers_come_over_one_connection() {
        let mut asker = Asker::to(tiny_server(b"12345", 1)).unwrap();
        for _ in 0..3 {
            assert_eq!(asker.get("/", None).unwrap(), 5);
        }
        assert_eq!(asker.get("/", Some(0..5)).unwrap(), 5);
    }

    #[test]
    fn only_whole_heads_are_taken() {
        let check = |head: &str, expected| assert_eq!(parse(head), expected, "{head:?}");
        let head = |status, length| Some(Head { status, length });
        check(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 7\r\n\r\n",
            head(206, 7),
        );
        check(
            "HTTP/1.1 404 Not Found\r\nA: b\r\ncontent-length:0\r\n\r\n",
            head(404, 0),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            None,
        );
        check("HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\n", None);
        check("SSH-2.0\r\n\r\n", None);
    }
}
