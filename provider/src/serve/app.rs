//! From a request to an answer. Decides nothing about content: that is [`catalog`](crate::serve::catalog); what it says about
//! itself is in [`status`](crate::serve::status).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use boot_manifest::handoff::Report;
use boot_manifest::{Arch, Channel};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use crate::config::InForce;
use crate::dht::membership::Membership;
use crate::exit::CommandError;
use crate::http::answered::Answered;
use crate::http::body::Body;
use crate::http::egress::Egress;
use crate::http::refuse;
use crate::http::respond::{self, Content, Source};
use crate::http::server::Handler;
use crate::http::target::{self, ArtifactTarget, Target};
use crate::init_link::InitLink;
use crate::listen::files::Files;
use crate::listen::shared::Shared;
use crate::listen::tftp::{self, Teller, Tftp, Told, telling};
use crate::machines::Machines;
use crate::memory::Reserve;
use crate::serve::access_log::AccessLog;
use crate::serve::announce::Announcement;
use crate::serve::catalog::Catalog;
use crate::serve::clients::Clients;
use crate::serve::freshness::FreshnessKeys;
use crate::serve::limits::REPORTS_PER_SECOND_MAX;
use crate::serve::metrics::{Metrics, Reason, add};
use crate::serve::notify::Notifier;
use crate::serve::process::Process;
use crate::serve::refusal::Refusal;
use crate::serve::reload::Reloads;
use crate::serve::request_id::{self, RequestIds};
use crate::serve::swarm_routes::Swarm;
use crate::serve::tls::Certificates;
use crate::serve::trusted::Trusted;
use crate::serve::upgrade_routes::{self, Upgrades};
use crate::serve::watchdog::Question;

/// The provider, as requests see it.
pub(crate) struct App {
    /// What is served.
    pub(crate) catalog: Arc<Catalog>,
    /// The same by the names of firmware.
    pub(crate) files: Arc<Files>,
    /// How machines are booted.
    pub(crate) boot: Arc<Shared>,
    /// The channel of `/manifest.json`.
    pub(crate) channel: Channel,
    /// The architecture of `/manifest.json`.
    pub(crate) arch: Arch,
    /// The configuration.
    pub(crate) in_force: Arc<Mutex<InForce>>,
    /// Whose manifests are believed, for `/health`.
    pub(crate) trusted: Arc<Trusted>,
    /// Who says which manifest is the newest.
    pub(crate) freshness: Arc<FreshnessKeys>,
    /// Who else fetches what is served here.
    pub(crate) swarm: Swarm,
    /// What this machine does about its own image, and whose turn it is to restart.
    pub(crate) upgrades: Upgrades,
    /// The rate of artifacts.
    pub(crate) egress: Option<Egress>,
    /// When there is too little memory to send artifacts.
    pub(crate) memory: Reserve,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Who fetched what.
    pub(crate) clients: Clients,
    /// The machines that boot from here.
    pub(crate) machines: Arc<Machines>,
    /// Where each answer is logged.
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// Makes ids for requests.
    pub(crate) request_ids: RequestIds,
    /// Whether `/status` names clients to this machine only.
    pub(crate) hide_clients: bool,
    /// Files of the default folder that could not be hashed, and why.
    pub(crate) unhashable: Mutex<Vec<String>>,
    /// When serving began.
    pub(crate) started: Instant,
    /// The same by the clock of the machine.
    pub(crate) started_at: SystemTime,
    /// Whether the local network is told.
    pub(crate) announcement: Arc<Announcement>,
    /// Whether other networks are told.
    pub(crate) dht: Arc<Membership>,
    /// The certificate, when HTTPS is served.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// What can be read again.
    pub(crate) reloads: Arc<Reloads>,
    /// What this process asks itself.
    pub(crate) question: Question,
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
    async fn handle(&self, client: IpAddr, mut request: Request<Incoming>) -> Response<Body> {
        let mut response = match refuse::expectation(&request) {
            Some(response) => self.refuse(Reason::Expectation, response),
            // The only request whose body is read. Boxed: it needs room, which every request's task would have.
            None if upgrade_routes::is_order(&request) => {
                Box::pin(self.order(client, request.body_mut())).await
            }
            None => {
                self.answer(client, request.method(), request.uri(), request.headers())
                    .await
            }
        };
        let refused = response.extensions().get::<Reason>().copied();
        refuse::close_unread(&request, &mut response);
        let asked = request_id::of(request.headers());
        self.request_ids.put(asked, refused, &mut response);
        // Names the id.
        refuse::suit(request.headers(), &mut response);
        response
    }

    fn at_hand(&self, path: &str) -> Option<Content> {
        let content = self.catalog.at_hand(path)?;
        // Whoever is refused hears why.
        (!content.labels.is_artifact || !self.memory.is_low()).then_some(content)
    }

    fn egress(&self) -> Option<&Egress> {
        self.egress.as_ref()
    }

    fn answered(&self, answered: &Answered<'_>) {
        let Answered {
            client,
            method,
            status,
            sent,
            ..
        } = *answered;
        // It shows that this process lives, and nothing about clients.
        if self.question.is_asked_by(answered.agent) {
            return;
        }
        let path = answered.path();
        self.metrics.answered(method, status, answered.took);
        add(
            &self.metrics.fast_answers_total,
            u64::from(answered.is_fast),
        );
        let is_whole = answered.is_whole() && *method == Method::GET;
        self.metrics
            .artifacts
            .answered(path, status, sent, is_whole);
        tracing::debug!(
            client = %client, method = %method, path, status, bytes = sent,
            micros = answered.took.as_micros() as u64, agent = shown(answered.agent), referer = shown(answered.referer),
            id = answered.request_id.map(|id| id.id.as_str()), fast = answered.is_fast, "request"
        );
        let now = SystemTime::now();
        self.clients.answered(answered, now);
        self.machines.answered(answered, now);
        if let Some(log) = &self.access_log {
            match answered.request_id {
                Some(id) => log.answered(answered, &id.id),
                None => log.answered(answered, &self.request_ids.make()),
            }
        }
        let line = format!("{method} {path}");
        self.report(client, Instant::now(), line, status, sent);
    }
}

impl App {
    async fn answer(
        &self,
        client: IpAddr,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let path = uri.path();
        if method == Method::POST && target::parse(path) == Target::Report {
            return self.boot_report(client, uri.query());
        }
        if method == Method::POST && target::parse(path) == Target::Peers {
            return self.peers(client, method, uri.query()).await;
        }
        if method == Method::POST && target::parse(path) == Target::Turn {
            return self.turn(client, uri.query());
        }
        if method != Method::GET && method != Method::HEAD {
            let response = refuse::method(method);
            if response.status().is_success() {
                return response;
            }
            return self.refuse(Reason::Method, response);
        }
        if let Some(content) = self.catalog.at_hand(path) {
            return self.content(method, headers, content);
        }
        match target::parse(path) {
            Target::Root => self.page(headers, respond::json(StatusCode::OK, &self.identity())),
            Target::Health => self.page(headers, self.health()),
            Target::Status => self.page(headers, self.status(client)),
            Target::Metrics => self.page(headers, self.show_metrics()),
            Target::Clients => self.page(headers, self.clients_page(client, headers)),
            Target::BootScript => {
                let script = self.boot_script(client, uri.query(), headers).await;
                self.page(headers, script)
            }
            Target::Report => self.is_posted("machines report here how far they got"),
            Target::Orders => self.is_posted("signed orders are sent here"),
            Target::Turn => self.is_posted("machines that want to restart ask here"),
            Target::Upgrade => self.page(headers, self.upgrade_page(headers)),
            Target::Have => {
                let map = self.have(uri.query()).await;
                self.page(headers, map)
            }
            Target::Freshness => {
                let statement = self.freshness(uri.query()).await;
                self.page(headers, statement)
            }
            Target::Peers => {
                let peers = self.peers(client, method, uri.query()).await;
                self.page(headers, peers)
            }
            Target::DefaultManifest => {
                let folder = (&self.channel, self.arch);
                self.manifest(method, headers, path, folder).await
            }
            Target::DefaultRoots => match artifact_store::ROOTS_FILE.parse() {
                Ok(name) => {
                    let target = ArtifactTarget {
                        channel: self.channel.clone(),
                        arch: self.arch,
                        spelling: self.arch.to_string(),
                        name,
                    };
                    self.artifact(method, headers, path, &target).await
                }
                Err(_) => self.nothing_here(),
            },
            Target::Manifest(channel, arch) => {
                self.manifest(method, headers, path, (&channel, arch)).await
            }
            Target::Artifact(target) => self.artifact(method, headers, path, &target).await,
            Target::Unknown => self.nothing_here(),
            Target::Refused(reason) => {
                let answer = refuse::text(StatusCode::BAD_REQUEST, reason);
                self.refuse(Reason::BadTarget, answer)
            }
        }
    }

    fn nothing_here(&self) -> Response<Body> {
        let text = "nothing is served under this path: /manifest.json names what is";
        let answer = refuse::text(StatusCode::NOT_FOUND, text);
        self.refuse(Reason::NotFound, answer)
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
            Ok(content) => {
                if let Source::Bytes(bytes) = &content.source {
                    self.swarm.serves(content.labels.digest, bytes);
                }
                self.content(method, headers, content)
            }
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
        match self.files.content(target, Some(path)).await {
            Ok(content) => self.content(method, headers, content),
            // Init serves what is ready and puts the rest together: whoever asks meanwhile shall ask again.
            Err(Refusal::NotFound(name))
                if self.upgrades.is_appliance() && self.catalog.promises(target) =>
            {
                self.refused(&Refusal::NotYet(name))
            }
            Err(refusal) => self.refused(&refusal),
        }
    }

    fn content(&self, method: &Method, headers: &HeaderMap, content: Content) -> Response<Body> {
        let is_artifact = content.labels.is_artifact;
        if is_artifact && *method == Method::GET && self.memory.is_low() {
            return self.refused(&Refusal::TooLittleMemory);
        }
        let is_paced = is_artifact && self.egress.is_some();
        let response = self.counted(respond::content(method, headers, content));
        response.map(|body| match body {
            // What hyper does not send goes by the rate.
            Body::Bytes(_) if is_paced => Body::Several(vec![body]),
            body => body,
        })
    }

    /// A page about the provider itself.
    fn page(&self, headers: &HeaderMap, page: Response<Body>) -> Response<Body> {
        self.counted(respond::made_anew(headers, page))
    }

    fn counted(&self, response: Response<Body>) -> Response<Body> {
        match response.status() {
            StatusCode::PRECONDITION_FAILED => self.refuse(Reason::Precondition, response),
            StatusCode::RANGE_NOT_SATISFIABLE => self.refuse(Reason::Range, response),
            _ => response,
        }
    }

    /// Serves boot files over TFTP, where that is wanted and can be had.
    pub(crate) fn serve_tftp(
        self: &Arc<Self>,
        (ports, note): (Option<tftp::Ports>, Option<String>),
    ) -> Result<Option<Tftp>, CommandError> {
        if let Some(note) = note {
            tracing::warn!("{note}");
        }
        let Some(ports) = ports else {
            return Ok(None);
        };
        for address in ports.addresses() {
            tracing::info!(%address, "boot files over TFTP");
        }
        let app = Arc::clone(self);
        let teller: Teller = Arc::new(move |peer, told| app.told_by_tftp(peer, told));
        let files = Arc::clone(&self.files);
        Tftp::start(ports, files, teller, tokio::runtime::Handle::current())
            .map(Some)
            .map_err(|error| CommandError::local(format!("cannot start TFTP: {error}")))
    }

    fn told_by_tftp(&self, peer: SocketAddr, told: &Told) {
        telling::count_and_log(&self.metrics, &self.boot.lines, peer, told);
        if let Some(event) = telling::event(told) {
            self.machines.note_address(peer.ip(), event);
        }
        if let Told::Sent { name, bytes, .. } = told {
            let line = format!("TFTP {name}");
            self.report(peer.ip(), Instant::now(), line, 200, *bytes);
        }
    }

    /// Counts a refusal, and leaves its reason in the answer for the logs.
    pub(super) fn refuse(&self, reason: Reason, mut answer: Response<Body>) -> Response<Body> {
        self.metrics.refused(reason);
        answer.extensions_mut().insert(reason);
        answer
    }

    pub(super) fn refused(&self, refusal: &Refusal) -> Response<Body> {
        self.refuse(refusal.reason(), refused(refusal))
    }

    /// Tells init about a request that came at `now`, a few times a second at most.
    fn report(&self, client: IpAddr, now: Instant, line: String, status: u16, bytes: u64) {
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
        let client = client.to_string();
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
        Refusal::NotFound(_)
        | Refusal::UnknownManifest(_)
        | Refusal::NoArtifacts { .. }
        | Refusal::NoKernel(_) => StatusCode::NOT_FOUND,
        Refusal::NotAFile(..) => StatusCode::FORBIDDEN,
        Refusal::Unreadable(..) | Refusal::Differs { .. } | Refusal::BadManifest(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Refusal::Busy(_) | Refusal::NotYet(_) | Refusal::TooLittleMemory => {
            StatusCode::SERVICE_UNAVAILABLE
        }
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
