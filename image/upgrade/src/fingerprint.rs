//! What a machine is made of, as far as an image must find it again after the jump.

use serde::{Deserialize, Serialize};

use crate::limits::{NIC_PATH_SIZE_MAX, NICS_MAX};
use crate::reason::plain;

/// How much of the memory may be missing after the jump, in percent: two kernels count what they keep for themselves
/// differently.
const MEMORY_LOSS_PERCENT_MAX: u32 = 10;

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Nic {
    /// Where it sits, as `/sys` says: `0000:00:02.0`.
    pub path: String,
    /// Its address.
    pub mac: [u8; 6],
}

/// The hardware that the pre-flight saw.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Processors that are online.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disks.
    pub disks: u32,
    /// Network cards.
    pub nics: Vec<Nic>,
}

impl Fingerprint {
    /// The same within the limits of the ledger.
    pub fn bounded(mut self) -> Self {
        self.nics.truncate(NICS_MAX);
        for nic in &mut self.nics {
            nic.path = plain(&nic.path, NIC_PATH_SIZE_MAX);
        }
        self
    }

    /// What `now` lacks of this machine, in words; empty when nothing is missing. More than before is no fault.
    /// What the crash kernel holds counts as memory that is there.
    pub fn missing(&self, now: &Self) -> Vec<String> {
        let mut missing = Vec::new();
        for nic in &self.nics {
            if !now.nics.contains(nic) {
                let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
                missing.push(format!("network card {mac} at {}", nic.path));
            }
        }
        if now.cpus < self.cpus {
            missing.push(format!(
                "{} of {} processors",
                self.cpus - now.cpus,
                self.cpus
            ));
        }
        let memory = now.memory_mib;
        let least = self.memory_mib - self.memory_mib / 100 * MEMORY_LOSS_PERCENT_MAX;
        if memory < least {
            missing.push(format!(
                "{} of {} MiB of memory",
                self.memory_mib - memory,
                self.memory_mib
            ));
        }
        if now.disks < self.disks {
            missing.push(format!(
                "{} of {} disks",
                self.disks - now.disks,
                self.disks
            ));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Fingerprint {
        let nic = |last| Nic {
            path: format!("0000:00:0{last}.0"),
            mac: [2, 0, 0, 0, 0, last],
        };
        Fingerprint {
            cpus: 4,
            memory_mib: 1024,
            disks: 1,
            nics: vec![nic(2), nic(3)],
        }
    }

    #[test]
    fn what_is_missing_is_named_fault_15() {
        let before = machine();
        assert!(before.missing(&before).is_empty());
        let mut now = machine();
        now.cpus = 8;
        now.disks = 2;
        now.memory_mib = 930;
        assert!(before.missing(&now).is_empty());
        now.memory_mib = 768;
        assert_eq!(before.missing(&now), ["256 of 1024 MiB of memory"]);
        now = machine();
        now.nics[1].mac = [9; 6];
        now.cpus = 1;
        now.disks = 0;
        let wrong = before.missing(&now);
        assert_eq!(
            wrong,
            [
                "network card 02:00:00:00:00:03 at 0000:00:03.0",
                "3 of 4 processors",
                "1 of 1 disks"
            ]
        );
    }
}
