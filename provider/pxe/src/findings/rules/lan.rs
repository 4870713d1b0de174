//! Rules about the network itself: ARP, and IPv6.

use std::time::Duration;

use super::super::limits::{ANSWER_WAIT, ARP_TRIES};
use super::super::story::Story;
use super::{Found, bad, since, times, warn};

pub(super) fn nobody_there(story: &Story, _now: Duration) -> Option<Found> {
    let mut looked_for = story.unanswered_arp.iter();
    let (address, (tries, _)) = looked_for.find(|(_, (tries, _))| *tries >= ARP_TRIES)?;
    let boot = story.boot_answers().find(|answer| {
        answer
            .boot_server()
            .is_some_and(|server| *address == server)
    });
    let who = boot.map_or("", |_| ", its boot server");
    let message = format!(
        "it asked {} who has {address}{who}, and nobody answered",
        times((*tries).into())
    );
    let advice = "is that address right, and its machine in the same network (VLAN)? If it is a router: is it up? Wrong next-server settings \
                  and wrong subnet masks look like this too";
    match story.took_a_file() {
        true => warn(message, advice),
        false => bad(message, advice),
    }
}

pub(super) fn no_answer_on_ipv6(story: &Story, now: Duration) -> Option<Found> {
    let six = &story.six;
    let first = six.first?;
    if six.url.is_some() || story.took_a_file() || !since(first, now, ANSWER_WAIT) {
        return None;
    }
    let got = match six.answered {
        0 => "nobody answered",
        _ => "no answer had one",
    };
    warn(
        format!(
            "it asked {} over IPv6 for a boot URL, and {got}",
            times(six.asked.into())
        ),
        "nothing to do where IPv4 shall be used: this is firmware trying one boot entry after another. Else: plasmd serve on this \
         network, and a router that announces the use of DHCPv6 (flags M or O)",
    )
}

pub(super) fn ipv6_url(story: &Story, _now: Duration) -> Option<Found> {
    let url = story.six.url.as_ref()?;
    let host = url.split_once("://")?.1.split('/').next()?;
    if host.starts_with('[') || host.matches(':').count() < 2 {
        return None;
    }
    bad(
        format!("it was given {url}"),
        "put brackets around the address in option 59 of the DHCPv6 server: http://[fe80::1]:8080/boot.efi",
    )
}
