//! A `plasmd` that was taken over. As `stage` it fetches nothing and hands PID 1 the files below /lies
//! instead, sealed or not. When /lies says so, it dies at once in every role, or tries what an attacker would
//! try from inside a role and prints what the kernel said. Tests put it into an initramfs to see whether PID 1
//! verifies what its own program gives it, starts again what dies, and locks in what it starts.

use std::env;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use boot_manifest::handoff::{ENV, HandoffRecord, Report};
use rustix::event::poll;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mount::{MountFlags, mount};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

/// What is handed over, by the names of the handoff, and what else to do.
const LIES: &str = "/lies";
const FILES: [&str; 4] = ["manifest", "kernel", "initramfs", "rootfs"];

fn main() -> io::Result<()> {
    let role = env::args().nth(1).unwrap_or_default();
    let told = |what: &str| Path::new(LIES).join(what).exists();
    if told("crash") {
        std::process::abort();
    }
    if told("try-everything") {
        try_everything(&role);
    } else if role == "stage" {
        let files = FILES.into_iter().map(lie).collect::<io::Result<Vec<_>>>()?;
        hand_over(&socket()?, &files)?;
    }
    // PID 1 ends it.
    poll(&mut [], None)?;
    Ok(())
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

/// The socket to PID 1: the descriptor that the environment names.
fn socket() -> io::Result<OwnedFd> {
    let number = env::var(ENV).ok().and_then(|number| number.parse().ok());
    number
        .map(adopt)
        .ok_or_else(|| io::Error::other("no socket to PID 1"))
}

#[expect(
    unsafe_code,
    reason = "the descriptor is inherited and known by its number only"
)]
fn adopt(number: i32) -> OwnedFd {
    // SAFETY: PID 1 opened this descriptor for this process alone; nothing else here knows the number, and this
    // is called once.
    unsafe { OwnedFd::from_raw_fd(number) }
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

/// Tries what an attacker would try from inside a role. A line for each: what the kernel said, or `SUCCEEDED`.
fn try_everything(role: &str) {
    let say = |what: &str, result: io::Result<()>| {
        let outcome = result.map_or_else(
            |error| format!("{:?}", error.kind()),
            |()| "SUCCEEDED".into(),
        );
        println!("tries to {what}: {outcome}");
    };
    let create = |path: &str| File::create(path).map(drop);
    say(
        "start another program",
        Command::new("/init").spawn().map(drop),
    );
    say("write below /run", create("/run/phase/x"));
    say("write into the artifacts", create("/run/phase/artifacts/x"));
    say("write into the root", create("/x"));
    say("write to /tmp", create("/tmp/x"));
    say(
        "write to a disk",
        File::options().write(true).open("/dev/vda").map(drop),
    );
    say(
        "write to the memory of PID 1",
        File::options().write(true).open("/proc/1/mem").map(drop),
    );
    say(
        "end PID 1",
        kill_process(Pid::INIT, Signal::TERM).map_err(Into::into),
    );
    let mounted = mount("none", "/tmp", "tmpfs", MountFlags::empty(), None);
    say("mount something", mounted.map_err(Into::into));
    say(
        "restart the machine",
        reboot(RebootCommand::Restart).map_err(Into::into),
    );
    // No role listens there.
    let listening = TcpListener::bind(("127.0.0.1", 4012));
    say("listen on another TCP port", listening.map(drop));
    // These two connect to wherever they are sent.
    if !["stage", "dht"].contains(&role) {
        // A port where nothing listens: refused by the peer is not refused by the kernel.
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let connected = TcpStream::connect_timeout(&anywhere, Duration::from_secs(5));
        say("connect by TCP", connected.map(drop));
    }
    println!("tried everything");
}
