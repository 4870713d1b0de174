//! The machines as JSON: for the control socket, `/clients` and `/metrics`. A member that is not known is not there.

use std::time::SystemTime;

use pxe::Mac;
use serde_json::{Map, Value, json};

use crate::machines::orders::{Order, Way};
use crate::machines::profiles::InForce;
use crate::machines::record::{Boot, Machine, Quiet, State, Told};
use crate::machines::{Counts, Machines, Only, vendor};
use crate::serve::access_log::rfc3339;

/// What all machines are together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    /// Machines by state, in the order of [`State::ALL`].
    pub(crate) states: Vec<(State, u64)>,
    /// What was counted.
    pub(crate) counts: Counts,
    /// Machines with a decision of the operator.
    pub(crate) orders: u64,
}

impl Machines {
    /// The machines, the one that was heard last first.
    pub(crate) fn shown(&self, count_max: usize) -> Value {
        let now = SystemTime::now();
        let mut macs: Vec<(SystemTime, Mac)> = self
            .lock()
            .table
            .all()
            .map(|machine| (machine.last, machine.mac))
            .collect();
        macs.sort_by_key(|(last, mac)| (std::cmp::Reverse(*last), *mac));
        let mut shown = Vec::with_capacity(macs.len());
        macs.truncate(count_max);
        // One by one: whoever looks on keeps no machine waiting for its answer.
        for (_, mac) in &macs {
            let inner = self.lock();
            let (in_force, order) = inner.in_force(*mac, None);
            if let Some(machine) = inner.table.get(*mac).cloned() {
                drop(inner);
                let names = (in_force.name.as_deref(), in_force.profile.as_deref());
                shown.push(machine_value(&machine, names, &order, now));
            }
        }
        // Those about which something is decided, and that were not heard of since the start.
        let inner = self.lock();
        let decided: Vec<(Mac, InForce, Order)> = inner
            .orders
            .iter()
            .filter(|(mac, order)| inner.table.get(*mac).is_none() && !order.is_only_learned())
            .take(count_max - macs.len())
            .map(|(mac, _)| {
                let (in_force, order) = inner.in_force(mac, None);
                (mac, in_force, order)
            })
            .collect();
        drop(inner);
        for (mac, in_force, order) in decided {
            let mut value = json!({ "mac": mac, "state": "not-seen", "boots": 0, "bytes": 0 });
            let names = (in_force.name.as_deref(), in_force.profile.as_deref());
            describe(&mut value, mac, names, &order);
            shown.push(value);
        }
        Value::Array(shown)
    }

    /// What is in force for all machines.
    pub(crate) fn facts(&self) -> Value {
        let inner = self.lock();
        json!({
            "only": match self.setup.only {
                Only::All => "all",
                Only::Known => "known",
            },
            "channel": self.setup.channel,
            "kept": self.is_kept(),
            "profiles": inner.profiles.facts(),
        })
    }

    /// The machine that an address belongs to, for showing.
    pub(crate) fn owner(&self, address: std::net::IpAddr) -> Option<Mac> {
        self.lock().table.known(address)
    }

    /// Sums over all machines.
    pub(crate) fn totals(&self) -> Totals {
        let now = SystemTime::now();
        let inner = self.lock();
        let mut states: Vec<(State, u64)> = State::ALL.iter().map(|state| (*state, 0)).collect();
        for machine in inner.table.all() {
            let state = machine.state(now);
            if let Some((_, count)) = states.iter_mut().find(|(known, _)| *known == state) {
                *count += 1;
            }
        }
        let orders = inner.orders.iter();
        let decided = orders.filter(|(_, order)| !order.is_only_learned()).count();
        Totals {
            states,
            counts: inner.counts.clone(),
            orders: decided as u64,
        }
    }
}

fn machine_value(
    machine: &Machine,
    names: (Option<&str>, Option<&str>),
    order: &Order,
    now: SystemTime,
) -> Value {
    let facts = &machine.facts;
    let mut value = json!({
        "mac": machine.mac,
        "state": machine.state(now).label(),
        "first": rfc3339(machine.first),
        "last": rfc3339(machine.last),
        "quiet_seconds": now.duration_since(machine.last).unwrap_or_default().as_secs(),
        "boots": machine.boots,
        "bytes": machine.bytes,
        "addresses": machine.addresses.iter().rev().collect::<Vec<_>>(),
    });
    describe(&mut value, machine.mac, names, order);
    let Some(members) = value.as_object_mut() else {
        return value;
    };
    let texts = [
        ("firmware", facts.firmware.as_deref()),
        ("arch", facts.arch.as_deref()),
        ("class", facts.class.as_deref()),
        ("uuid", facts.uuid.as_deref()),
        ("manufacturer", facts.manufacturer.as_deref()),
        ("product", facts.product.as_deref()),
        ("serial", facts.serial.as_deref()),
        ("interface", facts.interface.as_deref()),
        ("strategy", machine.strategy),
        ("file", machine.file.as_deref()),
    ];
    for (name, text) in texts {
        put(members, name, text);
    }
    put(members, "relay", facts.relay.map(|relay| relay.to_string()));
    put(
        members,
        "folder",
        machine.given.as_ref().map(|given| &given.folder),
    );
    let why = match &machine.told {
        Some(Told::Nothing(Quiet::Cannot(why))) => Some(why.as_str()),
        Some(Told::Nothing(Quiet::Unknown)) => Some("only known machines are answered"),
        Some(Told::Nothing(Quiet::Denied)) => Some("it is denied"),
        // Once it was answered, silence means nothing any more.
        Some(Told::Network | Told::LocalDisk) | None => {
            let silence = machine.silence.as_deref();
            silence.filter(|_| machine.state(now) == State::Asking)
        }
    };
    put(members, "why", why);
    if let Some(boot) = &machine.boot {
        members.insert("boot".to_owned(), boot_value(boot));
    }
    value
}

/// What people call it and decided about it.
fn describe(
    value: &mut Value,
    mac: Mac,
    (name, profile): (Option<&str>, Option<&str>),
    order: &Order,
) {
    let Some(members) = value.as_object_mut() else {
        return;
    };
    put(members, "name", name);
    put(members, "profile", profile);
    put(members, "maker", vendor::maker(mac));
    let decided = match (order.is_allowed, order.way) {
        (Some(false), _) => Some("deny"),
        (_, Some(Way::Local)) => Some("local"),
        (_, Some(Way::Network)) => Some("network"),
        (Some(true), _) => Some("allow"),
        (None, Some(Way::None) | None) => None,
    };
    put(members, "order", decided);
    if let Some(once) = &order.once {
        members.insert("once".to_owned(), json!(once));
    }
    put(members, "installed", order.installed.as_deref());
}

fn boot_value(boot: &Boot) -> Value {
    let stages: Vec<Value> = boot
        .milestones
        .iter()
        .map(|(stage, at)| {
            let after = at.duration_since(boot.started).unwrap_or_default();
            json!({ "stage": stage, "at": rfc3339(*at), "after_ms": after.as_millis() as u64 })
        })
        .collect();
    let mut value = json!({
        "started": rfc3339(boot.started),
        "stages": stages,
        "bytes": boot.bytes,
    });
    if let Some(members) = value.as_object_mut() {
        put(members, "fetching", boot.fetching.as_deref());
        if let Some((error, at)) = &boot.error {
            put(members, "error", Some(error));
            put(members, "error_at", Some(rfc3339(*at)));
        }
    }
    value
}

fn put(members: &mut Map<String, Value>, name: &str, text: Option<impl Into<String>>) {
    if let Some(text) = text {
        members.insert(name.to_owned(), Value::String(text.into()));
    }
}

/// A UUID as people write it.
pub(crate) fn uuid(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    ]
    .join("-")
}
