//! `init`: PID 1 of the appliance.
//!
//! Mounts the kernel's file systems, finds and verifies the artifacts, mounts or kexecs them, supervises the roles of
//! `plasmd`, feeds the watchdog, and leaves the machine in order. Blocking code in one thread; it parses nothing that
//! comes from the network, and uses nothing that it has not verified itself.
//!
//! Where to read: `plan` decides the order, `run` walks it, `machine` is the loop everything returns to, `verify` decides
//! what is believed, `console` lists the lines that programs may rely on, `cmdline` the kernel parameters.
//!
//! Under the names `poweroff`, `reboot` and `shutdown` the same program asks the running PID 1: SIGUSR2 powers off,
//! SIGTERM restarts (as SIGINT does, which ctrl-alt-del sends).

use std::process::ExitCode;

use rustix::process::{Pid, Signal};

mod children;
mod chunked;
mod cmdline;
mod console;
mod control;
mod cpio;
mod identity;
mod kexec;
mod limits;
mod machine;
mod memory;
mod mounts;
mod plan;
mod power;
mod root;
mod run;
mod sandbox;
mod screen;
mod settings;
mod shutdown;
mod source;
mod supervise;
mod sys;
mod unified;
mod upgrade;
mod verify;
mod watchdog;

fn main() -> ExitCode {
    if rustix::process::getpid() == Pid::INIT {
        run::run();
    }
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    match (name, arguments.next().as_deref()) {
        ("poweroff", _) => ask(Signal::USR2),
        ("reboot", _) => ask(Signal::TERM),
        ("shutdown", Some("-r" | "--reboot")) => ask(Signal::TERM),
        ("shutdown", _) => ask(Signal::USR2),
        (_, Some("--parameters")) => {
            print!("{}", cmdline::table());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("error: init runs as process 1");
            eprintln!("hint: init --parameters prints the kernel parameters it knows");
            ExitCode::from(2)
        }
    }
}

/// Signals PID 1. Only root may.
fn ask(signal: Signal) -> ExitCode {
    match rustix::process::kill_process(Pid::INIT, signal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: process 1 cannot be asked: {error}");
            ExitCode::FAILURE
        }
    }
}
