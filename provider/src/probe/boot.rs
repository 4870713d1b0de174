//! Whether firmware that boots from the network is answered: a boot ROM as it is, in front of this machine's own server.
//!
//! Its questions go to the machine's own address and the answers come back there: nobody else on the LAN is asked, and nobody
//! is told.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use pxe::Mac;
use pxe::dhcp::{CLIENT_PORT, Message};
use pxe::rom::{End, Model, Rom, Sent};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{Outcome, Problem, Subject, own_address, tftp};

/// One attempt: an offer and the answer at the second port, which come within milliseconds; a server may keep its first
/// offer back for a second.
const ATTEMPT_TIME: Duration = Duration::from_secs(8);

/// Longer than any DHCP message that fits a frame.
const MESSAGE_SIZE_MAX: usize = 1_500;

/// Enough of the boot file to see that it is there.
const BEGINNING: usize = 512;

/// `dhcp`
pub(super) async fn offer(subject: &Subject) -> Outcome {
    let IpAddr::V4(address) = own_address()? else {
        return Ok("not asked: this machine has no IPv4 address".to_owned());
    };
    if subject.arch != boot_manifest::Arch::X86_64 {
        return Ok("not asked: the probe is the firmware of an x86-64 PC".to_owned());
    }
    let end = boot(address)
        .await
        .map_err(|error| Problem::NotYet(format!("a boot ROM at port {CLIENT_PORT}: {error}")))?;
    let Some(End::Boots { server, file }) = end else {
        return Err(Problem::NotYet(
            "a boot ROM is offered nothing that it can boot".to_owned(),
        ));
    };
    if server != address {
        return Err(Problem::Wrong(format!(
            "a boot ROM is sent to {server} instead of {address}"
        )));
    }
    let beginning = tftp::first(address.into(), &file, BEGINNING).await?;
    match beginning.is_empty() {
        true => Err(Problem::Wrong(format!("the boot file {file} is empty"))),
        false => Ok(format!("a boot ROM is offered {file}, which is here")),
    }
}

/// What a UEFI PXE ROM comes to; nothing when it was not answered.
async fn boot(address: Ipv4Addr) -> io::Result<Option<End>> {
    let socket = UdpSocket::bind((address, CLIENT_PORT)).await?;
    let mac = mac_of(address)?;
    let mut xid = [0; 4];
    rustix::rand::getrandom(&mut xid, rustix::rand::GetRandomFlags::empty())?;
    let mut rom = Rom::new(Model::Edk2, mac, u32::from_be_bytes(xid), address)
        .hasty()
        .asking_only(address);
    let started = Instant::now();
    let end = started + ATTEMPT_TIME;
    let mut next = Some(rom.start(Duration::ZERO));
    let mut buffer = vec![0; MESSAGE_SIZE_MAX];
    while rom.end().is_none() && Instant::now() < end {
        if let Some(Sent { to, port, bytes }) = next.take() {
            socket.send_to(&bytes, (to, port)).await?;
        }
        let due = end.min(started + rom.deadline());
        next = match timeout_at(due, socket.recv_from(&mut buffer)).await {
            Ok(received) => {
                let (length, _) = received?;
                let message = Message::parse(buffer.get(..length).unwrap_or_default());
                let message = message.ok();
                message.and_then(|message| rom.received(&message, started.elapsed()))
            }
            Err(_) => rom.expired(started.elapsed()),
        };
    }
    Ok(rom.end().cloned())
}

/// The hardware address of the interface that has this address: machines are known by theirs.
fn mac_of(address: Ipv4Addr) -> io::Result<Mac> {
    let text = crate::boot_report::mac_of(address.into())?;
    text.parse()
        .map_err(|error| io::Error::other(format!("{text}: {error}")))
}
