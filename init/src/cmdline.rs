//! The kernel command line: what an operator can tell the appliance before it runs.
//!
//! Pure: text in, [`Options`] and complaints out. [`PARAMETERS`] is the one table; the operator's guide carries the same
//! table and a test compares them. A wrong value never stops the boot: it is complained about and its default is used.

use std::fmt::Write as _;
use std::time::Duration;

use boot_manifest::Channel;
use upgrade::{Mode as UpgradeMode, Place, Policy, Rank, Reason, Returned, TrialId, Window};

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
        "fetch the artifacts there, verify them with the keys built into this image, boot them by kexec; machines that fetch the same help",
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
        "`local` stays on the LAN, without the DHT; `private` announces nothing, looks for no provider, takes chunks from no other machine and gives none while it fetches, tells no provider how far the boot came, and takes a random host name",
    ),
    row(
        "mdns",
        "`on`, `off`",
        "`on`",
        "announce on the LAN what this machine serves or shares, and look for others by mDNS (always off in mode `private`)",
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
        "members of the DHT to begin with; without one nobody is found there, and nobody finds this machine there",
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
        "while this machine fetches, give others what it has verified so far; at most so much per second. `off` gives nothing and still takes (always off in mode `private`)",
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
        "set by kexec: where the running image was fetched; that provider is told how far the boot came, and lists this machine (unless `phase.share=off`), and is asked for newer images",
    ),
    row(
        "upgrade",
        "`auto`, `staged`, `off`",
        "`auto`",
        "what becomes of a newer image: `auto` starts it, `staged` fetches it and waits for `plasmd upgrade apply`, `off` looks for none",
    ),
    row(
        "upgrade.from",
        "`http://HOST[:PORT][,...]`, at most 8",
        "none",
        "providers that are asked for newer images too, beside the one this image came from and the ones of the LAN",
    ),
    row(
        "upgrade.window",
        "`HH:MM-HH:MM`, UTC",
        "any time",
        "when a newer image may be started by itself; may go over midnight",
    ),
    row(
        "upgrade.poll",
        "seconds, 2 to 86400",
        "`900`",
        "how often newer images are looked for, a quarter more or less",
    ),
    row(
        "upgrade.soak",
        "seconds, 0 to 86400",
        "`600`",
        "how long a new image must serve without a fault before it is kept",
    ),
    row(
        "upgrade.alone",
        "`yes`, `no`",
        "`no`",
        "start a newer image even when no other machine of the LAN serves the channel meanwhile",
    ),
    row(
        "upgrade.watchdog",
        "`yes`, `no`",
        "`yes`",
        "start a newer image only on a machine with a watchdog; `no` is for machines that somebody can switch off and on",
    ),
    row(
        "trial",
        "`d1`, `m1`, ...",
        "none",
        "set by kexec: the trial that this boot is; never needed by hand",
    ),
    row(
        "crashed",
        "`d1`, `m1`, ...",
        "none",
        "set for the kernel that takes over from one that crashed on trial; never needed by hand",
    ),
    row(
        "returned",
        "`sha256:...,CODE,GENERATION,SEQUENCE`",
        "none",
        "set by kexec on a machine without a disk: the image that failed its trial, and why; never needed by hand",
    ),
    row(
        "place",
        "`golden`, `a`, `b`",
        "`golden`",
        "set by kexec: where the running image lies on the disk; never needed by hand",
    ),
];

/// Parameters that belong to one boot: a successor gets its own or none.
const OF_ONE_BOOT: &[&str] = &[
    "phase.source",
    "phase.provider",
    "phase.origin",
    "phase.trial",
    "phase.crashed",
    "phase.returned",
    "phase.place",
];

/// Parameters of older systems that people still have in their boot entries, and why they do nothing here.
const WITHOUT_MEANING: &[(&str, &str)] = &[
    ("cache", "disks hold no cache"),
    (
        "nowrite",
        "a disk is written only where its image has room for upgrades",
    ),
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

/// Everything about upgrades.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Upgrades {
    pub(crate) policy: Policy,
    pub(crate) from: Vec<String>,
    /// This boot is that trial.
    pub(crate) trial: Option<TrialId>,
    /// This boot follows a crash in that trial.
    pub(crate) crashed: Option<TrialId>,
    /// The image that failed its trial and left for this one, and why.
    pub(crate) returned: Option<Returned>,
    /// `None` when nobody said: a cold boot, or an image from the network.
    pub(crate) place: Option<Place>,
}

impl Options {
    /// Whether another image started this one.
    pub(crate) fn was_kexec(&self) -> bool {
        let upgrades = &self.upgrades;
        upgrades.place.is_some() || upgrades.returned.is_some() || self.origin.is_some()
    }
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
    pub(crate) upgrades: Upgrades,
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
            upgrades: Upgrades::default(),
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
        name => return set_upgrade(&mut options.upgrades, name, value),
    }
    Some(())
}

/// The same for what concerns upgrades.
fn set_upgrade(upgrades: &mut Upgrades, name: &str, value: &str) -> Option<()> {
    let policy = &mut upgrades.policy;
    let long = |value| seconds(value, 0, limits::DAY_SECONDS).map(u64::from);
    match name {
        "upgrade" => policy.mode = UpgradeMode::parse(value)?,
        "upgrade.from" => upgrades.from = sources(value)?,
        "upgrade.window" => policy.window = Some(Window::parse(value)?),
        "upgrade.poll" => {
            let shortest = u64::from(limits::UPGRADE_POLL_SECONDS_MIN);
            policy.poll = Duration::from_secs(long(value).filter(|poll| *poll >= shortest)?);
        }
        "upgrade.soak" => policy.soak = Duration::from_secs(long(value)?),
        "upgrade.alone" => policy.alone = yes_no(value)?,
        "upgrade.watchdog" => policy.needs_watchdog = yes_no(value)?,
        "trial" => upgrades.trial = Some(TrialId::parse(value)?),
        "crashed" => upgrades.crashed = Some(TrialId::parse(value)?),
        "returned" => upgrades.returned = Some(returned(value)?),
        "place" => {
            upgrades.place = Some(Place::parse(value).filter(|place| *place != Place::Memory)?)
        }
        _ => return None,
    }
    Some(())
}

fn yes_no(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn sources(value: &str) -> Option<Vec<String>> {
    let all: Option<Vec<String>> = value.split(',').map(url).collect();
    all.filter(|all| all.len() <= limits::UPGRADE_SOURCES_MAX)
}

fn returned(value: &str) -> Option<Returned> {
    let mut words = value.split(',');
    let (digest, code) = (words.next()?, words.next()?);
    let (generation, sequence) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(())?;
    Some(Returned {
        digest: digest.parse().ok()?,
        reason: Reason::from_code(code)?,
        rank: Rank {
            generation,
            sequence,
        },
    })
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
/// Carried over are the consoles and the `phase.` parameters, except those that belong to one boot, and those that the
/// running image brought itself (`own_signed`): what was signed then must not win over what is signed now. The local words
/// stand last, so they win where the kernel takes the last. `boot` is what holds for this one boot.
pub(crate) fn successor(signed: &str, own: &str, own_signed: &str, boot: &[String]) -> String {
    let brought = words(own_signed);
    let carried: Vec<String> = words(own)
        .into_iter()
        .take_while(|word| word != "--")
        .filter(|word| carries(word) && !brought.contains(word))
        .collect();
    let signed = words(signed);
    // The kernel and `parse` read no parameters behind a bare `--`: the local words must stand before it.
    let end = signed.iter().position(|word| word == "--");
    let (parameters, arguments) = signed.split_at(end.unwrap_or(signed.len()));
    let mut all: Vec<String> = parameters
        .iter()
        .filter(|word| !carried.contains(word) && !OF_ONE_BOOT.contains(&name_of(word)))
        .cloned()
        .collect();
    all.extend(carried);
    all.push("phase.source=initramfs".to_owned());
    all.extend_from_slice(boot);
    all.extend_from_slice(arguments);
    let quoted: Vec<String> = all.into_iter().map(quote).collect();
    quoted.join(" ")
}

fn carries(word: &str) -> bool {
    match name_of(word) {
        "console" | "earlyprintk" | "earlycon" => true,
        name => name.starts_with("phase.") && !OF_ONE_BOOT.contains(&name),
    }
}

fn name_of(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
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
mod tests;
