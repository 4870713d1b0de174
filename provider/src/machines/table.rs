//! All machines by MAC, and who has which address. Bounded: strangers cannot push out a machine that boots, and nobody can
//! make it grow.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Instant, SystemTime};

use pxe::Mac;

use crate::machines::limits::{ADDRESSES_MAX, MACHINES_MAX};
use crate::machines::neighbours::Neighbours;
use crate::machines::record::Machine;

/// The machines.
#[derive(Debug, Default)]
pub(crate) struct Table {
    machines: HashMap<Mac, Machine>,
    addresses: HashMap<IpAddr, Mac>,
    neighbours: Neighbours,
}

impl Table {
    /// A machine that was seen.
    pub(crate) fn get(&self, mac: Mac) -> Option<&Machine> {
        self.machines.get(&mac)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, mac: Mac) -> Option<&mut Machine> {
        self.machines.get_mut(&mac)
    }

    /// A machine, remembered from now on. When there is no room the one that was quiet for longest is forgotten.
    pub(crate) fn machine(&mut self, mac: Mac, now: SystemTime) -> &mut Machine {
        if self.machines.len() >= MACHINES_MAX && !self.machines.contains_key(&mac) {
            let quietest = self.machines.values().min_by_key(|machine| machine.last);
            if let Some(quietest) = quietest.map(|machine| machine.mac) {
                self.forget(quietest);
            }
        }
        self.machines
            .entry(mac)
            .or_insert_with(|| Machine::new(mac, now))
    }

    /// Forgets a machine; whether it was there.
    pub(crate) fn forget(&mut self, mac: Mac) -> bool {
        self.addresses.retain(|_, owner| *owner != mac);
        self.machines.remove(&mac).is_some()
    }

    /// A machine has an address from now on, and nobody else has it.
    pub(crate) fn has_address(&mut self, mac: Mac, address: IpAddr) {
        // Tools on this machine, and machines behind a proxy on it, all come from there.
        let is_our_own =
            address == IpAddr::from([127, 0, 0, 1]) || address == IpAddr::from(Ipv6Addr::LOCALHOST);
        if is_our_own || address.is_unspecified() || address.is_multicast() {
            return;
        }
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            // Those of machines that were forgotten went with them; these come back with the next packet.
            self.addresses.clear();
        }
        self.addresses.insert(address, mac);
    }

    /// The machine that was seen to have an address.
    pub(crate) fn known(&self, address: IpAddr) -> Option<Mac> {
        self.addresses.get(&address.to_canonical()).copied()
    }

    /// The same; the kernel's neighbours are asked when it was not seen. Only machines that are known by other signs.
    pub(crate) fn mac_of(&mut self, address: IpAddr, now: Instant) -> Option<Mac> {
        if let Some(mac) = self.known(address) {
            return Some(mac);
        }
        let mac = self.neighbours.mac_of(address, now)?;
        if !self.machines.contains_key(&mac) {
            return None;
        }
        self.has_address(mac, address.to_canonical());
        Some(mac)
    }

    /// Every machine.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn mac(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    fn at(second: u32) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second.into())
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_quietest() {
        let mut table = Table::default();
        let count = u32::try_from(MACHINES_MAX).unwrap();
        for number in 0..count {
            table.machine(mac(number), at(number));
            table.has_address(mac(number), number.to_be_bytes().into());
        }
        table.machine(mac(0), at(count)).last = at(count);
        table.machine(mac(count), at(count));
        assert_eq!(table.all().count(), MACHINES_MAX);
        assert!(table.get(mac(1)).is_none());
        assert!(table.get(mac(0)).is_some());
        assert_eq!(table.known([0, 0, 0, 1].into()), None);
        assert_eq!(table.known([0, 0, 0, 2].into()), Some(mac(2)));
    }

    #[test]
    fn an_address_has_one_machine() {
        let mut table = Table::default();
        let address = "10.0.0.1".parse().unwrap();
        for number in [1, 2] {
            table.machine(mac(number), at(1));
            table.has_address(mac(number), address);
        }
        assert_eq!(
            table.known("::ffff:10.0.0.1".parse().unwrap()),
            Some(mac(2))
        );
        table.has_address(mac(1), "127.0.0.1".parse().unwrap());
        assert_eq!(table.known("127.0.0.1".parse().unwrap()), None);
        assert!(table.forget(mac(2)) && !table.forget(mac(2)));
        assert_eq!(table.known(address), None);
        // A machine that only its card's address names.
        table.machine("52:54:00:12:34:56".parse().unwrap(), at(1));
        let own = "fe80::5054:ff:fe12:3456".parse().unwrap();
        let other = "fe80::5054:ff:fe12:3457".parse().unwrap();
        assert!(table.mac_of(own, Instant::now()).is_some());
        assert!(table.mac_of(other, Instant::now()).is_none());
    }
}
