//! What a bootable image is and how it is built: the library behind `cargo appliance`.
