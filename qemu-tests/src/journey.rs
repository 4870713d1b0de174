//! How long a machine took from power-on through each stage until it served: what the README's table of boot
//! paths is made of. A scene writes one journey; `cargo appliance test --readme` reads them all.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

/// The file a scene leaves among its logs.
pub const FILE: &str = "times.json";

/// One machine's way, from power-on.
#[derive(Debug)]
pub struct Journey {
    path: &'static str,
    lan: &'static str,
    powered_on: Instant,
    stages: Vec<(&'static str, Duration)>,
}

impl Journey {
    /// The way of a machine that was switched on at `powered_on`: the row of the table it belongs to, and who
    /// gave out addresses, which is its column.
    #[must_use]
    pub fn new(path: &'static str, lan: &'static str, powered_on: Instant) -> Self {
        Self {
            path,
            lan,
            powered_on,
            stages: Vec::new(),
        }
    }

    /// Notes that a stage was reached at `at`.
    pub fn reached(&mut self, stage: &'static str, at: Instant) {
        let since = at.saturating_duration_since(self.powered_on);
        self.stages.push((stage, since));
    }

    /// Writes the journey to the folder `logs`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, logs: &Path) -> Result<()> {
        let seconds = |time: Duration| (time.as_secs_f64() * 10.0).round() / 10.0;
        let stages: Vec<_> = self
            .stages
            .iter()
            .map(|(stage, time)| json!({ "stage": stage, "seconds": seconds(*time) }))
            .collect();
        let text = json!({ "path": self.path, "lan": self.lan, "stages": stages });
        let file = logs.join(FILE);
        std::fs::write(&file, format!("{text:#}\n"))
            .with_context(|| format!("write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journey_is_written_from_power_on() {
        let start = Instant::now();
        let mut journey = Journey::new("BIOS", "router", start);
        journey.reached("kernel", start + Duration::from_millis(1_250));
        journey.reached("serving", start + Duration::from_secs(30));
        let folder = tempfile::tempdir().unwrap();
        journey.write(folder.path()).unwrap();
        let text = std::fs::read(folder.path().join(FILE)).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            read,
            json!({
                "path": "BIOS",
                "lan": "router",
                "stages": [
                    { "stage": "kernel", "seconds": 1.3 },
                    { "stage": "serving", "seconds": 30.0 },
                ],
            })
        );
    }
}
