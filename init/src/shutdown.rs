//! Leaves the machine in order. Every step has a deadline, and the last one always happens.
//!
//! Children end first (the server drains, the lease is given back), then links go down so that nothing writes to memory
//! that a successor uses, then the disks are told to write, the mounts are undone, and the kernel is asked. The watchdog
//! is disarmed for a power-off only, and not fed any more: a shutdown that hangs ends in a reset.

use std::fs;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::system::RebootCommand;

use crate::console::Level;
use crate::machine::{Ending, Machine};
use crate::{root, sys};

/// Never returns.
pub(crate) fn leave(mut machine: Machine, ending: Ending) -> ! {
    let text = match ending {
        Ending::PowerOff => "powering off",
        Ending::Restart => "restarting",
        // The line about kexec was said when the successor was loaded.
        Ending::Kexec => "leaving for the new kernel",
    };
    machine.console.say(Level::Info, text);
    if let Some(watchdog) = &mut machine.watchdog {
        // The one time-out that the rest of this function has.
        watchdog.feed(std::time::Instant::now());
    }
    machine.stop_children(ending);
    links_down();
    rustix::fs::sync();
    root::take_down();
    rustix::fs::sync();
    match (ending, machine.watchdog.take()) {
        (Ending::PowerOff, Some(watchdog)) => watchdog.disarm(),
        // Left open and armed: whoever comes next must open it in time.
        (_, watchdog) => std::mem::forget(watchdog),
    }
    let command = match ending {
        Ending::PowerOff => RebootCommand::PowerOff,
        Ending::Restart => RebootCommand::Restart,
        Ending::Kexec => RebootCommand::Kexec,
    };
    let failed = rustix::system::reboot(command);
    machine
        .console
        .say(Level::Error, &format!("warning: {text} failed: {failed:?}"));
    last_resort()
}

/// Restarts the machine, or waits for the watchdog to do it. Never returns.
pub(crate) fn last_resort() -> ! {
    loop {
        let _tried_again = rustix::system::reboot(RebootCommand::Restart);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

fn links_down() {
    let Ok(entries) = fs::read_dir("/sys/class/net") else {
        return;
    };
    let flags = SocketFlags::CLOEXEC;
    let Ok(socket) = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
    else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(name) = entry.file_name().into_string() {
            use std::os::fd::AsFd;
            let _stays_up = sys::link_down(socket.as_fd(), &name);
        }
    }
}
