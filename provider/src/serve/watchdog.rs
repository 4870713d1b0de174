//! The answer to the service manager's question whether this process still works: it is seen by asking for one, as a client.
//!
//! When all places for connections are taken, no client can be answered, and neither can this one. That is load, or an
//! attack, and a restart would only cut the downloads that run: then it is enough that the process still moves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::serve::app::App;
use crate::serve::metrics::get;

/// Of the time between two signs of life that are wanted, the part between two questions. Two may fail.
const QUESTIONS: u32 = 3;

/// What the process asks itself. It needs no content; on a socket that speaks TLS it is answered as well, by a hint.
///
/// Its User-Agent is made anew in each process and known to no other, so that these requests, and none of a client, stay out
/// of what is counted and logged.
#[derive(Debug)]
pub(crate) struct Question {
    agent: String,
}

impl Question {
    /// Of this process.
    pub(super) fn new() -> Self {
        let mut secret = [0; 16];
        // Without randomness the figures could be kept from counting a client, which is no harm.
        let _ = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        let secret = u128::from_ne_bytes(secret);
        Self {
            agent: format!("plasmd-watchdog/{secret:032x}"),
        }
    }

    /// Whether a request with this User-Agent is this question.
    pub(super) fn is_asked_by(&self, agent: Option<&[u8]>) -> bool {
        agent == Some(self.agent.as_bytes())
    }

    fn text(&self) -> String {
        format!(
            "HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {}\r\nConnection: close\r\n\r\n",
            self.agent
        )
    }
}

/// How every answer begins.
const ANSWER: &[u8] = b"HTTP/1.1 ";

/// Asks at `address` for as long as the process serves, and passes the answers on.
pub(super) async fn watch(
    app: Arc<App>,
    address: SocketAddr,
    wanted: Duration,
    connections_max: usize,
) {
    let pause = wanted / QUESTIONS;
    let mut period = tokio::time::interval(pause);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        let answer = tokio::time::timeout(pause, ask(address, &app.question)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let is_full = get(&app.metrics.connections_open) >= connections_max as u64;
        match answer {
            Ok(()) => app.notifier.alive(),
            Err(_) if is_full => app.notifier.alive(),
            Err(error) => {
                tracing::error!(%error, %address, "a request to this provider itself was not answered");
            }
        }
    }
}

async fn ask(address: SocketAddr, question: &Question) -> io::Result<()> {
    let mut stream = TcpStream::connect(reachable(address).as_slice()).await?;
    stream.write_all(question.text().as_bytes()).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    if answer == ANSWER {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP"))
}

/// Where this machine reaches a socket of its own, best first.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    let own: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let ips = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => &own[..1],
        IpAddr::V6(ip) if ip.is_unspecified() => &own[..],
        _ => return vec![address],
    };
    let port = address.port();
    ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_http_is_an_answer() {
        for (answer, is_answer) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], true),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", true),
            (b"SSH-2.0-x\r\n", false),
            (b"HTTP", false),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let question = Question::new();
            let size = question.text().len();
            let answering = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut vec![0; size]).await.unwrap();
                stream.write_all(answer).await.unwrap();
            });
            let answered = ask(address, &question).await;
            assert_eq!(answered.is_ok(), is_answer, "{answer:?}");
            answering.await.unwrap();
        }
    }

    #[test]
    fn no_client_is_taken_for_it() {
        let question = Question::new();
        assert!(question.is_asked_by(Some(question.agent.as_bytes())));
        assert!(!question.is_asked_by(Some(b"plasmd-watchdog")));
        assert!(!question.is_asked_by(Some(Question::new().agent.as_bytes())));
        assert!(!question.is_asked_by(None));
    }

    #[test]
    fn a_socket_of_all_addresses_is_reached_by_loopback() {
        for (given, expected) in [
            ("0.0.0.0:80", &["127.0.0.1:80"][..]),
            ("[::]:80", &["127.0.0.1:80", "[::1]:80"]),
            ("10.0.0.1:80", &["10.0.0.1:80"]),
        ] {
            let found = reachable(given.parse().unwrap());
            let expected: Vec<SocketAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
            assert_eq!(found, expected);
        }
    }
}
