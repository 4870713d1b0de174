//! What a machine that boots over IPv6 is told.

use std::net::Ipv6Addr;

use super::reply::{Reply, Status};
use super::{Addresses, Kind, Prefix, Request};
use crate::boot::{Offer, Plan, Reason};
use crate::client::{Client, Firmware, HTTP_CLASS, PXE_CLASS};

/// The part that is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Beside the server that gives addresses.
    Proxy,
    /// Addresses too.
    Server,
}

/// Where a question came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// 547.
    Dhcp,
    /// 4011.
    Boot,
}

/// Who answers.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// Our identifier.
    pub id: &'a [u8],
    /// Our address as that client reaches it.
    pub address: Ipv6Addr,
    /// The part we play.
    pub mode: Mode,
    /// The subnet the client is on, if addresses of it may be given out.
    pub prefix: Option<Prefix>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// It is for another server.
    AnotherServer,
    /// It must say who it is, and does not.
    NoIdentifier,
    /// It does not boot over the network.
    NotBooting,
    /// Nothing that this mode answers.
    NotAsked,
    /// Its link has no subnet of which addresses could be given.
    NoSubnet,
    /// So it was decided.
    Plan(Reason),
    /// It boots from its disk, which over IPv6 only silence achieves.
    LocalDisk,
    /// There is nothing here that its firmware can start.
    NothingToBoot,
}

impl Silence {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::AnotherServer => "meant for another server",
            Self::NoIdentifier => "without the client's identifier",
            Self::NotBooting => "does not boot over the network",
            Self::NotAsked => "nothing that is answered in this mode",
            Self::NoSubnet => "no subnet to give an address of",
            Self::Plan(reason) => reason.text(),
            Self::LocalDisk => "boots its own disk",
            Self::NothingToBoot => Reason::NothingToBoot.text(),
        }
    }
}

/// The answer to a question. `boots`: who asks and what it is to boot, if it boots over the network.
pub fn answer(
    request: &Request,
    port: Port,
    boots: Option<(&Client, &Plan)>,
    server: &Server<'_>,
    addresses: &mut Addresses,
) -> Result<Reply, Silence> {
    if request
        .server_id
        .as_deref()
        .is_some_and(|id| id != server.id)
    {
        return Err(Silence::AnotherServer);
    }
    if request.client_id.is_none() && request.kind != Kind::InformationRequest {
        return Err(Silence::NoIdentifier);
    }
    match (request.kind, port, server.mode) {
        (Kind::Request, Port::Boot, _) | (Kind::InformationRequest, _, _) => {
            told(request, Kind::Reply, boots, server)
        }
        // Without a preference: the highest one would end the firmware's wait before the server of the LAN has answered.
        (Kind::Solicit, Port::Dhcp, Mode::Proxy) => told(request, Kind::Advertise, boots, server),
        (Kind::Solicit | Kind::Request, Port::Dhcp, Mode::Server) => {
            let mut reply = begun(request, server)?;
            tell(&mut reply, boots, server, false)?;
            lease(reply, request, server, addresses)
        }
        // EDK2 leaves out who it is as soon as it has an address, and when it gives one back it waits long for an answer.
        (_, Port::Dhcp, Mode::Server) if boots.is_none() && !holds(request, server, addresses) => {
            Err(Silence::NotBooting)
        }
        (Kind::Renew | Kind::Rebind, Port::Dhcp, Mode::Server) => {
            lease(begun(request, server)?, request, server, addresses)
        }
        (Kind::Confirm | Kind::Release | Kind::Decline, Port::Dhcp, Mode::Server) => {
            acknowledge(request, server, addresses)
        }
        _ => Err(Silence::NotAsked),
    }
}

/// Whether the addresses that a message is about are ours.
fn holds(request: &Request, server: &Server<'_>, addresses: &Addresses) -> bool {
    request.server_id.is_some() || own(request, server, addresses).next().is_some()
}

/// Of the addresses that a message is about, those that its sender has from us: nobody speaks for another machine.
fn own(
    request: &Request,
    server: &Server<'_>,
    addresses: &Addresses,
) -> impl Iterator<Item = Ipv6Addr> {
    let client_id = request.client_id.as_deref().unwrap_or_default();
    let prefix = server.prefix;
    request.identities.iter().filter_map(move |identity| {
        let own = addresses.of(prefix?, client_id, identity.number);
        identity.addresses.contains(&own).then_some(own)
    })
}

/// An answer without an address.
fn told(
    request: &Request,
    kind: Kind,
    boots: Option<(&Client, &Plan)>,
    server: &Server<'_>,
) -> Result<Reply, Silence> {
    let mut reply = Reply::to(request, kind, server.id);
    tell(&mut reply, boots, server, true)?;
    Ok(reply)
}

/// An answer that is to have an address.
fn begun(request: &Request, server: &Server<'_>) -> Result<Reply, Silence> {
    let kind = match request.kind {
        Kind::Solicit => Kind::Advertise,
        _ => Kind::Reply,
    };
    match request.identities.is_empty() {
        true => Err(Silence::NotAsked),
        false => Ok(Reply::to(request, kind, server.id)),
    }
}

/// What to boot. `class`: whether the answer has to name the firmware's class. UEFI HTTP boot takes nothing else for an
/// answer; UEFI PXE takes an answer without an address for a boot server's only with it, and an answer with an address
/// that has it for the beginning of one more question.
fn tell(
    reply: &mut Reply,
    boots: Option<(&Client, &Plan)>,
    server: &Server<'_>,
    class: bool,
) -> Result<(), Silence> {
    let (client, plan) = boots.ok_or(Silence::NotBooting)?;
    let offer = match plan {
        Plan::Netboot(offer) => offer,
        Plan::LocalDisk => return Err(Silence::LocalDisk),
        Plan::Silence(reason) => return Err(Silence::Plan(*reason)),
    };
    let url = url(client.firmware, offer, server.address).ok_or(Silence::NothingToBoot)?;
    reply.url(&url);
    match client.firmware {
        Firmware::UefiHttp => reply.class(HTTP_CLASS),
        _ if class => reply.class(PXE_CLASS),
        _ => (),
    }
    Ok(())
}

/// The URL for that firmware. There is no boot file size (option 60 of some servers): EDK2 takes the first parameter for
/// one, whatever it is, and gives up when it is none.
fn url(firmware: Firmware, offer: &Offer, server: Ipv6Addr) -> Option<String> {
    match firmware {
        Firmware::UefiHttp => offer.http_url.clone(),
        Firmware::Ipxe { http: true, .. } => offer.script_url.clone(),
        Firmware::Phase => None,
        _ => {
            let file = offer.tftp_file.as_deref()?;
            Some(format!("tftp://[{server}]/{file}"))
        }
    }
}

/// Adds an address for everything the client wants one for.
fn lease(
    mut reply: Reply,
    request: &Request,
    server: &Server<'_>,
    addresses: &Addresses,
) -> Result<Reply, Silence> {
    let prefix = server.prefix.ok_or(Silence::NoSubnet)?;
    let client_id = request.client_id.as_deref().unwrap_or_default();
    for identity in &request.identities {
        let address = addresses.of(prefix, client_id, identity.number);
        reply.identity(identity.number, address);
    }
    Ok(reply)
}

/// The end of an address, or the question whether it fits.
fn acknowledge(
    request: &Request,
    server: &Server<'_>,
    addresses: &mut Addresses,
) -> Result<Reply, Silence> {
    let mut reply = Reply::to(request, Kind::Reply, server.id);
    let mut all = request.identities.iter().flat_map(|one| &one.addresses);
    let fits = |address: &Ipv6Addr| {
        server
            .prefix
            .is_some_and(|prefix| prefix.contains(*address))
    };
    match request.kind {
        Kind::Confirm if server.prefix.is_none() => return Err(Silence::NoSubnet),
        Kind::Confirm if !all.all(fits) => reply.status(Status::NotOnLink),
        Kind::Decline => {
            let own: Vec<_> = own(request, server, addresses).collect();
            addresses.decline(own);
            reply.status(Status::Success);
        }
        _ => reply.status(Status::Success),
    }
    Ok(reply)
}
