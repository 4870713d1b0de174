//! Who has the ports: the one that serves, that of the DHT, and those that boot clients ask by broadcast.

use crate::doctor::finding::{Finding, Machine};
use crate::serve::port_owner::{self, Protocol};

/// What a machine that boots asks first: DHCP, TFTP, and the PXE boot server.
const BOOT_PORTS: [(u16, &str); 3] = [(67, "DHCP"), (69, "TFTP"), (4011, "PXE")];

/// The tables of the kernel, one for each protocol and address family.
fn tables(machine: &Machine, protocol: Protocol) -> String {
    let names = match protocol {
        Protocol::Tcp => ["proc/net/tcp", "proc/net/tcp6"],
        Protocol::Udp => ["proc/net/udp", "proc/net/udp6"],
    };
    names.iter().filter_map(|name| machine.text(name)).collect()
}

/// Looks at all ports. `provider_answers`: a provider is there already.
pub(super) fn check(
    machine: &Machine,
    (port, dht_port): (u16, Option<u16>),
    provider_answers: bool,
) -> Vec<Finding> {
    let taken = |protocol, port| {
        let table = tables(machine, protocol);
        (!port_owner::sockets(&table, port, protocol).is_empty()).then(|| {
            port_owner::find(port, protocol).unwrap_or_else(|| "another process".to_owned())
        })
    };
    let mut findings = vec![serving(
        port,
        taken(Protocol::Tcp, port),
        provider_answers,
        rustix::process::geteuid().is_root(),
    )];
    for (port, what) in BOOT_PORTS {
        findings.push(match taken(Protocol::Udp, port) {
            None => Finding::ok("boot port", format!("{port}/udp ({what}) is free")),
            Some(owner) if provider_answers && owner.contains("(plasmd)") => Finding::ok(
                "boot port",
                format!("{port}/udp ({what}): the provider runs there ({owner})"),
            ),
            Some(owner) => Finding::warn(
                "boot port",
                format!("{port}/udp ({what}) is taken by {owner}"),
                advice(port),
            ),
        });
    }
    findings.extend(dht_port.map(|port| dht(port, taken(Protocol::Tcp, port), provider_answers)));
    findings.extend(rights());
    findings
}

/// The port for other members of the DHT.
fn dht(port: u16, owner: Option<String>, provider_answers: bool) -> Finding {
    match owner {
        None => Finding::ok("dht port", format!("{port}/tcp is free")),
        Some(owner) if provider_answers && owner.contains("(plasmd)") => Finding::ok(
            "dht port",
            format!("{port}/tcp: the provider runs there ({owner})"),
        ),
        Some(owner) => Finding::warn(
            "dht port",
            format!("{port}/tcp is taken by {owner}"),
            "this provider is not found by the DHT: stop that process, or choose another port: plasmd serve --dht-port N",
        ),
    }
}

/// What to do about a port that another program has.
fn advice(port: u16) -> &'static str {
    match port {
        67 => {
            "a DHCP server of this machine: plasmd shares the port where that one allows it; else let it send option 60 PXEClient, and start plasmd serve --dhcp binl"
        }
        69 => "machines get their boot files from there: stop it, or start plasmd serve --no-tftp",
        _ => "another boot server of this machine: stop it, or start plasmd serve --dhcp off",
    }
}

/// Whether this user may open them at all.
fn rights() -> Option<Finding> {
    let may_bind = rustix::thread::capabilities(None).is_ok_and(|sets| {
        let bind = rustix::thread::CapabilitySet::NET_BIND_SERVICE;
        sets.effective.contains(bind)
    });
    (!may_bind).then(|| {
        Finding::warn(
            "boot rights",
            "this user may not open the ports of DHCP and TFTP",
            "plasmd serve started by this user boots no machines: start it as root (--user NAME gives that up), or by systemd",
        )
    })
}

fn serving(port: u16, owner: Option<String>, provider_answers: bool, is_root: bool) -> Finding {
    match owner {
        Some(owner) if provider_answers => Finding::ok(
            "port",
            format!("{port}/tcp: the provider runs there ({owner})"),
        ),
        Some(owner) => Finding::bad(
            "port",
            format!("{port}/tcp is taken by {owner}"),
            "stop it, or choose another: plasmd serve --port N",
        ),
        None if port < 1024 && !is_root => Finding::warn(
            "port",
            format!("{port}/tcp is free, but ports below 1024 need root"),
            "start plasmd as root (it gives its rights up), or by systemd, or choose another: plasmd serve --port N",
        ),
        None => Finding::ok("port", format!("{port}/tcp is free")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0
";
    const UDP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 17 2 0 0
";

    #[test]
    fn taken_ports_are_found_in_the_tables_of_the_kernel() {
        let (_dir, machine) = Machine::of(&[("proc/net/tcp", TABLE), ("proc/net/udp6", UDP)]);
        let levels = |port, answers| -> Vec<Level> {
            let found = check(&machine, (port, Some(8080)), answers);
            // A sixth is about the rights of whoever runs the test.
            found.iter().take(5).map(|finding| finding.level).collect()
        };
        use Level::{Bad, Ok, Warn};
        assert_eq!(levels(8080, false), [Bad, Warn, Ok, Ok, Warn]);
        assert_eq!(levels(8080, true), [Ok, Warn, Ok, Ok, Warn]);
        assert_eq!(levels(8081, false), [Ok, Warn, Ok, Ok, Warn]);
        let without = check(&machine, (8080, None), false);
        assert!(without.iter().all(|finding| finding.check != "dht port"));
    }

    #[test]
    fn a_low_port_needs_rights() {
        assert_eq!(serving(80, None, false, false).level, Level::Warn);
        assert_eq!(serving(80, None, false, true).level, Level::Ok);
    }
}
