//! The table of rules. Each names what firmware needs, and finds in a story where that failed. The line of the project's
//! checklist of firmware behaviour stands behind each.

mod boot;
mod dhcp;
mod http;
mod lan;
mod tftp;

use std::time::Duration;

use super::{Finding, Level, Story};

/// A rule of netboot.
pub struct Rule {
    /// Its name, which never changes.
    pub code: &'static str,
    /// What firmware needs, in a sentence.
    pub because: &'static str,
    find: fn(&Story, Duration) -> Option<Found>,
    /// Whether it fails on what was not said between two machines: then both must be heard.
    on_silence: bool,
}

/// Where a rule failed.
struct Found {
    level: Level,
    message: String,
    advice: String,
}

fn bad(message: impl Into<String>, advice: impl Into<String>) -> Option<Found> {
    Some(Found {
        level: Level::Bad,
        message: message.into(),
        advice: advice.into(),
    })
}

fn warn(message: impl Into<String>, advice: impl Into<String>) -> Option<Found> {
    Some(Found {
        level: Level::Warn,
        message: message.into(),
        advice: advice.into(),
    })
}

const fn rule(
    code: &'static str,
    because: &'static str,
    find: fn(&Story, Duration) -> Option<Found>,
) -> Rule {
    Rule {
        code,
        because,
        find,
        on_silence: false,
    }
}

/// A rule that fails on silence.
const fn silence(
    code: &'static str,
    because: &'static str,
    find: fn(&Story, Duration) -> Option<Found>,
) -> Rule {
    Rule {
        on_silence: true,
        ..rule(code, because, find)
    }
}

/// All rules, in the order of a boot.
pub const RULES: &[Rule] = &[
    // Getting offers.
    rule(
        "first-questions-lost", // C17
        "a port of a switch forwards nothing for up to 30 s after the link comes up, unless it is told that a computer is there",
        dhcp::first_questions_lost,
    ),
    rule(
        "no-answer", // C17
        "somebody on the machine's own network must answer its DHCP question",
        dhcp::no_answer,
    ),
    rule(
        "no-boot-offer", // C20
        "besides an address, somebody must offer something to boot",
        dhcp::no_boot_offer,
    ),
    rule(
        "no-address", // C1
        "besides something to boot, somebody must offer an address",
        dhcp::no_address,
    ),
    rule(
        "no-server-id", // C17
        "firmware drops an offer without the server's identity (option 54) silently",
        dhcp::no_server_id,
    ),
    rule(
        "class-not-echoed", // C2
        "firmware throws away a boot offer that does not carry the class it asked as (option 60: PXEClient or HTTPClient)",
        dhcp::class_not_echoed,
    ),
    rule(
        "late-offer", // C16
        "iPXE waits 2 s for a boot offer, other firmware a few seconds; what comes later is not used",
        dhcp::late_offer,
    ),
    rule(
        "nothing-accepted", // C17
        "firmware asks again after 4, 8 and 16 s when none of the offers is good enough for it",
        dhcp::nothing_accepted,
    ),
    rule(
        "rival-boot-file", // C4
        "one server only may name a boot file: which of two is taken depends on the firmware",
        dhcp::rival_boot_file,
    ),
    rule(
        "two-boot-servers", // C23
        "of two boot servers the first that answers wins, and not always the same one",
        dhcp::two_boot_servers,
    ),
    rule(
        "two-address-servers", // C4
        "one server only may give addresses on a network, unless both were told of each other",
        dhcp::two_address_servers,
    ),
    rule(
        "address-refused",
        "a machine keeps an address only when its server agrees and nobody else has it",
        dhcp::address_refused,
    ),
    rule(
        "no-next-server", // C9
        "the server of the boot file must stand in siaddr (next-server): iPXE wants it there, and UEFI ignores option 66",
        dhcp::no_next_server,
    ),
    rule(
        "overload", // C10
        "firmware reads options in the file and name fields (option 52) differently, or not at all",
        dhcp::overload,
    ),
    rule(
        "answer-too-long", // C21
        "a DHCP answer may have 576 bytes with its headers, or what the machine says in option 57",
        dhcp::answer_too_long,
    ),
    rule(
        "wrong-boot-size", // C22
        "UEFI believes the size in option 13 and reads no more than that",
        dhcp::wrong_boot_size,
    ),
    rule(
        "relay-passed-over", // C18
        "what came through a DHCP relay is answered to the relay, with its option 82",
        dhcp::relay_passed_over,
    ),
    // From the offer to the file.
    silence(
        "never-asked-4011", // C3, C5
        "an offer without a boot file and without PXE options sends the machine to port 4011 of the boot server",
        boot::never_asked_4011,
    ),
    silence(
        "no-answer-on-4011", // C3, C6
        "the boot server must answer on port 4011 within a second",
        boot::no_answer_on_4011,
    ),
    rule(
        "no-file-on-4011", // C8
        "the answer on port 4011 must name a boot file",
        boot::no_file_on_4011,
    ),
    rule(
        "boot-item-not-echoed", // C7
        "a question with a boot item (option 43, 71) must be answered with the same boot item",
        boot::boot_item_not_echoed,
    ),
    silence(
        "no-menu-for-pi", // C55
        "a Raspberry Pi only boots from an offer whose option 43 has the menu entry \"Raspberry Pi Boot\"",
        boot::no_menu_for_pi,
    ),
    rule(
        "wrong-architecture", // C12
        "a boot file must be made for the firmware that takes it",
        boot::wrong_architecture,
    ),
    silence(
        "ipxe-without-http", // C14
        "this iPXE was built without HTTP",
        boot::ipxe_without_http,
    ),
    rule(
        "name-without-dns", // C39
        "a boot URL with a name needs a DNS server from DHCP",
        boot::name_without_dns,
    ),
    silence(
        "nothing-fetched", // C42
        "firmware that took an offer fetches the boot file at once",
        boot::nothing_fetched,
    ),
    rule(
        "wrong-server", // C9, C47, C55
        "the boot file is fetched from the server that the boot offer names",
        boot::wrong_server,
    ),
    // Fetching.
    silence(
        "nobody-there", // C19
        "who is spoken to must answer ARP",
        lan::nobody_there,
    ),
    rule(
        "tftp-closed",
        "a TFTP server must listen on UDP port 69 of the boot server",
        tftp::closed,
    ),
    silence(
        "tftp-blocked",
        "UDP to port 69 of the boot server must get through",
        tftp::blocked,
    ),
    rule(
        "tftp-answers-lost", // C25
        "TFTP answers come from a new port, and must get through to the machine",
        tftp::answers_lost,
    ),
    rule(
        "tftp-name", // C10
        "some firmware reads on behind the end of option 67 and asks for a name with rubbish behind it",
        tftp::name,
    ),
    rule(
        "tftp-not-found", // C32
        "the boot file must be there under the name that was offered",
        tftp::not_found,
    ),
    rule(
        "tftp-refused",
        "the TFTP server must be willing to send the file",
        tftp::refused,
    ),
    rule(
        "tftp-options", // C26
        "a TFTP server may grant only what was asked for, and no larger value",
        tftp::options,
    ),
    rule(
        "tftp-given-up",
        "the machine must be content with what it gets",
        tftp::given_up,
    ),
    rule(
        "tftp-counter", // C30
        "the block counter of TFTP has 16 bits, and not all firmware goes on behind 65535",
        tftp::counter,
    ),
    rule(
        "tftp-stuck", // C28, C31
        "a transfer must go on to its last block",
        tftp::stuck,
    ),
    rule(
        "tftp-repeats",
        "on a sound network almost no block is lost",
        tftp::repeats,
    ),
    rule(
        "http-closed",
        "a server must listen on the port of the boot URL",
        http::closed,
    ),
    silence(
        "http-blocked",
        "TCP to the port of the boot URL must get through",
        http::blocked,
    ),
    rule(
        "http-not-trusted", // C42, C43
        "firmware speaks HTTPS only with a server whose authority was enrolled in it",
        http::not_trusted,
    ),
    rule(
        "http-redirect", // C36
        "UEFI firmware follows no redirects",
        http::redirect,
    ),
    rule(
        "http-status",
        "the boot URL must be answered with the file",
        http::status,
    ),
    rule(
        "http-length", // C34, C37
        "UEFI firmware needs a Content-Length, also in the answer to HEAD",
        http::length,
    ),
    rule(
        "http-type", // C35
        "UEFI firmware takes a file whose type is application/efi, or that has no type and ends in .efi",
        http::kind,
    ),
    rule(
        "http-hung-up", // C38
        "UEFI firmware asks HEAD and then GET on one connection, which must stay open",
        http::hung_up,
    ),
    // After the file.
    rule(
        "file-not-started", // C46
        "firmware that has the whole boot file starts it, and does not come back to ask",
        boot::file_not_started,
    ),
    rule(
        "ipxe-again", // C14
        "iPXE must be given a script, not iPXE again",
        boot::ipxe_again,
    ),
    rule(
        "linux-failed",
        "our Linux must find its provider, verify what it is given, and have the memory for it",
        http::linux_failed,
    ),
    rule(
        "boots-for-ever", // C54
        "a machine that was installed or is done must boot from its disk, or it netboots again at each restart",
        boot::boots_for_ever,
    ),
    silence(
        "no-answer-on-ipv6", // C24
        "somebody must answer the machine's DHCPv6 question with a boot URL (option 59)",
        lan::no_answer_on_ipv6,
    ),
    rule(
        "ipv6-url", // C24
        "an IPv6 address in a URL stands in brackets",
        lan::ipv6_url,
    ),
];

/// The rules that failed in this story, the worst first.
pub(super) fn judge(story: &Story, now: Duration) -> Vec<Finding> {
    let heard = RULES
        .iter()
        .filter(|rule| story.is_seen_whole || !rule.on_silence);
    let failed = heard.filter_map(|rule| {
        let found = (rule.find)(story, now)?;
        Some(Finding {
            code: rule.code,
            level: found.level,
            message: found.message,
            rule: rule.because,
            advice: found.advice,
        })
    });
    let mut findings: Vec<Finding> = failed.collect();
    // The order of a boot stays among those that are equally bad.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

/// Whether so much time has gone since.
fn since(at: Duration, now: Duration, wait: Duration) -> bool {
    now.saturating_sub(at) >= wait
}

/// "once", "3 times".
fn times(number: u64) -> String {
    match number {
        1 => "once".to_owned(),
        number => format!("{number} times"),
    }
}

/// Seconds for people.
fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
