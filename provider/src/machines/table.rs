//! All machines by MAC, and who has which address. Bounded: whoever invents machines cannot make it grow, and pushes out only
//! those that never fetched anything, as long as there are such.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Instant, SystemTime};

use pxe::Mac;

use crate::machines::limits::{ADDRESSES_MAX, BOOT_GAP, MACHINES_MAX};
use crate::machines::neighbours::Neighbours;
use crate::machines::record::Machine;

/// The machines.
#[derive(Debug, Default)]
pub(crate) struct Table {
    machines: HashMap<Mac, Machine>,
    /// Nobody's, where several machines come from behind one: a proxy, or a router that translates.
    addresses: HashMap<IpAddr, Option<Mac>>,
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

    /// A machine, remembered from now on. When there is no room the one that was quiet for longest is forgotten, of those
    /// that only asked first: an address is invented with one packet, a download is not.
    pub(crate) fn machine(&mut self, mac: Mac, now: SystemTime) -> &mut Machine {
        if self.machines.len() >= MACHINES_MAX && !self.machines.contains_key(&mac) {
            let machines = self.machines.values();
            let quietest = machines.min_by_key(|machine| (machine.bytes > 0, machine.last));
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
        self.addresses.retain(|_, owner| *owner != Some(mac));
        self.machines.remove(&mac).is_some()
    }

    /// A machine has an address from now on, and nobody else has it.
    pub(crate) fn has_address(&mut self, mac: Mac, address: IpAddr) {
        self.give(address, Some(mac));
    }

    /// A machine says over HTTP that it has an address. What somebody else had a moment ago, and the kernel does not know to
    /// be this one's, is nobody's from now on: better nobody's than the wrong one's. Whether it is believed.
    pub(crate) fn claims(&mut self, mac: Mac, address: IpAddr, now: SystemTime) -> bool {
        let is_heard = |owner: &Mac| {
            self.machines.get(owner).is_some_and(|machine| {
                now.duration_since(machine.last)
                    .is_ok_and(|passed| passed < BOOT_GAP)
            })
        };
        let is_doubtful = match self.addresses.get(&address) {
            None => false,
            Some(None) => true,
            Some(Some(owner)) => *owner != mac && is_heard(owner),
        };
        let is_its = !is_doubtful || self.neighbours.look_up(address, Instant::now()) == Some(mac);
        self.give(address, is_its.then_some(mac));
        is_its
    }

    fn give(&mut self, address: IpAddr, owner: Option<Mac>) {
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
        self.addresses.insert(address, owner);
    }

    /// The machine that was seen to have an address.
    pub(crate) fn known(&self, address: IpAddr) -> Option<Mac> {
        self.addresses.get(&address.to_canonical()).copied()?
    }

    /// The same; the kernel's neighbours are asked when it was not seen. Only machines that are known by other signs.
    pub(crate) fn mac_of(&mut self, address: IpAddr, now: Instant) -> Option<Mac> {
        if let Some(mac) = self.known(address) {
            return Some(mac);
        }
        if self.addresses.contains_key(&address.to_canonical()) {
            return None;
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
    fn invented_machines_push_out_none_that_fetched() {
        let mut table = Table::default();
        table.machine(mac(0), at(0)).took(1, at(0));
        for number in 1..=u32::try_from(MACHINES_MAX).unwrap() + 1 {
            table.machine(mac(number), at(number));
        }
        assert_eq!(table.all().count(), MACHINES_MAX);
        assert!(table.get(mac(0)).is_some());
        assert!(table.get(mac(1)).is_none() && table.get(mac(2)).is_none());
    }

    #[test]
    fn behind_one_address_with_many_machines_nobody_is_taken_for_another() {
        let mut table = Table::default();
        let (proxy, own) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for number in [1, 2] {
            table.machine(mac(number), at(0));
        }
        // An address that nobody had for long may have a new owner.
        let later = at(0) + BOOT_GAP * 2;
        assert!(table.claims(mac(1), own, at(1)));
        assert!(table.claims(mac(2), own, later));
        assert_eq!(table.known(own), Some(mac(2)));
        // One that another machine uses just now is that of neither, and stays so.
        assert!(table.claims(mac(1), proxy, at(1)));
        assert!(!table.claims(mac(2), proxy, at(2)));
        assert_eq!(table.known(proxy), None);
        assert_eq!(table.mac_of(proxy, Instant::now()), None);
        assert!(!table.claims(mac(1), proxy, later));
        // DHCP knows better.
        table.has_address(mac(1), proxy);
        assert_eq!(table.known(proxy), Some(mac(1)));
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
