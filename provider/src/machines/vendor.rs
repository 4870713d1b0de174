//! Who made a network card, for the makers an operator meets most: a list of everybody is larger than this program.
//!
//! The first three bytes of an address, as the IEEE assigned them. A card whose address was made up by software (bit 1 of
//! the first byte) has no maker; a few hypervisors use such addresses with a fixed beginning all the same.

use pxe::Mac;

/// The makers, sorted by the first three bytes.
const MAKERS: &[([u8; 3], &str)] = &[
    ([0x00, 0x02, 0xc9], "Mellanox"),
    ([0x00, 0x05, 0x69], "VMware"),
    ([0x00, 0x0c, 0x29], "VMware"),
    ([0x00, 0x0d, 0xb9], "PC Engines"),
    ([0x00, 0x15, 0x5d], "Microsoft Hyper-V"),
    ([0x00, 0x16, 0x3e], "Xen"),
    ([0x00, 0x1b, 0x21], "Intel"),
    ([0x00, 0x1c, 0x14], "VMware"),
    ([0x00, 0x1c, 0x42], "Parallels"),
    ([0x00, 0x25, 0x90], "Supermicro"),
    ([0x00, 0x30, 0x48], "Supermicro"),
    ([0x00, 0x50, 0x56], "VMware"),
    ([0x00, 0xe0, 0x4c], "Realtek"),
    ([0x08, 0x00, 0x27], "VirtualBox"),
    ([0x0c, 0xc4, 0x7a], "Supermicro"),
    ([0x14, 0x18, 0x77], "Dell"),
    ([0x28, 0xcd, 0xc1], "Raspberry Pi"),
    ([0x2c, 0xcf, 0x67], "Raspberry Pi"),
    ([0x3c, 0xec, 0xef], "Supermicro"),
    ([0x52, 0x54, 0x00], "QEMU"),
    ([0x88, 0xa2, 0x9e], "Raspberry Pi"),
    ([0xac, 0x1f, 0x6b], "Supermicro"),
    ([0xb8, 0x27, 0xeb], "Raspberry Pi"),
    ([0xd8, 0x3a, 0xdd], "Raspberry Pi"),
    ([0xdc, 0xa6, 0x32], "Raspberry Pi"),
    ([0xe4, 0x5f, 0x01], "Raspberry Pi"),
];

/// The maker of a card.
pub(crate) fn maker(mac: Mac) -> Option<&'static str> {
    let at = MAKERS
        .binary_search_by_key(&mac.maker(), |(bytes, _)| *bytes)
        .ok()?;
    MAKERS.get(at).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_are_found() {
        assert!(MAKERS.is_sorted_by_key(|(bytes, _)| *bytes));
        let of = |mac: &str| maker(mac.parse().unwrap());
        assert_eq!(of("52:54:00:12:34:56"), Some("QEMU"));
        assert_eq!(of("00:02:c9:00:00:01"), Some("Mellanox"));
        assert_eq!(of("e4:5f:01:00:00:01"), Some("Raspberry Pi"));
        assert_eq!(of("02:00:00:00:00:01"), None);
    }
}
