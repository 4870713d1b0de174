//! Where a boot server says that images are: a hint, kept for the role that fetches.
//!
//! A message with a vendor class that begins `PhaseClient` and a URL as its boot file names a provider, whether it brings an
//! address or not. Anyone on the wire can send one, so only the shape of the URL is looked at here; signatures decide.

use fetch::Url;

use super::limits::PROVIDERS_MAX;
use super::wire::ServerMessage;

/// How the vendor class of our boot server begins, and ours as its client.
const CLASS: &str = "PhaseClient";

const OPTION_VENDOR_CLASS: u8 = 60;
const OPTION_BOOT_FILE: u8 = 67;

/// What is asked for beside the parameters of a lease.
pub(super) const PARAMETERS: [u8; 2] = [OPTION_VENDOR_CLASS, OPTION_BOOT_FILE];

/// Our vendor class, so that a boot server knows who asks. The number is that of UEFI firmware of this kind of machine.
pub(super) fn vendor_class() -> String {
    let number = match std::env::consts::ARCH {
        "aarch64" => 11,
        _ => 7,
    };
    format!("{CLASS}:Arch:{number:05}")
}

/// The provider that a server's message names.
pub(super) fn provider(message: &ServerMessage<'_>) -> Option<Url> {
    let find = |kind: u8| {
        let mut options = message.packet.options();
        options
            .find(|option| option.kind == kind)
            .map(|option| option.data)
    };
    if !find(OPTION_VENDOR_CLASS)?.starts_with(CLASS.as_bytes()) {
        return None;
    }
    let text = std::str::from_utf8(find(OPTION_BOOT_FILE)?).ok()?;
    // Some servers end every string with a NUL.
    let url: Url = text.trim_end_matches('\0').parse().ok()?;
    (!url.is_https()).then_some(url)
}

/// The providers that were named on one link, the last one first.
#[derive(Debug, Default)]
pub(super) struct Providers(Vec<Url>);

impl Providers {
    /// Takes one more; the oldest goes when there are too many.
    pub(super) fn add(&mut self, url: Url) {
        if self.0.first() == Some(&url) {
            return;
        }
        self.0.retain(|known| *known != url);
        self.0.insert(0, url);
        self.0.truncate(PROVIDERS_MAX);
    }

    /// Forgets them: another link may be another network.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them, the last one first.
    pub(super) fn all(&self) -> &[Url] {
        &self.0
    }
}

/// The file's text: one URL a line. The links take turns, so that a flood on one hides no other.
pub(super) fn text<'a>(links: impl Iterator<Item = &'a [Url]>) -> String {
    let links: Vec<&[Url]> = links.collect();
    let mut text = String::new();
    for place in 0..PROVIDERS_MAX {
        for url in links.iter().filter_map(|urls| urls.get(place)) {
            text.push_str(&format!("{url}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Reply, ack};
    use super::super::wire::parse_server_message;
    use super::*;

    #[track_caller]
    fn check(class: &[u8], file: &[u8], expected: Option<&str>) {
        let extra = vec![(60, class.to_vec()), (67, file.to_vec())];
        let frame = ack(&Reply {
            extra,
            ..Reply::default()
        });
        let message = parse_server_message(&frame).unwrap();
        let found = provider(&message).map(|url| url.to_string());
        assert_eq!(found.as_deref(), expected, "{class:?} {file:?}");
    }

    #[test]
    fn a_boot_server_of_ours_names_a_provider() {
        let url = "http://10.0.0.1:8080/stable/x86_64/manifest.json";
        check(b"PhaseClient", url.as_bytes(), Some(url));
        check(b"PhaseClient:Arch:00007", url.as_bytes(), Some(url));
        check(b"PhaseClient", format!("{url}\0").as_bytes(), Some(url));
    }

    #[test]
    fn anything_else_names_none() {
        let url = b"http://10.0.0.1:8080/manifest.json";
        check(b"PXEClient", url, None);
        check(b"", url, None);
        for file in [
            &b"undionly.kpxe"[..],
            b"https://10.0.0.1/manifest.json",
            b"http://",
            b"http://10.0.0.1/a b",
            b"http://10.0.0.1/\ninit=/bin/sh",
            b"http://10.0.0.1/\xff",
            b"",
        ] {
            check(b"PhaseClient", file, None);
        }
        let frame = ack(&Reply::default());
        assert_eq!(provider(&parse_server_message(&frame).unwrap()), None);
    }

    #[test]
    fn the_last_ones_are_kept_and_links_take_turns() {
        let url = |number: usize| -> Url { format!("http://10.0.0.1/{number}").parse().unwrap() };
        let mut flooded = Providers::default();
        for number in 0..100 {
            flooded.add(url(number));
            flooded.add(url(number));
        }
        assert_eq!(flooded.all().len(), PROVIDERS_MAX);
        assert_eq!(flooded.all()[0], url(99));
        flooded.add(url(97));
        assert_eq!(flooded.all()[..2], [url(97), url(99)]);
        let mut other = Providers::default();
        other.add(url(200));
        let text = text([flooded.all(), other.all()].into_iter());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["http://10.0.0.1/97", "http://10.0.0.1/200"]);
        assert_eq!(lines.len(), PROVIDERS_MAX + 1);
        other.clear();
        assert!(other.all().is_empty());
    }
}
