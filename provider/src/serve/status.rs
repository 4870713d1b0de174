//! What a provider says about itself: `/`, `/health`, `/status` and `/metrics`, and the same on the control socket.
//!
//! Everything here looks at files and counters and waits for nothing: while gigabytes are hashed these answers come as
//! quickly as always. What is not known yet is said to be unknown.

use std::net::IpAddr;
use std::sync::PoisonError;

use boot_manifest::KeyId;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::config::InForce;
use crate::http::body::Body;
use crate::http::respond;
use crate::serve::app::App;
use crate::serve::health::{self, Health};
use crate::serve::limits::CLIENTS_SHOWN_MAX;
use crate::serve::metrics::text::{self, Beside};
use crate::serve::metrics::{Reason, get, process};

/// Name and version as `/` and `/status` show them.
const NAME: &str = "plasmd-provider";
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl App {
    /// Cheap enough to be asked every second: files are looked at, never read.
    pub(super) fn show_metrics(&self) -> Response<Body> {
        let health = self.check();
        let beside = Beside {
            version: VERSION,
            started: self.started_at,
            hashing_passes_total: self.catalog.store().hashes().passes_total(),
            checks: health.checks.named().to_vec(),
            manifest_expires: health.manifest_expires,
            certificate_expires: self
                .certificates
                .as_ref()
                .and_then(|own| own.shown().expires_at)
                .map(|end| end.unix()),
            process: process::look(),
            machines: self.machines.totals(),
            announced: self.announcement.is_on(),
            dht: self.dht.figures().unwrap_or_default(),
            peers: self.swarm.register.counts(),
            upgrade: self.upgrades.status(),
        };
        respond::page(text::MEDIA_TYPE, text::page(&self.metrics, &beside))
    }

    /// What `/` says.
    pub(super) fn identity(&self) -> Value {
        json!({
            "name": NAME,
            "version": VERSION,
            "channel": self.channel,
            "arch": self.arch,
            "uptime_seconds": self.started.elapsed().as_secs(),
        })
    }

    /// The configuration, as the last reload left it.
    pub(super) fn in_force(&self) -> InForce {
        let in_force = self.in_force.lock();
        in_force.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which files of the default folder could not be hashed, and why.
    pub(super) fn set_unhashable(&self, problems: Vec<String>) {
        let mut unhashable = self
            .unhashable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unhashable = problems;
    }

    fn check(&self) -> Health {
        let unhashable = self
            .unhashable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let root = self.trusted.root();
        let certificate = self.certificates.as_ref().map(|own| own.shown());
        health::check(health::Subject {
            catalog: &self.catalog,
            channel: &self.channel,
            arch: self.arch,
            root: root.as_deref(),
            metrics: &self.metrics,
            unhashable: &unhashable,
            certificate: certificate.as_ref(),
        })
    }

    /// 200 when all checks are good, else 503.
    pub(super) fn health(&self) -> Response<Body> {
        let health = self.check();
        let status = if health.is_good() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        respond::json(status, &health)
    }

    /// Always 200: that there is an answer is the point, what is wrong stands in it.
    pub(super) fn status(&self, client: IpAddr) -> Response<Body> {
        let mut status = self.state();
        if !self.hide_clients || client.is_loopback() {
            status["clients"] = json!(self.clients.newest(CLIENTS_SHOWN_MAX));
        }
        respond::json(StatusCode::OK, &status)
    }

    /// Everything but the clients.
    pub(super) fn state(&self) -> Value {
        let health = self.check();
        let mut state = self.identity();
        state["health"] = json!({
            "status": health.status,
            // Older clients read the checks here, newer ones below.
            "artifacts_readable": health.checks.artifacts_readable,
            "disk_space_ok": health.checks.disk_space_ok,
            "checks": health.checks,
            "artifacts": health.artifacts,
            "problems": health.problems,
            "notes": health.notes,
        });
        state["metrics"] = self.counts();
        state["artifacts"] = self.artifacts();
        state["manifest"] = self.manifest_facts();
        let key_id = |key_id: KeyId| key_id.to_string();
        state["signing_key_id"] = json!(
            self.catalog
                .signer()
                .map(|signer| key_id(signer.key.public().key_id()))
        );
        state["dht"] = json!(self.dht.state());
        state["mdns"] = json!(self.announcement.state());
        state["discovery"] = json!({
            "mdns": self.announcement.facts(),
            "dht": self.dht.facts(),
        });
        state["boot"] = self.boot.facts();
        state["process"] = self.process.facts();
        state["tls"] = json!(self.certificates.as_ref().map(|own| own.shown()));
        state["peers"] = self.peer_counts();
        state["upgrade"] = self.upgrade_facts();
        state["sending"] = json!({
            "rate_max": self.egress.as_ref().map(|egress| egress.rate()),
            "memory_reserve_bytes": self.memory.bytes(),
            "has_memory": !self.memory.is_low(),
        });
        state["log_level"] = json!(crate::log::level());
        state["access_log"] = json!(self.access_log.as_ref().map(|log| log.path().to_owned()));
        state["config_file"] = json!(self.in_force().file);
        state
    }

    /// How many machines pass on what they fetch, or have all of it.
    pub(super) fn peer_counts(&self) -> Value {
        let peers = self.swarm.register.counts();
        json!({ "fetching": peers.partial, "complete": peers.complete })
    }

    fn counts(&self) -> Value {
        let metrics = &self.metrics;
        let refusals: serde_json::Map<String, Value> = Reason::ALL
            .iter()
            .map(|reason| (reason.label(), metrics.refusals_total(*reason)))
            .filter(|(_, count)| *count > 0)
            .map(|(label, count)| (label.to_owned(), json!(count)))
            .collect();
        json!({
            // This request is answered when it is read.
            "requests_total": metrics.requests_total() + 1,
            "bytes_served_total": get(&metrics.body_bytes_total),
            "connections_total": get(&metrics.connections_total),
            "connections_open": get(&metrics.connections_open),
            "files_hashed_total": self.catalog.store().hashes().passes_total(),
            "hashing_queue_files": get(&metrics.hashing_queue_files),
            "accept_failures_total": get(&metrics.accept_failures_total),
            "refusals": refusals,
        })
    }

    /// What is served from the default folder, and how much of it was fetched.
    fn artifacts(&self) -> Value {
        let counted = self.metrics.artifacts.counted();
        let scan = self.catalog.store().scan(&self.channel, self.arch);
        let artifacts = scan.found.iter().map(|found| {
            let path = format!("{}/{}/{}", self.channel, self.arch, found.file.name());
            let fetched = counted
                .iter()
                .find(|one| one.name.as_deref() == Some(&path));
            json!({
                "artifact": found.artifact,
                "path": format!("/{path}"),
                "size_bytes": found.file.size(),
                "hash": self.catalog.known_digest(&found.file).map(|digest| digest.to_string()),
                "requests_total": fetched.map_or(0, |one| one.requests),
                "bytes_served_total": fetched.map_or(0, |one| one.bytes),
                "downloads_total": fetched.map_or(0, |one| one.downloads),
            })
        });
        Value::Array(artifacts.collect())
    }

    /// The manifest signed elsewhere. One that is made here is made when it is asked for.
    fn manifest_facts(&self) -> Value {
        match self.catalog.signed(&self.channel, self.arch) {
            Ok(Some(signed)) => match &signed.view {
                Ok(view) => json!({
                    "made": "elsewhere",
                    "version": view.version,
                    "sequence": view.sequence,
                    "expires_at": view.expires_at.to_string(),
                    "key_ids": view.key_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
                }),
                Err(error) => json!({ "made": "elsewhere", "problem": error.to_string() }),
            },
            Ok(None) if self.catalog.signer().is_some() => json!({ "made": "here" }),
            Ok(None) => json!({ "made": "unsigned" }),
            Err(refusal) => json!({ "problem": refusal.to_string() }),
        }
    }
}
