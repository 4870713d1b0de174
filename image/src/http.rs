//! The few HTTP requests this tool makes to 127.0.0.1, without an HTTP client in its dependencies.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// More than any answer this tool asks for.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// A complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// Asks for `path` on `port` of this machine; the whole exchange may take `limit`.
///
/// # Errors
/// When nothing answers in time, or what answers is not HTTP.
pub fn get(port: u16, path: &str, limit: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + limit;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_write_timeout(Some(limit))?;
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let count = stream.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..count]);
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer is larger than 4 MiB"));
        }
        if count == 0 {
            return parse(&bytes)
                .ok_or_else(|| io::Error::other("the answer is cut short or not HTTP"));
        }
    }
}

/// Splits an answer and checks that its body is complete.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let body = bytes[end + 4..].to_vec();
    (length.is_none_or(|length| length == body.len())).then_some(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_complete_or_refused() {
        let check = |text: &str, expected: Option<(u16, &str)>| {
            let answer =
                parse(text.as_bytes()).map(|a| (a.status, String::from_utf8(a.body).unwrap()));
            assert_eq!(
                answer,
                expected.map(|(status, body)| (status, body.to_owned())),
                "{text:?}"
            );
        };
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Some((200, "ok")),
        );
        check("HTTP/1.0 404 Not Found\r\n\r\nno", Some((404, "no")));
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", None);
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", None);
        check("SSH-2.0-OpenSSH\r\n\r\n", None);
        check("", None);
    }

    #[test]
    fn a_server_that_says_nothing_does_not_hold_us_up() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let started = Instant::now();
        assert!(get(port, "/", Duration::from_millis(200)).is_err());
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
