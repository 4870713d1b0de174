//! What the status screen and the fatal screen say. Pure: a [`Status`] in, lines out.
//!
//! On a serial line the block is printed when something in it changed; on a screen it is drawn in place. [`Status::block`]
//! therefore leaves out what changes without meaning anything: the uptime and the last requests.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits;
use crate::plan::Refusal;

/// Narrowest screen that is drawn for; wider lines are cut.
pub(crate) const COLUMNS_MIN: usize = 40;

/// The manifest that the machine was booted by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Artifacts {
    pub(crate) version: String,
    pub(crate) channel: String,
    pub(crate) arch: String,
    pub(crate) sequence: u64,
    pub(crate) digest: String,
    pub(crate) expires_at: String,
    pub(crate) expired: bool,
    /// `disk`, `initramfs`, and where it was fetched before that.
    pub(crate) source: String,
}

/// Addresses of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) source: String,
}

/// Everything the screen shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    pub(crate) product: String,
    pub(crate) host: String,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) urls: Vec<String>,
    pub(crate) advertised: bool,
    pub(crate) artifacts: Option<Artifacts>,
    pub(crate) keys: Vec<String>,
    pub(crate) development: bool,
    /// What goes on before the machine serves.
    pub(crate) activity: String,
    /// How far it got; not in the block, because it changes all the time.
    pub(crate) progress: Option<String>,
    pub(crate) watchdog: Option<u32>,
    /// Which image runs, whether it is proved, and what is on trial.
    pub(crate) upgrade: Vec<String>,
    pub(crate) restarts: u32,
    pub(crate) requests: VecDeque<String>,
}

impl Status {
    /// Keeps the last requests.
    pub(crate) fn add_request(&mut self, request: String) {
        self.requests.push_back(request);
        while self.requests.len() > limits::REQUESTS_KEPT {
            self.requests.pop_front();
        }
    }

    /// The part that is worth a new block on a serial line when it changes.
    pub(crate) fn block(&self) -> Vec<String> {
        let mut lines = vec![format!("{}   {}", self.product, self.host)];
        let mut row = |name: &str, value: String| lines.push(format!("  {name:<9} {value}"));
        if self.interfaces.is_empty() {
            row("address", "none yet: waiting for the network".to_owned());
        }
        for Interface {
            name,
            addresses,
            source,
        } in &self.interfaces
        {
            row(
                "address",
                format!("{name}  {}  ({source})", addresses.join("  ")),
            );
        }
        match &self.artifacts {
            Some(artifacts) => self.describe(artifacts, &mut row),
            None => row("serving", format!("nothing yet: {}", self.activity)),
        }
        let keys = self.keys.join(", ");
        if self.development {
            row(
                "trusts",
                format!("{keys}   *** DEVELOPMENT KEY: not for production ***"),
            );
        } else {
            row("trusts", keys);
        }
        match self.watchdog {
            Some(seconds) => row("watchdog", format!("{seconds} s")),
            None => row("watchdog", "none".to_owned()),
        }
        for (number, line) in self.upgrade.iter().enumerate() {
            row(if number == 0 { "upgrade" } else { "" }, line.clone());
        }
        lines
    }

    fn describe(&self, artifacts: &Artifacts, row: &mut impl FnMut(&str, String)) {
        if self.urls.is_empty() {
            row("serving", "soon: waiting for an address".to_owned());
        }
        for url in &self.urls {
            row("serving", url.clone());
        }
        if self.advertised {
            row("announced", "on the local network".to_owned());
        }
        let Artifacts {
            version,
            channel,
            arch,
            sequence,
            digest,
            expires_at,
            expired,
            source,
        } = artifacts;
        row(
            "version",
            format!("{version}  {channel}/{arch}  sequence {sequence}"),
        );
        row("manifest", digest.clone());
        row("from", source.clone());
        if *expired {
            row(
                "WARNING",
                format!("the manifest expired at {expires_at}: publish a new one; serving goes on"),
            );
        }
    }

    /// The block, and what changes all the time: for consoles that are drawn in place.
    pub(crate) fn screen(&self, uptime: Duration) -> Vec<String> {
        let mut lines = self.block();
        if let Some(progress) = &self.progress {
            lines.push(format!("  {:<9} {progress}", "progress"));
        }
        lines.push(format!("  {:<9} {}", "uptime", duration(uptime)));
        if self.restarts > 0 {
            // Not in the block: a program that crashes again and again would print one each time.
            lines.push(format!("  {:<9} {}", "restarts", self.restarts));
        }
        if !self.requests.is_empty() {
            lines.push(String::new());
            lines.push("Last requests".to_owned());
            lines.extend(self.requests.iter().map(|request| format!("  {request}")));
        }
        lines
    }
}

/// The fatal screen: what happened, what to do, what happens next.
pub(crate) fn fatal(product: &str, refusal: &Refusal, wait: Duration) -> Vec<String> {
    let mut lines = vec![
        format!("{product} cannot start."),
        String::new(),
        format!("  what happened   {} [{}]", refusal.reason, refusal.code),
        format!("  what to do      {}", advice(&refusal.code)),
    ];
    let next = if wait.is_zero() {
        "now".to_owned()
    } else {
        format!("in {}", duration(wait))
    };
    lines.push(format!(
        "  what is next    the machine restarts {next}; Ctrl-Alt-Del restarts it at once"
    ));
    lines
}

/// A hint for each family of causes.
fn advice(code: &str) -> &'static str {
    match code {
        "not-found" => {
            "write phase.img to a disk or USB stick, or name another provider with phase.provider=http://HOST:8080"
        }
        "expired" => {
            "publish a new manifest, or set this machine's clock: an expired one is served on, but never fetched"
        }
        "not-yet-valid" => "set this machine's clock",
        "version-too-low" => "offer a version that is not older than this image",
        "unknown-key" | "threshold-not-met" | "not-signed" | "wrong-generation" => {
            "sign the manifest with the key this image trusts, or boot an image that trusts the provider's key"
        }
        "wrong-channel" => "name the channel with phase.channel=",
        "wrong-arch" => "offer artifacts for this machine's architecture",
        "not-enough-memory" => {
            "give the machine more memory: 256 MiB is the least for the image as it is built"
        }
        "kexec-failed" => "check that the kernel is one that this machine can boot, and its memory",
        "mount-failed" | "no-trust-root" | "io" => {
            "boot an intact image; the kernel's messages above may say more"
        }
        _ => {
            "the data is damaged or was changed on its way: check the disk or the provider, and write or publish it anew"
        }
    }
}

/// `3 d 04:05:06`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 {
        format!("{days} d {clock}")
    } else {
        clock
    }
}

/// The URLs of the manifest, from the addresses that `net` reported and the port that `serve` listens on.
///
/// Link-local IPv6 addresses are left out: they need a zone that a reader of the screen cannot know.
pub(crate) fn manifest_urls(interfaces: &[Interface], port: u16) -> Vec<String> {
    let mut urls = Vec::new();
    for address in interfaces.iter().flat_map(|interface| &interface.addresses) {
        let host = address.split('/').next().unwrap_or_default();
        let url = match host.parse() {
            Ok(std::net::IpAddr::V4(v4)) => format!("http://{v4}:{port}/manifest.json"),
            Ok(std::net::IpAddr::V6(v6)) if !v6.is_unicast_link_local() => {
                format!("http://[{v6}]:{port}/manifest.json")
            }
            _ => continue,
        };
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    // IPv4 first: the shortest to type.
    urls.sort_by_key(|url| url.contains('['));
    urls
}

/// Only what a terminal prints and what moves nothing: ASCII without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            product: "Phase 0.1.0".to_owned(),
            host: "phase-525400123456".to_owned(),
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                addresses: vec!["10.0.0.5/24".to_owned()],
                source: "dhcp".to_owned(),
            }],
            urls: vec!["http://10.0.0.5:8080/manifest.json".to_owned()],
            advertised: true,
            artifacts: Some(Artifacts {
                version: "0.1.0".to_owned(),
                channel: "stable".to_owned(),
                arch: "x86_64".to_owned(),
                sequence: 7,
                digest: "sha256:00".to_owned(),
                expires_at: "2026-12-21T10:00:00Z".to_owned(),
                expired: false,
                source: "disk /dev/vda2".to_owned(),
            }),
            keys: vec!["0123456789abcdef".to_owned()],
            development: true,
            activity: String::new(),
            progress: None,
            upgrade: Vec::new(),
            watchdog: None,
            restarts: 0,
            requests: VecDeque::new(),
        }
    }

    #[test]
    fn the_block_says_what_an_operator_asks() {
        assert_eq!(
            status().block().join("\n"),
            "Phase 0.1.0   phase-525400123456\n  \
             address   eth0  10.0.0.5/24  (dhcp)\n  \
             serving   http://10.0.0.5:8080/manifest.json\n  \
             announced on the local network\n  \
             version   0.1.0  stable/x86_64  sequence 7\n  \
             manifest  sha256:00\n  \
             from      disk /dev/vda2\n  \
             trusts    0123456789abcdef   *** DEVELOPMENT KEY: not for production ***\n  \
             watchdog  none"
        );
    }

    #[test]
    fn an_expired_manifest_is_loud() {
        let mut status = status();
        status.development = false;
        if let Some(artifacts) = &mut status.artifacts {
            artifacts.expired = true;
        }
        let block = status.block().join("\n");
        assert!(
            block.contains("WARNING   the manifest expired at 2026-12-21T10:00:00Z"),
            "{block}"
        );
        assert!(!block.contains("DEVELOPMENT"), "{block}");
    }

    #[test]
    fn uptime_and_requests_do_not_change_the_block() {
        let mut status = status();
        let before = status.block();
        status.restarts = 3;
        for number in 0..20 {
            status.add_request(format!("GET /{number}"));
        }
        assert_eq!(status.block(), before);
        let screen = status.screen(Duration::from_secs(90_061)).join("\n");
        assert!(screen.contains("uptime    1 d 01:01:01"), "{screen}");
        assert!(screen.contains("restarts  3"), "{screen}");
        assert!(
            screen.contains("GET /19") && screen.contains("GET /15") && !screen.contains("GET /14"),
            "{screen}"
        );
    }

    #[test]
    fn the_fatal_screen_says_what_and_what_to_do() {
        let refusal = Refusal::new("bad-signature", "the signature is wrong");
        let text = fatal("Phase 0.1.0", &refusal, Duration::from_secs(60)).join("\n");
        assert!(
            text.contains("the signature is wrong [bad-signature]"),
            "{text}"
        );
        assert!(text.contains("restarts in 00:01:00"), "{text}");
        assert!(
            fatal("x", &refusal, Duration::ZERO)
                .join("\n")
                .contains("restarts now")
        );
    }

    #[test]
    fn urls_come_from_addresses() {
        let interface = |addresses: &[&str]| Interface {
            name: "eth0".to_owned(),
            addresses: addresses
                .iter()
                .map(|address| (*address).to_owned())
                .collect(),
            source: "dhcp".to_owned(),
        };
        let urls = manifest_urls(
            &[
                interface(&["fe80::1/64", "2001:db8::5/64", "10.0.0.5/24"]),
                interface(&["x", "10.0.0.5"]),
            ],
            8080,
        );
        assert_eq!(
            urls,
            [
                "http://10.0.0.5:8080/manifest.json",
                "http://[2001:db8::5]:8080/manifest.json"
            ]
        );
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\tb\u{202e}\r\n"), "a?[2J b???");
    }
}
