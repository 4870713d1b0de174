//! The counters as Prometheus reads them: text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Every series of a fixed table is there from the start,
//! also when it is zero: a rate over a series that appears later misses its first step.

mod upgrade;

use std::fmt::{Display, Write as _};
use std::time::SystemTime;

use discovery::dht;
use serde_json::Value;
use swarm::Counts;

use crate::dht::membership::last_published;
use crate::listen::metrics::Fate;
use crate::machines::Totals;
use crate::machines::event::Stage;
use crate::serve::metrics::artifacts::Counted;
use crate::serve::metrics::process::{self, Process};
use crate::serve::metrics::{Cut, Metrics, Reason, SECONDS_BUCKETS, TftpEnd, get};

/// The media type of the format.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is shown besides the counters.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// Version of this program.
    pub(crate) version: &'static str,
    /// When serving began.
    pub(crate) started: SystemTime,
    /// Files hashed.
    pub(crate) hashing_passes_total: u64,
    /// Whether each check of `/health` is good.
    pub(crate) checks: Vec<(&'static str, bool)>,
    /// Seconds since 1970 at which the manifest that is served expires.
    pub(crate) manifest_expires: Option<i64>,
    /// Seconds since 1970 at which the certificate of HTTPS expires.
    pub(crate) certificate_expires: Option<i64>,
    /// Figures about the process.
    pub(crate) process: Process,
    /// The machines that boot from here.
    pub(crate) machines: Totals,
    /// Whether the local network is told.
    pub(crate) announced: bool,
    /// What the DHT is; all zero without it.
    pub(crate) dht: dht::State,
    /// The machines that share what they fetch from here.
    pub(crate) peers: Counts,
    /// What init does about the image, where there is an init of ours.
    pub(crate) upgrade: Option<Value>,
}

/// Writes the families one after the other.
struct Page(String);

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, kind: Kind, name: &str, help: &str, value: impl Display) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.family(name, kind, help);
        self.line(name, &[], value);
    }

    fn maybe(&mut self, name: &str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.one(Kind::Gauge, name, help, value);
        }
    }
}

/// The whole page.
pub(crate) fn page(metrics: &Metrics, beside: &Beside) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    requests(&mut page, metrics);
    connections(&mut page, metrics);
    artifacts(&mut page, metrics);
    boot(&mut page, metrics);
    tftp(&mut page, metrics);
    machines(&mut page, &beside.machines);
    discovery(&mut page, beside);
    peers(&mut page, metrics, beside.peers);
    upgrade::families(&mut page, metrics, beside.upgrade.as_ref());
    work(&mut page, metrics, beside);
    about(&mut page, beside);
    page.0
}

fn peers(page: &mut Page, metrics: &Metrics, peers: Counts) {
    let name = "plasmd_peers";
    let help = "Machines that share what they fetch from here, and those that have all of it.";
    page.family(name, "gauge", help);
    page.line(name, &[("state", "fetching")], peers.partial);
    page.line(name, &[("state", "complete")], peers.complete);
    page.one(
        Kind::Counter,
        "plasmd_peer_registrations_total",
        "Times that a machine was put on the list at /peers, or stayed on it.",
        get(&metrics.peer_registrations_total),
    );
}

fn requests(page: &mut Page, metrics: &Metrics) {
    let name = "plasmd_requests_total";
    page.family(name, "counter", "Requests answered, by method and status.");
    for (method, status, count) in metrics.requests() {
        let status = status.map_or_else(|| "other".to_owned(), |status| status.to_string());
        page.line(
            name,
            &[("method", method.label()), ("status", &status)],
            count,
        );
    }
    page.one(
        Kind::Counter,
        "plasmd_fast_answers_total",
        "Requests answered on the short way, without the general HTTP machinery.",
        get(&metrics.fast_answers_total),
    );
    page.one(
        Kind::Counter,
        "plasmd_sent_bytes_total",
        "Body bytes that the kernel has taken for clients.",
        get(&metrics.body_bytes_total),
    );
    let name = "plasmd_request_duration_seconds";
    page.family(
        name,
        "histogram",
        "Time from a request to the last byte of its answer.",
    );
    let bucket = format!("{name}_bucket");
    let mut count = 0;
    for (index, counter) in metrics.answering.iter().enumerate() {
        count += get(counter);
        let end = SECONDS_BUCKETS
            .get(index)
            .map_or_else(|| "+Inf".to_owned(), ToString::to_string);
        page.line(&bucket, &[("le", &end)], count);
    }
    let seconds = seconds(get(&metrics.answering_micros_total), 1e6);
    page.line(&format!("{name}_sum"), &[], seconds);
    page.line(&format!("{name}_count"), &[], count);
    let name = "plasmd_refusals_total";
    page.family(name, "counter", "Requests and clients refused, by reason.");
    for reason in Reason::ALL {
        let count = metrics.refusals_total(*reason);
        page.line(name, &[("reason", reason.label())], count);
    }
}

fn connections(page: &mut Page, metrics: &Metrics) {
    page.one(
        Kind::Counter,
        "plasmd_connections_total",
        "Connections accepted.",
        get(&metrics.connections_total),
    );
    page.one(
        Kind::Gauge,
        "plasmd_connections_open",
        "Connections open now.",
        get(&metrics.connections_open),
    );
    page.one(
        Kind::Gauge,
        "plasmd_connections_max",
        "Places for connections.",
        get(&metrics.connections_max),
    );
    let name = "plasmd_connections_cut_total";
    page.family(
        name,
        "counter",
        "Connections ended by a deadline, by which.",
    );
    for cut in Cut::ALL {
        page.line(name, &[("deadline", cut.label())], metrics.cuts_total(*cut));
    }
    page.one(
        Kind::Counter,
        "plasmd_connection_panics_total",
        "Connections ended by an error in this program.",
        get(&metrics.connection_panics_total),
    );
    page.one(
        Kind::Counter,
        "plasmd_accept_failures_total",
        "Times no connection could be accepted for want of descriptors or memory.",
        get(&metrics.accept_failures_total),
    );
    page.one(
        Kind::Counter,
        "plasmd_tls_handshakes_total",
        "TLS handshakes that ended well.",
        get(&metrics.tls_handshakes_total),
    );
}

/// Name, help, and which counter.
type Family = (&'static str, &'static str, fn(&Counted) -> u64);

fn artifacts(page: &mut Page, metrics: &Metrics) {
    let counted = metrics.artifacts.counted();
    let families: [Family; 3] = [
        (
            "plasmd_artifact_requests_total",
            "Requests answered with an artifact or a part of it.",
            |one| one.requests,
        ),
        (
            "plasmd_artifact_sent_bytes_total",
            "Bytes of an artifact that were sent.",
            |one| one.bytes,
        ),
        (
            "plasmd_artifact_downloads_total",
            "Answers with a whole artifact that were sent to the last byte.",
            |one| one.downloads,
        ),
    ];
    for (name, help, value) in families {
        page.family(name, "counter", help);
        for one in &counted {
            // The bound is reached: the rest has no names.
            let path = one.name.as_deref().unwrap_or("other/other/other");
            let mut parts = path.splitn(3, '/');
            let mut part = || parts.next().unwrap_or_default();
            let labels = [("channel", part()), ("arch", part()), ("file", part())];
            page.line(name, &labels, value(one));
        }
    }
}

fn boot(page: &mut Page, metrics: &Metrics) {
    let name = "plasmd_boot_datagrams_total";
    page.family(
        name,
        "counter",
        "Questions at the ports 67 and 4011, by what became of them.",
    );
    for fate in Fate::ALL {
        page.line(name, &[("fate", fate.label())], metrics.boot.total(*fate));
    }
    page.one(
        Kind::Counter,
        "plasmd_dhcp_conflicts_total",
        "Addresses that were to be given and that somebody used already.",
        get(&metrics.boot.conflicts_total),
    );
    page.one(
        Kind::Gauge,
        "plasmd_dhcp_leases",
        "Addresses that are given now.",
        get(&metrics.boot.leases),
    );
    page.one(
        Kind::Counter,
        "plasmd_dhcp_rivals_total",
        "Messages of other DHCP servers, where this one gives the addresses.",
        get(&metrics.boot.rivals_total),
    );
}

fn tftp(page: &mut Page, metrics: &Metrics) {
    let name = "plasmd_tftp_requests_total";
    page.family(name, "counter", "Requests over TFTP, by how they ended.");
    for end in TftpEnd::ALL {
        page.line(name, &[("end", end.label())], metrics.tftp_ends_total(*end));
    }
    let counters = [
        (
            "plasmd_tftp_transfers_total",
            "TFTP transfers that began.",
            &metrics.tftp_transfers_total,
        ),
        (
            "plasmd_tftp_bytes_total",
            "Bytes of files that TFTP clients have acknowledged.",
            &metrics.tftp_bytes_total,
        ),
        (
            "plasmd_tftp_resent_blocks_total",
            "Blocks that were sent more than once.",
            &metrics.tftp_resent_blocks_total,
        ),
    ];
    for (name, help, counter) in counters {
        page.one(Kind::Counter, name, help, get(counter));
    }
}

fn machines(page: &mut Page, totals: &Totals) {
    let name = "plasmd_machines";
    page.family(
        name,
        "gauge",
        "Machines that were seen, by what they do now.",
    );
    for (state, count) in &totals.states {
        page.line(name, &[("state", state.label())], count);
    }
    page.one(
        Kind::Gauge,
        "plasmd_machines_decided",
        "Machines about which the operator decided something by command.",
        totals.orders,
    );
    let counts = &totals.counts;
    page.one(
        Kind::Counter,
        "plasmd_machine_boots_total",
        "Boots that began.",
        counts.boots_total,
    );
    let name = "plasmd_machine_stages_total";
    page.family(name, "counter", "Boots that reached a stage.");
    for (stage, count) in Stage::ALL.iter().zip(counts.stages_total) {
        page.line(name, &[("stage", stage.label())], count);
    }
    page.one(
        Kind::Counter,
        "plasmd_machine_failures_total",
        "Transfers to machines that broke off, and failures that machines told.",
        counts.failures_total,
    );
    page.one(
        Kind::Counter,
        "plasmd_machine_loops_total",
        "Times a machine was found to boot again and again.",
        counts.loops_total,
    );
    let (served, seconds) = counts.served;
    let name = "plasmd_machine_boot_duration_seconds";
    let help = "Time from a machine's first packet until it said that it serves.";
    page.family(name, "summary", help);
    page.line(&format!("{name}_sum"), &[], seconds);
    page.line(&format!("{name}_count"), &[], served);
}

fn discovery(page: &mut Page, beside: &Beside) {
    page.one(
        Kind::Gauge,
        "plasmd_mdns_announced",
        "Whether the local network is told of this provider: 1 or 0.",
        u8::from(beside.announced),
    );
    let dht = &beside.dht;
    let gauges = [
        (
            "plasmd_dht_peers",
            "Members of the DHT that are known.",
            dht.peers,
        ),
        (
            "plasmd_dht_connections_open",
            "Members of the DHT that are connected.",
            dht.connected,
        ),
        (
            "plasmd_dht_records",
            "Entries that are kept for the DHT, those of this provider among them.",
            dht.records,
        ),
        (
            "plasmd_dht_stored_at",
            "Members that answered when the entry of this provider was put at them the last time; one without room answers too.",
            dht.announced.iter().map(|one| one.stored_at).sum(),
        ),
    ];
    for (name, help, value) in gauges {
        page.one(Kind::Gauge, name, help, value);
    }
    let counters = [
        (
            "plasmd_dht_stored_total",
            "Entries of others that were taken.",
            dht.stored,
        ),
        (
            "plasmd_dht_refused_total",
            "Entries of others that were refused.",
            dht.refused.values().sum(),
        ),
        (
            "plasmd_dht_connections_denied_total",
            "Connections of other members that were not allowed.",
            dht.connections_denied,
        ),
    ];
    for (name, help, value) in counters {
        page.one(Kind::Counter, name, help, value);
    }
    page.maybe(
        "plasmd_dht_published_timestamp_seconds",
        "When others took the entry of this provider last.",
        last_published(dht),
    );
}

fn work(page: &mut Page, metrics: &Metrics, beside: &Beside) {
    let count =
        &mut |name: &str, help: &str, value: u64| page.one(Kind::Counter, name, help, value);
    count(
        "plasmd_hashing_files_total",
        "Files hashed.",
        beside.hashing_passes_total,
    );
    count(
        "plasmd_hashing_failures_total",
        "Files that could not be hashed.",
        get(&metrics.hashing_failures_total),
    );
    count(
        "plasmd_hashing_bytes_total",
        "Bytes hashed.",
        get(&metrics.hashed_bytes_total),
    );
    count(
        "plasmd_manifests_signed_total",
        "Manifests signed here.",
        get(&metrics.manifests_signed_total),
    );
    count(
        "plasmd_manifest_failures_total",
        "Manifests that could not be made.",
        get(&metrics.manifest_failures_total),
    );
    count(
        "plasmd_reloads_total",
        "Reloads that took effect.",
        get(&metrics.reloads_total),
    );
    count(
        "plasmd_reload_failures_total",
        "Reloads that were refused; what was in force stayed.",
        get(&metrics.reload_failures_total),
    );
    count(
        "plasmd_access_log_lines_total",
        "Lines written to the access log.",
        get(&metrics.access_log_lines_total),
    );
    count(
        "plasmd_access_log_dropped_total",
        "Lines left out of the access log because it could not be written fast enough.",
        get(&metrics.access_log_dropped_total),
    );
    page.one(
        Kind::Counter,
        "plasmd_hashing_seconds_total",
        "Time spent hashing, on all threads together.",
        seconds(get(&metrics.hashing_nanos_total), 1e9),
    );
    page.one(
        Kind::Gauge,
        "plasmd_hashing_queue_files",
        "Files that wait for a thread or are being hashed.",
        get(&metrics.hashing_queue_files),
    );
}

fn about(page: &mut Page, beside: &Beside) {
    let name = "plasmd_health_check_ok";
    page.family(name, "gauge", "Whether a check of /health is good: 1 or 0.");
    for (check, is_good) in &beside.checks {
        page.line(name, &[("check", check)], u8::from(*is_good));
    }
    page.maybe(
        "plasmd_manifest_expiry_timestamp_seconds",
        "When the manifest of the default channel and architecture expires.",
        beside.manifest_expires,
    );
    page.maybe(
        "plasmd_certificate_expiry_timestamp_seconds",
        "When the certificate of HTTPS expires.",
        beside.certificate_expires,
    );
    let name = "plasmd_build_info";
    page.family(name, "gauge", "Always 1; the labels say what runs.");
    page.line(name, &[("version", beside.version)], 1);
    let process = &beside.process;
    page.maybe(
        "process_resident_memory_bytes",
        "Memory in use.",
        process.resident_bytes,
    );
    page.maybe(
        "process_open_fds",
        "Descriptors open now.",
        process.open_fds,
    );
    page.maybe(
        "process_max_fds",
        "Descriptors that may be open.",
        process.max_fds,
    );
    if let Some(seconds) = process.cpu_seconds {
        let help = "Processor time used.";
        page.one(Kind::Counter, "process_cpu_seconds_total", help, seconds);
    }
    page.one(
        Kind::Gauge,
        "process_start_time_seconds",
        "When this process began to serve, in seconds since 1970.",
        process::unix_seconds(beside.started),
    );
}

/// `count` parts of a second, `per_second` of them in one. Above 2^53 the last digits are lost, after centuries.
#[expect(
    clippy::cast_precision_loss,
    reason = "a sum for graphs; the counter itself stays exact"
)]
fn seconds(count: u64, per_second: f64) -> f64 {
    count as f64 / per_second
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_line() {
        let mut page = Page(String::new());
        page.line("x", &[("a", "b\"} 1\ny\\")], 2);
        assert_eq!(page.0, "x{a=\"b\\\"} 1\\ny\\\\\"} 2\n");
    }

    #[test]
    fn each_family_is_named_once_and_has_its_help() {
        let beside = Beside {
            version: "1",
            started: SystemTime::UNIX_EPOCH,
            hashing_passes_total: 3,
            checks: vec![("disk_space_ok", false)],
            manifest_expires: None,
            certificate_expires: Some(2_519_596_800),
            process: Process::default(),
            machines: Totals::default(),
            announced: true,
            dht: dht::State::default(),
            peers: Counts::default(),
            upgrade: None,
        };
        let metrics = Metrics::default();
        metrics
            .artifacts
            .answered("/stable/x86_64/vmlinuz", 200, 7, true);
        let text = page(&metrics, &beside);
        let mut families: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let count = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), count);
        assert!(count > 20, "{count}");
        assert!(text.contains("\nplasmd_hashing_files_total 3\n"), "{text}");
        assert!(text.contains("\nplasmd_health_check_ok{check=\"disk_space_ok\"} 0\n"));
        assert!(text.contains(
            "\nplasmd_artifact_sent_bytes_total{channel=\"stable\",arch=\"x86_64\",file=\"vmlinuz\"} 7\n"
        ));
        assert!(!text.contains("manifest_expiry"));
        assert!(text.contains("\nplasmd_certificate_expiry_timestamp_seconds 2519596800\n"));
    }
}
