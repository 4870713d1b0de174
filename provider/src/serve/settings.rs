//! Settings that change while serving, when a reload finds others than before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{self, InForce, Setting};
use crate::exit::CommandError;
use crate::machines::Machines;
use crate::serve::reload::Outcome;
use crate::{cli, log};

/// The settings that a reload puts in force. Others need a restart, and a reload says so.
const LIVE: [&str; 1] = ["log_level"];

/// Reads the configuration again. What can change now does; a configuration with a problem changes nothing.
///
/// # Errors
/// What is wrong with it.
pub(super) fn reload(in_force: &Mutex<InForce>, machines: &Machines) -> Result<Outcome, String> {
    let args = lock(in_force).args.clone();
    let fresh = config::again(&cli::serve_command(), &args)
        .map_err(|failure| CommandError::from(failure).to_string())?;
    let has_profiles = machines.set_profiles(Arc::clone(&fresh.profiles));
    let mut now = lock(in_force);
    now.profiles = fresh.profiles;
    let (live, later): (Vec<_>, Vec<_>) = changed(&now.settings, &fresh.settings)
        .into_iter()
        .partition(|setting| LIVE.contains(&setting.key.as_str()));
    for setting in &live {
        apply(setting)?;
        if let Some(known) = now.settings.iter_mut().find(|one| one.key == setting.key) {
            known.clone_from(setting);
        }
    }
    if !later.is_empty() {
        let keys: Vec<&str> = later.iter().map(|setting| setting.key.as_str()).collect();
        return Ok(Outcome::NeedsRestart(keys.join(", ")));
    }
    Ok(Outcome::of(has_profiles || !live.is_empty()))
}

fn apply(setting: &Setting) -> Result<(), String> {
    match (setting.key.as_str(), setting.values.first()) {
        ("log_level", Some(level)) => log::set_level(level),
        _ => Ok(()),
    }
}

/// The settings that have other values than before.
fn changed(before: &[Setting], fresh: &[Setting]) -> Vec<Setting> {
    let is_new = |setting: &&Setting| {
        !before
            .iter()
            .any(|old| old.key == setting.key && old.values == setting.values)
    };
    fresh.iter().filter(is_new).cloned().collect()
}

fn lock(in_force: &Mutex<InForce>) -> MutexGuard<'_, InForce> {
    // Whole at every unlock.
    in_force.lock().unwrap_or_else(PoisonError::into_inner)
}
