//! The families of upgrades. Those about the image are there on the appliance only, once init has said something.

use serde_json::Value;

use super::{Kind, Page};
use crate::serve::metrics::{Metrics, get};

/// The images that are shown: a label, and the member of what init says.
const IMAGES: [(&str, &str); 3] = [
    ("running", "running"),
    ("cold-start", "default"),
    ("previous", "previous"),
];

/// Figures: a member of what init says, the family, and what it means.
const FIGURES: [(&str, &str, &str); 2] = [
    (
        "neighbours",
        "plasmd_upgrade_neighbours",
        "Other live machines of the segment that serve the same channel.",
    ),
    (
        "floor",
        "plasmd_upgrade_security_floor",
        "Smallest security version that is accepted.",
    ),
];

pub(super) fn families(page: &mut Page, metrics: &Metrics, status: Option<&Value>) {
    let name = "plasmd_upgrade_turns_total";
    let help = "Questions of other machines for the turn to restart, by what was answered.";
    page.family(name, "counter", help);
    for (answer, count) in [
        ("granted", &metrics.turns_granted_total),
        ("refused", &metrics.turns_refused_total),
    ] {
        page.line(name, &[("answer", answer)], get(count));
    }
    page.one(
        Kind::Counter,
        "plasmd_upgrade_orders_total",
        "Orders that were passed to init.",
        get(&metrics.orders_passed_total),
    );
    if let Some(status) = status {
        state(page, status);
        images(page, status);
        failures(page, status);
    }
}

fn state(page: &mut Page, status: &Value) {
    let name = "plasmd_upgrade_info";
    page.family(
        name,
        "gauge",
        "Always 1; the labels say what this machine does about its image, and what it waits for.",
    );
    let labels =
        ["stage", "mode", "waits", "checked", "ledger"].map(|label| (label, text(&status[label])));
    let labels = labels.each_ref().map(|(label, text)| (*label, &text[..]));
    page.line(name, &labels, 1);
    page.one(
        Kind::Gauge,
        "plasmd_upgrade_on_trial",
        "1 while the running image proves itself.",
        u8::from(!status["trial"].is_null()),
    );
    page.one(
        Kind::Gauge,
        "plasmd_upgrade_watchdog_armed",
        "1 when silence of this machine would end in a restart.",
        u8::from(status["watchdog"] == true),
    );
    for (member, name, help) in FIGURES {
        page.maybe(name, help, status[member].as_u64());
    }
}

fn images(page: &mut Page, status: &Value) {
    let name = "plasmd_upgrade_image_info";
    page.family(
        name,
        "gauge",
        "Always 1; the labels say which image runs, which a cold start leads to, and which was before.",
    );
    for (role, member) in IMAGES {
        let image = &status[member];
        if image.is_null() {
            continue;
        }
        let labels = ["version", "place", "sequence", "digest", "proved"]
            .map(|label| (label, text(&image[label])));
        let mut all = vec![("image", role)];
        all.extend(labels.iter().map(|(label, text)| (*label, &text[..])));
        page.line(name, &all, 1);
    }
    page.maybe(
        "plasmd_upgrade_running_sequence",
        "Sequence of the image that runs.",
        status["running"]["sequence"].as_u64(),
    );
}

fn failures(page: &mut Page, status: &Value) {
    let quarantine = status["quarantine"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    page.one(
        Kind::Gauge,
        "plasmd_upgrade_quarantined_images",
        "Images that failed here and are not tried again by themselves.",
        quarantine.len(),
    );
    let name = "plasmd_upgrade_failure_info";
    page.family(
        name,
        "gauge",
        "Always 1; one for each image that failed here, with the stable name of the reason.",
    );
    for failed in quarantine {
        let failure = &failed["failure"];
        let (digest, reason) = (text(&failed["digest"]), text(&failure["reason"]));
        let labels = [
            ("digest", &digest[..]),
            ("reason", &reason),
            ("phase", &text(&failure["phase"])),
        ];
        page.line(name, &labels, 1);
    }
}

/// A label: what is unknown is empty.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_init_says_becomes_figures() {
        let image = json!({
            "digest": "sha256:00", "place": "a", "version": "2.1", "sequence": 21, "generation": 1, "proved": true,
        });
        let status = json!({
            "stage": "idle", "mode": "auto", "waits": null, "running": image, "default": image, "previous": null,
            "trial": null, "watchdog": true, "neighbours": 2, "floor": 1, "ledger": "disk", "checked": "up-to-date",
            "quarantine": [{
                "digest": "sha256:01", "failure": { "reason": "hang", "phase": "jump", "detail": "" },
            }],
        });
        let mut page = Page(String::new());
        families(&mut page, &Metrics::default(), Some(&status));
        for line in [
            "plasmd_upgrade_turns_total{answer=\"granted\"} 0",
            "plasmd_upgrade_info{stage=\"idle\",mode=\"auto\",waits=\"\",checked=\"up-to-date\",ledger=\"disk\"} 1",
            "plasmd_upgrade_on_trial 0",
            "plasmd_upgrade_watchdog_armed 1",
            "plasmd_upgrade_neighbours 2",
            "plasmd_upgrade_image_info{image=\"cold-start\",version=\"2.1\",place=\"a\",sequence=\"21\",digest=\"sha256:00\",proved=\"true\"} 1",
            "plasmd_upgrade_running_sequence 21",
            "plasmd_upgrade_quarantined_images 1",
            "plasmd_upgrade_failure_info{digest=\"sha256:01\",reason=\"hang\",phase=\"jump\"} 1",
        ] {
            assert!(
                page.0.lines().any(|found| found == line),
                "{line}\n{}",
                page.0
            );
        }
        let mut page = Page(String::new());
        families(&mut page, &Metrics::default(), None);
        assert!(!page.0.contains("plasmd_upgrade_info"));
    }
}
