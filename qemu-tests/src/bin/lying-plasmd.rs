//! A `plasmd` that was taken over: as `stage` it fetches nothing and hands PID 1 the files below /lies
//! instead, sealed or not; as `serve` it crashes as long as /lies/crash-until says; otherwise it is the real
//! one. Tests put it into an initramfs to see whether PID 1 verifies what its own program gives it, and
//! starts again what dies.

use std::env;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use boot_manifest::handoff::{ENV, HandoffRecord, Report};
use rustix::event::poll;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Where the real program is in the prepared initramfs.
const REAL: &str = "/bin/plasmd.real";
/// What is handed over, by the names of the handoff.
const LIES: &str = "/lies";
const FILES: [&str; 4] = ["manifest", "kernel", "initramfs", "rootfs"];

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if arguments.first().is_none_or(|role| role != "stage") {
        if arguments.first().is_some_and(|role| role == "serve") && must_crash()? {
            std::process::abort();
        }
        return Err(Command::new(REAL).arg0("plasmd").args(arguments).exec());
    }
    let files = FILES.into_iter().map(lie).collect::<io::Result<Vec<_>>>()?;
    hand_over(&socket()?, &files)?;
    // PID 1 ends it.
    poll(&mut [], None)?;
    Ok(())
}

/// Whether the machine is not up yet for as many seconds as the file says.
fn must_crash() -> io::Result<bool> {
    let seconds = |text: &str| {
        text.split_whitespace()
            .next()
            .and_then(|word| word.parse::<f64>().ok())
    };
    let Ok(until) = fs::read_to_string(Path::new(LIES).join("crash-until")) else {
        return Ok(false);
    };
    Ok(seconds(&fs::read_to_string("/proc/uptime")?) < seconds(&until))
}

/// A memory file with the content of a lie; sealed as a real one, unless the lie is that it is not.
fn lie(name: &str) -> io::Result<File> {
    let folder = Path::new(LIES);
    let mut file = File::from(memfd_create(
        name,
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.write_all(&fs::read(folder.join(name))?)?;
    if !folder.join(format!("{name}.unsealed")).exists() {
        fcntl_add_seals(
            &file,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )?;
    }
    Ok(file)
}

/// The socket to PID 1: a copy of the descriptor that the environment names.
fn socket() -> io::Result<OwnedFd> {
    let number = env::var(ENV).ok().and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| io::Error::other("no socket to PID 1"))?;
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(own, number, PidfdGetfdFlags::empty())?)
}

fn hand_over(socket: &OwnedFd, files: &[File]) -> io::Result<()> {
    let record = HandoffRecord {
        origin: "http://liar".to_owned(),
        fds: FILES.map(str::to_owned).to_vec(),
    };
    let packet = Report::Handoff(record).encode();
    let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES.len()))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the files"));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&packet)],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}
