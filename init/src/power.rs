//! The power button, read as a key.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

const KEY_POWER: usize = 116;
const EV_KEY: u16 = 1;

/// `struct input_event` of a 64-bit kernel: two words of time, type, code, value.
const EVENT_SIZE: usize = 24;

/// The devices that have a power key.
#[derive(Debug, Default)]
pub(crate) struct PowerKeys {
    open: Vec<(String, OwnedFd)>,
}

impl PowerKeys {
    /// Looks for devices that were plugged in since the last call.
    pub(crate) fn rescan(&mut self, class_input: &Path, dev: &Path) {
        let Ok(entries) = fs::read_dir(class_input) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !name.starts_with("event") || self.open.iter().any(|(open, _)| *open == name) {
                continue;
            }
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key"))
                .unwrap_or_default();
            if !has_power_key(&keys) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(fd) = rustix::fs::open(dev.join(&name), flags, Mode::empty()) {
                self.open.push((name, fd));
            }
        }
    }

    /// What to wait for.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|(_, fd)| fd.as_fd())
    }

    /// Reads what arrived; true when the button was pressed. Devices that were unplugged are forgotten.
    pub(crate) fn pressed(&mut self) -> bool {
        let mut pressed = false;
        self.open.retain(|(_, fd)| {
            let mut events = [0; 16 * EVENT_SIZE];
            match rustix::io::read(fd, &mut events) {
                Ok(read) => {
                    pressed |= events[..read].chunks_exact(EVENT_SIZE).any(is_power_press);
                    true
                }
                Err(error) => error != rustix::io::Errno::NODEV,
            }
        });
        pressed
    }
}

/// The kernel prints the bitmap as words of 64 bits in hexadecimal, the highest first.
fn has_power_key(bitmap: &str) -> bool {
    let word = bitmap.split_ascii_whitespace().rev().nth(KEY_POWER / 64);
    word.and_then(|word| u64::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> (KEY_POWER % 64) & 1 == 1)
}

fn is_power_press(event: &[u8]) -> bool {
    let field = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    field(16) == EV_KEY && usize::from(field(18)) == KEY_POWER && value == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_keys_are_found_in_the_bitmap() {
        // An ACPI power button, a keyboard of QEMU, a mouse, nothing.
        assert!(has_power_key("10000000000000 0\n"));
        assert!(has_power_key(
            "402000000 3813078f800d001 feffffdfffefffff fffffffffffffffe"
        ));
        assert!(!has_power_key("70000 0 0 0 0\n"));
        assert!(!has_power_key(""));
        assert!(!has_power_key("zz 0"));
    }

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_press_counts() {
        assert!(is_power_press(&event(1, 116, 1)));
        assert!(!is_power_press(&event(1, 116, 0)), "release");
        assert!(!is_power_press(&event(1, 116, 2)), "repeat");
        assert!(!is_power_press(&event(1, 30, 1)), "another key");
        assert!(!is_power_press(&event(0, 116, 1)), "another kind of event");
    }
}
