//! Rules about TCP, TLS and HTTP.

use std::time::Duration;

use super::super::http::{Answered, Asked, Fetch};
use super::super::limits::STEP_WAIT;
use super::super::story::Story;
use super::{Found, bad, since, times, warn};

/// The types that UEFI takes whatever the path is (C35).
const EFI_TYPES: [&str; 3] = [
    "application/efi",
    "application/vnd.efi-iso",
    "application/vnd.efi-img",
];

/// The ends of paths that UEFI takes when there is no type that it knows.
const EFI_ENDS: [&str; 3] = [".efi", ".iso", ".img"];

/// Requests of UEFI firmware with the answers to them.
fn exchanges(story: &Story) -> impl Iterator<Item = (&Fetch, &Asked, &Answered)> {
    let fetches = story.fetches.iter().filter(|fetch| fetch.is_firmware());
    fetches.flat_map(|fetch| {
        let pairs = fetch.requests.iter().zip(&fetch.answers);
        pairs.map(move |(asked, answered)| (fetch, asked, answered))
    })
}

pub(super) fn closed(story: &Story, _now: Duration) -> Option<Found> {
    let fetch = story.fetches.iter().find(|fetch| fetch.refused)?;
    if story.succeeded_after(fetch.last) {
        return None;
    }
    let server = fetch.server;
    bad(
        format!("it called {server}, and there is nobody on that port"),
        format!(
            "start the server on {server}, or correct the port in the boot URL (plasmd serve --port)"
        ),
    )
}

pub(super) fn blocked(story: &Story, now: Duration) -> Option<Found> {
    let fetch = story.fetches.iter().find(|fetch| {
        let silent = !fetch.accepted && !fetch.refused && fetch.tries > 0;
        silent && fetch.answers.is_empty() && since(fetch.at, now, STEP_WAIT)
    })?;
    if story.succeeded_after(fetch.at) {
        return None;
    }
    let server = fetch.server;
    bad(
        format!(
            "it called {server} {}, and no answer came",
            times(fetch.tries.into())
        ),
        format!(
            "open TCP port {} in the firewall of {}, and see that its address is reachable from the machine's network",
            server.port(),
            server.ip()
        ),
    )
}

pub(super) fn not_trusted(story: &Story, _now: Duration) -> Option<Found> {
    let (fetch, (by_machine, number)) = story
        .fetches
        .iter()
        .find_map(|fetch| Some((fetch, fetch.alert?)))?;
    // 0 is the ordinary end of a connection.
    if number == 0 || story.succeeded_after(fetch.last) {
        return None;
    }
    let what = match number {
        42..=46 | 48 => "does not trust the certificate",
        70 => "speaks another version of TLS",
        _ => "broke the TLS handshake off",
    };
    let who = if by_machine {
        "the machine".to_owned()
    } else {
        fetch.server.to_string()
    };
    bad(
        format!("{who} {what} (alert {number}) of {}", fetch.server),
        "enrol the authority of the server's certificate in the firmware's setup (plasmd tls shows it), see that the certificate names the \
         address in the URL and that the machine's clock is right, or boot by plain HTTP or PXE",
    )
}

pub(super) fn redirect(story: &Story, _now: Duration) -> Option<Found> {
    let (fetch, asked, answered) = exchanges(story)
        .find(|(_, _, answered)| (300..400).contains(&answered.status) && answered.status != 304)?;
    bad(
        format!(
            "{} sent it from {} to {:?}",
            fetch.server, asked.path, answered.location
        ),
        "put the last URL into the offer, without a redirect on the way: no doubled slash, and http where no https is meant",
    )
}

pub(super) fn status(story: &Story, _now: Duration) -> Option<Found> {
    let (fetch, asked, answered) = story.fetches.iter().find_map(|fetch| {
        let mut pairs = fetch.requests.iter().zip(&fetch.answers);
        // Linux, once it runs, also sends reports: whether they are taken is no matter.
        let (asked, answered) =
            pairs.find(|(asked, answered)| asked.method != "POST" && answered.status >= 400)?;
        Some((fetch, asked, answered))
    })?;
    let message = format!(
        "{} answered {} {} with {}",
        fetch.server, asked.method, asked.path, answered.status
    );
    let advice = format!(
        "put the file there, or correct the URL; what a plasmd on {} has: plasmd provider list --addr http://{}",
        fetch.server.ip(),
        fetch.server
    );
    match story.succeeded_after(fetch.last) {
        true => warn(message, advice),
        false => bad(message, advice),
    }
}

pub(super) fn length(story: &Story, _now: Duration) -> Option<Found> {
    let (fetch, asked, _) = exchanges(story)
        .find(|(_, _, answered)| answered.status == 200 && answered.length.is_none())?;
    bad(
        format!(
            "{} answered {} {} without a Content-Length",
            fetch.server, asked.method, asked.path
        ),
        "the server must send whole files with their length, not in chunks or compressed; plasmd does",
    )
}

pub(super) fn kind(story: &Story, _now: Duration) -> Option<Found> {
    let (fetch, asked, answered) = exchanges(story).find(|(_, asked, answered)| {
        let path = asked
            .path
            .split('?')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let known = EFI_TYPES
            .iter()
            .any(|known| answered.kind.eq_ignore_ascii_case(known));
        answered.status == 200 && !known && !EFI_ENDS.iter().any(|end| path.ends_with(end))
    })?;
    bad(
        format!(
            "{} sent {} as {:?}",
            fetch.server, asked.path, answered.kind
        ),
        "give the boot file a name that ends in .efi (the query behind it does not count), and the type application/efi",
    )
}

pub(super) fn linux_failed(story: &Story, _now: Duration) -> Option<Found> {
    let fetches = story.fetches.iter();
    let reports = fetches.flat_map(|fetch| fetch.requests.iter().filter_map(Asked::report));
    // A later attempt may go well.
    let (_, text) = reports.last().filter(|(stage, _)| stage == "failed")?;
    bad(
        format!("its Linux ran, and gave up: {text}"),
        "the word in front is the check that failed: the guide lists them (exit codes, what the console says); keys and channels of the \
         image and of the provider must fit, and the clock of the machine must be right",
    )
}

pub(super) fn hung_up(story: &Story, _now: Duration) -> Option<Found> {
    let fetch = story.fetches.iter().find(|fetch| {
        let only_head =
            fetch.requests.len() == 1 && fetch.requests.iter().all(|asked| asked.method == "HEAD");
        let closes = fetch.closed || fetch.answers.iter().any(|answered| answered.closes);
        fetch.is_firmware() && only_head && closes && fetch.answers.len() == 1
    })?;
    if story.succeeded_after(fetch.last) {
        return None;
    }
    bad(
        format!("{} closed the connection after HEAD", fetch.server),
        "serve the file with a server that speaks HTTP/1.1 and keeps connections open, such as plasmd; python's http.server does not",
    )
}
