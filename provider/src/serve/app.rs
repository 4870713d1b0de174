//! From a request to an answer. Decides nothing about content: that is [`catalog`](crate::serve::catalog).

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use boot_manifest::handoff::Report;
use boot_manifest::{Arch, Channel, TrustRoot};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::config::InForce;
use crate::http::answered::Answered;
use crate::http::body::Body;
use crate::http::refuse;
use crate::http::respond::{self, Content};
use crate::http::server::Handler;
use crate::http::target::{self, ArtifactTarget, Target};
use crate::init_link::InitLink;
use crate::serve::announce::Announcement;
use crate::serve::catalog::Catalog;
use crate::serve::health;
use crate::serve::limits::REPORTS_PER_SECOND_MAX;
use crate::serve::metrics::text::{self, Beside};
use crate::serve::metrics::{Metrics, Reason, add, get, process};
use crate::serve::notify::Notifier;
use crate::serve::process::Process;
use crate::serve::refusal::Refusal;
use crate::serve::reload::Reloads;
use crate::serve::tls::Certificates;

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
    /// The configuration.
    pub(crate) in_force: InForce,
    /// Whose manifests are believed, for `/health`.
    pub(crate) trust_root: Option<TrustRoot>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// When serving began.
    pub(crate) started: Instant,
    /// The same by the clock of the machine.
    pub(crate) started_at: SystemTime,
    /// Whether the local network is told.
    pub(crate) announcement: Arc<Announcement>,
    /// The certificate, when HTTPS is served.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// What can be read again.
    pub(crate) reloads: Arc<Reloads>,
    /// The service manager.
    pub(crate) notifier: Arc<Notifier>,
    /// What this process is to the machine.
    pub(crate) process: Process,
    /// Where init listens, on the appliance.
    pub(crate) init: Arc<InitLink>,
    /// The second being counted and the reports sent in it.
    pub(crate) reports: Mutex<(Instant, u32)>,
}

impl Handler for App {
    async fn handle(&self, _client: IpAddr, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method(), request.uri().path());
        let mut response = match refuse::expectation(&request) {
            Some(response) => {
                self.metrics.refused(Reason::Expectation);
                response
            }
            None => self.answer(method, path, request.headers()).await,
        };
        refuse::close_unread(&request, &mut response);
        refuse::suit(request.headers(), &mut response);
        response
    }

    fn at_hand(&self, path: &str) -> Option<Content> {
        self.catalog.at_hand(path)
    }

    fn answered(&self, answered: &Answered<'_>) {
        let Answered {
            client,
            method,
            status,
            sent,
            ..
        } = *answered;
        let path = answered.path();
        self.metrics.answered(method, status, answered.took);
        add(
            &self.metrics.fast_answers_total,
            u64::from(answered.is_fast),
        );
        self.metrics
            .artifacts
            .answered(path, status, sent, answered.is_whole());
        tracing::debug!(
            client = %client, method = %method, path, status, bytes = sent,
            micros = answered.took.as_micros() as u64, agent = shown(answered.agent), referer = shown(answered.referer),
            id = answered.request_id.map(|id| id.0.as_str()), fast = answered.is_fast, "request"
        );
        self.report(client, Instant::now(), method, path, status, sent);
    }
}

impl App {
    async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            let response = refuse::method(method);
            if !response.status().is_success() {
                self.metrics.refused(Reason::Method);
            }
            return response;
        }
        if let Some(content) = self.catalog.at_hand(path) {
            return self.content(method, headers, content);
        }
        match target::parse(path) {
            Target::Root => respond::json(StatusCode::OK, &self.identity()),
            Target::Health => self.health(),
            Target::Status => self.status(),
            Target::Metrics => self.show_metrics(),
            Target::DefaultManifest => {
                let folder = (&self.channel, self.arch);
                self.manifest(method, headers, path, folder).await
            }
            Target::Manifest(channel, arch) => {
                self.manifest(method, headers, path, (&channel, arch)).await
            }
            Target::Artifact(target) => self.artifact(method, headers, path, &target).await,
            Target::Unknown => {
                self.metrics.refused(Reason::NotFound);
                refuse::text(
                    StatusCode::NOT_FOUND,
                    "nothing is served under this path: /manifest.json names what is",
                )
            }
            Target::Refused(reason) => {
                self.metrics.refused(Reason::BadTarget);
                refuse::text(StatusCode::BAD_REQUEST, reason)
            }
        }
    }

    async fn manifest(
        &self,
        method: &Method,
        headers: &HeaderMap,
        path: &str,
        (channel, arch): (&Channel, Arch),
    ) -> Response<Body> {
        // Boxed: making a manifest needs much room, which every request's task would have.
        match Box::pin(self.catalog.manifest_answer(channel, arch, path)).await {
            Ok(content) => self.content(method, headers, content),
            Err(refusal) => self.refused(&refusal),
        }
    }

    async fn artifact(
        &self,
        method: &Method,
        headers: &HeaderMap,
        path: &str,
        target: &ArtifactTarget,
    ) -> Response<Body> {
        match self.catalog.artifact(target, Some(path)).await {
            Ok(content) => self.content(method, headers, content),
            Err(refusal) => self.refused(&refusal),
        }
    }

    fn content(&self, method: &Method, headers: &HeaderMap, content: Content) -> Response<Body> {
        let response = respond::content(method, headers, content);
        match response.status() {
            StatusCode::PRECONDITION_FAILED => self.metrics.refused(Reason::Precondition),
            StatusCode::RANGE_NOT_SATISFIABLE => self.metrics.refused(Reason::Range),
            _ => {}
        }
        response
    }

    fn refused(&self, refusal: &Refusal) -> Response<Body> {
        self.metrics.refused(refusal.reason());
        refused(refusal)
    }

    /// Cheap enough to be asked every second: files are looked at, never read.
    fn show_metrics(&self) -> Response<Body> {
        let health = self.check();
        let beside = Beside {
            version: VERSION,
            started: self.started_at,
            hashing_passes_total: self.catalog.store().hashes().passes_total(),
            checks: health.checks.named().to_vec(),
            manifest_expires: health.manifest_expires,
            process: process::look(),
        };
        respond::page(text::MEDIA_TYPE, text::page(&self.metrics, &beside))
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
            // This request is answered when it is read.
            "requests_total": self.metrics.requests_total() + 1,
            "bytes_served_total": get(&self.metrics.body_bytes_total),
            "connections_total": get(&self.metrics.connections_total),
            "connections_open": get(&self.metrics.connections_open),
            "files_hashed_total": self.catalog.store().hashes().passes_total(),
            "accept_failures_total": get(&self.metrics.accept_failures_total),
        });
        status["signing_key_id"] = json!(
            self.catalog
                .signer()
                .map(|signer| signer.key.public().key_id().to_string())
        );
        status["process"] = self.process.facts();
        status["tls"] = json!(self.certificates.as_ref().map(|own| own.shown()));
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
    let mut response = refuse::text(status, &refusal.to_string());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(
            http::header::RETRY_AFTER,
            http::HeaderValue::from_static("1"),
        );
    }
    response
}

/// A field of a request as text.
fn shown(field: Option<&[u8]>) -> Option<String> {
    field.map(|field| field.escape_ascii().to_string())
}
