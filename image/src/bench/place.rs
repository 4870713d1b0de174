//! Where servers and clients meet: this machine's loopback, and a cable between two network namespaces of our own.
//!
//! Loopback flatters copying: what one side sends by reference the other side copies all the same. A veth pair is nearer to a
//! network card. Nothing here is reachable from outside, and nothing of it is left when it is dropped.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

/// How the namespaces are called, before the number of the process.
const NAME: &str = "phase-bench-";

/// The first server's address on its cable.
const SERVER: &str = "10.78.0.1";

/// What a shaped server may send at once: some of the kernel's largest packets.
const SHAPE_BURST: &str = "512kb";

/// How long a packet may wait to be sent before it is dropped.
const SHAPE_LATENCY: &str = "50ms";

/// Places made by this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What a client goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// 127.0.0.1.
    Loopback,
    /// A veth pair.
    Veth,
}

impl Via {
    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Veth => "veth",
        }
    }

    /// Where the servers are.
    pub fn address(self) -> &'static str {
        match self {
            Self::Loopback => "127.0.0.1",
            Self::Veth => SERVER,
        }
    }
}

/// A place to measure in. Dropping it removes it.
#[derive(Debug)]
pub struct Place {
    spaces: Option<Spaces>,
}

#[derive(Debug)]
struct Spaces {
    servers: Vec<String>,
    client: String,
}

impl Place {
    /// Only this machine's own loopback.
    pub fn here() -> Self {
        Self { spaces: None }
    }

    /// A namespace for servers, one for clients, and the cable between them, or why there can be none.
    ///
    /// # Errors
    /// When this is not root, or the kernel or a missing program does not allow it.
    pub fn apart() -> Result<Self> {
        Self::with_servers(1)
    }

    /// Several namespaces for servers, each with a cable of its own to the clients'.
    ///
    /// # Errors
    /// As [`Self::apart`].
    pub fn with_servers(count: u8) -> Result<Self> {
        let names = names()?;
        let name = |end: &str| names.of(end);
        let mut place = Self {
            spaces: Some(Spaces {
                servers: Vec::new(),
                client: name("c"),
            }),
        };
        // From here on Drop cleans up.
        let Some(spaces) = &mut place.spaces else {
            return Ok(place);
        };
        let client = spaces.client.clone();
        ip(&["netns", "add", &client])?;
        ip(&["-n", &client, "link", "set", "lo", "up"])?;
        for number in 0..count {
            let (server, near) = (name(&format!("s{number}")), format!("cable{number}"));
            ip(&["netns", "add", &server])?;
            spaces.servers.push(server.clone());
            ip(&["-n", &server, "link", "set", "lo", "up"])?;
            ip(&[
                "-n", &server, "link", "add", "cable", "type", "veth", "peer", "name", &near,
                "netns", &client,
            ])?;
            for (space, cable, host) in [(&server, "cable", 1), (&client, near.as_str(), 2)] {
                let address = format!("10.78.{number}.{host}/24");
                ip(&["-n", space, "address", "add", &address, "dev", cable])?;
                ip(&["-n", space, "link", "set", cable, "up"])?;
            }
        }
        Ok(place)
    }

    /// Lets each server send only so many bits a second.
    ///
    /// # Errors
    /// When the kernel has no token bucket filter.
    pub fn shape(&self, rate: &str) -> Result<()> {
        for server in self.spaces.iter().flat_map(|spaces| &spaces.servers) {
            run(Command::new("tc")
                .args(["-n", server, "qdisc", "add", "dev", "cable", "root"])
                .args([
                    "tbf",
                    "rate",
                    rate,
                    "burst",
                    SHAPE_BURST,
                    "latency",
                    SHAPE_LATENCY,
                ]))?;
        }
        Ok(())
    }

    /// The bytes a server has put on its cable.
    pub fn sent_bytes(&self, server: u8) -> Result<u64> {
        let output = self
            .nth_server(server, Path::new("cat"))
            .arg("/proc/net/dev")
            .output()?;
        sent(&String::from_utf8_lossy(&output.stdout)).context("the kernel shows no such cable")
    }

    /// The ways clients can go here.
    pub fn ways(&self) -> &'static [Via] {
        match self.spaces {
            Some(_) => &[Via::Loopback, Via::Veth],
            None => &[Via::Loopback],
        }
    }

    /// The address servers listen on, so that all ways lead to them.
    pub fn bind(&self) -> &'static str {
        match self.spaces {
            Some(_) => "0.0.0.0",
            None => "127.0.0.1",
        }
    }

    /// A command that will run where the servers are.
    pub fn server(&self, program: &Path) -> Command {
        self.nth_server(0, program)
    }

    /// A command that will run where one of several servers is.
    pub fn nth_server(&self, number: u8, program: &Path) -> Command {
        let space = self
            .spaces
            .as_ref()
            .and_then(|s| s.servers.get(usize::from(number)));
        inside(space, program)
    }

    /// The address of one of several servers.
    pub fn nth_address(number: u8) -> String {
        format!("10.78.{number}.1")
    }

    /// A command that will run where the clients are that come this way.
    pub fn client(&self, via: Via, program: &str) -> Command {
        let space = self.spaces.as_ref().and_then(|spaces| match via {
            Via::Loopback => spaces.servers.first(),
            Via::Veth => Some(&spaces.client),
        });
        inside(space, Path::new(program))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(spaces) = &self.spaces {
            for space in spaces.servers.iter().chain([&spaces.client]) {
                let _ = ip(&["netns", "delete", space]);
            }
        }
    }
}

/// How the namespaces of one place are called.
#[derive(Debug)]
pub(super) struct Names(u32);

impl Names {
    /// The namespace with this end of a name.
    pub(super) fn of(&self, end: &str) -> String {
        format!("{NAME}{}-{}-{end}", std::process::id(), self.0)
    }
}

/// Names for a new place, when there can be one; what killed benches left is removed.
///
/// # Errors
/// When this is not root.
pub(super) fn names() -> Result<Names> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root"
    );
    remove_leftovers(Path::new("/proc"));
    Ok(Names(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A command in a namespace; it keeps its process number.
pub(super) fn inside(space: Option<&String>, program: &Path) -> Command {
    match space {
        None => Command::new(program),
        Some(space) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", space]).arg(program);
            command
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        said.trim()
    );
    Ok(())
}

/// The bytes sent, of /proc/net/dev's line about the cable.
pub(super) fn sent(table: &str) -> Option<u64> {
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix("cable:"))?;
    line.split_whitespace().nth(8)?.parse().ok()
}

/// Removes the namespaces of benches that were killed.
fn remove_leftovers(processes: &Path) {
    for entry in std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|process| !processes.join(process).exists()) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

/// The number of the process a namespace was made by, if it is a bench's.
fn owner(name: &str) -> Option<&str> {
    let (process, end) = name.strip_prefix(NAME)?.split_once('-')?;
    (!end.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit())).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_benchs_namespaces_are_taken_for_leftovers() {
        assert_eq!(owner("phase-bench-12-s"), Some("12"));
        assert_eq!(owner("phase-bench-12"), None);
        assert_eq!(owner("phase-bench-x-s"), None);
        assert_eq!(owner("phase-12-0"), None);
    }

    #[test]
    fn the_kernels_table_of_interfaces_is_understood() {
        let table = "Inter-|   Receive                                                |  Transmit\n\
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
             lo:       0       0    0    0    0     0          0         0        0       0    0\n\
             cable:  1066      11    0    0    0     0          0         0     77216     51    0\n";
        assert_eq!(sent(table), Some(77_216));
        assert_eq!(sent("lo: 1 2"), None);
    }

    #[test]
    fn a_cable_carries_packets_and_is_removed() {
        let place = match Place::apart() {
            Ok(place) => place,
            Err(reason) => {
                println!("SKIPPED: a_cable_carries_packets_and_is_removed: {reason:#}");
                return;
            }
        };
        let server = place.spaces.as_ref().unwrap().servers[0].clone();
        assert!(Path::new("/run/netns").join(&server).exists());
        let route = place
            .client(Via::Veth, "ip")
            .args(["route", "get", SERVER])
            .output()
            .unwrap();
        assert!(route.status.success(), "{route:?}");
        assert_eq!(place.ways(), [Via::Loopback, Via::Veth]);
        drop(place);
        assert!(!Path::new("/run/netns").join(server).exists());
    }
}
