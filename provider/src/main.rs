//! `plasmd`: everything of Phase that talks to a network, and the tools for people.
//!
//! One binary, four names: `plasmd`, `phase-discover`, `phase-fetch` and `phase-verify` (see [`cli`]). This file only
//! picks the command by the name it was started under, starts logging and turns the outcome into an exit code
//! ([`exit`]). Each command lives in the module of its name; those that need an async runtime build their own.

mod boot_report;
mod cli;
mod clients_cmd;
mod completions_cmd;
mod config;
mod control;
mod dht;
mod discover_cmd;
mod doctor;
mod exit;
mod fetch_cmd;
mod held_folder;
mod http;
mod init_link;
mod instead;
mod key;
mod listen;
mod log;
mod machines;
mod man_cmd;
mod manifest_cmd;
mod memory;
mod net;
mod out;
mod packet_socket;
mod probe;
mod progress;
mod question;
mod root_cmd;
mod sealed;
mod serve;
mod share;
mod stage;
mod status_cmd;
mod tls_cmd;
mod tls_trust;
mod trust;
mod upgrade;
mod upgrade_cmd;
mod verify_cmd;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = cli::parse(std::env::args_os());
    log::start(&command.log_wanted());
    exit::finish(command.run())
}
