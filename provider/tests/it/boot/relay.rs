//! Machines behind a DHCP relay, and behind the router that it runs on.

use std::net::Ipv4Addr;

use pxe::dhcp::{Kind, options};

use super::client::{Ask, Client};
use super::{PATIENCE, ROUTER, Rig, SERVER, SERVER_MODE, from, given, has};
use crate::lan::{Lan, has_program, skip, until};

// C18: a relay gets its answer at port 67, with the address of this machine that it reaches.
#[test]
fn machines_behind_a_real_relay_are_answered_through_it() {
    let server = SERVER.to_string();
    let dnsmasq = format!("--dhcp-relay=10.79.0.1,{server}");
    let dnsmasq = [
        "-k",
        "-C",
        "/dev/null",
        "--port=0",
        "--log-dhcp",
        "--pid-file=",
        "--user=root",
        "--log-facility=-",
        &dnsmasq,
    ];
    behind_a_relay("dnsmasq", &dnsmasq, "DHCP relay from 10.79.0.1");
    // With option 82.
    let isc = [
        "-4", "-d", "--no-pid", "-a", "-id", "far", "-iu", "br0", &server,
    ];
    behind_a_relay("dhcrelay", &isc, "Sending on   Socket/fallback");
}

fn behind_a_relay(program: &str, arguments: &[&str], begins: &str) {
    if !has_program(program) {
        return skip(
            "boot behind a relay",
            &format!("{program} is not installed"),
        );
    }
    let Some(mut rig) = Rig::new("boot behind a relay") else {
        return;
    };
    // client -- 10.79.0.0/24 -- hub (relay) -- 10.77.0.0/24 -- server
    rig.lan.join("hub", "far", "client", "eth1").unwrap();
    rig.lan
        .ip("hub", "address add 10.79.0.1/24 dev far")
        .unwrap();
    for (host, name) in [("hub", "far"), ("client", "eth1")] {
        rig.lan.ip(host, &format!("link set {name} up")).unwrap();
    }
    rig.lan.ip("client", "link set eth0 down").unwrap();
    rig.lan
        .ip("server", "route add 10.79.0.0/24 via 10.77.0.1")
        .unwrap();
    let mut relay = rig.lan.command("hub", program);
    relay.args(arguments);
    rig.lan.start("relay", relay);
    let relays = || rig.lan.log("relay").contains(begins);
    assert!(until(PATIENCE, relays), "{}", rig.lan.log("relay"));
    let far = "10.79.0.100-10.79.0.110/24";
    rig.start(&[&SERVER_MODE[..], &["--dhcp-range", far]].concat());
    let client = Client::at(&rig.lan, "client", "eth1", 68);
    let ask = Ask::discover(7, "PXEClient");
    let answers = client.ask(&ask, PATIENCE, has(Kind::Offer));
    let offer = from(&answers, SERVER)[0].clone();
    let first = Ipv4Addr::new(10, 79, 0, 100);
    assert_eq!(offer.yiaddr, first, "{program}");
    assert_eq!(
        (offer.siaddr, offer.giaddr),
        (SERVER, Ipv4Addr::new(10, 79, 0, 1))
    );
    let take = Ask::take(&offer).booting(7, "PXEClient");
    let answers = client.ask(&take, PATIENCE, has(Kind::Ack));
    assert_eq!(given(&answers, Kind::Ack), Some(first), "{program}");
    // It keeps its address by asking the server itself, through the router.
    rig.lan
        .ip("client", "address add 10.79.0.100/24 dev eth1")
        .unwrap();
    rig.lan
        .ip("client", "route add default via 10.79.0.1")
        .unwrap();
    if !forwards(&rig.lan, "hub") {
        return skip("renewal through a router", "ip_forward cannot be set here");
    }
    let mut renew = Ask::new(Kind::Request);
    renew.ciaddr = first;
    let answers = client.ask_at(&renew, (SERVER, 67), PATIENCE, |all| !all.is_empty());
    assert_eq!(given(&answers, Kind::Ack), Some(first), "{program}");
}

/// Makes a host a router.
fn forwards(lan: &Lan, host: &str) -> bool {
    let set = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    lan.within(host, set).is_ok()
}

// C18, C19: the same as a proxy, and what the relay added comes back as it was.
#[test]
fn a_proxy_answers_a_relay_and_keeps_what_it_added() {
    let Some(mut rig) = Rig::new("boot by proxy behind a relay") else {
        return;
    };
    rig.start(&[]);
    let relay = Client::at(&rig.lan, "hub", "br0", 67);
    let added: &[u8] = &[1, 4, b'p', b'o', b'r', b't'];
    let mut ask = Ask::discover(16, "HTTPClient").with(options::RELAY, added);
    ask.giaddr = ROUTER;
    let answers = relay.ask_at(&ask, (SERVER, 67), PATIENCE, |all| !all.is_empty());
    let offer = from(&answers, SERVER)[0];
    assert_eq!((offer.giaddr, offer.siaddr), (ROUTER, SERVER));
    assert_eq!(offer.options.get(options::RELAY), Some(added));
}
