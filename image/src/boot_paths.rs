//! The README's table of boot paths: how long each kind of firmware took from power-on until its machine
//! served, beside which other servers. The scenes of the QEMU tests leave a `times.json` each among their logs;
//! this reads them and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::readme::Block;

/// Where the table stands in the README.
pub const BLOCK: Block = Block {
    begin: "<!-- boot-paths -->",
    end: "<!-- /boot-paths -->",
};

/// What a scene leaves behind.
const TIMES: &str = "times.json";
/// The columns that come first, in this order.
const COLUMNS: &[&str] = &["beside a router", "alone", "behind a relay", "at port 4011"];
/// The stage that ends a journey, and the one between firmware and Linux.
const LAST: &str = "serving";
const KERNEL: &str = "kernel";

/// One machine's way.
#[derive(Debug, Deserialize)]
struct Journey {
    path: String,
    lan: String,
    stages: Vec<Stage>,
}

#[derive(Debug, Deserialize)]
struct Stage {
    stage: String,
    seconds: f64,
}

impl Journey {
    fn seconds(&self, stage: &str) -> Option<f64> {
        let found = self.stages.iter().find(|reached| reached.stage == stage);
        found.map(|reached| reached.seconds)
    }

    /// What the table says of it; nothing when it did not arrive.
    fn cell(&self) -> Option<String> {
        let total = self.seconds(LAST)?;
        Some(self.seconds(KERNEL).map_or_else(
            || format!("{total:.0} s"),
            |kernel| format!("{total:.0} s ({kernel:.0} s)"),
        ))
    }
}

/// The table of all journeys below `logs` that were written since `since`.
///
/// # Errors
/// When there is none, or one that is not understood.
pub fn table(logs: &Path, since: SystemTime) -> Result<String> {
    let mut journeys = Vec::new();
    for entry in std::fs::read_dir(logs).with_context(|| format!("read {}", logs.display()))? {
        let file = entry?.path().join(TIMES);
        let Ok(written) = std::fs::metadata(&file).and_then(|found| found.modified()) else {
            continue;
        };
        if written >= since {
            let text = std::fs::read(&file)?;
            let journey: Journey =
                serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
            journeys.push(journey);
        }
    }
    ensure!(!journeys.is_empty(), "no machine has left its times");
    Ok(markdown(&journeys))
}

fn markdown(journeys: &[Journey]) -> String {
    let seen: BTreeSet<&str> = journeys.iter().map(|journey| &*journey.lan).collect();
    let more = seen.iter().filter(|column| !COLUMNS.contains(column));
    let columns: Vec<&str> = COLUMNS
        .iter()
        .filter(|column| seen.contains(**column))
        .chain(more)
        .copied()
        .collect();
    let mut rows: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for journey in journeys {
        let row = rows.entry(&journey.path).or_default();
        row.insert(&journey.lan, journey.cell().unwrap_or_default());
    }
    let mut text = format!("| firmware | {} |\n", columns.join(" | "));
    text.push_str(&format!("| --- |{}\n", " --- |".repeat(columns.len())));
    for (path, cells) in rows {
        let cells = columns
            .iter()
            .map(|column| cells.get(column).map_or("", String::as_str));
        let cells: Vec<&str> = cells.collect();
        text.push_str(&format!("| {path} | {} |\n", cells.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, scene: &str, text: &str) {
        let folder = folder.join(scene);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(TIMES), text).unwrap();
    }

    #[test]
    fn every_journey_has_its_cell() {
        let logs = tempfile::tempdir().unwrap();
        let times = |path: &str, lan: &str, last: &str| {
            format!(
                r#"{{"path":"{path}","lan":"{lan}","stages":[
                    {{"stage":"kernel","seconds":9.4}},{{"stage":"{last}","seconds":26.2}}]}}"#
            )
        };
        written(logs.path(), "b", &times("UEFI, PXE", "alone", "serving"));
        written(
            logs.path(),
            "a",
            &times("BIOS", "beside a router", "serving"),
        );
        written(logs.path(), "c", &times("BIOS", "alone", "kernel"));
        std::fs::create_dir(logs.path().join("without")).unwrap();
        let table = table(logs.path(), SystemTime::UNIX_EPOCH).unwrap();
        let expected = "| firmware | beside a router | alone |\n| --- | --- | --- |\n\
                        | BIOS | 26 s (9 s) |  |\n| UEFI, PXE |  | 26 s (9 s) |\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn times_of_an_earlier_run_do_not_count() {
        let logs = tempfile::tempdir().unwrap();
        written(logs.path(), "a", "no json");
        let later = SystemTime::now() + std::time::Duration::from_secs(3600);
        assert!(table(logs.path(), later).is_err());
        let now = table(logs.path(), SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(format!("{now:#}").contains(TIMES), "{now:#}");
    }
}
