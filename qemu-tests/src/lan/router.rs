//! The other servers of a LAN: dnsmasq as the router's DHCP server, as a relay, as a DHCP server on the boot
//! server's host, and as the one that advertises an IPv6 prefix. It never answers as a boot server.

use std::io;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{Dhcp, HOST, HOST_BEHIND, LanSpec, Station, address, mac, within};
use crate::proc;
use crate::serial::Transcript;

/// How long a server may take to say that it listens, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Cards that keep the address [`address`] gives them.
const CARDS_KNOWN: u8 = 20;

/// A running dnsmasq.
#[derive(Debug)]
pub(super) struct Service {
    child: Mutex<Child>,
    pub(super) log: Transcript,
}

impl Service {
    /// Ends it, as something that loses power.
    pub(super) fn kill(&self) -> Result<()> {
        let mut child = self
            .child
            .lock()
            .map_err(|_| anyhow!("the server's lock is poisoned"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Takes its exit status after it was killed.
    pub(super) fn reap(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Killed before; already taken is as good.
        let _ = child.wait();
    }

    /// Starts dnsmasq in `namespace` and waits until it has said `ready`.
    fn start(namespace: &str, log: &Path, args: Vec<String>, ready: &str) -> Result<Self> {
        let mut all: Vec<String> = ["netns", "exec", namespace, "dnsmasq"]
            .map(str::to_owned)
            .to_vec();
        all.extend(
            [
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--port=0",
                "--pid-file=",
                "--user=root",
                "--log-facility=-",
                "--log-dhcp",
                "--no-ping",
            ]
            .map(str::to_owned),
        );
        all.extend(args);
        let mut command = proc::leashed("ip", all);
        // Both streams go into one pipe: dnsmasq logs to standard error.
        let (reader, writer) = io::pipe()?;
        let child = command
            .stdout(Stdio::from(writer.try_clone()?))
            .stderr(Stdio::from(writer))
            .spawn()
            .context("start dnsmasq")?;
        drop(command);
        let log = Transcript::of("dnsmasq", reader, log)?;
        log.wait_for(ready, START_LIMIT)?;
        Ok(Self {
            child: Mutex::new(child),
            log,
        })
    }
}

/// What runs on the host's own side: the router, the relay, the router advertisements.
pub(super) fn host_side(
    namespace: &str,
    spec: LanSpec,
    scratch: &Path,
    logs: &Path,
) -> Result<Option<Service>> {
    let mut args = vec!["--interface=br0".to_owned()];
    if spec.router {
        let range = if spec.dhcp6 {
            "fd77::100,fd77::1ff,64,2m"
        } else {
            "fd77::,ra-only,64,1h"
        };
        args.extend(["--enable-ra".to_owned(), format!("--dhcp-range={range}")]);
    }
    let (log, ready) = match spec.dhcp {
        Dhcp::Router => {
            args.push("--bind-interfaces".to_owned());
            args.extend(leases(spec, scratch));
            ("dnsmasq.log", "DHCP, IP range")
        }
        Dhcp::BehindRelay => {
            args.push("--interface=br1".to_owned());
            args.extend(
                [Station::DHCP, Station::BOOT_SERVER]
                    .map(|last| format!("--dhcp-relay={HOST},{}", within(HOST_BEHIND, last))),
            );
            ("relay.log", "DHCP relay")
        }
        Dhcp::Nobody | Dhcp::BesideBootServer => {
            if !spec.router {
                return Ok(None);
            }
            args.push("--bind-interfaces".to_owned());
            ("router.log", "router advertisement")
        }
    };
    Service::start(namespace, &logs.join(log), args, ready).map(Some)
}

/// A DHCP server in a namespace of its own.
pub(super) fn in_station(
    namespace: &str,
    spec: LanSpec,
    scratch: &Path,
    logs: &Path,
) -> Result<Service> {
    let mut args = vec![
        "--interface=eth0".to_owned(),
        "--bind-interfaces".to_owned(),
    ];
    args.push(format!("--dhcp-option=option:router,{HOST}"));
    args.extend(leases(spec, scratch));
    if spec.dhcp == Dhcp::BesideBootServer {
        // What sends a PXE or HTTP boot client to port 4011 of the same host.
        for (tag, class) in [("pxe", "PXEClient"), ("http", "HTTPClient")] {
            args.push(format!("--dhcp-vendorclass=set:{tag},{class}"));
            args.push(format!("--dhcp-option-force=tag:{tag},60,{class}"));
        }
    }
    Service::start(namespace, &logs.join("dnsmasq.log"), args, "DHCP, IP range")
}

fn leases(spec: LanSpec, scratch: &Path) -> Vec<String> {
    let mut args = vec![
        "--dhcp-authoritative".to_owned(),
        format!("--dhcp-leasefile={}", scratch.join("leases").display()),
        "--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,2m".to_owned(),
    ];
    args.extend((1..=CARDS_KNOWN).map(|n| format!("--dhcp-host={},{}", mac(n), address(n))));
    if spec.dead_http {
        args.extend([
            "--dhcp-vendorclass=set:dead,HTTPClient".to_owned(),
            "--dhcp-option-force=tag:dead,60,HTTPClient".to_owned(),
            format!("--dhcp-boot=tag:dead,http://{HOST}:9/nothing.efi"),
        ]);
    }
    args.extend(
        spec.renew_after_s
            .map(|s| format!("--dhcp-option-force=option:T1,{s}")),
    );
    args
}
