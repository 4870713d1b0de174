//! The network: whether others can find this machine, and whether it can find names.

use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::doctor::finding::{Finding, Machine};

/// Where multicast DNS is spoken (RFC 6762).
const MDNS_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// Bits of /sys/class/net/NAME/flags (if.h).
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_MULTICAST: u32 = 0x1000;

/// Looks at interfaces, multicast, packet filters and names.
pub(super) fn check(machine: &Machine, port: u16, dht_port: Option<u16>) -> Vec<Finding> {
    let mut findings = vec![interfaces(machine)];
    findings.push(match join() {
        Ok(()) => Finding::ok("multicast", format!("the group {MDNS_GROUP} can be joined")),
        Err(error) => Finding::warn(
            "multicast",
            format!("the group {MDNS_GROUP} cannot be joined: {error}"),
            "nobody finds this provider by phase-discover: give an interface an address and a route (ip route add 224.0.0.0/4 dev NAME)",
        ),
    });
    findings.extend(packet_filter(machine, port, dht_port));
    findings.push(names(machine));
    findings
}

fn interfaces(machine: &Machine) -> Finding {
    let flags = |name: &String| {
        let text = machine.text(&format!("sys/class/net/{name}/flags"))?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let names = machine.names("sys/class/net");
    let with = |wanted: u32| -> Vec<&str> {
        let fit = names.iter().filter(|name| {
            flags(name).is_some_and(|flags| flags & IFF_LOOPBACK == 0 && flags & wanted == wanted)
        });
        fit.map(String::as_str).collect()
    };
    let (up, multicast) = (with(IFF_UP), with(IFF_UP | IFF_MULTICAST));
    if up.is_empty() {
        Finding::bad(
            "interfaces",
            "no network interface is up",
            "plug in the cable, or: ip link set NAME up",
        )
    } else if multicast.is_empty() {
        Finding::warn(
            "interfaces",
            format!("{}: no multicast", up.join(", ")),
            "nobody finds this provider by phase-discover: ip link set NAME multicast on",
        )
    } else {
        Finding::ok("interfaces", format!("up: {}", multicast.join(", ")))
    }
}

fn join() -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.join_multicast_v4(&MDNS_GROUP, &Ipv4Addr::UNSPECIFIED)
}

/// Its rules cannot be judged here; that it is there is worth a word.
fn packet_filter(machine: &Machine, port: u16, dht_port: Option<u16>) -> Option<Finding> {
    let modules = machine.text("proc/modules")?;
    let loaded = modules.lines().filter_map(|line| line.split(' ').next());
    let filter = loaded
        .into_iter()
        .find(|name| matches!(*name, "nf_tables" | "ip_tables"))?;
    let mut finding = Finding::ok("firewall", format!("a packet filter ({filter}) is loaded"));
    let dht = dht_port.map_or_else(String::new, |port| format!(", {port}/tcp for the DHT"));
    finding.advice = Some(format!(
        "when clients cannot reach this machine, let in {port}/tcp and 5353/udp{dht}: nft list ruleset"
    ));
    Some(finding)
}

fn names(machine: &Machine) -> Finding {
    let lines = |path| {
        let text = machine.text(path).unwrap_or_default();
        let words = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().to_owned());
        words.collect::<Vec<String>>()
    };
    let knows_itself = lines("etc/hosts").iter().any(|line| {
        line.split_whitespace()
            .skip(1)
            .any(|name| name == "localhost")
    });
    let servers = lines("etc/resolv.conf");
    let has_server = servers
        .iter()
        .any(|line| line.split_whitespace().next() == Some("nameserver"));
    if !knows_itself {
        Finding::warn(
            "names",
            "/etc/hosts does not name localhost",
            "add the line: 127.0.0.1 localhost",
        )
    } else if !has_server {
        Finding::warn(
            "names",
            "/etc/resolv.conf names no server",
            "host names in URLs cannot be found; addresses can be used: phase-fetch http://192.0.2.1:8080",
        )
    } else {
        Finding::ok("names", "localhost and a name server are configured")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn interfaces_that_are_down_deaf_or_up() {
        for (flags, level) in [
            ("0x1003", Level::Ok),
            ("0x3", Level::Warn),
            ("0x1002", Level::Bad),
            ("nonsense", Level::Bad),
        ] {
            let (_dir, machine) = Machine::of(&[
                ("sys/class/net/lo/flags", "0x9\n"),
                ("sys/class/net/eth0/flags", flags),
            ]);
            assert_eq!(interfaces(&machine).level, level, "{flags}");
        }
    }

    #[test]
    fn names_need_a_server_and_localhost() {
        let hosts = "127.0.0.1 me localhost\n";
        for (hosts, resolv, level) in [
            (hosts, "nameserver 192.0.2.53\n", Level::Ok),
            (hosts, "# nameserver 192.0.2.53\n", Level::Warn),
            (
                "# 127.0.0.1 localhost\n",
                "nameserver 192.0.2.53\n",
                Level::Warn,
            ),
        ] {
            let files = [("etc/hosts", hosts), ("etc/resolv.conf", resolv)];
            let (_dir, machine) = Machine::of(&files);
            assert_eq!(names(&machine).level, level, "{hosts:?} {resolv:?}");
        }
    }

    #[test]
    fn a_packet_filter_is_mentioned() {
        let (_dir, machine) = Machine::of(&[("proc/modules", "nf_tables 1 0 - Live 0x0\n")]);
        let finding = packet_filter(&machine, 8080, Some(4011)).unwrap();
        let advice = finding.advice.unwrap();
        assert!(
            advice.contains("8080/tcp and 5353/udp, 4011/tcp"),
            "{advice}"
        );
        let (_dir, machine) = Machine::of(&[("proc/modules", "ext4 1 0 - Live 0x0\n")]);
        assert_eq!(packet_filter(&machine, 8080, None), None);
    }
}
