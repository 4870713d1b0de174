//! A recording of what a LAN's machines and servers say to each other while they boot, kept beside the logs:
//! DHCP, TFTP's small packets, ARP, and the beginning of connections. It shows what a failed boot lacked.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lan::Lan;
use crate::proc;
use crate::serial::{Line, Transcript};

/// Until it listens, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Boot files themselves would only fill the disk: their packets are larger than this, DHCP's are not.
const FILTER: &str = "(udp and less 900) or (ip6 and less 900) or arp or icmp or (tcp[tcpflags] & (tcp-syn|tcp-rst) != 0)";

/// A running recording. Dropping it ends it; the file stays.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    packets: Transcript,
}

impl Recorder {
    /// Records what passes the machines' bridge to `boot.pcap` among the LAN's logs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(lan: &Lan) -> Result<Self> {
        Self::on(lan, "br0", "boot.pcap")
    }

    /// Records what passes the bridge behind the relay to `relayed.pcap` among the LAN's logs.
    ///
    /// # Errors
    /// When it cannot be started, or the LAN has no relay.
    pub fn behind_relay(lan: &Lan) -> Result<Self> {
        Self::on(lan, "br1", "relayed.pcap")
    }

    fn on(lan: &Lan, bridge: &str, file: &str) -> Result<Self> {
        let file = lan.logs().join(file);
        let mut args = lan.enter().map(str::to_owned).to_vec();
        args.extend(
            [
                // As root, line by line, at once; numbers instead of names.
                "tcpdump", "-Z", "root", "-l", "-U", "-n", "--print", "-i", bridge, "-w",
            ]
            .map(str::to_owned),
        );
        args.push(file.display().to_string());
        args.push(FILTER.to_owned());
        let mut child = proc::leashed("ip", args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start tcpdump")?;
        let said = child.stderr.take().context("tcpdump has no words")?;
        let printed = child.stdout.take().context("tcpdump has no output")?;
        let words = Transcript::of("tcpdump", said, &file.with_extension("log"))?;
        let packets = Transcript::of("packets", printed, &file.with_extension("txt"))?;
        let recorder = Self { child, packets };
        words.wait_for("listening on", START_LIMIT)?;
        Ok(recorder)
    }

    /// The packets so far and to come, one line each, as tcpdump prints them.
    #[must_use]
    pub fn packets(&self) -> &Transcript {
        &self.packets
    }

    /// Waits for the next packet whose line has `wanted`.
    ///
    /// # Errors
    /// When it does not come within `limit`.
    pub fn wait_for(&self, wanted: &str, limit: Duration) -> Result<Line> {
        self.packets.wait_for(wanted, limit)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // It writes each packet at once (-U), so that there is nothing left to write.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
