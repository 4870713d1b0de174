//! What a bootable image is and how it is built: the library behind `cargo appliance`.
//!
//! The writers (`cpio`, `squashfs`, `pe`, `uki`, `fat`, `disk`) are pure functions of their recipes: same inputs, same bytes,
//! no root, no loop device, no clock. Everything that runs programs or touches the machine is in the other modules.

pub mod cpio;
pub mod disk;
pub mod fat;
pub mod initramfs;
pub mod pe;
pub mod squashfs;
pub mod uki;
