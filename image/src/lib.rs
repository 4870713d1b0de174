//! What a bootable image is and how it is built: the library behind `cargo appliance`.
//!
//! The writers (`cpio`, `squashfs`, `pe`, `uki`, `fat`, `disk`) are pure functions of their recipes: same inputs, same bytes,
//! no root, no loop device, no clock. Everything that runs programs or touches the machine is in the other modules.

pub mod accel;
pub mod announce;
pub mod bench;
pub mod boot_files;
pub mod boot_paths;
pub mod bounded;
pub mod build;
pub mod cli;
pub mod cpio;
pub mod disk;
pub mod facts;
pub mod fat;
pub mod grub;
pub mod http;
pub mod initramfs;
pub mod inspect;
pub mod kernel;
pub mod package;
pub mod packages;
pub mod paths;
pub mod pe;
pub mod programs;
pub mod progress;
pub mod qemu;
pub mod readme;
pub mod release;
pub mod run;
pub mod squashfs;
pub mod stamp;
pub mod tally;
pub mod test;
pub mod trust;
pub mod uki;
pub mod upgrade_demo;
