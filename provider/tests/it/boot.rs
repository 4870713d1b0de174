//! `plasmd serve` as the boot server of a LAN of namespaces, beside real DHCP servers, and as one.

mod client;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use pxe::dhcp::{Kind, Message, options};
use serde_json::Value;

use crate::lan::{Lan, has_program, skip, until};
use crate::provider::{PLASMD, Tree};

use self::client::{Ask, Client};

/// Where plasmd runs.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Where the DHCP server of the LAN runs.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than an answer takes, where none is to come.
const QUIET: Duration = Duration::from_millis(700);

/// A LAN: `server` runs plasmd, `client` asks, and the hub may have a DHCP server.
struct Rig {
    lan: Lan,
    tree: Tree,
}

impl Rig {
    fn new(test: &str) -> Option<Self> {
        let lan = match Lan::new(&["server", "client"]) {
            Ok(lan) => lan,
            Err(reason) => {
                skip(test, &reason);
                return None;
            }
        };
        lan.ip("hub", &format!("address add {ROUTER}/24 dev br0"))
            .unwrap();
        lan.ip("server", &format!("address add {SERVER}/24 dev eth0"))
            .unwrap();
        for host in ["server", "client"] {
            lan.ip(host, "link set lo up").unwrap();
            lan.ip(host, "link set eth0 up").unwrap();
        }
        let tree = Tree::new(&[
            ("stable/x86_64/vmlinuz", &[1; 5_000]),
            ("stable/x86_64/initramfs.img", &[2; 3_000]),
            ("stable/x86_64/phase.efi", &[3; 4_000]),
            ("stable/x86_64/undionly.kpxe", &[4; 1_000]),
        ]);
        Some(Self { lan, tree })
    }

    /// A real DHCP server on the hub.
    fn start_dnsmasq(&mut self, more: &[&str]) {
        let mut command = self.lan.command("hub", "dnsmasq");
        let leases = self.lan.directory().join("leases");
        command
            .args([
                "-k",
                "-C",
                "/dev/null",
                "--port=0",
                "--no-ping",
                "--log-dhcp",
            ])
            .args(["--pid-file=", "--user=root", "--dhcp-authoritative"])
            .args(["--interface=br0", "--bind-interfaces", "--log-facility=-"])
            .arg("--dhcp-range=10.77.0.60,10.77.0.69,2m")
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .args(more);
        self.lan.start("dnsmasq", command);
        let listens = || self.lan.log("dnsmasq").contains("DHCP, IP range");
        assert!(until(PATIENCE, listens), "dnsmasq did not start");
    }

    fn plasmd(&self, flags: &[&str]) -> Command {
        let mut command = self.lan.command("server", PLASMD);
        command
            .args([
                "serve",
                "--no-mdns",
                "--arch",
                "x86_64",
                "--control-socket",
                "off",
            ])
            .arg("--artifacts")
            .arg(self.tree.root())
            .arg("--state-dir")
            .arg(self.lan.directory().join("state"))
            .args(flags)
            .env_remove("RUST_LOG");
        command
    }

    /// Starts it, and waits until it serves.
    fn start(&mut self, flags: &[&str]) -> u32 {
        let command = self.plasmd(flags);
        let pid = self.lan.start("plasmd", command);
        let serves = || self.log().contains("serving");
        assert!(until(PATIENCE, serves), "plasmd did not start");
        pid
    }

    fn log(&self) -> String {
        self.lan.log("plasmd")
    }

    fn client(&self) -> Client {
        Client::new(&self.lan, "client")
    }

    /// `/status` below `boot`.
    fn status(&self) -> Value {
        let url = format!("http://{SERVER}:8080/status");
        let mut command = self.lan.command("hub", "curl");
        let output = command
            .args(["-s", "--max-time", "20", &url])
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["boot"].clone()
    }
}

fn from(answers: &[Message], server: Ipv4Addr) -> Vec<&Message> {
    let is_from = |answer: &&Message| answer.server_id() == Some(server);
    answers.iter().filter(is_from).collect()
}

// C1, C2, C9, C20: a proxy beside the DHCP server of the LAN.
#[test]
fn machines_are_booted_beside_a_real_dhcp_server() {
    if !has_program("dnsmasq") {
        return skip("boot beside dnsmasq", "dnsmasq is not installed");
    }
    let Some(mut rig) = Rig::new("boot beside dnsmasq") else {
        return;
    };
    rig.start_dnsmasq(&[]);
    rig.start(&[]);
    assert!(
        rig.log().contains("beside its DHCP server"),
        "{}",
        rig.log()
    );
    let client = rig.client();
    let both = |answers: &[Message]| {
        !from(answers, SERVER).is_empty() && !from(answers, ROUTER).is_empty()
    };
    for (arch, class) in [
        (0, "PXEClient"),
        (7, "PXEClient"),
        (16, "HTTPClient"),
        (11, "PXEClient"),
    ] {
        let ask = Ask::discover(arch, class);
        let answers = client.ask(&ask, PATIENCE, both);
        let ours = from(&answers, SERVER);
        let offer = ours
            .first()
            .unwrap_or_else(|| panic!("{arch} {class}: {answers:?}"));
        assert_eq!((offer.kind, offer.xid), (Kind::Offer, ask.xid));
        assert_eq!(offer.yiaddr, Ipv4Addr::UNSPECIFIED, "C1");
        assert_eq!(offer.siaddr, SERVER, "C9");
        let said = offer.options.text(options::CLASS);
        assert_eq!(said.as_deref(), Some(class), "C2");
        if class == "HTTPClient" {
            let url = offer.boot_file().unwrap();
            assert!(
                url.starts_with("http://10.77.0.2:8080/") && url.ends_with(".efi"),
                "{url}"
            );
        }
        let theirs = from(&answers, ROUTER);
        assert!(theirs.iter().all(|answer| !answer.yiaddr.is_unspecified()));
    }
    // Who does not boot from the network gets its address and nothing from us.
    let answers = client.ask(&Ask::plain_discover(), QUIET, |_| false);
    assert!(from(&answers, SERVER).is_empty(), "C20: {answers:?}");
    assert!(!from(&answers, ROUTER).is_empty());
    let status = rig.status();
    assert_eq!(status["dhcp"], "proxy");
    assert_eq!(status["datagrams"]["offered"], 4);
    assert_eq!(status["datagrams"]["not-booting"], 1);
}

// C3, C6, C8: port 4011 answers REQUEST and INFORM of every architecture.
#[test]
fn the_second_question_is_answered_at_port_4011() {
    let Some(mut rig) = Rig::new("boot at 4011") else {
        return;
    };
    rig.start(&["--dhcp", "binl"]);
    let address = Ipv4Addr::new(10, 77, 0, 50);
    rig.lan
        .ip("client", &format!("address add {address}/24 dev eth0"))
        .unwrap();
    let client = rig.client();
    for kind in [Kind::Request, Kind::Inform] {
        for arch in [0, 7, 11] {
            let mut ask = Ask::new(kind).booting(arch, "PXEClient");
            ask.ciaddr = address;
            let answers = client.ask_at(&ask, (SERVER, 4011), PATIENCE, |all| !all.is_empty());
            let ack = answers.first().unwrap_or_else(|| panic!("{kind:?} {arch}"));
            assert_eq!((ack.kind, ack.server_id()), (Kind::Ack, Some(SERVER)));
            assert_eq!(
                ack.options.text(options::CLASS).as_deref(),
                Some("PXEClient")
            );
            assert!(ack.boot_file().is_some(), "C8: {kind:?} {arch}");
        }
    }
    // Port 67 is another program's.
    let ask = Ask::discover(7, "PXEClient");
    assert_eq!(client.ask(&ask, QUIET, |all| !all.is_empty()), []);
    assert_eq!(rig.status()["datagrams"]["answered"], 6);
}
