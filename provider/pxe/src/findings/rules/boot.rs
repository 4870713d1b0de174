//! Rules about the way from an offer to a running boot file.

use std::net::IpAddr;
use std::time::Duration;

use super::super::limits::{BINL_WAIT, BOOTS_IN_A_ROW, BOOTS_WITHIN, RETURN_WAIT, STEP_WAIT};
use super::super::story::{Answer, Ask, Story};
use super::super::tftp::Transfer;
use super::{Found, bad, seconds, since, times, warn};
use crate::client::{ClientArch, Cpu, Firmware, HTTP_CLASS, PXE_CLASS};
use crate::dhcp::{BOOT_PORT, Kind, options};

/// Ends of names that only a BIOS can start.
const BIOS_FILES: &[&str] = &[".kpxe", ".kkpxe", ".pxe", ".0", ".lkrn", ".bin"];

/// The menu entry a Raspberry Pi looks for.
const PI_ENTRY: &[u8] = b"Raspberry Pi Boot";

/// Names of iPXE itself, which loads a script and not itself again.
const IPXE_FILES: &[&str] = &["undionly", "ipxe", "snponly"];

/// When the machine took an address that was offered at `since` or later.
fn accepted(story: &Story, since: Duration) -> Option<Duration> {
    let mut asks = story.asks.iter();
    let request = asks.find(|ask| {
        let is_plain = ask.target.port() != BOOT_PORT;
        ask.at >= since && ask.request.kind == Kind::Request && is_plain
    });
    request.map(|ask| ask.at)
}

/// Whether anything followed: a question on port 4011, a transfer, a connection, a look for somebody by ARP.
fn went_on(story: &Story, since: Duration) -> bool {
    story.binl_asks().any(|ask| ask.at >= since)
        || story.fetched_after(since)
        || !story.unanswered_arp.is_empty()
}

/// Whether an offer says nothing but that a boot server is there, to be asked on port 4011 (C3).
fn is_binl(answer: &Answer) -> bool {
    let class = answer.class().unwrap_or_default();
    class.starts_with(PXE_CLASS) && !answer.is_complete() && answer.file().is_none()
}

pub(super) fn never_asked_4011(story: &Story, now: Duration) -> Option<Found> {
    let offer = story
        .boot_answers()
        .filter(|answer| is_binl(answer))
        .last()?;
    let took = accepted(story, offer.at)?;
    let others = story.boot_answers().any(|answer| !is_binl(answer));
    if others || went_on(story, offer.at) || !since(took, now, STEP_WAIT) {
        return None;
    }
    bad(
        format!(
            "{} told it to ask on port 4011; it took its address and never asked there",
            offer.server()
        ),
        "this firmware wants a complete offer (PXE options or a boot file) instead: plasmd sends one when the machine asks again, and \
         remembers it. With another boot server, switch its proxy mode to full PXE menus, or name the boot file in the DHCP server",
    )
}

pub(super) fn no_answer_on_4011(story: &Story, now: Duration) -> Option<Found> {
    let asks: Vec<&Ask> = story.binl_asks().collect();
    let last = asks.last()?;
    let is_answered = |ask: &&Ask| {
        story
            .answers
            .iter()
            .any(|answer| answer.message.xid == ask.request.xid && answer.at >= ask.at)
    };
    if asks.iter().any(is_answered) || !since(last.at, now, BINL_WAIT) {
        return None;
    }
    let server = last.target;
    let is_closed = story.refused.iter().any(|(_, about)| *about == server);
    let (how, advice) = match is_closed {
        true => (
            "there is nobody on that port",
            format!(
                "start plasmd serve on {}: it answers there with --dhcp proxy, binl and server",
                server.ip()
            ),
        ),
        false => (
            "no answer came",
            format!(
                "open UDP port 4011 in the firewall of {}, and see that a boot server listens there (plasmd doctor)",
                server.ip()
            ),
        ),
    };
    let number = times(asks.len() as u64);
    bad(format!("it asked {server} {number}: {how}"), advice)
}

pub(super) fn no_file_on_4011(story: &Story, _now: Duration) -> Option<Found> {
    let answer = story.answers.iter().find(|answer| {
        let is_binl = story
            .questions(answer)
            .any(|ask| ask.target.port() == BOOT_PORT);
        is_binl && answer.file().is_none() && !answer.is_complete()
    })?;
    bad(
        format!(
            "the answer of {} on port 4011 names no boot file",
            answer.server()
        ),
        format!(
            "configure a boot file for this architecture on {}, or let plasmd answer instead",
            answer.server()
        ),
    )
}

pub(super) fn boot_item_not_echoed(story: &Story, _now: Duration) -> Option<Found> {
    let item = |answer: &Answer| {
        answer
            .vendor()
            .find(|(code, _)| *code == 71)
            .map(|(_, item)| item.to_vec())
    };
    let answer = story.answers.iter().find(|answer| {
        let asked = story.questions(answer).next_back();
        asked.is_some_and(|ask| {
            ask.request.boot_item.is_some() && ask.request.boot_item != item(answer)
        })
    })?;
    bad(
        format!(
            "{} did not give back the boot item it was asked for",
            answer.server()
        ),
        format!(
            "replace or update the boot server on {}; plasmd gives it back",
            answer.server()
        ),
    )
}

pub(super) fn no_menu_for_pi(story: &Story, _now: Duration) -> Option<Found> {
    let has_entry = |answer: &&Answer| {
        answer.vendor().any(|(code, menu)| {
            code == 9 && menu.windows(PI_ENTRY.len()).any(|part| part == PI_ENTRY)
        })
    };
    let is_pi = |answer: &&Answer| {
        story
            .asker(answer)
            .is_some_and(|client| client.firmware == Firmware::RaspberryPi)
    };
    let offers: Vec<&Answer> = story.boot_answers().filter(is_pi).collect();
    let first = offers.first()?;
    if offers.iter().any(has_entry) || story.fetched_after(first.at) {
        return None;
    }
    bad(
        format!(
            "{} offered a Raspberry Pi a boot file without the menu entry",
            first.server()
        ),
        format!(
            "add option 43 with \"Raspberry Pi Boot\" in {} (dnsmasq: pxe-service=0,\"Raspberry Pi Boot\"); plasmd sends it by itself",
            first.server()
        ),
    )
}

pub(super) fn wrong_architecture(story: &Story, _now: Duration) -> Option<Found> {
    let (answer, file, why) = story.boot_answers().find_map(|answer| {
        let client = story.asker(answer)?;
        let file = answer.file()?;
        let why = misfit(&file, client.firmware, client.arch)?;
        Some((answer, file, why))
    })?;
    let took = story
        .transfers
        .iter()
        .any(|transfer| transfer.name == file.as_bytes() && transfer.whole);
    bad(
        format!(
            "{} gave {file:?}, {why}{}",
            answer.server(),
            if took {
                "; it was fetched and cannot start"
            } else {
                ""
            }
        ),
        format!(
            "let {} choose by the architecture in option 93 (dnsmasq: dhcp-match=set:efi,option:client-arch,7), or let plasmd answer: it does",
            answer.server()
        ),
    )
}

/// Why a file is not for this firmware, by its name.
fn misfit(file: &str, firmware: Firmware, arch: ClientArch) -> Option<&'static str> {
    let path = file.split(['?', '#']).next()?.to_ascii_lowercase();
    let is_efi = path.ends_with(".efi");
    let is_bios = BIOS_FILES.iter().any(|end| path.ends_with(end));
    let runs_efi = match firmware {
        Firmware::BiosPxe => false,
        Firmware::Ipxe { efi, .. } => efi,
        Firmware::UefiPxe | Firmware::UefiHttp => true,
        Firmware::RaspberryPi | Firmware::UBoot | Firmware::Phase => return None,
    };
    match (runs_efi, arch.cpu()) {
        (false, _) if is_efi => Some("which is for UEFI, and this is a BIOS"),
        (true, _) if is_bios => Some("which is for a BIOS, and this is UEFI"),
        (true, Some(Cpu::X86_64))
            if ["aa64", "arm64", "ia32", "i386"]
                .iter()
                .any(|name| path.contains(name)) =>
        {
            Some("which is not for x86_64")
        }
        (true, Some(Cpu::Aarch64))
            if ["x64", "x86_64", "amd64", "ia32"]
                .iter()
                .any(|name| path.contains(name)) =>
        {
            Some("which is not for 64-bit Arm")
        }
        _ => None,
    }
}

pub(super) fn ipxe_without_http(story: &Story, _now: Duration) -> Option<Found> {
    let (answer, file) = story.boot_answers().find_map(|answer| {
        let client = story.asker(answer)?;
        let file = answer.file()?;
        let no_http = matches!(client.firmware, Firmware::Ipxe { http: false, .. });
        (no_http && file.starts_with("http") && file.contains("://")).then_some((answer, file))
    })?;
    let url_worked = story
        .fetches
        .iter()
        .any(|fetch| fetch.at >= answer.at && fetch.is_answered());
    if url_worked {
        return None;
    }
    bad(
        format!(
            "{} gave it {file}, which this iPXE cannot fetch",
            answer.server()
        ),
        "chain an iPXE with HTTP first: plasmd sends undionly.kpxe or snponly.efi to such machines by itself; in another server, test for \
         option 175 instead of the user class \"iPXE\"",
    )
}

/// The host in a URL, when it is a name.
fn named_host(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let host = rest.split(['/', '?']).next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let name = host.split(':').next()?;
    let is_name = !host.starts_with('[') && name.parse::<IpAddr>().is_err() && !name.is_empty();
    is_name.then_some(name)
}

pub(super) fn name_without_dns(story: &Story, _now: Duration) -> Option<Found> {
    let has_dns = story
        .address_answers()
        .any(|answer| answer.message.options.get(options::DNS).is_some());
    let (answer, file) = story.boot_answers().find_map(|answer| {
        Some((answer, answer.file()?)).filter(|(_, file)| named_host(file).is_some())
    })?;
    if has_dns || story.address_answers().next().is_none() {
        return None;
    }
    bad(
        format!(
            "{} gave it {file}, and no DHCP server gave it a DNS server",
            answer.server()
        ),
        "write the URL with an IP address, as plasmd does, or let the DHCP server hand out a DNS server (option 6)",
    )
}

pub(super) fn nothing_fetched(story: &Story, now: Duration) -> Option<Found> {
    let offer = story.boot_answers().rfind_usable()?;
    let took = accepted(story, offer.at)?;
    if went_on(story, offer.at) || !since(took, now, STEP_WAIT) {
        return None;
    }
    let client = story.asker(offer)?;
    let file = offer.file().unwrap_or_default();
    // For these there is a better word.
    let cannot = matches!(
        client.firmware,
        Firmware::Phase | Firmware::Ipxe { http: false, .. }
    );
    let declined = story
        .asks
        .iter()
        .any(|ask| ask.request.kind == Kind::Decline);
    if cannot || declined || named_host(&file).is_some() {
        return None;
    }
    let message = format!(
        "it took the offer of {} and fetched nothing",
        offer.server()
    );
    if client.class.starts_with(HTTP_CLASS) {
        let advice = match file.starts_with("https") {
            true => {
                "the firmware has no authority for this server's certificate: enrol it in the firmware's setup, or offer plain HTTP or PXE"
            }
            false => {
                "the firmware may refuse plain HTTP: allow HTTP in its setup (\"TLS mode: none\", \"allow HTTP\"), or serve HTTPS \
                      with a certificate it knows, or choose PXE boot"
            }
        };
        return bad(format!("{message}: {file}"), advice);
    }
    bad(
        message,
        "this firmware does not like the offer: plasmd tries another form when the machine asks again. With another boot server: put the \
         name into the file field and option 67, and the server into siaddr and option 54",
    )
}

trait Usable<'a> {
    fn rfind_usable(self) -> Option<&'a Answer>;
}

impl<'a, I: Iterator<Item = &'a Answer>> Usable<'a> for I {
    /// The last offer that says all a machine must know.
    fn rfind_usable(self) -> Option<&'a Answer> {
        self.filter(|answer| answer.file().is_some() || answer.is_complete())
            .last()
    }
}

pub(super) fn wrong_server(story: &Story, _now: Duration) -> Option<Found> {
    let transfer = story.transfers.iter().find(|transfer| {
        let named = story
            .boot_answers()
            .filter(|answer| answer.at <= transfer.at);
        let servers: Vec<IpAddr> = named
            .filter(|answer| answer.is_proxy() || answer.file().is_some())
            .filter_map(|answer| answer.boot_server())
            .map(IpAddr::V4)
            .collect();
        let is_address_server = story
            .address_answers()
            .any(|answer| answer.server() == transfer.server.ip());
        is_address_server && !servers.is_empty() && !servers.contains(&transfer.server.ip())
    })?;
    let boot = story.boot_answers().next()?.boot_server()?;
    bad(
        format!(
            "it asked the DHCP server {} for {} instead of the boot server {boot}",
            transfer.server.ip(),
            transfer.shown()
        ),
        format!(
            "this firmware (or the loader it started) takes its server from the address offer: set the next server (siaddr, option 66) of \
             the DHCP server to {boot}, run plasmd --dhcp server instead of it, or boot by HTTP"
        ),
    )
}

/// Whole transfers of what looks like a program, not of a small file beside it.
fn programs(story: &Story) -> impl Iterator<Item = &Transfer> {
    let transfers = story.transfers.iter();
    transfers.filter(|transfer| transfer.whole && offered(story, transfer))
}

/// Whether a transfer is of a file that was offered by DHCP.
fn offered(story: &Story, transfer: &Transfer) -> bool {
    let bare = |name: &[u8]| {
        String::from_utf8_lossy(name)
            .trim_start_matches(['/', '\\'])
            .to_ascii_lowercase()
    };
    let mut files = story.boot_answers().filter_map(|answer| answer.file());
    files.any(|file| bare(file.as_bytes()) == bare(&transfer.name))
}

/// Who asked last before this moment.
fn firmware_before(story: &Story, at: Duration) -> Option<Firmware> {
    let mut asks = story.asks.iter().rev().filter(|ask| ask.at <= at);
    asks.find_map(Ask::firmware)
}

pub(super) fn file_not_started(story: &Story, _now: Duration) -> Option<Found> {
    let (transfer, back) = programs(story).find_map(|transfer| {
        let before = firmware_before(story, transfer.at)?;
        let discover = story.discovers().find(|ask| ask.at > transfer.last);
        let same = |ask: &Ask| ask.firmware() == Some(before);
        let again = discover.filter(|ask| same(ask)).map(|ask| ask.at);
        // Firmware tries its next boot entry, often the one for IPv6.
        let six = story.six.first.into_iter().chain([story.six.last]);
        let six = six
            .filter(|at| discover.is_none() && *at > transfer.last)
            .min();
        let back = again.or(six)?;
        let soon = back.saturating_sub(transfer.last) < RETURN_WAIT;
        let is_firmware = !matches!(before, Firmware::Ipxe { .. } | Firmware::Phase);
        (soon && is_firmware && !story.fetched_between(transfer.last, back))
            .then_some((transfer, back))
    })?;
    let after = seconds(back.saturating_sub(transfer.last));
    bad(
        format!(
            "it took all of {} ({} bytes), and its firmware asked again after {after}",
            transfer.shown(),
            transfer.bytes
        ),
        "Secure Boot refuses a file that is not signed with a key the firmware has: switch it off, or enrol the key. Else the file is for \
         another architecture, damaged, or stopped with an error: look at the machine's screen",
    )
}

pub(super) fn ipxe_again(story: &Story, _now: Duration) -> Option<Found> {
    let is_ipxe = |transfer: &&Transfer| {
        let name = transfer
            .name
            .escape_ascii()
            .to_string()
            .to_ascii_lowercase();
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        IPXE_FILES.iter().any(|known| name.starts_with(known)) && !name.ends_with(".ipxe")
    };
    let by_ipxe = |transfer: &&Transfer| {
        matches!(
            firmware_before(story, transfer.at),
            Some(Firmware::Ipxe { .. })
        )
    };
    let again: Vec<&Transfer> = story
        .transfers
        .iter()
        .filter(|transfer| transfer.whole)
        .filter(is_ipxe)
        .filter(by_ipxe)
        .collect();
    // Once is right where the iPXE in a network card is replaced by a better one.
    let [first, _, ..] = &again[..] else {
        return None;
    };
    bad(
        format!(
            "iPXE loaded {} {}, which is iPXE again",
            first.shown(),
            times(again.len() as u64)
        ),
        format!(
            "in the settings of {}, give machines whose question has option 175 (dnsmasq: dhcp-match=set:ipxe,175) a script or a URL \
             instead; plasmd does so by itself",
            first.server.ip()
        ),
    )
}

pub(super) fn boots_for_ever(story: &Story, _now: Duration) -> Option<Found> {
    let by_firmware = |transfer: &&Transfer| {
        !matches!(
            firmware_before(story, transfer.at),
            Some(Firmware::Ipxe { .. }) | None
        )
    };
    let boots: Vec<Duration> = programs(story)
        .filter(by_firmware)
        .map(|transfer| transfer.at)
        .collect();
    let row = boots
        .windows(BOOTS_IN_A_ROW)
        .find(|row| match (row.first(), row.last()) {
            (Some(first), Some(last)) => last.saturating_sub(*first) < BOOTS_WITHIN,
            _ => false,
        })?;
    let (first, last) = (row.first()?, row.last()?);
    warn(
        format!(
            "it booted from the network {} within {}",
            times(row.len() as u64),
            seconds(last.saturating_sub(*first))
        ),
        "if it shall boot from its disk now: plasmd clients local MAC, or let it netboot once only with plasmd clients once MAC. If it \
         restarts by itself, its screen says why",
    )
}
