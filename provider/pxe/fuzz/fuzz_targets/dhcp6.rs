//! Any bytes as a datagram of DHCPv6, directly or through relays, and what is answered to it in every part.

#![no_main]

use std::net::Ipv6Addr;

use libfuzzer_sys::fuzz_target;
use pxe::boot::{Offer, Plan};
use pxe::dhcp6::{Addresses, Mode, Port, Prefix, Request, Server, answer};

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = Request::parse(bytes) else {
        return;
    };
    let own = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
    let client = request.client(own);
    let plan = Plan::Netboot(Offer {
        tftp_file: Some("phase.efi".to_owned()),
        http_url: Some("http://[fd77::1]:8080/phase.efi".to_owned()),
        script_url: Some("http://[fd77::1]:8080/boot.ipxe".to_owned()),
        ..Offer::default()
    });
    let prefix = request.relayed_link().map_or(Prefix::of(own), Prefix::of);
    for mode in [Mode::Proxy, Mode::Server] {
        for port in [Port::Dhcp, Port::Boot] {
            let server = Server {
                id: &[0, 4, 1],
                address: own,
                mode,
                prefix,
            };
            let boots = client.as_ref().map(|client| (client, &plan));
            let mut addresses = Addresses::default();
            if let Ok(reply) = answer(&request, port, boots, &server, &mut addresses) {
                let _ = (reply.encode(), reply.boot_url(), reply.address());
            }
        }
    }
});
