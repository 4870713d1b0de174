//! From a request to an answer. Decides nothing about content: that is [`catalog`](crate::serve::catalog).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boot_manifest::handoff::Report;
use boot_manifest::{Arch, Channel, TrustRoot};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::http::body::Body;
use crate::http::respond::{self, Content, Source};
use crate::http::server::{Counters, Handler};
use crate::http::target::{self, ArtifactTarget, Target};
use crate::init_link::InitLink;
use crate::serve::announce::Announcement;
use crate::serve::catalog::Catalog;
use crate::serve::health;
use crate::serve::limits::REPORTS_PER_SECOND_MAX;
use crate::serve::refusal::Refusal;

/// Name and version as `/` and `/status` show them.
const NAME: &str = "plasmd-provider";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// There is no distributed hash table in this version; nobody is left to believe otherwise.
pub(crate) const DHT: &str = "not in this version";

/// The provider, as requests see it.
pub(crate) struct App {
    /// What is served.
    pub(crate) catalog: Arc<Catalog>,
    /// The channel of `/manifest.json`.
    pub(crate) channel: Channel,
    /// The architecture of `/manifest.json`.
    pub(crate) arch: Arch,
    /// Whose manifests are believed, for `/health`.
    pub(crate) trust_root: Option<TrustRoot>,
    /// What the connections count.
    pub(crate) counters: Arc<Counters>,
    /// Requests answered.
    pub(crate) requests_total: AtomicU64,
    /// When serving began.
    pub(crate) started: Instant,
    /// Whether the local network is told.
    pub(crate) announcement: Arc<Announcement>,
    /// Where init listens, on the appliance.
    pub(crate) init: Arc<InitLink>,
    /// The second being counted and the reports sent in it.
    pub(crate) reports: Mutex<(Instant, u32)>,
}

impl Handler for App {
    async fn handle(&self, client: IpAddr, request: Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        self.requests_total.fetch_add(1, Ordering::Relaxed);
        let (method, path) = (request.method(), request.uri().path());
        let response = self.answer(method, path, request.headers()).await;
        let status = response.status().as_u16();
        let bytes = http_body::Body::size_hint(response.body())
            .exact()
            .unwrap_or(0);
        let bytes = if *method == Method::HEAD { 0 } else { bytes };
        tracing::debug!(
            client = %client, method = %method, path, status, bytes, micros = started.elapsed().as_micros() as u64,
            "request"
        );
        self.report(client, started, method, path, status, bytes);
        response
    }
}

impl App {
    async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            return respond::not_allowed();
        }
        match target::parse(path) {
            Target::Root => respond::json(StatusCode::OK, &self.identity()),
            Target::Health => self.health(),
            Target::Status => self.status(),
            Target::DefaultManifest => {
                self.manifest(method, headers, &self.channel, self.arch)
                    .await
            }
            Target::Manifest(channel, arch) => self.manifest(method, headers, &channel, arch).await,
            Target::Artifact(target) => self.artifact(method, headers, &target).await,
            Target::Unknown => respond::text(StatusCode::NOT_FOUND, "not found"),
            Target::Refused(reason) => respond::text(StatusCode::BAD_REQUEST, reason),
        }
    }

    async fn manifest(
        &self,
        method: &Method,
        headers: &HeaderMap,
        channel: &Channel,
        arch: Arch,
    ) -> Response<Body> {
        // Boxed: making a manifest needs much room, which every request's task would have.
        match Box::pin(self.catalog.manifest(channel, arch)).await {
            Ok(manifest) => {
                let content = Content {
                    source: Source::Bytes(manifest.bytes),
                    labels: manifest.labels,
                };
                respond::content(method, headers, content)
            }
            Err(refusal) => refused(&refusal),
        }
    }

    async fn artifact(
        &self,
        method: &Method,
        headers: &HeaderMap,
        target: &ArtifactTarget,
    ) -> Response<Body> {
        match self.catalog.artifact(target).await {
            Ok(content) => respond::content(method, headers, content),
            Err(refusal) => refused(&refusal),
        }
    }

    fn identity(&self) -> serde_json::Value {
        json!({
            "name": NAME,
            "version": VERSION,
            "channel": self.channel,
            "arch": self.arch,
            "uptime_seconds": self.started.elapsed().as_secs(),
        })
    }

    fn check(&self) -> health::Health {
        health::check(
            &self.catalog,
            &self.channel,
            self.arch,
            self.trust_root.as_ref(),
        )
    }

    fn health(&self) -> Response<Body> {
        let health = self.check();
        let status = if health.is_good() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        respond::json(status, &health)
    }

    /// Always 200: that there is an answer is the point, what is wrong stands in it.
    fn status(&self) -> Response<Body> {
        let health = self.check();
        let mut status = self.identity();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        status["health"] = json!({
            "status": health.status,
            // Older clients read the checks here, newer ones below.
            "artifacts_readable": health.checks.artifacts_readable,
            "disk_space_ok": health.checks.disk_space_ok,
            "checks": health.checks,
            "artifacts": health.artifacts,
            "problems": health.problems,
            "notes": health.notes,
        });
        status["metrics"] = json!({
            "requests_total": count(&self.requests_total),
            "bytes_served_total": count(&self.counters.body_bytes_total),
            "connections_total": count(&self.counters.connections_total),
            "connections_open": count(&self.counters.connections_open),
            "files_hashed_total": self.catalog.store().hashes().passes_total(),
            "accept_failures_total": count(&self.counters.accept_failures_total),
        });
        status["signing_key_id"] = json!(
            self.catalog
                .signer()
                .map(|signer| signer.key.public().key_id().to_string())
        );
        status["dht"] = json!(DHT);
        status["mdns"] = json!(self.announcement.state());
        respond::json(StatusCode::OK, &status)
    }

    /// Tells init about a request that came at `now`, a few times a second at most.
    fn report(
        &self,
        client: IpAddr,
        now: Instant,
        method: &Method,
        path: &str,
        status: u16,
        bytes: u64,
    ) {
        {
            let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_duration_since(reports.0) >= Duration::from_secs(1) {
                *reports = (now, 0);
            }
            if reports.1 >= REPORTS_PER_SECOND_MAX {
                return;
            }
            reports.1 += 1;
        }
        let (client, line) = (client.to_string(), format!("{method} {path}"));
        let report = Report::Request {
            client,
            line,
            status,
            bytes,
        };
        if let Err(error) = self.init.send(&report) {
            tracing::debug!(%error, "init could not be told about a request");
        }
    }
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let status = match refusal {
        Refusal::NotFound(_) | Refusal::NoArtifacts { .. } | Refusal::NoKernel(_) => {
            StatusCode::NOT_FOUND
        }
        Refusal::NotAFile(..) => StatusCode::FORBIDDEN,
        Refusal::Unreadable(..) | Refusal::Differs { .. } | Refusal::BadManifest(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Refusal::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = respond::text(status, &refusal.to_string());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(
            http::header::RETRY_AFTER,
            http::HeaderValue::from_static("1"),
        );
    }
    response
}
