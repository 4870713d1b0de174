//! How long nobody is served while an appliance replaces itself: one upgrade on the stand of `cargo appliance upgrade-demo`,
//! with a client that keeps downloading.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::figure::{Figure, Goal, Unit};
use super::machines::{SERVING, alone};
use crate::build::Images;
use crate::upgrade_demo::stand::{COMMITTED, SERVING_LIMIT, Stand, UPGRADE_LIMIT};
use crate::upgrade_demo::{GAP_GOAL, until};
use crate::{accel, cli};

/// Measures.
///
/// # Errors
/// When the appliance does not upgrade itself, or serves wrong bytes.
pub fn measure(
    bench: &Bench,
    images: Option<&Images>,
    accel: cli::Accel,
    notes: &mut Vec<String>,
) -> Result<Vec<Figure>> {
    let images = images.context("the images were not built")?;
    let acceleration = accel::choose(bench.paths, accel, images.path("vmlinuz"), bench.progress)?;
    let mut stand = Stand::set_up(bench.paths, acceleration)?;
    stand.wait_for(SERVING, SERVING_LIMIT, |_| {})?;
    let mut client = stand.client();
    let never = AtomicBool::new(false);
    until(&mut client, &never, |seen| seen.bytes[0] > 0)?;
    stand.publish()?;
    let published = Instant::now();
    let committed = stand.wait_for(COMMITTED, UPGRADE_LIMIT, |_| {})?;
    until(&mut client, &never, |seen| seen.bytes[1] > 0)?;
    let seen = client.seen()?;
    let gap = seen.gap().context("the old version answered again")?;
    let how = acceleration.as_str();
    let gap = Figure {
        goal: Some(Goal::AtMost(GAP_GOAL.as_secs_f64())),
        ..alone(
            &format!("last byte of the old version to first of the new ({how})"),
            Unit::Seconds,
            gap.as_secs_f64(),
        )
    };
    let took = committed.at.saturating_duration_since(published);
    notes.push(
        "one upgrade, whatever the rounds; it proves itself for 10 s instead of 10 minutes".into(),
    );
    Ok(vec![
        gap,
        alone("published to committed", Unit::Seconds, took.as_secs_f64()),
        alone("requests lost meanwhile", Unit::Count, seen.lost as f64),
    ])
}
