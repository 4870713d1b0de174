//! `resolv.conf`, made of what the leases name.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::limits::NAME_SERVERS_MAX;

/// The text for these leases, best interface first. Every string in it was checked when its lease was.
pub(super) fn text<'a>(leases: impl Iterator<Item = (&'a [Ipv4Addr], Option<&'a str>)>) -> String {
    let (mut servers, mut domain) = (Vec::new(), None);
    for (name_servers, search) in leases {
        for server in name_servers {
            if !servers.contains(server) && servers.len() < NAME_SERVERS_MAX {
                servers.push(*server);
            }
        }
        domain = domain.or(search);
    }
    let mut text = String::from("# Written by plasmd net from DHCP leases.\n");
    if let Some(domain) = domain {
        let _infallible = writeln!(text, "search {domain}");
    }
    for server in servers {
        let _infallible = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lease_goes_first_and_three_servers_are_enough() {
        let server = |last| Ipv4Addr::new(10, 0, 0, last);
        let first = [server(1), server(2)];
        let second = [server(2), server(3), server(4)];
        let text = text(
            [
                (first.as_slice(), None),
                (second.as_slice(), Some("example.net")),
            ]
            .into_iter(),
        );
        let expected = "# Written by plasmd net from DHCP leases.\nsearch example.net\n\
             nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        assert_eq!(text, expected);
    }
}
