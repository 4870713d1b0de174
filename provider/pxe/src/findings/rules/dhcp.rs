//! Rules about questions and offers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::super::limits::{
    ANSWER_WAIT, BOOT_SIZE_UNIT, HEADERS, MESSAGE_SIZE, OFFER_WAIT, UNHEARD_SECONDS, WARM_UP,
};
use super::super::story::{Answer, Ask, Story};
use super::{Found, bad, seconds, since, times, warn};
use crate::client::{Firmware, HTTP_CLASS, PXE_CLASS};
use crate::dhcp::{Kind, options};

pub(super) fn first_questions_lost(story: &Story, _now: Duration) -> Option<Found> {
    let first = story.discovers().next()?;
    let unheard = first.request.secs;
    // Before the watch was warm, earlier questions were not seen because nobody looked.
    if first.at < WARM_UP || unheard < UNHEARD_SECONDS {
        return None;
    }
    warn(
        format!("it had been asking for {unheard} s when its first question arrived here"),
        "switch \"portfast\" (edge port, no spanning tree delay) on for this port of the switch, and look at cable and speed",
    )
}

pub(super) fn no_answer(story: &Story, now: Duration) -> Option<Found> {
    let last_answer = story.answers.last().map(|answer| answer.at);
    let ignored: Vec<&Ask> = story
        .discovers()
        .filter(|ask| last_answer.is_none_or(|at| ask.at > at))
        .collect();
    let first = ignored.first()?;
    // It accepts an offer that was sent to it alone, where it is not seen.
    if requested(story, first.at) {
        return None;
    }
    // One lost question after a conversation that went well is no finding.
    if (last_answer.is_some() && ignored.len() < 2) || !since(first.at, now, ANSWER_WAIT) {
        return None;
    }
    bad(
        format!(
            "it asked {} and nobody answered",
            times(ignored.len() as u64)
        ),
        "is a DHCP server on this network (the same VLAN, or behind a relay)? For a LAN without one: plasmd serve --dhcp server \
         --dhcp-range FIRST-LAST. Is a firewall closed for UDP 67?",
    )
}

/// Whether it asked for an address that somebody offered.
fn requested(story: &Story, since: Duration) -> bool {
    let mut asks = story.asks.iter().filter(|ask| ask.at >= since);
    asks.any(|ask| ask.request.kind == Kind::Request)
}

pub(super) fn no_boot_offer(story: &Story, now: Duration) -> Option<Found> {
    let first = story.discovers().next()?;
    let asks_linux = story.client()?.firmware == Firmware::Phase;
    let address = story.address_answers().next()?;
    if asks_linux || story.boot_answers().next().is_some() || !since(first.at, now, ANSWER_WAIT) {
        return None;
    }
    let binl = story.binl_asks().next().is_some();
    let went_on = binl || story.fetched_after(first.at);
    if went_on {
        return None;
    }
    bad(
        format!(
            "{} gave it an address, and nobody offered anything to boot",
            address.server()
        ),
        match story.client()?.firmware {
            Firmware::UefiHttp => {
                "start plasmd serve on this network, or open its firewall (UDP 67, TCP 8080): boot servers that know only PXE, such \
                 as dnsmasq in proxy mode, do not answer UEFI HTTP boot; or choose PXE in the machine's firmware"
            }
            _ => {
                "start plasmd serve on this network, or open its firewall (UDP 67, 4011 and 69). If it runs: plasmd clients list \
                 says whether this machine is denied, waits to be allowed (--only known) or shall boot from its disk"
            }
        },
    )
}

pub(super) fn no_address(story: &Story, now: Duration) -> Option<Found> {
    let offer = story.boot_answers().next()?;
    let has_one = story.address_answers().next().is_some()
        || !story.addresses.is_empty()
        || requested(story, Duration::ZERO);
    if has_one || story.discovers().next().is_none() || !since(offer.at, now, ANSWER_WAIT) {
        return None;
    }
    bad(
        format!(
            "{} offered a boot file, and nobody offered an address",
            offer.server()
        ),
        "the LAN's DHCP server does not answer: repair it, or let plasmd give addresses (--dhcp server --dhcp-range FIRST-LAST)",
    )
}

pub(super) fn no_server_id(story: &Story, _now: Duration) -> Option<Found> {
    let mut offers = story
        .answers
        .iter()
        .filter(|answer| answer.message.kind == Kind::Offer);
    let offer = offers.find(|offer| offer.message.server_id().is_none())?;
    bad(
        format!("an offer of {} has no option 54", offer.source.ip()),
        format!(
            "replace the DHCP server on {}, or make it send its identity",
            offer.source.ip()
        ),
    )
}

/// The class a boot offer to this machine must carry, if the firmware is one that looks.
fn wanted(story: &Story, answer: &Answer) -> Option<&'static str> {
    let client = story.asker(answer)?;
    match client.firmware {
        Firmware::Phase => None,
        _ if client.class.starts_with(HTTP_CLASS) => Some(HTTP_CLASS),
        _ => Some(PXE_CLASS),
    }
}

pub(super) fn class_not_echoed(story: &Story, _now: Duration) -> Option<Found> {
    let echoes = |answer: &&Answer| {
        let class = answer.class().unwrap_or_default();
        wanted(story, answer).is_none_or(|wanted| class.starts_with(wanted))
    };
    // An address server's own boot file needs no class for PXE; a URL always does.
    let needs = |answer: &&Answer| {
        let is_url = answer.file().is_some_and(|file| file.contains("://"));
        answer.is_proxy() || is_url && wanted(story, answer) == Some(HTTP_CLASS)
    };
    let wrong = story
        .boot_answers()
        .filter(needs)
        .find(|answer| !echoes(answer))?;
    let server = wrong.server();
    let mut others = story
        .boot_answers()
        .filter(|other| other.server() == server);
    if others.any(|other| needs(&other) && echoes(&other)) {
        return None;
    }
    let (wanted, class) = (wanted(story, wrong)?, wrong.class());
    let marked = class.map_or("nothing".to_owned(), |class| format!("{class:?}"));
    bad(
        format!("it asked as {wanted}, and {server} marked its boot offer with {marked}"),
        match wanted {
            HTTP_CLASS => format!(
                "{server} cannot boot by UEFI HTTP (dnsmasq in proxy mode and others do this): let plasmd answer instead of it, or \
                 choose PXE in the machine's firmware"
            ),
            _ => format!(
                "make {server} send option 60 \"PXEClient\", or let plasmd answer instead of it"
            ),
        },
    )
}

pub(super) fn late_offer(story: &Story, _now: Duration) -> Option<Found> {
    let offers = story
        .answers
        .iter()
        .filter(|answer| answer.message.kind == Kind::Offer);
    let late = offers.filter_map(|offer| {
        let asked = story.questions(offer).next()?.at;
        let earlier = |other: &&Answer| {
            (other.message.xid, other.server()) == (offer.message.xid, offer.server())
                && other.at < offer.at
        };
        let is_first = !story.answers.iter().any(|other| earlier(&other));
        let delay = offer.at.saturating_sub(asked);
        (is_first && delay >= OFFER_WAIT).then_some((delay, offer))
    });
    let (delay, offer) = late.max_by_key(|(delay, _)| *delay)?;
    let (what, server) = (
        if offer.is_boot() { "boot" } else { "address" },
        offer.server(),
    );
    let message = format!("{server} took {} for its {what} offer", seconds(delay));
    let advice = format!(
        "see what keeps {server}: many DHCP servers first ping the address they are about to give (dnsmasq: --no-ping), others are told \
         to wait"
    );
    match story.fetched_after(offer.at) {
        true => warn(message, advice),
        false => bad(message, advice),
    }
}

pub(super) fn nothing_accepted(story: &Story, _now: Duration) -> Option<Found> {
    let last = story.discovers().next_back()?;
    let run: Vec<&Ask> = story
        .discovers()
        .filter(|ask| ask.request.xid == last.request.xid)
        .collect();
    let began = run.first()?.at;
    let offered = |answer: &&Answer| answer.at >= began && answer.message.kind == Kind::Offer;
    let complete = story.boot_answers().any(|answer| offered(&answer))
        && story.address_answers().any(|answer| offered(&answer));
    let went_on = story
        .asks
        .iter()
        .any(|ask| ask.at >= began && ask.request.kind == Kind::Request)
        || story.fetched_after(began);
    if run.len() < 3 || !complete || went_on {
        return None;
    }
    let moments: Vec<String> = run
        .iter()
        .map(|ask| format!("{:.0}", ask.at.saturating_sub(began).as_secs_f64()))
        .collect();
    let servers: Vec<String> = story
        .answers
        .iter()
        .filter(offered)
        .map(|answer| answer.server().to_string())
        .collect();
    bad(
        format!(
            "it had offers of an address and of a boot file, took none, and asked again (at {} s)",
            moments.join(", ")
        ),
        format!(
            "look at the other findings; if there are none, the offers of {} do not reach it: look for a port isolation or a DHCP \
             filter (\"snooping\") in the switch that trusts only one server, and try another boot mode in the firmware",
            unique(servers).join(" and ")
        ),
    )
}

pub(super) fn rival_boot_file(story: &Story, _now: Duration) -> Option<Found> {
    let named = |answer: &&Answer| answer.file().is_some();
    let mut rivals = story
        .boot_answers()
        .filter(named)
        .filter(|answer| answer.gives_address());
    let (rival, ours) = rivals.find_map(|rival| {
        let mut others = story
            .boot_answers()
            .filter(|other| other.server() != rival.server());
        let ours = others.find(|other| {
            let is_same =
                other.boot_server() == rival.boot_server() && other.file() == rival.file();
            let is_same_question = story.asker(other).map(|client| client.firmware)
                == story.asker(rival).map(|client| client.firmware);
            (other.file().is_some() || other.is_proxy()) && !is_same && is_same_question
        })?;
        Some((rival, ours))
    })?;
    let from = rival.boot_server().map(IpAddr::V4);
    let took_rivals = story
        .transfers
        .iter()
        .any(|transfer| Some(transfer.server.ip()) == from)
        || story
            .fetches
            .iter()
            .any(|fetch| Some(fetch.server.ip()) == from);
    let message = format!(
        "the DHCP server {} names a boot file of its own, {:?} on {}, beside the boot server {}{}",
        rival.server(),
        rival.file().unwrap_or_default(),
        rival.boot_server().unwrap_or(Ipv4Addr::UNSPECIFIED),
        ours.server(),
        if took_rivals {
            "; the machine went there"
        } else {
            ""
        }
    );
    let advice = format!(
        "in the settings of {}, empty the boot file (option 67, \"filename\") and the next server (option 66, siaddr), or leave \
         booting to it and switch the other one off",
        rival.server()
    );
    match took_rivals {
        true => bad(message, advice),
        false => warn(message, advice),
    }
}

pub(super) fn two_boot_servers(story: &Story, _now: Duration) -> Option<Found> {
    let proxies = story.boot_answers().filter(|answer| answer.is_proxy());
    let servers = unique(proxies.map(|answer| answer.server().to_string()).collect());
    let [_, _, ..] = &servers[..] else {
        return None;
    };
    warn(
        format!("boot offers came from {}", servers.join(" and ")),
        "switch all but one of them off, or divide the machines among them (plasmd clients deny MAC; --only known)",
    )
}

pub(super) fn two_address_servers(story: &Story, _now: Duration) -> Option<Found> {
    let offers = story
        .address_answers()
        .filter(|answer| answer.message.kind == Kind::Offer);
    let servers = unique(offers.map(|answer| answer.server().to_string()).collect());
    let [_, _, ..] = &servers[..] else {
        return None;
    };
    warn(
        format!("addresses were offered by {}", servers.join(" and ")),
        "switch all but one of them off: a router that somebody plugged in, or plasmd --dhcp server beside the router, which is to be \
         --dhcp proxy there",
    )
}

pub(super) fn address_refused(story: &Story, _now: Duration) -> Option<Found> {
    if let Some(ask) = story
        .asks
        .iter()
        .find(|ask| ask.request.kind == Kind::Decline)
    {
        let address = ask.request.requested.unwrap_or(ask.request.ciaddr);
        return bad(
            format!("it was given {address}, found that somebody else has it, and gave it back"),
            format!(
                "find the other machine with {address}, or take the address out of the DHCP server's range"
            ),
        );
    }
    let nak = story
        .answers
        .iter()
        .find(|answer| answer.message.kind == Kind::Nak)?;
    warn(
        format!("{} refused the address it asked for", nak.server()),
        "two DHCP servers with different ideas, or a machine that came from another network: with the second it is all right",
    )
}

pub(super) fn no_next_server(story: &Story, _now: Duration) -> Option<Found> {
    let mut named = story
        .boot_answers()
        .filter(|answer| answer.message.siaddr.is_unspecified());
    let is_url = |file: &str| file.contains("://");
    let answer = named.find(|answer| answer.file().is_some_and(|file| !is_url(&file)))?;
    let (server, file) = (answer.server(), answer.file().unwrap_or_default());
    let only66 = answer.message.options.get(options::TFTP_SERVER).is_some();
    let where_else = if only66 { " (only in option 66)" } else { "" };
    let message =
        format!("{server} names the boot file {file:?} without the server it lies on{where_else}");
    let advice =
        format!("set \"next-server\" (siaddr) in the settings of {server}, or let plasmd answer");
    let is_ipxe = matches!(story.asker(answer)?.firmware, Firmware::Ipxe { .. });
    match is_ipxe && !story.fetched_after(answer.at) {
        true => bad(message, advice),
        false => warn(message, advice),
    }
}

pub(super) fn overload(story: &Story, _now: Duration) -> Option<Found> {
    let mut answers = story.boot_answers();
    let answer = answers.find(|answer| answer.message.options.get(options::OVERLOAD).is_some())?;
    warn(
        format!(
            "{} puts options into the file and name fields",
            answer.server()
        ),
        format!(
            "send fewer options from {}, or switch overloading off there",
            answer.server()
        ),
    )
}

pub(super) fn answer_too_long(story: &Story, _now: Duration) -> Option<Found> {
    let (answer, most) = story.answers.iter().find_map(|answer| {
        let asked = story.questions(answer).next_back()?;
        let most = asked
            .request
            .max_size
            .map_or(MESSAGE_SIZE, usize::from)
            .max(MESSAGE_SIZE);
        (answer.size + HEADERS > most).then_some((answer, most))
    })?;
    warn(
        format!(
            "an answer of {} has {} bytes, {most} are taken",
            answer.server(),
            answer.size + HEADERS
        ),
        format!("send fewer or shorter options from {}", answer.server()),
    )
}

pub(super) fn wrong_boot_size(story: &Story, _now: Duration) -> Option<Found> {
    story.boot_answers().find_map(|answer| {
        let units = u64::from(u16::from_be_bytes(
            answer.message.options.array(options::BOOT_FILE_SIZE)?,
        ));
        let file = answer.file()?;
        let mut transfers = story
            .transfers
            .iter()
            .filter(|transfer| transfer.name == file.as_bytes());
        let size = transfers
            .find_map(|transfer| transfer.size().or(transfer.whole.then_some(transfer.bytes)))?;
        if units == size.div_ceil(BOOT_SIZE_UNIT) {
            return None;
        }
        bad(
            format!(
                "{} says that {file:?} has {} bytes; it has {size}",
                answer.server(),
                units * BOOT_SIZE_UNIT
            ),
            format!(
                "take option 13 (boot file size) out of the settings of {}",
                answer.server()
            ),
        )
    })
}

pub(super) fn relay_passed_over(story: &Story, _now: Duration) -> Option<Found> {
    story.answers.iter().find_map(|answer| {
        let asked = &story.questions(answer).next_back()?.request;
        let relay = IpAddr::V4(asked.giaddr);
        // What comes from the relay is what it hands on.
        if !asked.is_relayed() || answer.source.ip() == relay {
            return None;
        }
        let server = answer.server();
        if answer.target.ip() != relay {
            return bad(
                format!("{server} answered {} instead of the relay {relay}", answer.target.ip()),
                format!("{server} does not know relays: let plasmd answer, or put the boot server into the machine's own network"),
            );
        }
        let returned = answer.message.options.get(options::RELAY);
        if asked.relay.as_deref() == returned {
            return None;
        }
        warn(
            format!("{server} did not give option 82 back to the relay {relay}"),
            format!("the relay may drop such answers: switch option 82 on in {server}, or off in the relay"),
        )
    })
}

fn unique(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}
