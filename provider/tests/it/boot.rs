//! `plasmd serve` as the boot server of a LAN of namespaces, beside real DHCP servers, and as one.

mod client;
mod ipv6;
mod relay;
mod storm;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
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
            ("stable/aarch64/vmlinuz", &[5; 5_000]),
            ("stable/aarch64/phase.efi", &[6; 4_000]),
        ]);
        Some(Self { lan, tree })
    }

    /// A real DHCP server on the hub.
    fn start_dnsmasq(&mut self, more: &[&str]) {
        let mut command = self.lan.dnsmasq();
        command.args(more);
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

/// The address in the first answer of that kind from plasmd.
fn given(answers: &[Message], kind: Kind) -> Option<Ipv4Addr> {
    let ours = from(answers, SERVER);
    let found = ours.iter().find(|answer| answer.kind == kind)?;
    Some(found.yiaddr)
}

fn has(kind: Kind) -> impl Fn(&[Message]) -> bool {
    move |answers| given(answers, kind).is_some()
}

const RANGE: &str = "10.77.0.100-10.77.0.103/24,1h";
const SERVER_MODE: [&str; 8] = [
    "--dhcp",
    "server",
    "--dhcp-range",
    RANGE,
    "--dhcp-router",
    "10.77.0.1",
    "--dhcp-dns",
    "10.77.0.53",
];

#[test]
fn a_lan_without_a_dhcp_server_gets_addresses_that_outlive_a_power_cut() {
    let Some(mut rig) = Rig::new("boot with addresses") else {
        return;
    };
    let pid = rig.start(&SERVER_MODE);
    let client = rig.client();
    // Firmware: one offer with the address and what to boot.
    let ask = Ask::discover(7, "PXEClient");
    let answers = client.ask(&ask, PATIENCE, has(Kind::Offer));
    let offer = from(&answers, SERVER)[0].clone();
    assert_eq!(offer.yiaddr, Ipv4Addr::new(10, 77, 0, 100));
    assert!(offer.boot_file().is_some());
    let mask = offer.options.address(options::SUBNET_MASK);
    assert_eq!(mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
    assert_eq!(offer.options.address(options::ROUTER), Some(ROUTER));
    assert_eq!(
        offer.options.array(options::LEASE_TIME),
        Some(3_600_u32.to_be_bytes())
    );
    let take = Ask::take(&offer).booting(7, "PXEClient");
    let answers = client.ask(&take, PATIENCE, has(Kind::Ack));
    assert_eq!(given(&answers, Kind::Ack), Some(offer.yiaddr));
    assert_eq!(rig.status()["leases"], 1);
    // At that moment it is on the disk; the process has no chance to write anything more.
    rig.lan.kill(pid);
    let kept = rig.lan.directory().join("state/leases-v1/leases.json");
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(
        kept.contains("10.77.0.100") && kept.contains("52:54:00:77:00:01"),
        "{kept}"
    );
    rig.start(&SERVER_MODE);
    assert_eq!(rig.status()["leases"], 1);
    // Its running system asks, with nothing of netboot: the same address; another machine: another one.
    let again = client.ask(&Ask::plain_discover(), PATIENCE, has(Kind::Offer));
    assert_eq!(given(&again, Kind::Offer), Some(offer.yiaddr));
    let mut other = Ask::plain_discover();
    other.mac.0[5] = 9;
    let other = client.ask(&other, PATIENCE, has(Kind::Offer));
    assert_eq!(
        given(&other, Kind::Offer),
        Some(Ipv4Addr::new(10, 77, 0, 101))
    );
    assert!(from(&other, SERVER)[0].boot_file().is_none());
}

#[test]
fn an_address_that_somebody_uses_is_not_given() {
    let Some(mut rig) = Rig::new("boot beside an address in use") else {
        return;
    };
    // Somebody took it by hand, and does not answer to anything but ARP.
    rig.lan
        .ip("hub", "address add 10.77.0.100/24 dev br0")
        .unwrap();
    rig.start(&SERVER_MODE);
    let client = rig.client();
    let answers = client.ask(&Ask::plain_discover(), PATIENCE, has(Kind::Offer));
    assert_eq!(
        given(&answers, Kind::Offer),
        Some(Ipv4Addr::new(10, 77, 0, 101))
    );
    assert_eq!(rig.status()["conflicts_total"], 1);
    // A client that finds its address taken says so, and gets another one.
    let offer = from(&answers, SERVER)[0].clone();
    let mut decline = Ask::take(&offer);
    decline.kind = Kind::Decline;
    client.ask(&decline, Duration::from_millis(1), |_| false);
    let answers = client.ask(&Ask::plain_discover(), PATIENCE, has(Kind::Offer));
    assert_eq!(
        given(&answers, Kind::Offer),
        Some(Ipv4Addr::new(10, 77, 0, 102))
    );
}

#[test]
fn addresses_are_not_given_beside_another_dhcp_server() {
    if !has_program("dnsmasq") {
        return skip("boot beside a rival", "dnsmasq is not installed");
    }
    let Some(mut rig) = Rig::new("boot beside a rival") else {
        return;
    };
    rig.start_dnsmasq(&[]);
    let output = rig.plasmd(&SERVER_MODE).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{log}");
    assert!(
        log.contains("10.77.0.1 already gives addresses on eth0"),
        "{log}"
    );
    assert!(log.contains("--dhcp proxy"), "{log}");
}

#[test]
fn a_dhcp_server_that_appears_later_is_left_to_give_the_addresses() {
    if !has_program("dnsmasq") {
        return skip("boot and a later rival", "dnsmasq is not installed");
    }
    let Some(mut rig) = Rig::new("boot and a later rival") else {
        return;
    };
    rig.start(&SERVER_MODE);
    rig.start_dnsmasq(&[]);
    let client = rig.client();
    let answers = client.ask(&Ask::plain_discover(), PATIENCE, |answers| {
        !from(answers, ROUTER).is_empty() && !from(answers, SERVER).is_empty()
    });
    let theirs = from(&answers, ROUTER)[0].clone();
    client.ask(&Ask::take(&theirs), PATIENCE, |answers| !answers.is_empty());
    let noticed = || {
        rig.log()
            .contains("another DHCP server gives addresses here")
    };
    assert!(until(PATIENCE, noticed), "{}", rig.log());
    let mut ask = Ask::discover(7, "PXEClient");
    ask.mac.0[5] = 8;
    let answers = client.ask(&ask, PATIENCE, |answers| {
        !from(answers, SERVER).is_empty() && !from(answers, ROUTER).is_empty()
    });
    let ours = from(&answers, SERVER)[0].clone();
    assert_eq!(
        ours.yiaddr,
        Ipv4Addr::UNSPECIFIED,
        "machines are still booted"
    );
}

// C19: out of the interface the question came in by, with the address that is reached there.
#[test]
fn every_interface_is_answered_with_its_own_address() {
    let Some(mut rig) = Rig::new("boot on two interfaces") else {
        return;
    };
    rig.start(&[]);
    // Plugged in while it runs: another network, whose one machine is `client` too.
    let second = Ipv4Addr::new(10, 78, 0, 2);
    rig.lan.join("server", "eth1", "client", "eth1").unwrap();
    rig.lan
        .ip("server", &format!("address add {second}/24 dev eth1"))
        .unwrap();
    for host in ["server", "client"] {
        rig.lan.ip(host, "link set eth1 up").unwrap();
    }
    let (near, far) = (rig.client(), Client::at(&rig.lan, "client", "eth1", 68));
    let answered = |answers: &[Message]| !answers.is_empty();
    for (client, server) in [(&far, second), (&near, SERVER)] {
        let mut answers = Vec::new();
        // The new interface is noticed within a second.
        let heard = until(PATIENCE, || {
            let ask = Ask::discover(16, "HTTPClient");
            answers = client.ask(&ask, QUIET, answered);
            answered(&answers)
        });
        assert!(heard, "{server}: {}", rig.log());
        assert_eq!(answers[0].siaddr, server);
        let url = answers[0].boot_file().unwrap();
        assert!(url.starts_with(&format!("http://{server}:")), "{url}");
    }
    let mut heard_twice = Vec::new();
    for (client, other) in [(&near, &far), (&far, &near)] {
        let ask = Ask::discover(16, "HTTPClient");
        assert_eq!(client.ask(&ask, PATIENCE, answered).len(), 1);
        heard_twice.extend(other.heard(ask.xid, QUIET));
    }
    assert_eq!(heard_twice, [], "nothing leaves by another interface");
}

#[test]
fn real_clients_take_their_addresses() {
    let Some(mut rig) = Rig::new("addresses for real clients") else {
        return;
    };
    rig.start(&SERVER_MODE);
    let script = rig.lan.directory().join("script");
    std::fs::write(
        &script,
        "#!/bin/sh\nenv | grep -E '^(ip|subnet|router|dns|new_)' >&2\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let script = script.to_str().unwrap().to_owned();
    let leases = rig.lan.directory().join("dhclient.leases");
    let leases = leases.to_str().unwrap().to_owned();
    let udhcpc = ["-i", "eth0", "-f", "-n", "-q", "-s", &script];
    let dhclient = [
        "-4",
        "-d",
        "-1",
        "-v",
        "-pf",
        "/dev/null",
        "-lf",
        &leases,
        "-sf",
        &script,
        "eth0",
    ];
    for (program, arguments, expected) in [
        (
            "udhcpc",
            &udhcpc[..],
            &[
                "ip=10.77.0.10",
                "subnet=255.255.255.0",
                "router=10.77.0.1",
                "dns=10.77.0.53",
            ][..],
        ),
        (
            "dhclient",
            &dhclient[..],
            &[
                "new_ip_address=10.77.0.10",
                "new_routers=10.77.0.1",
                "bound to 10.77.0.10",
            ],
        ),
    ] {
        if !has_program(program) {
            skip(
                "addresses for real clients",
                &format!("{program} is not installed"),
            );
            continue;
        }
        let mut command = rig.lan.command("client", program);
        command.args(arguments);
        rig.lan.start(program, command);
        for line in expected {
            let said = || rig.lan.log(program).contains(line);
            assert!(until(PATIENCE, said), "{line}\n{}", rig.lan.log(program));
        }
    }
}

#[test]
fn a_dhcp_server_on_the_same_machine_keeps_what_is_sent_to_it_alone() {
    if !has_program("dnsmasq") {
        return skip(
            "boot on one machine with dnsmasq",
            "dnsmasq is not installed",
        );
    }
    let Some(mut rig) = Rig::new("boot on one machine with dnsmasq") else {
        return;
    };
    let dnsmasq = |rig: &mut Rig, name: &str, more: &[&str]| {
        let mut command = rig.lan.command("server", "dnsmasq");
        let leases = rig.lan.directory().join(format!("{name}.leases"));
        command
            .args([
                "-k",
                "-C",
                "/dev/null",
                "--port=0",
                "--no-ping",
                "--log-dhcp",
            ])
            .args([
                "--pid-file=",
                "--user=root",
                "--dhcp-authoritative",
                "--log-facility=-",
            ])
            .arg("--dhcp-range=10.77.0.60,10.77.0.69,2m")
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .args(more);
        let pid = rig.lan.start(name, command);
        let listens = || rig.lan.log(name).contains("DHCP, IP range");
        assert!(until(PATIENCE, listens), "dnsmasq did not start");
        pid
    };
    // One that shares its port: both are heard by everybody, and it alone by those who know it.
    let sharing = dnsmasq(
        &mut rig,
        "sharing",
        &["--interface=eth0", "--bind-interfaces"],
    );
    let pid = rig.start(&[]);
    assert!(rig.log().contains("port 67 is shared"), "{}", rig.log());
    let client = rig.client();
    let answers = client.ask(&Ask::discover(7, "PXEClient"), PATIENCE, |all| {
        all.len() > 1
    });
    let given: Vec<Ipv4Addr> = answers.iter().map(|answer| answer.yiaddr).collect();
    assert!(given.contains(&Ipv4Addr::UNSPECIFIED), "ours: {answers:?}");
    let theirs = answers
        .iter()
        .find(|answer| !answer.yiaddr.is_unspecified())
        .unwrap();
    let address = theirs.yiaddr;
    client.ask(&Ask::take(theirs), PATIENCE, |all| !all.is_empty());
    rig.lan
        .ip("client", &format!("address add {address}/24 dev eth0"))
        .unwrap();
    let mut renew = Ask::new(Kind::Request);
    renew.ciaddr = address;
    let answers = client.ask_at(&renew, (SERVER, 67), PATIENCE, |all| !all.is_empty());
    assert_eq!(
        answers.first().map(|answer| answer.kind),
        Some(Kind::Ack),
        "renewed"
    );
    rig.lan.kill(pid);
    rig.lan.kill(sharing);
    // One that does not: only what it sends on to port 4011 is answered, and that is said.
    dnsmasq(&mut rig, "alone", &[]);
    rig.start(&[]);
    assert!(
        rig.log().contains("(dnsmasq) has port 67 for itself"),
        "{}",
        rig.log()
    );
    let mut ask = Ask::new(Kind::Request).booting(7, "PXEClient");
    ask.ciaddr = address;
    let answers = client.ask_at(&ask, (SERVER, 4011), PATIENCE, |all| !all.is_empty());
    assert_eq!(answers.len(), 1);
    assert_eq!(rig.status()["dhcp"], "binl");
}

/// Machines that were sent to a provider that ends would find nobody.
#[test]
fn nobody_is_told_to_boot_from_a_provider_that_finishes_its_downloads() {
    let Some(mut rig) = Rig::new("boot while stopping") else {
        return;
    };
    let large = rig.tree.root().join("stable/x86_64/rootfs.squashfs");
    let large = std::fs::File::create(large).unwrap();
    // More than sockets hold.
    large.set_len(32 << 20).unwrap();
    let pid = rig.start(&[]);
    let client = rig.client();
    let ask = || Ask::discover(7, "PXEClient");
    assert_eq!(client.ask(&ask(), PATIENCE, |all| !all.is_empty()).len(), 1);
    let connect = || TcpStream::connect((SERVER, 8080));
    let mut download = rig.lan.within("hub", connect).unwrap();
    let path = "/stable/x86_64/rootfs.squashfs";
    write!(download, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    download.read_exact(&mut [0; 1_000]).unwrap();
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let is_silent = || client.ask(&ask(), QUIET, |all| !all.is_empty()).is_empty();
    assert!(until(PATIENCE, is_silent), "{}", rig.log());
    assert_eq!(rig.lan.wait(pid, QUIET), None, "the download is not over");
    drop(download);
    assert_eq!(rig.lan.wait(pid, PATIENCE), Some(0));
}

#[test]
fn the_one_capability_of_the_unit_is_enough_and_is_given_up() {
    if !has_program("setpriv") {
        return skip("boot as the unit does", "setpriv is not installed");
    }
    let Some(mut rig) = Rig::new("boot as the unit does") else {
        return;
    };
    let start = |rig: &mut Rig, capabilities: &[&str]| {
        let mut command = rig.lan.command("server", "setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(capabilities)
            .arg(PLASMD)
            .args(["serve", "--no-mdns", "--arch", "x86_64", "--artifacts"])
            .arg(rig.tree.root())
            .env_remove("RUST_LOG");
        let pid = rig.lan.start("plasmd", command);
        assert!(
            until(PATIENCE, || rig.log().contains("serving")),
            "{}",
            rig.log()
        );
        pid
    };
    let bind = [
        "--inh-caps=-all,+net_bind_service",
        "--ambient-caps=-all,+net_bind_service",
    ];
    let pid = start(&mut rig, &bind);
    assert_eq!(rig.status()["dhcp"], "proxy", "{}", rig.log());
    let client = rig.client();
    let ask = Ask::discover(7, "PXEClient");
    assert_eq!(client.ask(&ask, PATIENCE, |all| !all.is_empty()).len(), 1);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    rig.lan.kill(pid);
    // Without it files are served all the same, and one line says what is not.
    start(&mut rig, &["--inh-caps=-all"]);
    assert_eq!(rig.status()["dhcp"], "off");
    let why = "not answered: port 67 needs root or CAP_NET_BIND_SERVICE";
    assert!(rig.log().contains(why), "{}", rig.log());
}
