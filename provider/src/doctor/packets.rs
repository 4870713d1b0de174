//! `plasmd doctor --packets`: watches how machines boot, on the wire or in a capture, and says what each wanted, what it got,
//! which rule failed and what to change. Judging is `pxe::findings`; here are sockets, files and lines. Sends nothing.

mod file;
mod live;
mod sys;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pxe::Mac;
use pxe::findings::{Finding, Level, Story, Watch};
use pxe::packet::Packet;
use pxe::transcript::{Line, Recorder};
use serde_json::json;

use super::limits::{QUIET, SETTLED};
use crate::exit::{CommandError, Exit};
use crate::out;

/// The flags of the packet doctor.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Watch the LAN's boot traffic, or a capture of it, instead of this provider
    #[arg(long)]
    pub(super) packets: bool,
    /// Read a capture (pcap, pcapng or a transcript; - for stdin) instead of the LAN
    #[arg(long, value_name = "FILE", requires = "packets")]
    pcap: Option<PathBuf>,
    /// Write what was seen of booting machines as a transcript
    #[arg(long, value_name = "FILE", requires = "packets")]
    record: Option<PathBuf>,
    /// Watch this network interface only
    #[arg(
        long,
        value_name = "NAME",
        requires = "packets",
        conflicts_with = "pcap"
    )]
    interface: Option<String>,
    /// End after so many seconds [default: when interrupted]
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "packets",
        conflicts_with = "pcap"
    )]
    seconds: Option<u32>,
}

/// Watches, prints, and fails when something keeps a machine from booting.
pub(super) fn run(args: &Args, json: bool, quiet: bool) -> Result<Exit, CommandError> {
    let recording = args.record.as_deref().map(Recording::create).transpose()?;
    let watch = match args.pcap {
        // Who captured knew where to stand.
        Some(_) => Watch::default(),
        None => Watch::from_machine(addresses()),
    };
    let mut desk = Desk {
        watch,
        recording,
        shown: BTreeMap::new(),
        json,
        quiet,
    };
    match &args.pcap {
        Some(path) => file::read(path, &mut |packet| desk.see(packet))?,
        None => live::watch(args.interface.as_deref(), args.seconds, &mut desk)?,
    }
    desk.finish()
}

/// What was seen, and what of it was said.
struct Desk {
    watch: Watch,
    recording: Option<Recording>,
    /// What was last said about a machine; of those only that are still watched.
    shown: BTreeMap<Mac, String>,
    json: bool,
    quiet: bool,
}

impl Desk {
    fn see(&mut self, packet: &Packet) -> Result<(), CommandError> {
        let Some(_machine) = self.watch.see(packet) else {
            return Ok(());
        };
        match &mut self.recording {
            Some(recording) => recording.write(packet),
            None => Ok(()),
        }
    }

    /// Says what is new about machines that are still now.
    fn tell(&mut self, now: Duration) {
        if self.json {
            return;
        }
        // Behind the end of that time no rule waits for anything any more.
        let still = |story: &&Story| {
            let silence = now.saturating_sub(story.last);
            silence >= QUIET && silence < SETTLED
        };
        for story in self.watch.stories().filter(still) {
            let findings = self.watch.findings(story, now, false);
            let block = block(story, &findings, self.quiet);
            let shown = self.shown.entry(story.mac).or_default();
            if *shown != block {
                out::exactly(&block);
                *shown = block;
            }
        }
        // Forged machines come and go without end.
        self.shown.retain(|mac, _| self.watch.of(*mac).is_some());
    }

    /// Says the rest.
    fn finish(mut self) -> Result<Exit, CommandError> {
        if let Some(recording) = self.recording.take() {
            recording.finish()?;
        }
        let (mut machines, mut is_bad) = (Vec::new(), false);
        for story in self.watch.stories() {
            let findings = self.watch.findings(story, Duration::ZERO, true);
            is_bad |= findings.iter().any(|finding| finding.level == Level::Bad);
            let block = block(story, &findings, self.quiet);
            if self.json {
                let mut machine = json!(story.summary());
                machine["findings"] = json!(findings);
                machines.push(machine);
            } else if self.shown.get(&story.mac) != Some(&block) {
                out::exactly(&block);
            }
        }
        let number = self.watch.stories().count();
        if self.json {
            let status = if is_bad { "bad" } else { "ok" };
            out::line(format_args!(
                "{:#}",
                json!({"status": status, "machines": machines})
            ));
        } else if number == 0 {
            out::line(
                "no machine asked to boot. One that is on and shows a link, and still is not seen: network boot is off in its firmware's \
                 setup, or its switch port is in another VLAN",
            );
        } else {
            let machines = if number == 1 { "machine" } else { "machines" };
            out::line(format_args!("{number} {machines} asked to boot"));
        }
        Ok(if is_bad { Exit::Failed } else { Exit::Done })
    }
}

/// The addresses of this machine.
fn addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().map(|interface| interface.ip()).collect()
}

/// A machine for people.
fn block(story: &Story, findings: &[Finding], quiet: bool) -> String {
    if quiet && findings.is_empty() {
        return String::new();
    }
    let summary = story.summary();
    let mut text = format!("{}  {}\n", summary.mac, summary.kind);
    for (what, lines) in [
        ("wanted", &summary.wanted),
        ("got", &summary.got),
        ("did", &summary.did),
    ] {
        let mut what = what;
        for line in lines {
            text.push_str(&format!("  {what:<7}{}\n", out::printable(line)));
            what = "";
        }
    }
    if summary.got.is_empty() {
        text.push_str("  got    nothing\n");
    }
    if !story.is_seen_whole() {
        text.push_str(
            "         (seen from here is only what is sent to all; the rest on the boot server, or in a capture of it)\n",
        );
    }
    for finding in findings {
        let level = match finding.level {
            Level::Warn => "warn",
            Level::Bad => "bad",
        };
        text.push_str(&format!(
            "  {level:<5}{}: {}\n",
            finding.code,
            out::printable(&finding.message)
        ));
        text.push_str(&format!("       rule: {}\n", finding.rule));
        text.push_str(&format!("       -> {}\n", out::printable(&finding.advice)));
    }
    text.push('\n');
    text
}

/// A transcript that is being written.
struct Recording {
    file: File,
    path: PathBuf,
    recorder: Recorder,
    /// When its first packet came.
    began: Option<Duration>,
}

impl Recording {
    fn create(path: &Path) -> Result<Self, CommandError> {
        let file = File::create_new(path).map_err(|error| {
            CommandError::local(format!("{}: {error}", path.display()))
                .hint("give a name that is not taken")
        })?;
        let mut recording = Self {
            file,
            path: path.to_owned(),
            recorder: Recorder::default(),
            began: None,
        };
        recording.put("about: what machine, what firmware, what was tried\n\n")?;
        Ok(recording)
    }

    fn write(&mut self, packet: &Packet) -> Result<(), CommandError> {
        let Some(mut kept) = self.recorder.keep(packet) else {
            return Ok(());
        };
        let began = *self.began.get_or_insert(kept.at);
        kept.at = kept.at.saturating_sub(began);
        self.put(&format!("{}\n", Line(&kept)))
    }

    fn put(&mut self, text: &str) -> Result<(), CommandError> {
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| CommandError::local(format!("{}: {error}", self.path.display())))
    }

    fn finish(self) -> Result<(), CommandError> {
        let synced = self.file.sync_all();
        synced.map_err(|error| CommandError::local(format!("{}: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use pxe::transcript::Transcript;

    use super::*;

    #[test]
    fn machines_that_are_watched_no_more_leave_nothing_behind() {
        let mut desk = Desk {
            watch: Watch::default(),
            recording: None,
            shown: BTreeMap::new(),
            json: false,
            quiet: true,
        };
        let mut sizes = Vec::new();
        for round in 0..3_u32 {
            let mut text = String::new();
            for machine in 0..1_024_u32 {
                let [_, _, high, low] = machine.to_be_bytes();
                let mac = format!("52:54:00:{round:02x}:{high:02x}:{low:02x}");
                let at = round * 10;
                writeln!(
                    text,
                    "{at}.0 {mac} dhcp 0.0.0.0:68 > 255.255.255.255:67 mac={mac} xid={round:02x} 53=01 60=\"PXEClient\" 93=0007"
                )
                .unwrap();
            }
            for packet in Transcript::parse(&text).unwrap().packets {
                desk.see(&packet).unwrap();
            }
            desk.tell(Duration::from_secs(u64::from(round) * 10) + QUIET);
            sizes.push(desk.shown.len());
        }
        assert_eq!(sizes, [1_024; 3]);
    }
}
