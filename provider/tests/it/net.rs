//! `plasmd net` in a network namespace, against dnsmasq as a real DHCP server and router.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use boot_manifest::handoff::{self, Report};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair, sockopt};
use rustix::process::{Pid, Signal, kill_process};

use crate::lan::{Lan, has_program, skip, until};

/// The hardware address of the client.
const MAC: &str = "02:00:00:00:77:01";
/// What DHCP gives to it.
const LEASED: &str = "10.77.0.50";

/// A LAN whose hub is 10.77.0.1, with a client that `plasmd net` runs on.
struct Rig {
    lan: Lan,
    client: u32,
    reports: OwnedFd,
}

/// What the DHCP server does besides.
#[derive(Clone, Copy, Default)]
struct Server {
    /// Seconds until renewal.
    t1: Option<u32>,
    /// Router advertisements too.
    ra: bool,
    /// The subnet given is the client alone, as some clouds do.
    host_only: bool,
}

impl Rig {
    /// The LAN without any program. `None`: skipped, and said so.
    fn new(test: &str) -> Option<Self> {
        if !has_program("dnsmasq") {
            skip(test, "dnsmasq (package dnsmasq-base) is not installed");
            return None;
        }
        let lan = match Lan::new(&["client", "other"]) {
            Ok(lan) => lan,
            Err(reason) => {
                skip(test, &reason);
                return None;
            }
        };
        lan.ip("hub", "address add 10.77.0.1/24 dev br0").unwrap();
        lan.ip("client", &format!("link set eth0 address {MAC}"))
            .unwrap();
        let (reports, _nobody) = report_sockets();
        Some(Self {
            lan,
            client: 0,
            reports,
        })
    }

    fn start_server(&mut self, server: Server) {
        let mut command = self.lan.dnsmasq();
        command
            .arg(format!("--dhcp-host={MAC},{LEASED}"))
            .args([
                "--dhcp-option=option:router,10.77.0.1",
                "--domain=example.test",
            ])
            .arg("--dhcp-option=option:dns-server,10.77.0.2,10.77.0.3");
        if let Some(seconds) = server.t1 {
            command.arg(format!("--dhcp-option=option:T1,{seconds}"));
        }
        if server.host_only {
            command.arg("--dhcp-option=option:netmask,255.255.255.255");
        }
        if server.ra {
            self.lan
                .ip("hub", "address add fd77::1/64 dev br0 nodad")
                .unwrap();
            command.args([
                "--enable-ra",
                "--dhcp-range=fd77::,ra-only,64,2m",
                "--ra-param=br0,4,60",
            ]);
        }
        self.lan.start("dnsmasq", command);
        let listening = until(Duration::from_secs(5), || {
            self.lan.log("dnsmasq").contains("DHCP, IP range")
        });
        assert!(listening, "dnsmasq did not start");
    }

    fn start_client(&mut self) {
        self.start_client_with(&[]);
    }

    fn start_client_with(&mut self, more: &[&str]) {
        let (ours, theirs) = report_sockets();
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        let mut command = self.lan.command("client", env!("CARGO_BIN_EXE_plasmd"));
        command
            .args(["net", "--hostname", "phase-test", "--run-dir"])
            .arg(self.lan.directory())
            .args(more)
            .env(handoff::ENV, theirs.as_raw_fd().to_string())
            .env("RUST_LOG", "debug");
        self.client = self.lan.start("plasmd", command);
        self.reports = ours;
    }

    fn signal_client(&mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.client).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
        self.lan.wait(self.client, Duration::from_secs(5))
    }

    /// The client's addresses of one family, as `ip` prints them.
    fn addresses(&self, family: &str) -> String {
        self.lan
            .ip("client", &format!("-br -{family} address show dev eth0"))
            .unwrap()
    }

    fn wait_address(&self, address: &str, limit: u64) -> Duration {
        let start = Instant::now();
        let found = until(Duration::from_secs(limit), || {
            self.addresses("4").contains(address)
        });
        assert!(found, "{address} did not come within {limit} s");
        start.elapsed()
    }

    fn wait_log(&self, program: &str, what: &str, limit: u64) {
        let found = until(Duration::from_secs(limit), || {
            self.lan.log(program).contains(what)
        });
        assert!(found, "{program} did not say {what:?} within {limit} s");
    }

    /// Reads reports until one satisfies `is_it`.
    fn wait_report(&self, limit: u64, is_it: impl Fn(&Report) -> bool) {
        let end = Instant::now() + Duration::from_secs(limit);
        let mut buffer = [0; handoff::REPORT_SIZE_MAX];
        let mut seen = Vec::new();
        while Instant::now() < end {
            let Ok((length, _)) = recv(&self.reports, &mut buffer, RecvFlags::empty()) else {
                continue;
            };
            let report = Report::decode(&buffer[..length]).expect("a valid report");
            if is_it(&report) {
                return;
            }
            seen.push(report);
        }
        panic!("the report did not come; there were {seen:?}");
    }
}

fn report_sockets() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let wait = Duration::from_millis(100);
    sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(wait)).unwrap();
    (ours, theirs)
}

fn has_address(report: &Report, wanted: &str) -> bool {
    matches!(report, Report::Network { interface, addresses, .. }
        if interface == "eth0" && addresses.iter().any(|address| address.starts_with(wanted)))
}

/// Memory of a process in KiB: `VmRSS`, which includes the pages of the program file, or `RssAnon`, its own.
fn memory_kib(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

#[test]
fn a_lease_becomes_an_address_a_route_and_resolv_conf_and_is_given_back() {
    let Some(mut rig) = Rig::new("a_lease_becomes_an_address") else {
        return;
    };
    rig.start_server(Server::default());
    rig.start_client();
    let time = rig.wait_address("10.77.0.50/24", 10);
    println!("first lease in use after {} ms", time.as_millis());
    rig.wait_report(2, |report| *report == Report::Ready {});
    rig.wait_report(2, |report| {
        has_address(report, "10.77.0.50/24")
            && matches!(report, Report::Network { source, .. } if source == "dhcp")
    });
    let route = rig.lan.ip("client", "route show default").unwrap();
    assert!(
        route.contains("default via 10.77.0.1 dev eth0 proto dhcp"),
        "{route}"
    );
    let lo = rig.lan.ip("client", "-br address show dev lo").unwrap();
    assert!(lo.contains("127.0.0.1/8"), "{lo}");
    let resolv = std::fs::read_to_string(rig.lan.directory().join("resolv.conf")).unwrap();
    assert!(
        resolv.ends_with("search example.test\nnameserver 10.77.0.2\nnameserver 10.77.0.3\n"),
        "{resolv}"
    );
    assert!(
        rig.lan
            .log("dnsmasq")
            .contains("client provides name: phase-test")
    );
    let own = memory_kib(rig.client, "RssAnon:");
    println!(
        "memory {} KiB, own {own} KiB",
        memory_kib(rig.client, "VmRSS:")
    );
    // Half a megabyte of it are addresses in the program that are put right when it starts: they grow with all of plasmd.
    assert!(own < 3072, "{own} KiB of memory");

    assert_eq!(rig.signal_client(Signal::TERM), Some(0));
    rig.wait_log("dnsmasq", "DHCPRELEASE", 2);
    assert!(!rig.addresses("4").contains("10.77"), "the address is gone");
    assert_eq!(rig.lan.ip("client", "route show default").unwrap(), "");
}

#[test]
fn a_lease_is_renewed_when_the_server_says_so() {
    let Some(mut rig) = Rig::new("a_lease_is_renewed") else {
        return;
    };
    let server = Server {
        t1: Some(5),
        ..Server::default()
    };
    rig.start_server(server);
    rig.start_client();
    rig.wait_address(LEASED, 10);
    let acks = || rig.lan.log("dnsmasq").matches("DHCPACK").count();
    assert_eq!(acks(), 1);
    assert!(until(Duration::from_secs(10), || acks() == 2), "no renewal");
    rig.wait_address(LEASED, 0);
    // The kernel's own timer was moved too: 120 s were given, so much can only be left after the renewal.
    let renewed = until(Duration::from_secs(2), || {
        let text = rig.lan.ip("client", "-4 address show dev eth0").unwrap();
        let seconds = text
            .split_once("valid_lft ")
            .and_then(|(_, rest)| rest.split_once("sec"))
            .and_then(|(seconds, _)| seconds.parse::<u32>().ok());
        seconds.is_some_and(|seconds| seconds > 117)
    });
    assert!(
        renewed,
        "{:?}",
        rig.lan.ip("client", "-4 address show dev eth0")
    );
}

#[test]
fn an_offered_address_that_another_station_has_is_declined_and_never_set() {
    let Some(mut rig) = Rig::new("an_offered_address_in_use") else {
        return;
    };
    rig.lan
        .ip("other", &format!("address add {LEASED}/24 dev eth0"))
        .unwrap();
    rig.lan.ip("other", "link set eth0 up").unwrap();
    rig.start_server(Server::default());
    rig.start_client();
    let mut was_set = false;
    let declined = until(Duration::from_secs(15), || {
        was_set |= rig.addresses("4").contains(LEASED);
        rig.lan.log("dnsmasq").contains("DHCPDECLINE")
    });
    assert!(declined, "no DECLINE");
    // The server has other addresses; the client asks again after ten seconds.
    rig.wait_address("10.77.0.6", 20);
    assert!(!was_set && !rig.addresses("4").contains(LEASED));
}

#[test]
fn without_a_server_there_is_a_link_local_address_until_a_server_comes() {
    let Some(mut rig) = Rig::new("without_a_server") else {
        return;
    };
    rig.start_client();
    let time = rig.wait_address("169.254.", 30);
    println!("link-local address after {:.1} s", time.as_secs_f32());
    assert!(time > Duration::from_secs(10), "{time:?}");
    rig.wait_report(2, |report| has_address(report, "169.254."));
    rig.start_server(Server::default());
    rig.wait_address(LEASED, 25);
    let gone = until(Duration::from_secs(2), || {
        !rig.addresses("4").contains("169.254.")
    });
    assert!(gone, "{}", rig.addresses("4"));
    rig.wait_report(2, |report| has_address(report, LEASED));
}

#[test]
fn a_lost_link_loses_the_address_and_a_new_link_brings_it_back() {
    let Some(mut rig) = Rig::new("a_lost_link") else {
        return;
    };
    rig.start_server(Server::default());
    rig.start_client();
    rig.wait_address(LEASED, 10);
    rig.lan.ip("hub", "link set client down").unwrap();
    let gone = until(Duration::from_secs(5), || {
        !rig.addresses("4").contains(LEASED)
    });
    assert!(gone, "{}", rig.addresses("4"));
    rig.wait_report(2, |report| {
        matches!(report, Report::Network { addresses, source, .. }
            if addresses.is_empty() && source == "none")
    });
    rig.lan.ip("hub", "link set client up").unwrap();
    rig.wait_address(LEASED, 10);
    let route = rig.lan.ip("client", "route show default").unwrap();
    assert!(route.contains("via 10.77.0.1"), "{route}");
}

#[test]
fn what_a_killed_role_left_behind_is_replaced_by_its_successor() {
    let Some(mut rig) = Rig::new("what_a_killed_role_left_behind") else {
        return;
    };
    rig.start_server(Server::default());
    rig.start_client();
    rig.wait_address(LEASED, 10);
    rig.signal_client(Signal::KILL);
    assert!(rig.addresses("4").contains(LEASED), "nobody took it away");
    // Another hardware address gets another lease.
    rig.lan
        .ip("client", "link set eth0 address 02:00:00:00:77:02")
        .unwrap();
    rig.start_client();
    rig.wait_address("10.77.0.6", 10);
    assert!(
        !rig.addresses("4").contains(LEASED),
        "{}",
        rig.addresses("4")
    );
}

#[test]
fn after_a_kexec_the_address_is_there_before_a_server_answers() {
    let Some(mut rig) = Rig::new("after_a_kexec_the_address_is_there") else {
        return;
    };
    rig.start_server(Server::default());
    rig.start_client();
    rig.wait_address(LEASED, 10);
    let kept = rig.lan.directory().join("lease.json");
    let written = until(Duration::from_secs(5), || {
        std::fs::read_to_string(&kept).is_ok_and(|text| text.contains(LEASED))
    });
    assert!(written, "nothing for a successor");
    // What init does on its way into the next kernel: the role ends without a word, links go down, addresses are lost.
    let carried = rig.lan.directory().join("network.json");
    std::fs::copy(&kept, &carried).unwrap();
    rig.signal_client(Signal::KILL);
    rig.lan.ip("client", "link set eth0 down").unwrap();
    rig.lan.ip("client", "address flush dev eth0").unwrap();
    let released = || rig.lan.log("dnsmasq").contains("DHCPRELEASE");
    assert!(!released(), "the lease was given back");
    let asked = rig.lan.log("dnsmasq").matches("DHCPDISCOVER").count();
    // The server does not answer for now.
    rig.lan.ip("hub", "link set br0 down").unwrap();
    rig.start_client_with(&["--resume", carried.to_str().unwrap()]);
    rig.wait_address(LEASED, 10);
    let again = rig.lan.log("dnsmasq").matches("DHCPDISCOVER").count();
    assert_eq!(again, asked, "a server was asked before");
    rig.lan.ip("hub", "link set br0 up").unwrap();
    rig.wait_log("plasmd", "lease in use", 20);
    assert!(rig.addresses("4").contains(LEASED));
    let route = rig.lan.ip("client", "route show default").unwrap();
    assert!(route.contains("via 10.77.0.1"), "{route}");
}

#[test]
fn a_router_outside_the_subnet_is_reached_on_the_link() {
    let Some(mut rig) = Rig::new("a_router_outside_the_subnet") else {
        return;
    };
    let server = Server {
        host_only: true,
        ..Server::default()
    };
    rig.start_server(server);
    rig.start_client();
    rig.wait_address("10.77.0.50/32", 10);
    let route = rig.lan.ip("client", "route show default").unwrap();
    assert!(
        route.contains("via 10.77.0.1") && route.contains("onlink"),
        "{route}"
    );
}

/// The kernel asks from either interface in the name of either address (arp_announce 0). What one interface hears of the
/// other must not look like a stranger that has our address.
#[test]
fn two_interfaces_on_one_link_are_no_rivals() {
    let Some(mut rig) = Rig::new("two_interfaces_on_one_link") else {
        return;
    };
    rig.lan.connect("client", "eth1").unwrap();
    rig.start_server(Server::default());
    rig.start_client();
    rig.wait_address(LEASED, 10);
    let found = until(Duration::from_secs(10), || {
        let text = rig.lan.ip("client", "-br -4 address show dev eth1");
        text.unwrap().contains("10.77.0.6")
    });
    assert!(found, "eth1 has no address");
    // A connection from eth0's address through eth1: the kernel asks three times for the machine that is not there.
    rig.lan
        .ip("client", "route add 10.77.0.99 dev eth1 src 10.77.0.50")
        .unwrap();
    let connection = rig
        .lan
        .command("client", "timeout")
        .args(["10", "bash", "-c", "echo > /dev/tcp/10.77.0.99/9"])
        .output()
        .unwrap();
    assert!(!connection.status.success(), "nobody is there");
    assert!(
        rig.addresses("4").contains(LEASED),
        "{}",
        rig.addresses("4")
    );
    assert!(!rig.lan.log("dnsmasq").contains("DHCPDECLINE"));
}

#[test]
fn a_static_address_needs_no_server() {
    let Some(mut rig) = Rig::new("a_static_address") else {
        return;
    };
    let mut command: Command = rig.lan.command("client", env!("CARGO_BIN_EXE_plasmd"));
    command
        .args([
            "net",
            "--static",
            "eth0=10.77.0.9/24,10.77.0.1",
            "--run-dir",
        ])
        .arg(rig.lan.directory());
    rig.client = rig.lan.start("plasmd", command);
    rig.wait_address("10.77.0.9/24", 5);
    let routed = until(Duration::from_secs(2), || {
        let route = rig.lan.ip("client", "route show default").unwrap();
        route.contains("via 10.77.0.1")
    });
    assert!(routed);
    assert_eq!(rig.signal_client(Signal::TERM), Some(0));
}

#[test]
fn addresses_of_router_advertisements_are_reported() {
    let Some(mut rig) = Rig::new("addresses_of_router_advertisements") else {
        return;
    };
    let server = Server {
        ra: true,
        ..Server::default()
    };
    rig.start_server(server);
    rig.start_client();
    rig.wait_report(15, |report| has_address(report, "fd77::"));
    assert!(rig.addresses("6").contains("fd77::"));
}
