//! A LAN of our own: hosts in network namespaces on one switch, each behind a link of a bounded rate in both directions.
//!
//! ```text
//! namespace of a host              namespace of the switch
//!   cable 10.79.N.1/16 ─── veth ───> pN ─┐
//!     └ tbf: what it sends            └ tbf: what it gets
//!                                   lan (bridge)
//! ```
//!
//! Every host has an address in a /24 of its own, because rules against floods count addresses by /24. Nothing here is
//! reachable from outside, and nothing of it is left when it is dropped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::limits::{LAN_BURST, LAN_HOSTS_MAX, LAN_LATENCY};
use super::place;
use crate::qemu::Network;

/// Where a virtual machine is plugged in.
const MACHINE_PORT: &str = "port";

/// Hosts on one switch. Dropping it removes them.
#[derive(Debug)]
pub struct Lan {
    switch: String,
    hosts: Vec<String>,
}

impl Lan {
    /// A switch with so many hosts; each sends and gets at most `rate` bits a second, as `tc` writes it, if given.
    ///
    /// # Errors
    /// When this is not root, or the kernel or a missing program does not allow it.
    pub fn new(hosts: usize, rate: Option<&str>) -> Result<Self> {
        ensure!(
            hosts <= LAN_HOSTS_MAX,
            "a LAN of the bench has at most {LAN_HOSTS_MAX} hosts"
        );
        let names = place::names()?;
        // From here on Drop cleans up.
        let mut lan = Self {
            switch: names.of("switch"),
            hosts: (0..hosts)
                .map(|number| names.of(&format!("h{number}")))
                .collect(),
        };
        let mut spaces = format!("netns add {}\n", lan.switch);
        for host in &lan.hosts {
            let _ = writeln!(spaces, "netns add {host}");
        }
        batch("ip", None, &spaces)?;
        lan.cable(rate)?;
        Ok(lan)
    }

    fn cable(&mut self, rate: Option<&str>) -> Result<()> {
        // Nobody on it asks who wants which multicast, so a switch that listens for that would keep some from its hosts.
        let mut ports = String::from(
            "link add lan type bridge forward_delay 0 mcast_snooping 0\nlink set lan up\n",
        );
        let mut shapes = String::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let _ = writeln!(
                ports,
                "link add p{number} type veth peer name cable netns {host}\nlink set p{number} master lan up"
            );
            if let Some(rate) = rate {
                shapes.push_str(&shape(&format!("p{number}"), rate));
            }
        }
        batch("ip", Some(&self.switch), &ports)?;
        batch("tc", Some(&self.switch), &shapes)?;
        for (number, host) in self.hosts.iter().enumerate() {
            let address = Self::address(number);
            let lines = format!(
                "link set lo up\naddress add {address}/16 broadcast 10.79.255.255 dev cable\nlink set cable up\n\
                 route add default dev cable\n"
            );
            batch("ip", Some(host), &lines)?;
            if let Some(rate) = rate {
                batch("tc", Some(host), &shape("cable", rate))?;
            }
        }
        Ok(())
    }

    /// The address of a host.
    pub fn address(number: usize) -> Ipv4Addr {
        // LAN_HOSTS_MAX is far below 255, so this is exact.
        Ipv4Addr::new(10, 79, u8::try_from(number + 1).unwrap_or(u8::MAX), 1)
    }

    /// A command that will run on a host.
    pub fn command(&self, number: usize, program: &Path) -> Command {
        place::inside(self.hosts.get(number), program)
    }

    /// The bytes a host has put on its cable.
    ///
    /// # Errors
    /// When the kernel shows no such cable.
    pub fn sent_bytes(&self, number: usize) -> Result<u64> {
        let output = self
            .command(number, Path::new("cat"))
            .arg("/proc/net/dev")
            .output()?;
        let table = String::from_utf8_lossy(&output.stdout);
        place::sent(&table).context("the kernel shows no such cable")
    }

    /// Puts a host's cable and a port for a virtual machine on one switch, so that the machine is behind that link.
    /// The host itself then has no address of its own.
    ///
    /// # Errors
    /// When there is no such host, or the kernel has no such devices.
    pub fn machine_port(&self, number: usize) -> Result<Network> {
        let space = self.hosts.get(number).context("no such host on the LAN")?;
        let lines = format!(
            "address flush dev cable\nlink add inner type bridge forward_delay 0 mcast_snooping 0\n\
             link set inner up\nlink set cable master inner\ntuntap add {MACHINE_PORT} mode tap\n\
             link set {MACHINE_PORT} master inner up\n"
        );
        batch("ip", Some(space), &lines)?;
        Ok(Network::Switch {
            space: space.clone(),
            port: MACHINE_PORT,
            mac: format!("52:54:00:79:00:{number:02x}"),
        })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let spaces = self.hosts.iter().chain([&self.switch]);
        let lines: String = spaces
            .map(|space| format!("netns delete {space}\n"))
            .collect();
        let _ = feed("ip", &["-force"], None, &lines);
    }
}

/// One line of `tc` for what leaves through `device`.
fn shape(device: &str, rate: &str) -> String {
    format!("qdisc add dev {device} root tbf rate {rate} burst {LAN_BURST} latency {LAN_LATENCY}\n")
}

/// Runs many commands of `ip` or `tc` in one process: a LAN of fifty hosts takes hundreds of them.
fn batch(program: &str, space: Option<&str>, lines: &str) -> Result<()> {
    feed(program, &[], space, lines)
}

fn feed(program: &str, flags: &[&str], space: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(flags);
    if let Some(space) = space {
        command.args(["-n", space]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // A program that ended early is judged by what it says, below.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(lines.as_bytes());
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A LAN, or nothing where there can be none.
    fn lan(test: &str, hosts: usize, rate: Option<&str>) -> Option<Lan> {
        match Lan::new(hosts, rate) {
            Ok(lan) => Some(lan),
            Err(reason) => {
                println!("SKIPPED: {test}: {reason:#}");
                None
            }
        }
    }

    #[test]
    fn hosts_reach_each_other_and_are_removed() {
        let Some(lan) = lan("hosts_reach_each_other_and_are_removed", 3, None) else {
            return;
        };
        let before = lan.sent_bytes(2).unwrap();
        let script = format!("exec 3<>/dev/tcp/{}/9 || true", Lan::address(0));
        let mut knock = lan.command(2, Path::new("bash"));
        let said = knock.args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        // A host without a listener answers; one that is not there does not.
        assert!(said.contains("refused"), "{said}");
        assert!(lan.sent_bytes(2).unwrap() > before);
        let space = Path::new("/run/netns").join(&lan.hosts[0]);
        assert!(space.exists());
        drop(lan);
        assert!(!space.exists());
    }

    #[test]
    fn links_are_bounded_in_both_directions() {
        let Some(lan) = lan("links_are_bounded_in_both_directions", 2, Some("8mbit")) else {
            return;
        };
        for (space, device) in [(&lan.hosts[1], "cable"), (&lan.switch, "p1")] {
            let mut tc = Command::new("tc");
            let said = tc.args(["-n", space, "qdisc", "show", "dev", device]);
            let said = String::from_utf8(said.output().unwrap().stdout).unwrap();
            assert!(
                said.contains("tbf") && said.contains("rate 8Mbit"),
                "{said}"
            );
        }
    }

    #[test]
    fn fifty_hosts_do_not_take_long() {
        let started = Instant::now();
        let Some(lan) = lan("fifty_hosts_do_not_take_long", 50, Some("100mbit")) else {
            return;
        };
        assert_eq!(lan.hosts.len(), 50);
        assert_eq!(Lan::address(49).to_string(), "10.79.50.1");
        // Hundreds of processes instead of a few would take minutes on a busy machine.
        assert!(started.elapsed().as_secs() < 60);
    }
}
