//! `cargo appliance crowd`, which people never type: many connections held at once by a process of their own, because the
//! server needs as many descriptors as its clients.
//!
//! ```text
//! connects, asks once on each -> prints "held N" -> waits for a line -> asks again on each -> prints "left N"
//! ```

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::asker::Asker;
use super::limits::{SLOW_BUFFER_BYTES, SLOW_PERIOD_S, SLOW_READ_BYTES, SOURCES};

/// What the connections do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Nothing, after one answer.
    Idle,
    /// Read an answer by some bytes a second.
    Slow,
}

/// `cargo appliance crowd`
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server
    #[arg(long)]
    pub server: SocketAddrV4,
    /// How many connections
    #[arg(long)]
    pub count: usize,
    /// What they do
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// What they ask for
    #[arg(long)]
    pub path: String,
}

/// Runs the command.
///
/// # Errors
/// When standard output is closed.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let mut crowd = Crowd::gather(arguments);
    println!("held {} {}", crowd.members.len(), crowd.reason);
    std::io::stdout().flush()?;
    let input = std::io::stdin();
    let period = Timespec {
        tv_sec: SLOW_PERIOD_S,
        tv_nsec: 0,
    };
    while poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&period)) == Ok(0) {
        crowd.trickle();
    }
    let mut line = String::new();
    input.lock().read_line(&mut line)?;
    println!("left {}", crowd.left(&arguments.path));
    Ok(ExitCode::SUCCESS)
}

struct Crowd {
    kind: Kind,
    members: Vec<Asker>,
    /// Why there are no more.
    reason: String,
}

impl Crowd {
    /// Connects as often as asked for, or as it works.
    fn gather(arguments: &Arguments) -> Self {
        let mut crowd = Self {
            kind: arguments.kind,
            members: Vec::with_capacity(arguments.count),
            reason: String::new(),
        };
        for number in 0..arguments.count {
            match member(arguments, number) {
                Ok(member) => crowd.members.push(member),
                Err(error) => {
                    crowd.reason = format!("{error:#}").replace('\n', " ");
                    break;
                }
            }
        }
        crowd
    }

    /// Slow readers read a little.
    fn trickle(&mut self) {
        if self.kind == Kind::Slow {
            let mut buffer = [0; SLOW_READ_BYTES];
            for member in &self.members {
                // Nothing there, or no connection any more: that is counted in the end.
                let _ = member.socket().read(&mut buffer);
            }
        }
    }

    /// How many are still served.
    fn left(&mut self, path: &str) -> usize {
        let kind = self.kind;
        let alive = |member: &mut Asker| match kind {
            Kind::Idle => member.get(path, None).is_ok(),
            // More bytes are there, or would come.
            Kind::Slow => match member.socket().read(&mut [0; SLOW_READ_BYTES]) {
                Ok(count) => count > 0,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            },
        };
        self.members
            .iter_mut()
            .filter_map(|member| alive(member).then_some(()))
            .count()
    }
}

/// One more connection. Sources are many addresses of this machine's loopback, so that no limit for one of them counts.
fn member(arguments: &Arguments, number: usize) -> Result<Asker> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context("socket")?;
    if arguments.server.ip().is_loopback() {
        let host = u8::try_from(number % SOURCES + 1).context("too many sources")?;
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0));
        rustix::net::bind(&socket, &source).context("bind")?;
    }
    if arguments.kind == Kind::Slow {
        sockopt::set_socket_recv_buffer_size(socket.as_fd(), SLOW_BUFFER_BYTES)?;
    }
    rustix::net::connect(&socket, &arguments.server).context("connect")?;
    let mut member = Asker::over(TcpStream::from(socket))?;
    match arguments.kind {
        Kind::Idle => {
            member.get(&arguments.path, None)?;
        }
        Kind::Slow => {
            member.send(&arguments.path, None)?;
            member
                .socket()
                .read_exact(&mut [0; 1])
                .context("first byte")?;
            member.socket().set_nonblocking(true)?;
        }
    }
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::super::asker::tests::tiny_server;
    use super::*;

    fn arguments(server: SocketAddr, count: usize, kind: Kind) -> Arguments {
        let SocketAddr::V4(server) = server else {
            panic!("the tiny server is on IPv4");
        };
        Arguments {
            server,
            count,
            kind,
            path: "/".into(),
        }
    }

    #[test]
    fn idle_members_are_served_before_and_after() {
        let arguments = arguments(tiny_server(b"hello", 20), 20, Kind::Idle);
        let mut crowd = Crowd::gather(&arguments);
        assert_eq!((crowd.members.len(), crowd.reason.as_str()), (20, ""));
        crowd.trickle();
        assert_eq!(crowd.left("/"), 20);
    }

    #[test]
    fn members_that_were_cut_do_not_count() {
        let arguments = arguments(tiny_server(b"hello", 5), 5, Kind::Idle);
        let mut crowd = Crowd::gather(&arguments);
        crowd.members[2]
            .socket()
            .shutdown(std::net::Shutdown::Both)
            .unwrap();
        assert_eq!(crowd.left("/"), 4);
    }

    #[test]
    fn a_crowd_that_does_not_fit_says_why() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let crowd = Crowd::gather(&arguments(address, 3, Kind::Idle));
        assert!(
            crowd.members.is_empty() && crowd.reason.contains("connect"),
            "{}",
            crowd.reason
        );
    }

    #[test]
    fn slow_readers_leave_most_of_the_answer() {
        static BODY: [u8; 1 << 20] = [7; 1 << 20];
        let arguments = arguments(tiny_server(&BODY, 3), 3, Kind::Slow);
        let mut crowd = Crowd::gather(&arguments);
        assert_eq!((crowd.members.len(), crowd.reason.as_str()), (3, ""));
        crowd.trickle();
        assert_eq!(crowd.left("/"), 3);
    }
}
