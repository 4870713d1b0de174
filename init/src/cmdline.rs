//! The kernel command line: what an operator can tell the appliance before it runs.
//!
//! Pure: text in, [`Options`] and complaints out. [`PARAMETERS`] is the one table; the operator's guide carries the same
//! table and a test compares them. A wrong value never stops the boot: it is complained about and its default is used.

use std::fmt::Write as _;

use boot_manifest::Channel;

use crate::limits;

/// One row of the table of parameters.
pub(crate) struct Parameter {
    /// Name without the `phase.` prefix.
    pub(crate) name: &'static str,
    /// What may stand behind the `=`.
    pub(crate) values: &'static str,
    /// What holds without it.
    pub(crate) default: &'static str,
    /// What it does.
    pub(crate) meaning: &'static str,
}

const fn row(
    name: &'static str,
    values: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Parameter {
    Parameter {
        name,
        values,
        default,
        meaning,
    }
}

/// Every kernel parameter of the appliance.
pub(crate) const PARAMETERS: &[Parameter] = &[
    row(
        "source",
        "`auto`, `disk`, `initramfs`, `provider`",
        "`auto`",
        "where the artifacts come from; `auto` tries a disk, then the initramfs, then the provider, which is looked for when none is named",
    ),
    row(
        "provider",
        "`http://HOST[:PORT][/...]`",
        "looked for: by DHCP, by mDNS, then by the DHT",
        "fetch the artifacts there, verify them with the keys built into this image, boot them by kexec",
    ),
    row(
        "channel",
        "name",
        "`stable`",
        "the channel that is fetched, and the only one that is accepted when named",
    ),
    row(
        "mode",
        "`internet`, `local`, `private`",
        "`internet`",
        "`local` stays on the LAN, without the DHT; `private` announces nothing, looks for no provider, tells none how far the boot came, and takes a random host name",
    ),
    row(
        "mdns",
        "`on`, `off`",
        "`on`",
        "announce the provider on the LAN, and look for one by mDNS (always off in mode `private`)",
    ),
    row(
        "dht",
        "`on`, `off`",
        "`on`",
        "announce the provider beyond the LAN, look for one there, and listen on TCP port 4011 for others that do (mode `internet` only)",
    ),
    row(
        "bootstrap",
        "`A[,B...]`: `HOST[:PORT]` or multiaddresses, at most 8",
        "none",
        "machines that are part of the DHT already; without one nobody is found by it",
    ),
    row(
        "name",
        "host name",
        "`phase-` and the first MAC address",
        "name of this machine",
    ),
    row("port", "1 to 65535", "`8080`", "HTTP port"),
    row(
        "share",
        "`on`, `off`, bytes per second like `20M`",
        "`on`",
        "while this machine fetches, give others what it has verified so far; at most so much per second (always off in mode `private`)",
    ),
    row(
        "dhcp",
        "`proxy`, `off`",
        "`proxy`",
        "answer machines that boot from the network, beside the DHCP server of the LAN (always off in mode `private`)",
    ),
    row(
        "loglevel",
        "`error`, `warn`, `info`, `debug`, `trace`",
        "`info`",
        "what the programs write to the console",
    ),
    row(
        "disk_wait",
        "seconds, 0 to 120",
        "`10`",
        "how long a disk is waited for when it is the only source",
    ),
    row(
        "reboot_wait",
        "seconds, 0 to 86400",
        "`60`",
        "how long the reason of a fatal error stays on the screen before the machine restarts",
    ),
    row(
        "watchdog",
        "seconds, 0 or 10 to 600",
        "`60`",
        "time-out of the hardware watchdog; 0 leaves it alone",
    ),
    row(
        "origin",
        "URL",
        "none",
        "set by kexec: where the running image was fetched; that provider is told how far the boot came, nothing else",
    ),
];

/// Parameters of older systems that people still have in their boot entries, and why they do nothing here.
const WITHOUT_MEANING: &[(&str, &str)] = &[
    ("cache", "nothing is written to disks"),
    ("nowrite", "nothing is written to disks"),
];

/// Where artifacts may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceChoice {
    Auto,
    Disk,
    Initramfs,
    Provider,
}

/// Whether a machine that fetches serves what it has so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Share {
    Off,
    On,
    /// At most so many bytes per second, as `plasmd` reads them.
    Rate(String),
}

/// How far the appliance makes itself known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Internet,
    Local,
    Private,
}

/// Everything the command line can say, with defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) source: SourceChoice,
    pub(crate) provider: Option<String>,
    pub(crate) origin: Option<String>,
    /// `None` when not named: then an image on disk may have any channel.
    pub(crate) channel: Option<Channel>,
    pub(crate) mode: Mode,
    pub(crate) mdns: bool,
    pub(crate) dht: bool,
    /// Members of the DHT; what they mean is for `plasmd` to read.
    pub(crate) bootstrap: Vec<String>,
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    pub(crate) share: Share,
    pub(crate) boots_others: bool,
    pub(crate) log_level: &'static str,
    pub(crate) disk_wait_seconds: u32,
    pub(crate) reboot_wait_seconds: u32,
    pub(crate) watchdog_seconds: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: SourceChoice::Auto,
            provider: None,
            origin: None,
            channel: None,
            mode: Mode::Internet,
            mdns: true,
            dht: true,
            bootstrap: Vec::new(),
            name: None,
            port: 8080,
            share: Share::On,
            boots_others: true,
            log_level: "info",
            disk_wait_seconds: limits::DISK_WAIT_SECONDS,
            reboot_wait_seconds: limits::REBOOT_WAIT_SECONDS,
            watchdog_seconds: limits::WATCHDOG_TIMEOUT_SECONDS,
        }
    }
}

impl Options {
    /// Whether a provider is looked for when nothing is on this machine.
    pub(crate) fn may_search(&self) -> bool {
        let may_fetch = matches!(self.source, SourceChoice::Auto | SourceChoice::Provider);
        may_fetch && self.provider.is_none() && self.mode != Mode::Private
    }

    /// The provider this boot came from, when it is told how far the boot came; in private mode nobody is.
    pub(crate) fn told_of_the_boot(&self) -> Option<&str> {
        let origin = self.origin.as_deref()?;
        let can_be_reached = port_of(origin).is_some_and(|port| port > 0);
        (can_be_reached && self.mode != Mode::Private).then_some(origin)
    }

    /// Whether others are given what is fetched, while it is fetched.
    pub(crate) fn shares(&self) -> bool {
        self.share != Share::Off && self.mode != Mode::Private
    }

    /// Whether machines are answered that boot from the network.
    pub(crate) fn answers_boots(&self) -> bool {
        self.boots_others && self.mode != Mode::Private
    }

    /// Whether the provider may be announced on the LAN.
    pub(crate) fn advertises(&self) -> bool {
        self.mdns && self.mode != Mode::Private
    }

    /// Whether this machine takes part in the DHT, which is not of the LAN.
    pub(crate) fn uses_dht(&self) -> bool {
        self.dht && self.mode == Mode::Internet
    }
}

/// Splits a kernel command line as the kernel does: at white space, except between double quotes, which are dropped.
pub(crate) fn words(command_line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut begun) = (false, false);
    for c in command_line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_ascii_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Reads the `phase.` parameters. Of a parameter that is given twice the last one counts, as in the kernel.
pub(crate) fn parse(command_line: &str) -> (Options, Vec<String>) {
    let mut options = Options::default();
    let mut complaints = Vec::new();
    // Behind a bare `--` stand arguments of the first program; they are no kernel parameters.
    for word in words(command_line)
        .into_iter()
        .take_while(|word| word != "--")
    {
        let Some(parameter) = word.strip_prefix("phase.") else {
            continue;
        };
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !PARAMETERS.iter().any(|row| row.name == name) {
            complaints.push(unknown(name));
        } else if set(&mut options, name, value).is_none() {
            complaints.push(format!(
                "phase.{name}={} is not valid: the default holds",
                plain(value)
            ));
        }
    }
    let wants_provider = options.source == SourceChoice::Provider;
    if wants_provider && options.provider.is_none() && !options.may_search() {
        complaints
            .push("phase.source=provider needs phase.provider=URL in private mode".to_owned());
    }
    if options.uses_dht() && options.port == limits::DHT_PORT {
        options.dht = false;
        complaints.push(format!(
            "phase.port={} is the port of the DHT: there is no DHT",
            options.port
        ));
    }
    (options, complaints)
}

fn unknown(name: &str) -> String {
    match WITHOUT_MEANING.iter().find(|(known, _)| *known == name) {
        Some((name, reason)) => format!("phase.{name} has no meaning here: {reason}"),
        None => format!("unknown parameter phase.{}", plain(name)),
    }
}

/// `None` when the value is not valid.
fn set(options: &mut Options, name: &str, value: &str) -> Option<()> {
    match name {
        "source" => options.source = source(value)?,
        "provider" => options.provider = Some(url(value)?),
        "origin" => options.origin = Some(url(value)?),
        "channel" => options.channel = Some(value.parse().ok()?),
        "mode" => options.mode = mode(value)?,
        "mdns" => options.mdns = on_off(value)?,
        "dht" => options.dht = on_off(value)?,
        "bootstrap" => options.bootstrap = bootstrap(value)?,
        "name" => options.name = Some(host_name(value)?),
        "port" => options.port = value.parse().ok().filter(|port| *port > 0)?,
        "share" => options.share = share(value)?,
        "dhcp" => options.boots_others = dhcp(value)?,
        "loglevel" => options.log_level = log_level(value)?,
        "disk_wait" => options.disk_wait_seconds = seconds(value, 0, 120)?,
        "reboot_wait" => {
            options.reboot_wait_seconds = seconds(value, 0, limits::REBOOT_WAIT_SECONDS_MAX)?;
        }
        "watchdog" if value == "0" => options.watchdog_seconds = 0,
        "watchdog" => options.watchdog_seconds = seconds(value, 10, 600)?,
        _ => return None,
    }
    Some(())
}

fn source(value: &str) -> Option<SourceChoice> {
    Some(match value {
        "auto" => SourceChoice::Auto,
        "disk" => SourceChoice::Disk,
        "initramfs" => SourceChoice::Initramfs,
        "provider" => SourceChoice::Provider,
        _ => return None,
    })
}

fn mode(value: &str) -> Option<Mode> {
    Some(match value {
        "internet" => Mode::Internet,
        "local" => Mode::Local,
        "private" => Mode::Private,
        _ => return None,
    })
}

fn on_off(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn share(value: &str) -> Option<Share> {
    match on_off(value) {
        Some(true) => Some(Share::On),
        Some(false) => Some(Share::Off),
        None => rate(value).map(Share::Rate),
    }
}

/// Only the shape: `plasmd` is the one that counts. Twelve digits are more than any line carries.
fn rate(value: &str) -> Option<String> {
    let digits = value.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']);
    let digits = digits.unwrap_or(value);
    let shaped = (1..=12).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (shaped && digits.bytes().any(|b| b != b'0')).then(|| value.to_owned())
}

fn dhcp(value: &str) -> Option<bool> {
    match value {
        "proxy" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn log_level(value: &str) -> Option<&'static str> {
    ["error", "warn", "info", "debug", "trace"]
        .into_iter()
        .find(|level| *level == value)
}

fn seconds(value: &str, least: u32, most: u32) -> Option<u32> {
    value
        .parse()
        .ok()
        .filter(|seconds| (least..=most).contains(seconds))
}

/// The port of a URL that [`url`] accepted; `None` when its digits are none.
pub(crate) fn port_of(url: &str) -> Option<u16> {
    let authority = url.strip_prefix("http://")?.split(['/', '?']).next()?;
    // Behind the brackets of an IPv6 address, whose colons are no port.
    let behind = authority.rsplit(']').next()?;
    match behind.split_once(':') {
        Some((_, port)) => port.parse().ok(),
        None => Some(80),
    }
}

/// Only the shape is checked here: `plasmd` is the one that reads URLs. What matters is that the text can stand on the
/// successor's command line, so no white space and no quotes.
pub(crate) fn url(value: &str) -> Option<String> {
    let shaped = value
        .strip_prefix("http://")
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    let plain = value
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\'));
    (shaped && plain && value.len() <= limits::URL_MAX).then(|| value.to_owned())
}

/// Only the shape is checked, as for [`url`]: no address begins with a hyphen, which would be a flag of `plasmd`, or with an
/// at sign, which would be a file.
fn bootstrap(value: &str) -> Option<Vec<String>> {
    let all: Vec<&str> = value.split(',').collect();
    let is_shaped = |one: &&str| {
        let first = one
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric() || first == b'/' || first == b'[');
        let rest = one
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/.:-_[]".contains(&byte));
        first && rest && one.len() <= limits::BOOTSTRAP_LENGTH_MAX
    };
    let fits = all.len() <= limits::BOOTSTRAPS_MAX && all.iter().all(is_shaped);
    fits.then(|| all.into_iter().map(str::to_owned).collect())
}

/// One label of RFC 1123.
fn host_name(value: &str) -> Option<String> {
    let alphabet = value
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let shaped =
        (1..=63).contains(&value.len()) && !value.starts_with('-') && !value.ends_with('-');
    (alphabet && shaped).then(|| value.to_ascii_lowercase())
}

/// What may be shown on the console.
fn plain(text: &str) -> String {
    text.chars()
        .take(80)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

/// The command line of a successor: the signed one, then what belongs to this machine.
///
/// Carried over are the consoles and the `phase.` parameters, except those that said where this boot came from. The
/// local words stand last, so they win where the kernel takes the last.
pub(crate) fn successor(signed: &str, own: &str, origin: Option<&str>) -> String {
    let carried: Vec<String> = words(own)
        .into_iter()
        .take_while(|word| word != "--")
        .filter(|word| carries(word))
        .collect();
    let signed = words(signed);
    // The kernel and `parse` read no parameters behind a bare `--`: the local words must stand before it.
    let end = signed.iter().position(|word| word == "--");
    let (parameters, arguments) = signed.split_at(end.unwrap_or(signed.len()));
    let mut all: Vec<String> = parameters
        .iter()
        .filter(|word| !carried.contains(word))
        .cloned()
        .collect();
    all.extend(carried);
    all.push("phase.source=initramfs".to_owned());
    all.extend(origin.map(|origin| format!("phase.origin={origin}")));
    all.extend_from_slice(arguments);
    let quoted: Vec<String> = all.into_iter().map(quote).collect();
    quoted.join(" ")
}

fn carries(word: &str) -> bool {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    match name {
        "console" | "earlyprintk" | "earlycon" => true,
        "phase.source" | "phase.provider" | "phase.origin" => false,
        name => name.starts_with("phase."),
    }
}

fn quote(word: String) -> String {
    if !word.contains(|c: char| c.is_ascii_whitespace()) {
        return word;
    }
    match word.split_once('=') {
        Some((name, value)) => format!("{name}=\"{value}\""),
        None => format!("\"{word}\""),
    }
}

/// The table of parameters as the operator's guide shows it.
pub(crate) fn table() -> String {
    let mut text =
        String::from("| parameter | values | default | meaning |\n| --- | --- | --- | --- |\n");
    for Parameter {
        name,
        values,
        default,
        meaning,
    } in PARAMETERS
    {
        let _infallible = writeln!(
            text,
            "| `phase.{name}=` | {values} | {default} | {meaning} |"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command_line: &str, complaints: usize, expected: impl FnOnce(&mut Options)) {
        let mut wanted = Options::default();
        expected(&mut wanted);
        let (options, found) = parse(command_line);
        assert_eq!(options, wanted, "{command_line}");
        assert_eq!(found.len(), complaints, "{command_line}: {found:?}");
    }

    #[test]
    fn every_parameter_is_read() {
        check("console=ttyS0 quiet panic=10", 0, |_| ());
        check("phase.source=disk", 0, |o| o.source = SourceChoice::Disk);
        check("phase.source=initramfs", 0, |o| {
            o.source = SourceChoice::Initramfs
        });
        check("phase.provider=http://10.0.0.1:8080", 0, |o| {
            o.provider = Some("http://10.0.0.1:8080".to_owned());
        });
        check("phase.channel=beta-2", 0, |o| {
            o.channel = "beta-2".parse().ok()
        });
        check("phase.mode=private", 0, |o| o.mode = Mode::Private);
        check("phase.mode=local phase.mdns=off", 0, |o| {
            o.mode = Mode::Local;
            o.mdns = false;
        });
        check("phase.dht=off", 0, |o| o.dht = false);
        check(
            "phase.bootstrap=10.0.0.1,[fd00::1]:4011,/dns4/a.b/tcp/4011/p2p/12D3Koo",
            0,
            |o| {
                let all = [
                    "10.0.0.1",
                    "[fd00::1]:4011",
                    "/dns4/a.b/tcp/4011/p2p/12D3Koo",
                ];
                o.bootstrap = all.map(str::to_owned).to_vec();
            },
        );
        check("phase.name=Rack-7", 0, |o| {
            o.name = Some("rack-7".to_owned())
        });
        check("phase.port=80", 0, |o| o.port = 80);
        check("phase.share=off", 0, |o| o.share = Share::Off);
        check("phase.share=20M phase.share=on", 0, |_| {});
        check("phase.share=20M", 0, |o| {
            o.share = Share::Rate("20M".to_owned())
        });
        check("phase.dhcp=off", 0, |o| o.boots_others = false);
        check("phase.dhcp=proxy", 0, |_| {});
        check("phase.loglevel=debug", 0, |o| o.log_level = "debug");
        check(
            "phase.disk_wait=3 phase.reboot_wait=0 phase.watchdog=0",
            0,
            |o| {
                o.disk_wait_seconds = 3;
                o.reboot_wait_seconds = 0;
                o.watchdog_seconds = 0;
            },
        );
        check("phase.origin=http://a/", 0, |o| {
            o.origin = Some("http://a/".to_owned())
        });
    }

    #[test]
    fn nonsense_is_complained_about_and_the_default_holds() {
        for word in [
            "phase.nonsense=1",
            "phase.",
            "phase.source",
            "phase.source=floppy",
            "phase.provider=ftp://x",
            "phase.provider=http://",
            "phase.provider=http:///x",
            "phase.provider=\"http://x y\"",
            "phase.channel=../x",
            "phase.mode=public",
            "phase.mdns=1",
            "phase.dht=1",
            "phase.bootstrap=",
            "phase.bootstrap=a,",
            "phase.bootstrap=--no-dht",
            "phase.bootstrap=@/etc/passwd",
            "phase.bootstrap=a;b",
            "phase.bootstrap=1,2,3,4,5,6,7,8,9",
            "phase.name=-x",
            "phase.name=a.b",
            "phase.dhcp=server",
            "phase.share=0",
            "phase.share=00M",
            "phase.share=M",
            "phase.share=-1",
            "phase.share=1T",
            "phase.share=1234567890123",
            "phase.port=0",
            "phase.port=65536",
            "phase.port=+1x",
            "phase.watchdog=5",
            "phase.reboot_wait=-1",
            "phase.reboot_wait=86401",
        ] {
            check(word, 1, |_| ());
        }
        check("phase.source=provider phase.mode=private", 1, |o| {
            o.source = SourceChoice::Provider;
            o.mode = Mode::Private;
        });
    }

    #[test]
    fn parameters_of_older_systems_are_told_why_they_do_nothing() {
        let (options, complaints) = parse("phase.cache=/dev/sda3 phase.nowrite");
        assert_eq!(options, Options::default());
        assert_eq!(
            complaints,
            [
                "phase.cache has no meaning here: nothing is written to disks",
                "phase.nowrite has no meaning here: nothing is written to disks"
            ]
        );
        for (name, _) in WITHOUT_MEANING {
            assert!(PARAMETERS.iter().all(|row| row.name != *name), "{name}");
        }
    }

    #[test]
    fn the_last_one_counts_and_arguments_of_the_first_program_do_not() {
        check("phase.port=1 phase.port=2 -- phase.port=3", 0, |o| {
            o.port = 2
        });
        check("", 0, |_| ());
    }

    #[test]
    fn words_follow_the_kernel() {
        let cases: [(&str, &[&str]); 5] = [
            ("a  b\tc\n", &["a", "b", "c"]),
            ("x=\"a b\" y", &["x=a b", "y"]),
            ("\"x=a b\"", &["x=a b"]),
            ("open=\"a b", &["open=a b"]),
            ("", &[]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_successor_keeps_what_belongs_to_the_machine() {
        let signed = "console=ttyS0 panic=10 quiet phase.mode=internet";
        let own = "BOOT_IMAGE=x root=/dev/sda console=ttyS0 earlyprintk=ttyS0 phase.mode=private phase.source=provider \
                   phase.provider=http://a:1 phase.origin=http://old phase.name=n -- phase.port=1";
        assert_eq!(
            successor(signed, own, Some("http://a:1")),
            "panic=10 quiet phase.mode=internet console=ttyS0 earlyprintk=ttyS0 phase.mode=private phase.name=n \
             phase.source=initramfs phase.origin=http://a:1"
        );
        // Only the words of the signed line that say the same are dropped, and the local word wins.
        assert_eq!(
            parse(&successor(signed, own, Some("http://a:1"))).0.mode,
            Mode::Private
        );
    }

    #[test]
    fn a_successor_is_never_told_to_fetch_again() {
        let line = successor(
            "phase.source=provider phase.provider=http://evil",
            "",
            Some("http://a"),
        );
        let (options, _) = parse(&line);
        assert_eq!(options.source, SourceChoice::Initramfs);
        assert_eq!(options.origin.as_deref(), Some("http://a"));
    }

    #[test]
    fn local_parameters_stand_before_the_arguments_of_the_first_program() {
        let line = successor("quiet -- argument", "phase.port=80", Some("http://a"));
        assert_eq!(
            line,
            "quiet phase.port=80 phase.source=initramfs phase.origin=http://a -- argument"
        );
        assert_eq!(parse(&line).0.port, 80);
    }

    #[test]
    fn quoted_values_stay_one_word() {
        let line = successor("x=\"a b\" \"c d\"", "", None);
        assert_eq!(words(&line)[..2], ["x=a b", "c d"]);
    }

    #[test]
    fn a_provider_is_looked_for_when_none_is_named() {
        for (line, searches) in [
            ("", true),
            ("phase.source=provider", true),
            ("phase.mode=local", true),
            ("phase.provider=http://a", false),
            ("phase.source=disk", false),
            ("phase.source=initramfs", false),
            ("phase.mode=private", false),
        ] {
            assert_eq!(parse(line).0.may_search(), searches, "{line}");
        }
    }

    #[test]
    fn who_is_told_of_the_boot() {
        for (line, told) in [
            ("", None),
            ("phase.origin=http://a:81", Some("http://a:81")),
            ("phase.origin=http://a:0", None),
            ("phase.origin=http://a:x", None),
            ("phase.origin=http://a phase.mode=private", None),
        ] {
            assert_eq!(parse(line).0.told_of_the_boot(), told, "{line}");
        }
    }

    #[test]
    fn ports_of_urls() {
        for (url, port) in [
            ("http://a", Some(80)),
            ("http://a:8080/x:1", Some(8080)),
            ("http://[fe80::1]", Some(80)),
            ("http://[fe80::1]:81", Some(81)),
            ("http://a?x:7", Some(80)),
            ("http://a:99999", None),
            ("http://a:x", None),
        ] {
            assert_eq!(port_of(url), port, "{url}");
        }
    }

    #[test]
    fn private_mode_announces_nothing() {
        assert!(!parse("phase.mode=private phase.mdns=on").0.advertises());
        assert!(!parse("phase.mdns=off").0.advertises());
        assert!(parse("phase.mode=local").0.advertises());
    }

    #[test]
    fn the_dht_is_for_mode_internet_and_goes_with_the_machine() {
        for (line, uses) in [
            ("", true),
            ("phase.dht=off", false),
            ("phase.mode=local", false),
            ("phase.mode=private phase.dht=on", false),
        ] {
            assert_eq!(parse(line).0.uses_dht(), uses, "{line}");
        }
        check("phase.port=4011", 1, |o| {
            o.port = 4011;
            o.dht = false;
        });
        check("phase.port=4011 phase.mode=local", 0, |o| {
            o.port = 4011;
            o.mode = Mode::Local;
        });
        let own = "phase.dht=on phase.bootstrap=10.0.0.1,b.example:4011";
        let next = parse(&successor("phase.dht=off", own, None)).0;
        assert_eq!(next.bootstrap, ["10.0.0.1", "b.example:4011"]);
        assert!(next.dht, "the local word wins");
    }

    #[test]
    fn the_table_has_every_parameter_once() {
        let table = table();
        for row in PARAMETERS {
            assert_eq!(table.matches(&format!("`phase.{}=`", row.name)).count(), 1);
        }
        // The guide is written by hand around this table; where it has the table, it must be this one.
        let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operators-guide.md");
        if let Ok(guide) = std::fs::read_to_string(guide) {
            assert!(
                guide.contains(&table),
                "docs/operators-guide.md must contain this table:\n{table}"
            );
        }
    }
}
