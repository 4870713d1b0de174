//! Giving addresses, when this is the DHCP server of the LAN.
//!
//! ```text
//! DISCOVER ─▶ an address is chosen ─▶ nobody uses it? ─▶ OFFER
//! REQUEST  ─▶ the table decides ─▶ it is on the disk ─▶ ACK
//! ```
//! What takes time runs beside and comes back from [`Addresses::next`]. Where another DHCP server is heard, no address is
//! offered for a while: two of them would give the same address twice.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pxe::Mac;
use pxe::client::Client;
use pxe::dhcp::{Kind, Reply, Request, options};
use pxe::leases::{self, Leases, Verdict};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::listen::conflict::{self, Use};
use crate::listen::desk::Place;
use crate::listen::keep::LeaseFile;
use crate::listen::limits::{CHECKS_MAX, CHECKS_PER_CLIENT_MAX, RIVAL_MEMORY, WARN_AGAIN};
use crate::listen::metrics::{BootMetrics, Fate};
use crate::listen::rival;
use crate::serve::metrics::add;

/// A question about an address.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) place: Place,
    /// Who asks, if it boots over the network.
    pub(super) client: Option<Client>,
}

/// What became of one.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is answered, with this address if it is given one.
    Answer(Box<Asked>, Option<Grant>),
    /// The client must begin again.
    Refused(Box<Asked>),
    /// It is not answered.
    Silence(Fate),
    /// It is being worked on.
    Later,
}

/// What clients are told besides their address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) dns: Vec<Ipv4Addr>,
}

/// An address for a client, with what it needs to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    address: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
}

/// Options that every answer begins with: its kind, and the server.
const FIRST_OPTIONS: usize = 2;

impl Grant {
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Puts it into an answer, before what the client can do without.
    pub(super) fn fill(self, reply: &mut Reply) {
        reply.yiaddr = self.address;
        let at = reply.options.len().min(FIRST_OPTIONS);
        reply.options.splice(at..at, self.options);
    }
}

/// An address that is looked at before it is offered.
struct Checking {
    asked: Box<Asked>,
    grant: leases::Grant,
    tries: u32,
}

/// The addresses of this server.
pub(super) struct Addresses {
    leases: Leases,
    told: Told,
    /// Without one, leases live as long as the process, and the conflict check stands in for them afterwards.
    file: Option<LeaseFile>,
    metrics: Arc<BootMetrics>,
    checks: JoinSet<(Mac, io::Result<Use>)>,
    checking: BTreeMap<Mac, Checking>,
    /// Given, and not yet on the disk.
    unwritten: Vec<(Box<Asked>, Grant)>,
    writing: Option<JoinHandle<io::Result<()>>>,
    being_written: Vec<(Box<Asked>, Grant)>,
    is_changed: bool,
    ready: VecDeque<Outcome>,
    /// Other servers, by interface.
    rivals: BTreeMap<u32, (Ipv4Addr, Instant)>,
    warned_at: Option<Instant>,
}

impl Addresses {
    pub(super) fn new(
        leases: Leases,
        told: Told,
        file: Option<LeaseFile>,
        metrics: Arc<BootMetrics>,
    ) -> Self {
        let addresses = Self {
            leases,
            told,
            file,
            metrics,
            checks: JoinSet::new(),
            checking: BTreeMap::new(),
            unwritten: Vec::new(),
            writing: None,
            being_written: Vec::new(),
            is_changed: false,
            ready: VecDeque::new(),
            rivals: BTreeMap::new(),
            warned_at: None,
        };
        addresses.count();
        addresses
    }

    /// Decides about a message of a client.
    pub(super) fn asked(&mut self, asked: Asked) -> Outcome {
        let (mac, kind) = (asked.request.mac, asked.request.kind);
        if !mac.is_machine() {
            return Outcome::Silence(Fate::Malformed);
        }
        let asked = Box::new(asked);
        match kind {
            Kind::Discover if !self.gives(&asked.place) => Outcome::Answer(asked, None),
            Kind::Discover => self.discover(asked, 0),
            Kind::Request => self.request(asked),
            Kind::Decline => {
                if let Some(address) = asked.request.requested
                    && self.leases.avoid(address, Some(mac), since_epoch())
                {
                    tracing::warn!(%mac, %address, "a client found the address in use that it was given");
                    add(&self.metrics.conflicts_total, 1);
                    self.changed();
                }
                Outcome::Silence(Fate::NotBooting)
            }
            Kind::Release => {
                if self
                    .leases
                    .release(mac, asked.request.ciaddr, since_epoch())
                {
                    self.changed();
                }
                Outcome::Silence(Fate::NotBooting)
            }
            Kind::Inform | Kind::Offer | Kind::Ack | Kind::Nak => Outcome::Answer(asked, None),
        }
    }

    /// Whether addresses are offered there: there is a pool, and no other server.
    fn gives(&self, place: &Place) -> bool {
        let has_rival = self
            .rivals
            .get(&place.index)
            .is_some_and(|(_, heard_at)| heard_at.elapsed() < RIVAL_MEMORY);
        !has_rival && self.leases.serves(place.subnet)
    }

    fn discover(&mut self, asked: Box<Asked>, tries: u32) -> Outcome {
        let mac = asked.request.mac;
        if let Some(checking) = self.checking.get_mut(&mac) {
            // It asks again while its address is looked at: the newest question is answered.
            checking.asked = asked;
            return Outcome::Later;
        }
        let place = &asked.place;
        let grant = self
            .leases
            .offer(&asked.request, place.subnet, &place.own, since_epoch());
        let Some(grant) = grant else {
            self.warn_of_emptiness(place);
            return Outcome::Silence(Fate::NoAddress);
        };
        if grant.is_known || self.checks.len() >= CHECKS_MAX {
            let grant = self.grant(grant);
            return Outcome::Answer(asked, Some(grant));
        }
        let neighbour = (!asked.request.is_relayed()).then_some(place.index);
        let address = grant.address;
        self.checks
            .spawn(async move { (mac, conflict::look_for_user(address, mac, neighbour).await) });
        let checking = Checking {
            asked,
            grant,
            tries,
        };
        self.checking.insert(mac, checking);
        Outcome::Later
    }

    fn checked(&mut self, done: Result<(Mac, io::Result<Use>), JoinError>) -> Outcome {
        let (mac, used) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "a conflict check ended");
                return Outcome::Later;
            }
        };
        let Some(Checking {
            asked,
            grant,
            tries,
        }) = self.checking.remove(&mac)
        else {
            return Outcome::Later;
        };
        let used = used.unwrap_or_else(|error| {
            // The client looks as well before it uses an address.
            tracing::debug!(%mac, %error, "an address could not be looked at");
            Use::Free
        });
        match used {
            Use::Free => {
                let grant = self.grant(grant);
                return Outcome::Answer(asked, Some(grant));
            }
            Use::Used => {
                tracing::warn!(
                    address = %grant.address, interface = asked.place.interface,
                    "somebody uses an address of --dhcp-range"
                );
                add(&self.metrics.conflicts_total, 1);
                self.leases.avoid(grant.address, None, since_epoch());
            }
            Use::Doubtful => self.leases.doubt(grant.address, since_epoch()),
        }
        match tries + 1 < CHECKS_PER_CLIENT_MAX {
            true => self.discover(asked, tries + 1),
            false => Outcome::Silence(Fate::NoAddress),
        }
    }

    fn request(&mut self, asked: Box<Asked>) -> Outcome {
        let place = &asked.place;
        let verdict =
            self.leases
                .request(&asked.request, place.subnet, place.server, since_epoch());
        match verdict {
            Verdict::Given(grant) => {
                let grant = self.grant(grant);
                if self.file.is_none() {
                    self.changed();
                    return Outcome::Answer(asked, Some(grant));
                }
                self.unwritten.push((asked, grant));
                self.changed();
                Outcome::Later
            }
            Verdict::Refused => Outcome::Refused(asked),
            Verdict::Elsewhere(other) => {
                if !place.own.contains(&other) {
                    let (index, name) = (place.index, place.interface.clone());
                    self.found_rival(index, &name, other);
                }
                Outcome::Silence(Fate::NotOurs)
            }
            Verdict::Silence => Outcome::Silence(Fate::NotOurs),
        }
    }

    /// What a client is told about its address.
    fn grant(&self, grant: leases::Grant) -> Grant {
        let seconds = u32::try_from(grant.lease.as_secs()).unwrap_or(u32::MAX);
        let time = |seconds: u32| seconds.to_be_bytes().to_vec();
        let mut told = vec![
            (
                options::SUBNET_MASK,
                leases::mask(grant.prefix).octets().to_vec(),
            ),
            (options::LEASE_TIME, time(seconds)),
            // RFC 2131, 4.4.5.
            (options::RENEWAL_TIME, time(seconds / 2)),
            (options::REBINDING_TIME, time(seconds / 8 * 7)),
        ];
        if let Some(router) = self.told.router {
            told.push((options::ROUTER, router.octets().to_vec()));
        }
        if !self.told.dns.is_empty() {
            let servers = self.told.dns.iter();
            told.push((options::DNS, servers.flat_map(Ipv4Addr::octets).collect()));
        }
        Grant {
            address: grant.address,
            options: told,
        }
    }

    /// Another server may have sent this to clients.
    pub(super) fn heard(&mut self, index: u32, interface: &str, bytes: &[u8], own: &[Ipv4Addr]) {
        if let Some(server) = rival::server_in(bytes).filter(|server| !own.contains(server)) {
            self.found_rival(index, interface, server);
        }
    }

    fn found_rival(&mut self, index: u32, interface: &str, server: Ipv4Addr) {
        add(&self.metrics.rivals_total, 1);
        let now = Instant::now();
        let before = self.rivals.insert(index, (server, now));
        let is_news = before.is_none_or(|(known, heard_at)| {
            known != server || now.saturating_duration_since(heard_at) >= RIVAL_MEMORY
        });
        if is_news {
            let minutes = RIVAL_MEMORY.as_secs() / 60;
            tracing::error!(
                %server, interface,
                "another DHCP server gives addresses here: this one offers none on this interface until it was quiet for \
                 {minutes} minutes; machines are booted beside it as with --dhcp proxy"
            );
        }
    }

    fn warn_of_emptiness(&mut self, place: &Place) {
        let now = Instant::now();
        let is_due = |at: Instant| now.saturating_duration_since(at) >= WARN_AGAIN;
        if self.warned_at.is_none_or(is_due) {
            self.warned_at = Some(now);
            tracing::warn!(
                interface = place.interface,
                "no address of --dhcp-range is free"
            );
        }
    }

    /// Shows how many addresses are given.
    fn count(&self) {
        let now = since_epoch().as_secs();
        let given = self.leases.given().filter(|lease| lease.until > now);
        let given = u64::try_from(given.count()).unwrap_or(u64::MAX);
        self.metrics.leases.store(given, Ordering::Relaxed);
    }

    /// The table is different from the file.
    fn changed(&mut self) {
        self.count();
        self.is_changed = true;
        self.write();
    }

    /// Writes the table, unless that is being done: then once more afterwards, for all that came meanwhile.
    fn write(&mut self) {
        let Some(file) = self.file.clone().filter(|_| self.writing.is_none()) else {
            return;
        };
        self.is_changed = false;
        self.being_written = std::mem::take(&mut self.unwritten);
        let leases = self.leases.given().collect();
        self.writing = Some(tokio::task::spawn_blocking(move || file.write(leases)));
    }

    fn written(&mut self, done: Result<io::Result<()>, JoinError>) {
        self.writing = None;
        let failed = match done {
            Ok(written) => written.err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            // A LAN without addresses is worse than a table that forgets: the conflict check is still there.
            tracing::error!(error, "the leases cannot be kept");
        }
        let answers = self.being_written.drain(..);
        self.ready
            .extend(answers.map(|(asked, grant)| Outcome::Answer(asked, Some(grant))));
        if self.is_changed {
            self.write();
        }
    }

    /// What became of something that took time. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Outcome {
        loop {
            if let Some(outcome) = self.ready.pop_front() {
                return outcome;
            }
            tokio::select! {
                Some(done) = self.checks.join_next() => return self.checked(done),
                done = finished(self.writing.as_mut()) => self.written(done),
                else => pending().await,
            }
        }
    }
}

async fn finished(
    writing: Option<&mut JoinHandle<io::Result<()>>>,
) -> Result<io::Result<()>, JoinError> {
    match writing {
        Some(writing) => writing.await,
        None => pending().await,
    }
}

/// Leases outlive the process, so they are counted by the clock of the machine.
fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
