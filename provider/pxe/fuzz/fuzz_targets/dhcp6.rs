//! Any bytes as a datagram of DHCPv6, directly or through relays.

#![no_main]

use std::net::Ipv6Addr;

use libfuzzer_sys::fuzz_target;
use pxe::dhcp6::Request;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::parse(bytes) {
        let peer = Ipv6Addr::LOCALHOST;
        let _ = (
            request.relayed_link(),
            request.mac(peer),
            request.client(peer),
        );
    }
});
