//! From a request to an answer, out of what is there.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
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
use swarm::peers::Question;
use swarm::{Map, PieceSet, Pieces};

use crate::http::answered::Answered;
use crate::http::body::{Body, Upload};
use crate::http::egress::Egress;
use crate::http::server::{Handler, Scope};
use crate::http::target::{self, ArtifactTarget, Target};
use crate::http::uploads::{Pace, Uploads};
use crate::http::{refuse, respond};
use crate::serve::metrics::{add, get};
use crate::share::held::Held;
use crate::share::limits::{
    MET_PERIOD, UPLOAD_GRACE, UPLOAD_RATE_MIN, UPLOAD_RATE_PART, UPLOADS_MAX,
    UPLOADS_PER_ADDRESS_MAX,
};
use crate::share::linger::Seen;
use crate::share::register::{Register, question};
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
    /// The chunks of all artifacts.
    pieces: Pieces,
    register: Register,
    uploads: Uploads,
    bytes: AtomicU64,
    sent: AtomicU64,
    busy: AtomicU64,
    /// When an upload began or ended.
    moved: Last,
    /// When somebody asked that misses something.
    wanted: Last,
    /// When those whom the download met were put on the list.
    met: Last,
}

/// When something happened last.
#[derive(Default)]
struct Last(Mutex<Option<Instant>>);

impl Last {
    fn is_now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn ago(&self) -> Option<Duration> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| last.elapsed())
    }
}

impl Handler for Desk {
    async fn handle(&self, client: IpAddr, request: Request<Incoming>) -> Response<Body> {
        let mut response = match refuse::expectation(&request) {
            Some(response) => response,
            None => self.answer(client, &request),
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
            self.moved.is_now();
        }
        tracing::debug!(
            client = %answered.client, method = %answered.method, path = answered.path(), status = answered.status,
            bytes = answered.sent, "request of a peer"
        );
    }
}

impl Desk {
    pub(super) fn new(setup: Setup) -> Self {
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
        let (digest, size) = (setup.manifest.digest(), bytes.len() as u64);
        let manifest = respond::Content {
            source: respond::Source::Bytes(bytes),
            labels: Arc::new(labels(digest, size, "application/json", false)),
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
            pieces: Pieces::of(setup.held.iter().map(|held| held.artifact())),
            register: Register::new(),
            uploads: Uploads::new(pace(setup.egress.as_ref())),
            setup,
            bytes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            moved: Last::default(),
            wanted: Last::default(),
            met: Last::default(),
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
        Seen {
            uploads: self.uploads.running(),
            quiet_for: self.moved.ago(),
            wanting_for: self.wanted.ago(),
        }
    }

    fn answer(&self, client: IpAddr, request: &Request<Incoming>) -> Response<Body> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let target = target::parse(uri.path());
        let is_registering = method == Method::POST && target == Target::Peers;
        if method != Method::GET && method != Method::HEAD && !is_registering {
            return refuse::method(method);
        }
        let manifest = &self.setup.manifest;
        match target {
            Target::Have => self.have(uri.query()),
            Target::Peers => {
                let scope = request.extensions().get().copied();
                self.peers((client, scope), method, uri.query())
            }
            Target::DefaultManifest => respond::content(method, headers, self.manifest.clone()),
            Target::Manifest(channel, arch)
                if channel == manifest.channel && arch == manifest.arch =>
            {
                respond::content(method, headers, self.manifest.clone())
            }
            Target::Artifact(target) => self.artifact(client, method, headers, &target),
            Target::Refused(reason) => refuse::text(StatusCode::BAD_REQUEST, reason),
            _ => not_here(),
        }
    }

    /// `GET /have?manifest=sha256:HEX`
    fn have(&self, query: Option<&str>) -> Response<Body> {
        if let Err(response) = self.asked(&Method::GET, query) {
            return *response;
        }
        // Whoever has everything does not look.
        self.wanted.is_now();
        let mut map = Map {
            have: PieceSet::new(self.pieces.count()),
            coming: PieceSet::new(self.pieces.count()),
        };
        for (file, one) in self.artifacts.iter().enumerate() {
            let there = one.held.there();
            let coming = self.setup.company.coming(&one.held.artifact().digest);
            let piece = |chunk| self.pieces.number(file, chunk);
            let there_too = (0..there.len()).filter(|chunk| there[*chunk]);
            for piece in there_too.filter_map(piece) {
                map.have.insert(piece);
            }
            for piece in coming.into_iter().filter_map(piece) {
                if !map.have.contains(piece) {
                    map.coming.insert(piece);
                }
            }
        }
        let digest = self.setup.manifest.digest();
        let map = swarm::have::write(&digest, &self.pieces, &map);
        respond::page("application/json", format!("{map}\n"))
    }

    /// `GET /peers?manifest=sha256:HEX`, and `POST` of the same with `&port=N` from one that is to be on the list.
    fn peers(
        &self,
        (client, scope): (IpAddr, Option<Scope>),
        method: &Method,
        query: Option<&str>,
    ) -> Response<Body> {
        let question = match self.asked(method, query) {
            Ok(question) => question,
            Err(response) => return *response,
        };
        if self.met.ago().is_none_or(|ago| ago >= MET_PERIOD) {
            self.met.is_now();
            for (peer, is_complete) in self.setup.company.known() {
                // A full list has enough of them.
                let _ = self.register.enter(&question.manifest, peer, is_complete);
            }
        }
        let asked = self.register.ask(client, &question);
        if let Some(peer) = asked.registered {
            self.setup.company.found(by(peer, scope));
            if !question.complete {
                self.wanted.is_now();
            }
        }
        respond::page("application/json", format!("{}\n", asked.answer.to_json()))
    }

    /// What is asked about this image; without a query it is about this one.
    fn asked(&self, method: &Method, query: Option<&str>) -> Result<Question, Box<Response<Body>>> {
        let digest = self.setup.manifest.digest();
        let own = format!("manifest={digest}");
        let query = query.filter(|query| !query.is_empty()).unwrap_or(&own);
        let question = question(method, query)
            .map_err(|problem| Box::new(refuse::text(StatusCode::BAD_REQUEST, &problem)))?;
        if question.manifest != digest {
            return Err(Box::new(not_here()));
        }
        Ok(question)
    }

    fn artifact(
        &self,
        client: IpAddr,
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
        let right = is_get.then(|| self.uploads.take(client)).flatten();
        if is_get && right.is_none() {
            return self.come_again("others are sent something just now");
        }
        let right = right.map(Arc::new);
        let there = held.there();
        let (misses, size) = (Cell::new(false), Cell::new(0));
        let response = respond::answer(method, headers, labels, &|start, end| {
            if has(held.artifact(), &there, start..end) {
                // Of several ranges, each is sent after those before it.
                size.set(size.get() + (end - start));
                let upload = Upload {
                    file: Arc::clone(held.file()),
                    until: self.uploads.until(size.get()),
                    _right: right.clone(),
                };
                return Body::upload(upload, start, end);
            }
            misses.set(true);
            Body::Empty
        });
        if misses.get() {
            return self.come_again("not there yet");
        }
        self.moved.is_now();
        response
    }

    /// Nothing is wrong, and it is not now.
    fn come_again(&self, why: &str) -> Response<Body> {
        add(&self.busy, 1);
        let mut response = refuse::text(StatusCode::SERVICE_UNAVAILABLE, why);
        let fields = response.headers_mut();
        fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }
}

/// An address with the interface by which it is reached, when it needs one.
fn by(address: SocketAddr, scope: Option<Scope>) -> SocketAddr {
    match (address, scope) {
        (SocketAddr::V6(mut address), Some(Scope(scope))) => {
            address.set_scope_id(scope);
            address.into()
        }
        (address, _) => address,
    }
}

/// How much is sent at once, when there may be a rate for all of it.
fn pace(egress: Option<&Egress>) -> Pace {
    let part = |egress: &Egress| NonZeroU64::new(egress.rate().get() / UPLOAD_RATE_PART);
    let part = egress.map(|egress| part(egress).unwrap_or(NonZeroU64::MIN));
    Pace {
        uploads_max: UPLOADS_MAX,
        per_address_max: UPLOADS_PER_ADDRESS_MAX,
        rate_min: part.unwrap_or(UPLOAD_RATE_MIN).min(UPLOAD_RATE_MIN),
        grace: UPLOAD_GRACE,
    }
}

/// Whether every chunk that `range` touches is there.
fn has(artifact: &Artifact, there: &[bool], range: Range<u64>) -> bool {
    let chunk_size = artifact.chunks.chunk_size();
    let chunk = |at: u64| usize::try_from(at / chunk_size).unwrap_or(usize::MAX);
    let chunks = chunk(range.start)..=chunk(range.end.saturating_sub(1));
    let there = there.get(chunks);
    there.is_some_and(|there| there.iter().all(|there| *there))
}

fn not_here() -> Response<Body> {
    let line = "only the image that is fetched here is shared: /manifest.json names its files";
    refuse::text(StatusCode::NOT_FOUND, line)
}

fn time(timestamp: Timestamp) -> SystemTime {
    let seconds = u64::try_from(timestamp.unix()).unwrap_or(0);
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_on_one_link_is_reached_by_the_interface_it_came_by() {
        for (address, scope, expected) in [
            ("[fe80::5]:80", Some(Scope(3)), "[fe80::5%3]:80"),
            ("[fd00::5]:80", None, "[fd00::5]:80"),
            ("10.0.0.5:80", None, "10.0.0.5:80"),
        ] {
            let found = by(address.parse().unwrap(), scope);
            assert_eq!(found.to_string(), expected);
            assert_eq!(Scope::of(found), scope);
        }
    }
}
