//! What the roles of the appliance tell PID 1, and what it asks of them.
//!
//! PID 1 keeps one end of a `SOCK_SEQPACKET` socket pair; the role finds the number of the other end in the environment
//! variable [`ENV`]. Each packet is one [`Report`] as JSON of at most [`REPORT_SIZE_MAX`] bytes; a [`Report::Handoff`], a
//! [`Report::Offer`] and a [`Report::Order`] carry file descriptors beside it. A role may be taken over by an attacker, so
//! PID 1 believes nothing that a report says: strings are cleaned for the console, and files that are handed over are
//! verified again.
//!
//! In the other direction go [`Command`]s, to `update` only. PID 1 never waits for one to be taken: it drops what does not
//! fit, and asks again.

use serde::{Deserialize, Serialize};

use crate::json;

pub use crate::limits::REPORT_SIZE_MAX;

/// The environment variable that holds the descriptor number of a role's end of the socket pair.
pub const ENV: &str = "PHASE_INIT_FD";

/// The longest string that survives decoding; more would only push other lines off the console.
const TEXT_CHARS_MAX: usize = 512;

/// Strings in one list of a report.
const LIST_ENTRIES_MAX: usize = 16;

/// One message of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// The role does its work now.
    Ready {},
    /// The machine has addresses.
    Network {
        /// Name of the interface.
        interface: String,
        /// Addresses with prefix lengths.
        addresses: Vec<String>,
        /// `dhcp`, `link-local`, `static` or `ra`.
        source: String,
    },
    /// Artifacts are offered.
    Serving {
        /// Where.
        urls: Vec<String>,
        /// How many.
        artifacts: u32,
        /// Whether the local network is told.
        advertised: bool,
    },
    /// One of the last requests; at most five a second are reported.
    Request {
        /// Address of the client.
        client: String,
        /// Method and path.
        line: String,
        /// HTTP status.
        status: u16,
        /// Bytes sent.
        bytes: u64,
    },
    /// A long step goes on.
    Progress {
        /// Which.
        what: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The role gives up.
    Failed {
        /// A stable name: that of a verification error, or `not-found`, `unreachable`, `cut-short`, `too-slow`, ...
        code: String,
        /// One sentence for people.
        reason: String,
        /// Whether trying again may help.
        retryable: bool,
    },
    /// Files for PID 1, as descriptors beside the packet.
    Handoff(HandoffRecord),
    /// `update`: a manifest that is newer than the one that runs. Beside it the sealed manifest, and then, where the source
    /// has one, the sealed chain of root documents (a JSON array).
    Offer {
        /// The URL of the provider that has it.
        origin: String,
    },
    /// `update`: why there is nothing newer, or what became of a look.
    Checked {
        /// Where it looked last; empty when there was nowhere to look.
        origin: String,
        /// A stable name: `current`, `not-found`, `unreachable`, that of a verification error, ...
        code: String,
        /// One sentence for people.
        reason: String,
        /// A source was found, and what it has was read and verified: this program can upgrade the machine again.
        ok: bool,
    },
    /// `update`: who else is there, from the last look around.
    Neighbours {
        /// Other providers of the channel in the segment that answer.
        live: u32,
        /// Those of them that serve the manifest this machine runs.
        same: u32,
    },
    /// `update`: the answer to [`Command::AskTurn`].
    Turn {
        /// Nobody refused.
        granted: bool,
        /// Who granted or refused; empty when nobody had to be asked.
        by: String,
        /// One sentence for people.
        reason: String,
    },
    /// `update`: what a freshness key says is the newest.
    Freshness {
        /// The URL it came from.
        origin: String,
        /// Whether the statement answers the nonce and names what was found; otherwise the source may be held back.
        fresh: bool,
        /// The newest sequence, when a statement was there.
        sequence: u64,
        /// One sentence for people.
        reason: String,
    },
    /// `probe`: the result of one check of the machine's own services.
    Check {
        /// Which: `manifest`, `ranges`, `tftp`, `dhcp`, `mdns`, `update`.
        name: String,
        /// Whether it works.
        ok: bool,
        /// One sentence for people.
        reason: String,
    },
    /// `serve`: somebody sent an order; beside it the sealed envelope.
    Order {
        /// Address of the client.
        client: String,
    },
}

/// What PID 1 asks of `update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Look now instead of at the next poll. Ends with a [`Report::Offer`] or a [`Report::Checked`].
    CheckNow {},
    /// Ask the live neighbours, and the `serve` of this machine, for the turn to restart. Ends with a [`Report::Turn`].
    AskTurn {
        /// The manifest that this machine wants to start.
        digest: String,
    },
    /// The turn is not needed any more.
    ReleaseTurn {},
}

impl Command {
    /// The packet for this command.
    pub fn encode(&self) -> Vec<u8> {
        // Strings, keys and no maps: serialization cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a packet.
    pub fn decode(packet: &[u8]) -> Result<Self, ReportError> {
        if packet.len() > REPORT_SIZE_MAX {
            return Err(ReportError::TooLarge(packet.len()));
        }
        json::parse(packet).map_err(|error| ReportError::Malformed(error.to_string()))
    }
}

/// Describes the descriptors that come with a [`Report::Handoff`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoffRecord {
    /// The URL the files came from.
    pub origin: String,
    /// What each descriptor is, in order: `manifest`, `kernel`, `initramfs`, `rootfs`.
    pub fds: Vec<String>,
}

/// A packet was no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Longer than a packet may be.
    #[error("the report has {0} bytes; {REPORT_SIZE_MAX} are allowed")]
    TooLarge(usize),
    /// A list with too many entries.
    #[error("a list in the report has {0} entries; {LIST_ENTRIES_MAX} are allowed")]
    TooManyEntries(usize),
    /// No JSON of a known report.
    #[error("the report cannot be read: {0}")]
    Malformed(String),
}

impl Report {
    /// The packet for this report. Long strings and lists are cut so that it fits.
    pub fn encode(&self) -> Vec<u8> {
        // 512 and 128 characters suit any real report; the rest only decides what is cut from an absurd one.
        for chars_max in [TEXT_CHARS_MAX, 128, 32, 0] {
            let mut report = self.clone();
            report.for_each_list(|list| list.truncate(LIST_ENTRIES_MAX));
            report.for_each_text(|text| clean(text, chars_max));
            let packet = serde_json::to_vec(&report).unwrap_or_default();
            if (1..=REPORT_SIZE_MAX).contains(&packet.len()) {
                return packet;
            }
        }
        br#"{"report":"ready"}"#.to_vec()
    }

    /// Reads a packet. Control characters become `?` and long strings are cut, so that they may be shown.
    pub fn decode(packet: &[u8]) -> Result<Self, ReportError> {
        if packet.len() > REPORT_SIZE_MAX {
            return Err(ReportError::TooLarge(packet.len()));
        }
        let mut report: Self =
            json::parse(packet).map_err(|error| ReportError::Malformed(error.to_string()))?;
        let mut entries = 0;
        report.for_each_list(|list| entries = entries.max(list.len()));
        if entries > LIST_ENTRIES_MAX {
            return Err(ReportError::TooManyEntries(entries));
        }
        report.for_each_text(|text| clean(text, TEXT_CHARS_MAX));
        Ok(report)
    }

    fn for_each_list(&mut self, mut visit: impl FnMut(&mut Vec<String>)) {
        match self {
            Self::Network {
                addresses: list, ..
            }
            | Self::Serving { urls: list, .. }
            | Self::Handoff(HandoffRecord { fds: list, .. }) => visit(list),
            Self::Ready {}
            | Self::Request { .. }
            | Self::Progress { .. }
            | Self::Failed { .. }
            | Self::Offer { .. }
            | Self::Checked { .. }
            | Self::Neighbours { .. }
            | Self::Turn { .. }
            | Self::Freshness { .. }
            | Self::Check { .. }
            | Self::Order { .. } => {}
        }
    }

    fn for_each_text(&mut self, mut visit: impl FnMut(&mut String)) {
        match self {
            Self::Ready {} | Self::Serving { .. } | Self::Neighbours { .. } => {}
            Self::Network {
                interface, source, ..
            } => {
                visit(interface);
                visit(source);
            }
            Self::Request { client, line, .. } => {
                visit(client);
                visit(line);
            }
            Self::Progress { what, .. } => visit(what),
            Self::Failed { code, reason, .. } => {
                visit(code);
                visit(reason);
            }
            Self::Handoff(record) => visit(&mut record.origin),
            Self::Offer { origin } => visit(origin),
            Self::Checked {
                origin,
                code,
                reason,
                ..
            } => {
                visit(origin);
                visit(code);
                visit(reason);
            }
            Self::Turn { by, reason, .. } => {
                visit(by);
                visit(reason);
            }
            Self::Freshness { origin, reason, .. } => {
                visit(origin);
                visit(reason);
            }
            Self::Check { name, reason, .. } => {
                visit(name);
                visit(reason);
            }
            Self::Order { client } => visit(client),
        }
        self.for_each_list(|list| list.iter_mut().for_each(&mut visit));
    }
}

/// Leaves at most `chars_max` characters, none of which moves the cursor or changes the direction of writing.
fn clean(text: &mut String, chars_max: usize) {
    let plain = |c: char| {
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if hidden { '?' } else { c }
    };
    *text = text.chars().take(chars_max).map(plain).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> Vec<Report> {
        let text = |text: &str| text.to_owned();
        vec![
            Report::Ready {},
            Report::Network {
                interface: text("eth0"),
                addresses: vec![text("192.0.2.7/24")],
                source: text("dhcp"),
            },
            Report::Serving {
                urls: vec![text("http://192.0.2.7:8080")],
                artifacts: 3,
                advertised: true,
            },
            Report::Request {
                client: text("192.0.2.9"),
                line: text("GET /manifest.json"),
                status: 200,
                bytes: u64::from(u32::MAX) * 4,
            },
            Report::Progress {
                what: text("rootfs"),
                done: 1,
                total: 2,
            },
            Report::Failed {
                code: text("expired"),
                reason: text("too old"),
                retryable: false,
            },
            Report::Handoff(HandoffRecord {
                origin: text("http://192.0.2.1:8080"),
                fds: vec![text("manifest"), text("kernel")],
            }),
            Report::Offer {
                origin: text("http://192.0.2.1:8080"),
            },
            Report::Checked {
                origin: text("http://192.0.2.1:8080"),
                code: text("current"),
                reason: text("it has what runs here"),
                ok: true,
            },
            Report::Neighbours { live: 3, same: 1 },
            Report::Turn {
                granted: false,
                by: text("http://192.0.2.3:8080"),
                reason: text("it is on trial"),
            },
            Report::Freshness {
                origin: text("http://192.0.2.1:8080"),
                fresh: true,
                sequence: 7,
                reason: text("signed for this nonce"),
            },
            Report::Check {
                name: text("tftp"),
                ok: true,
                reason: text("1024 bytes are those of the manifest"),
            },
            Report::Order {
                client: text("192.0.2.9"),
            },
        ]
    }

    #[test]
    fn every_command_survives_the_way() {
        let digest = "sha256:00".to_owned();
        for command in [
            Command::CheckNow {},
            Command::AskTurn { digest },
            Command::ReleaseTurn {},
        ] {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        assert_eq!(Command::CheckNow {}.encode(), br#"{"command":"check-now"}"#);
        for packet in ["", "{}", r#"{"command":"exec"}"#, r#"{"report":"ready"}"#] {
            assert!(Command::decode(packet.as_bytes()).is_err(), "{packet}");
        }
        let long = vec![b' '; REPORT_SIZE_MAX + 1];
        assert!(Command::decode(&long).is_err());
    }

    #[test]
    fn every_report_survives_the_way() {
        for report in reports() {
            let packet = report.encode();
            assert_eq!(Report::decode(&packet).as_ref(), Ok(&report), "{packet:?}");
        }
        assert_eq!(Report::Ready {}.encode(), br#"{"report":"ready"}"#);
    }

    #[test]
    fn absurd_reports_are_cut_to_a_packet() {
        let reason = "\u{1f980}\"\\".repeat(10_000);
        let urls = vec![reason.clone(); 100];
        let failed = Report::Failed {
            code: String::new(),
            reason,
            retryable: true,
        };
        let serving = Report::Serving {
            urls,
            artifacts: 1,
            advertised: false,
        };
        for report in [failed, serving] {
            let packet = report.encode();
            assert!(packet.len() <= REPORT_SIZE_MAX);
            let decoded = Report::decode(&packet).unwrap();
            assert_eq!(
                std::mem::discriminant(&decoded),
                std::mem::discriminant(&report)
            );
        }
    }

    #[test]
    fn strings_cannot_steer_the_console() {
        let packet =
            br#"{"report":"failed","code":"a\u001b[2Jb","reason":"x\ny\u202e","retryable":true}"#;
        let Report::Failed { code, reason, .. } = Report::decode(packet).unwrap() else {
            panic!("another report")
        };
        assert_eq!((code.as_str(), reason.as_str()), ("a?[2Jb", "x?y?"));
    }

    #[test]
    fn other_packets_are_refused() {
        for packet in [
            "",
            "{}",
            r#"{"report":"reboot"}"#,
            r#"{"report":"ready","more":1}"#,
            r#"{"report":"ready","report":"ready"}"#,
            r#"{"report":"ready"} "x""#,
            r#"{"report":"handoff","origin":"o","fds":[],"sealed":true}"#,
            r#"{"report":"progress","what":"x","done":-1,"total":1}"#,
            r#"{"report":"progress","what":"x","done":1.5,"total":1}"#,
        ] {
            assert!(Report::decode(packet.as_bytes()).is_err(), "{packet}");
        }
        assert_eq!(
            Report::decode(&vec![b' '; REPORT_SIZE_MAX + 1]),
            Err(ReportError::TooLarge(REPORT_SIZE_MAX + 1))
        );
        let fds = vec!["a".to_owned(); LIST_ENTRIES_MAX + 1];
        let record = Report::Handoff(HandoffRecord {
            origin: String::new(),
            fds,
        });
        let packet = serde_json::to_vec(&record).unwrap();
        assert_eq!(
            Report::decode(&packet),
            Err(ReportError::TooManyEntries(17))
        );
    }
}
