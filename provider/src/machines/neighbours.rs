//! Which machine has an address: the kernel's own table of neighbours (`/proc/self/net/arp`), and the addresses that carry
//! the machine's address within them (EUI-64).
//!
//! Only for showing whose download it was. Read at most once in a second, and never for a machine behind a router, whose
//! neighbours are others'.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use pxe::Mac;

use crate::machines::limits::{NEIGHBOURS_LOOK, NEIGHBOURS_MAX};

/// The table; in this process's own entry, which the sandbox lets it read.
const TABLE: &str = "/proc/self/net/arp";

/// Set in an entry that is complete (`ATF_COM`).
const COMPLETE: u32 = 0x2;

/// What the kernel knew when it was asked last.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    looked: Option<Instant>,
    known: HashMap<Ipv4Addr, Mac>,
}

impl Neighbours {
    /// The machine with this address.
    pub(crate) fn mac_of(&mut self, address: IpAddr, now: Instant) -> Option<Mac> {
        let address = match address.to_canonical() {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => return within(address),
        };
        if let Some(mac) = self.known.get(&address) {
            return Some(*mac);
        }
        self.look(now);
        self.known.get(&address).copied()
    }

    /// The same, with what was read a moment ago at most: an address has a new owner at times.
    pub(crate) fn look_up(&mut self, address: IpAddr, now: Instant) -> Option<Mac> {
        self.look(now);
        self.mac_of(address, now)
    }

    /// Reads the table, if that is due.
    fn look(&mut self, now: Instant) {
        let is_due = self
            .looked
            .is_none_or(|looked| now.saturating_duration_since(looked) >= NEIGHBOURS_LOOK);
        if is_due {
            self.looked = Some(now);
            // A kernel that does not tell knows nobody.
            let text = std::fs::read_to_string(TABLE).unwrap_or_default();
            self.known = read(&text);
        }
    }
}

fn read(text: &str) -> HashMap<Ipv4Addr, Mac> {
    text.lines()
        .skip(1)
        .take(NEIGHBOURS_MAX)
        .filter_map(entry)
        .collect()
}

/// `192.168.1.7 0x1 0x2 52:54:00:12:34:56 * eth0`
fn entry(line: &str) -> Option<(Ipv4Addr, Mac)> {
    let mut fields = line.split_whitespace();
    let address = fields.next()?.parse().ok()?;
    let flags = fields.nth(1)?.strip_prefix("0x")?;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let mac: Mac = fields.next()?.parse().ok()?;
    (flags & COMPLETE != 0 && mac.is_machine()).then_some((address, mac))
}

/// The address of the card that an address was made from (RFC 4291, appendix A).
fn within(address: Ipv6Addr) -> Option<Mac> {
    let bytes = address.octets();
    let [a, b, c, 0xff, 0xfe, d, e, f] = bytes[8..] else {
        return None;
    };
    Some(Mac([a ^ 2, b, c, d, e, f])).filter(|mac| mac.is_machine())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let text = "IP address       HW type     Flags       HW address            Mask     Device\n\
                    10.0.0.7         0x1         0x2         52:54:00:12:34:56     *        eth0\n\
                    10.0.0.8         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                    10.0.0.9         0x1         0x6         52:54:00:12:34:57     *        eth0\n\
                    nonsense\n10.0.0.10 0x1\n";
        let known = read(text);
        assert_eq!(known.len(), 2);
        let seven = Ipv4Addr::new(10, 0, 0, 7);
        assert_eq!(known[&seven].to_string(), "52:54:00:12:34:56");
    }

    #[test]
    fn addresses_that_carry_the_cards() {
        let mut neighbours = Neighbours::default();
        let now = Instant::now();
        for (text, expected) in [
            ("fe80::5054:ff:fe12:3456", Some("52:54:00:12:34:56")),
            ("2001:db8::5054:ff:fe12:3456", Some("52:54:00:12:34:56")),
            ("2001:db8::1", None),
            ("127.0.0.1", None),
            ("::ffff:127.0.0.1", None),
        ] {
            let mac = neighbours.mac_of(text.parse().unwrap(), now);
            assert_eq!(
                mac.map(|mac| mac.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }
}
