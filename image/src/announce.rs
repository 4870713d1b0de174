//! Announces the appliance of `cargo appliance run` by multicast DNS, to the programs of this host only.
//!
//! QEMU's user network lets no multicast out, so what the appliance itself announces stays inside. Its port is forwarded to
//! 127.0.0.1, where nobody else can connect; so nothing is ever said on another interface than loopback.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use boot_manifest::{Arch, Channel, Digest, Manifest, Verified};
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};

/// The DNS-SD service type of providers.
const SERVICE_TYPE: &str = "_phase-image._tcp.local.";

/// What shows it, on this host.
pub const BROWSE: &str = "avahi-browse -r _phase-image._tcp";

/// How long the goodbye may take: it is one packet.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// What is said of an appliance.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Where it serves on 127.0.0.1.
    pub port: u16,
    /// The channel it serves.
    pub channel: Channel,
    /// The machines it serves.
    pub arch: Arch,
    /// The version it serves.
    pub version: String,
    /// The digest of its manifest.
    pub manifest: Digest,
}

impl Facts {
    /// Those of a manifest that is served at this port.
    pub fn of(manifest: &Verified<Manifest>, port: u16) -> Self {
        Self {
            port,
            channel: manifest.channel.clone(),
            arch: manifest.arch,
            version: manifest.version.clone(),
            manifest: manifest.digest(),
        }
    }
}

/// An appliance that is announced until this is dropped, which says goodbye.
pub struct Announcement {
    daemon: ServiceDaemon,
    instance: String,
}

impl Announcement {
    /// Announces it on the loopback interface.
    ///
    /// # Errors
    /// When multicast DNS cannot be used here.
    pub fn start(facts: &Facts) -> Result<Self> {
        // Nobody else on this host has the port, and so nobody has the name; a provider of this host is called otherwise.
        let instance = format!("appliance-run-{}", facts.port);
        let info = ServiceInfo::new(
            SERVICE_TYPE,
            &instance,
            &format!("{instance}.local."),
            std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
            facts.port,
            &[
                ("channel", facts.channel.to_string()),
                ("arch", facts.arch.to_string()),
                ("version", facts.version.clone()),
                ("http_port", facts.port.to_string()),
                ("manifest", facts.manifest.to_string()),
            ][..],
        );
        let mut info = info.context("describe the service")?;
        info.set_requires_probe(false);
        info.set_interfaces(vec![IfKind::LoopbackV4]);
        // From here on Drop ends its thread.
        let announcement = Self {
            daemon: ServiceDaemon::new().context("use multicast DNS")?,
            instance,
        };
        let daemon = &announcement.daemon;
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(IfKind::LoopbackV4)?;
        daemon.register(info)?;
        Ok(announcement)
    }

    /// The name that browsers show.
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // It says goodbye before it ends. One that does not is forgotten when its records expire.
        if let Ok(ended) = self.daemon.shutdown() {
            let _ = ended.recv_timeout(GOODBYE_LIMIT);
        }
    }
}
