//! From a request to an answer, out of what is there.

use std::cell::Cell;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use boot_manifest::{Artifact, Timestamp};
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_semantics::labels::{Facts, Labels};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::http::answered::Answered;
use crate::http::body::{Body, Upload};
use crate::http::egress::Egress;
use crate::http::server::Handler;
use crate::http::target::{self, ArtifactTarget, Target};
use crate::http::{refuse, respond};
use crate::serve::metrics::{Metrics, add, get};
use crate::share::held::Held;
use crate::share::limits::UPLOADS_MAX;
use crate::share::linger::Seen;
use crate::share::{Setup, Shared};

/// One artifact and what is said about it.
struct Piecemeal {
    held: Arc<dyn Held>,
    labels: Labels,
}

/// What answers.
pub(super) struct Desk {
    setup: Setup,
    manifest: respond::Content,
    artifacts: Vec<Piecemeal>,
    uploads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    bytes: AtomicU64,
    sent: AtomicU64,
    busy: AtomicU64,
    /// When an upload began or ended last.
    last: Mutex<Option<Instant>>,
}

impl Desk {
    pub(super) fn new(setup: Setup, metrics: Arc<Metrics>) -> Self {
        // The same everywhere, so that no answer shows who fetched when.
        let modified = respond::past(time(setup.manifest.created_at));
        let labels = |digest, size, media_type, is_artifact| {
            Labels::new(Facts {
                digest,
                size,
                modified,
                media_type,
                is_artifact,
            })
        };
        let bytes = Bytes::copy_from_slice(setup.manifest.bytes());
        let size = bytes.len() as u64;
        let manifest = respond::Content {
            source: respond::Source::Bytes(bytes),
            labels: Arc::new(labels(
                setup.manifest.digest(),
                size,
                "application/json",
                false,
            )),
        };
        let artifacts = setup.held.iter().map(|held| {
            let artifact = held.artifact();
            let media_type = respond::media_type(artifact.filename.as_str());
            Piecemeal {
                labels: labels(artifact.digest, artifact.size, media_type, true),
                held: Arc::clone(held),
            }
        });
        Self {
            artifacts: artifacts.collect(),
            manifest,
            setup,
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            metrics,
            bytes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    pub(super) fn shared(&self) -> Shared {
        Shared {
            bytes: get(&self.bytes),
            uploads: get(&self.sent),
            busy: get(&self.busy),
        }
    }

    /// What is seen of the others.
    pub(super) fn seen(&self) -> Seen {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Seen {
            uploads: UPLOADS_MAX - self.uploads.available_permits(),
            quiet_for: last.map(|last| last.elapsed()),
            wanting_for: None,
        }
    }
}

impl Handler for Desk {
    async fn handle(&self, _client: IpAddr, request: Request<Incoming>) -> Response<Body> {
        let mut response = match refuse::expectation(&request) {
            Some(response) => response,
            None => self.answer(request.method(), request.uri().path(), request.headers()),
        };
        refuse::close_unread(&request, &mut response);
        refuse::suit(request.headers(), &mut response);
        response
    }

    fn egress(&self) -> Option<&Egress> {
        self.setup.egress.as_ref()
    }

    fn answered(&self, answered: &Answered<'_>) {
        let is_artifact = matches!(target::parse(answered.path()), Target::Artifact(_));
        if is_artifact && *answered.method == Method::GET && answered.status < 300 {
            add(&self.bytes, answered.sent);
            add(&self.sent, 1);
            self.is_busy_now();
        }
        tracing::debug!(
            client = %answered.client, method = %answered.method, path = answered.path(), status = answered.status,
            bytes = answered.sent, "request of a peer"
        );
    }
}

impl Desk {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            return refuse::method(method);
        }
        let manifest = &self.setup.manifest;
        match target::parse(path) {
            Target::DefaultManifest => respond::content(method, headers, self.manifest.clone()),
            Target::Manifest(channel, arch)
                if channel == manifest.channel && arch == manifest.arch =>
            {
                respond::content(method, headers, self.manifest.clone())
            }
            Target::Artifact(target) => self.artifact(method, headers, &target),
            Target::Refused(reason) => refuse::text(StatusCode::BAD_REQUEST, reason),
            _ => not_here(),
        }
    }

    fn artifact(
        &self,
        method: &Method,
        headers: &HeaderMap,
        target: &ArtifactTarget,
    ) -> Response<Body> {
        let manifest = &self.setup.manifest;
        let is_of_image = target.channel == manifest.channel && target.arch == manifest.arch;
        let found = self
            .artifacts
            .iter()
            .find(|one| is_of_image && one.held.artifact().filename == target.name);
        let Some(Piecemeal { held, labels }) = found else {
            return not_here();
        };
        let is_get = method == Method::GET;
        if is_get && self.setup.memory.is_low() {
            return self.come_again("there is too little memory just now");
        }
        let right = Arc::clone(&self.uploads).try_acquire_owned().ok();
        if is_get && right.is_none() {
            return self.come_again("others are sent something just now");
        }
        let upload = Upload {
            file: Arc::clone(held.file()),
            _right: right.map(Arc::new),
        };
        let there = held.there();
        let misses = Cell::new(false);
        let response = respond::answer(method, headers, labels, &|start, end| {
            if has(held.artifact(), &there, start..end) {
                return Body::upload(upload.clone(), start, end);
            }
            misses.set(true);
            Body::Empty
        });
        if misses.get() {
            return self.come_again("not there yet");
        }
        self.is_busy_now();
        response
    }

    /// Nothing is wrong, and it is not now.
    fn come_again(&self, why: &str) -> Response<Body> {
        add(&self.busy, 1);
        let mut response = refuse::text(StatusCode::SERVICE_UNAVAILABLE, why);
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }

    fn is_busy_now(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// Whether every chunk that `range` touches is there.
fn has(artifact: &Artifact, there: &[bool], range: Range<u64>) -> bool {
    let chunk_size = artifact.chunks.chunk_size();
    let chunk = |at: u64| usize::try_from(at / chunk_size).unwrap_or(usize::MAX);
    let chunks = chunk(range.start)..=chunk(range.end.saturating_sub(1));
    there
        .get(chunks)
        .is_some_and(|there| there.iter().all(|there| *there))
}

fn not_here() -> Response<Body> {
    let line = "only the image that is fetched here is shared: /manifest.json names its files";
    refuse::text(StatusCode::NOT_FOUND, line)
}

fn time(timestamp: Timestamp) -> SystemTime {
    let seconds = u64::try_from(timestamp.unix()).unwrap_or(0);
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
