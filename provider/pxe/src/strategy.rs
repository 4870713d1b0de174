//! From a request and a plan to an answer, for this firmware, by what it did with the last one.
//!
//! PXE says in several ways where the boot file is, and no firmware takes all of them. What is tried first is what most of
//! its kind take; what was taken is remembered by MAC ([`Book`]); what was not taken is followed by the next [`Style`]:
//!
//! ```text
//!            DISCOVER            asked at 4011, or a file begun        file sent, or the next program asks
//!  (new) ────────────▶ offered ───────────────────────────▶ begun ─────────────────────────▶ learned
//!                        │ ▲                                  │
//!  DISCOVER again: the   │ │  next style                      │ DISCOVER again, the second time
//!  client found no offer └─┴──────────────────────────────────┘
//!  it can use (C5, C17)
//! ```
//!
//! Nothing is sent from here: the answer says what to send, where, and when.

mod answer;
mod book;
mod vendor;

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::boot::{Plan, Style};
use crate::client::{Client, Firmware};
use crate::dhcp::{BOOT_PORT, Destination, Kind, Reply, Request};

pub use book::{Book, Transfer};

/// Which of our ports a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// The port of DHCP servers, 67.
    Port67,
    /// The port of boot servers, 4011.
    Port4011,
}

/// How the server stands to this client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Our address, as this client reaches us.
    pub address: Ipv4Addr,
    /// The port of our HTTP server, if plain HTTP is spoken.
    pub http_port: Option<u16>,
    /// Whether we are its DHCP server too. Then its REQUEST at port 67 is answered as well, and whoever called fills the
    /// address and what belongs to it into the answer.
    pub gives_addresses: bool,
}

/// A request with all that its answer depends on.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who asks.
    pub client: &'a Client,
    /// What it asked.
    pub request: &'a Request,
    /// What it is to be given.
    pub plan: &'a Plan,
    /// Who answers.
    pub server: &'a Server,
    /// Which port it came to.
    pub arrival: Arrival,
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer it.
    Answer(Answer),
    /// Do not; the reason is for people.
    Silence(&'static str),
}

/// An answer ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What to send.
    pub reply: Reply,
    /// Where.
    pub destination: Destination,
    /// How long to wait before (C16).
    pub after: Duration,
    /// In which way it was answered, for people: a style's name, or the firmware's own way.
    pub strategy: &'static str,
    /// How many offers in a row led to nothing: the rung of its ladder (C17).
    pub rung: u32,
}

/// Decides what becomes of a netboot client's request. `now` counts from any fixed start and never goes back.
pub fn decide(book: &mut Book, question: &Question<'_>, now: Duration) -> Action {
    let kind = match answer_kind(question) {
        Ok(kind) => kind,
        Err(why) => return Action::Silence(why),
    };
    let style = style(book, question, now);
    let base = answer::Base::new(question, kind);
    let made = match question.plan {
        Plan::Netboot(offer) => style.and_then(|style| base.netboot(offer, style)),
        Plan::LocalDisk => base.local_disk(),
        Plan::Silence(reason) => Err(reason.text()),
    };
    let (reply, strategy) = match made {
        Ok(made) => made,
        Err(why) => match base.lease_only() {
            Some(reply) => (reply, "address only"),
            None => return Action::Silence(why),
        },
    };
    let destination = match question.arrival {
        Arrival::Port67 => reply.destination(question.request),
        Arrival::Port4011 => reply.destination_from(question.request, BOOT_PORT),
    };
    let after = match question.plan {
        // Only the offer can come too early; what is asked for later is awaited, and for a second only (C3).
        Plan::Netboot(offer) if kind == Kind::Offer => offer.delay,
        Plan::Netboot(_) | Plan::LocalDisk | Plan::Silence(_) => Duration::ZERO,
    };
    Action::Answer(Answer {
        reply,
        destination,
        after,
        strategy,
        rung: book.rung(question.client.mac),
    })
}

/// What kind of answer the message gets, if any.
fn answer_kind(question: &Question<'_>) -> Result<Kind, &'static str> {
    match (question.arrival, question.request.kind) {
        (Arrival::Port67, Kind::Discover) => Ok(Kind::Offer),
        (Arrival::Port67, Kind::Request) if question.server.gives_addresses => Ok(Kind::Ack),
        (Arrival::Port67, Kind::Request) => Err("it takes its address from another server"),
        // A boot server answers both (C6); a client that has an address may ask at the DHCP port too.
        (Arrival::Port4011, Kind::Request) | (_, Kind::Inform) => Ok(Kind::Ack),
        (Arrival::Port4011, Kind::Discover) => Err("a DISCOVER does not belong to port 4011"),
        (_, Kind::Decline | Kind::Release) => Err("no answer is due"),
        (_, Kind::Offer | Kind::Ack | Kind::Nak) => Err("a server's message"),
    }
}

/// The style for a PXE client, and the book kept up to date.
fn style(book: &mut Book, question: &Question<'_>, now: Duration) -> Result<Style, &'static str> {
    let mac = question.client.mac;
    let order = order(question.client.firmware, question.server.gives_addresses);
    if matches!(
        question.client.firmware,
        Firmware::Ipxe { .. } | Firmware::Phase
    ) {
        // It may have been started by what the ROM of the same card was given.
        book.saw_next_program(mac, now);
    }
    let Some(first) = order.first() else {
        return Ok(Style::Plain);
    };
    let Plan::Netboot(offer) = question.plan else {
        return Ok(*first);
    };
    if let Firmware::Ipxe { http, .. } = question.client.firmware {
        let chained = !http || offer.script_url.is_none();
        let looks = question.request.kind == Kind::Discover;
        return if !chained || !looks || book.may_chain(mac, order, now) {
            Ok(*first)
        } else {
            Err("this iPXE took ours twice, and is still one that gets no script")
        };
    }
    let found = match (question.arrival, question.request.kind) {
        (Arrival::Port67, Kind::Discover) => Some(book.discover(mac, order, now)),
        (Arrival::Port67, _) => book.style(mac),
        (Arrival::Port4011, _) => {
            book.saw_boot_request(mac, now);
            book.style(mac)
        }
    };
    Ok(offer.style.or(found).unwrap_or(*first))
}

/// The styles of a firmware, in the order they are tried; none where there is only one way. An iPXE counts as the ROM it
/// may be in.
const fn order(firmware: Firmware, grants: bool) -> &'static [Style] {
    let efi = match firmware {
        Firmware::UefiPxe | Firmware::Ipxe { efi: true, .. } => true,
        Firmware::BiosPxe | Firmware::Ipxe { efi: false, .. } => false,
        Firmware::UBoot => return &[Style::Plain, Style::Direct, Style::Binl],
        Firmware::UefiHttp | Firmware::RaspberryPi | Firmware::Phase => return &[],
    };
    match (efi, grants) {
        // Where the offer brings an address too, naming the file like any DHCP server is what everybody takes.
        (true, true) => &[Style::Plain, Style::Direct, Style::Binl, Style::Menu],
        (false, true) => &[Style::Direct, Style::Plain, Style::Binl, Style::Menu],
        // Old EDK2 drops proxy offers with discovery control (its list of them never takes the first), so first without.
        (true, false) => &[Style::Binl, Style::Direct, Style::Menu, Style::Plain],
        (false, false) => &[Style::Direct, Style::Binl, Style::Menu, Style::Plain],
    }
}

#[cfg(test)]
mod tests;
