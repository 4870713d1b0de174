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
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
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

impl Asked {
    fn seeker(&self) -> Seeker {
        (self.request.mac, self.place.subnet.address)
    }
}

/// A machine on a subnet: a card that several subnets share (VLANs) looks for an address on each.
type Seeker = (Mac, Ipv4Addr);

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

/// Another DHCP server.
struct Rival {
    server: Ipv4Addr,
    heard_at: Instant,
    told_at: Instant,
}

/// The addresses of this server.
pub(super) struct Addresses {
    leases: Leases,
    told: Told,
    /// Without one, leases live as long as the process, and the conflict check stands in for them afterwards.
    file: Option<LeaseFile>,
    metrics: Arc<BootMetrics>,
    checks: JoinSet<(Seeker, io::Result<Use>)>,
    checking: BTreeMap<Seeker, Checking>,
    /// Given, and not yet on the disk.
    unwritten: Vec<(Box<Asked>, Grant)>,
    writing: Option<JoinHandle<io::Result<()>>>,
    being_written: Vec<(Box<Asked>, Grant)>,
    is_changed: bool,
    ready: VecDeque<Outcome>,
    /// Other servers, by interface.
    rivals: BTreeMap<u32, Rival>,
    warned_at: Option<Instant>,
    unkept_at: Option<Instant>,
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
            unkept_at: None,
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
                    && self.leases.avoid(address, Some(mac), now())
                {
                    tracing::warn!(%mac, %address, "a client found the address in use that it was given");
                    add(&self.metrics.conflicts_total, 1);
                    self.changed();
                }
                Outcome::Silence(Fate::NotBooting)
            }
            Kind::Release => {
                if self.leases.release(mac, asked.request.ciaddr, now()) {
                    self.changed();
                }
                Outcome::Silence(Fate::NotBooting)
            }
            Kind::Inform | Kind::Offer | Kind::Ack | Kind::Nak => Outcome::Answer(asked, None),
        }
    }

    /// Whether addresses are offered there: there is a pool, and no other server.
    fn gives(&self, place: &Place) -> bool {
        !self.has_rival(place) && self.leases.serves(place.subnet)
    }

    fn has_rival(&self, place: &Place) -> bool {
        self.rivals
            .get(&place.index)
            .is_some_and(|rival| rival.heard_at.elapsed() < RIVAL_MEMORY)
    }

    /// Whether a client that names no server has its address from here.
    fn is_ours(&self, request: &Request) -> bool {
        let address = request.requested.unwrap_or(request.ciaddr);
        self.leases.owner(address, now()) == Some(request.mac)
    }

    fn discover(&mut self, asked: Box<Asked>, tries: u32) -> Outcome {
        let mac = asked.request.mac;
        let seeker = asked.seeker();
        if let Some(checking) = self.checking.get_mut(&seeker) {
            // It asks again while its address is looked at: the newest question is answered.
            checking.asked = asked;
            return Outcome::Later;
        }
        let place = &asked.place;
        let grant = self
            .leases
            .offer(&asked.request, place.subnet, &place.own, now());
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
        self.checks.spawn(async move {
            (
                seeker,
                conflict::look_for_user(address, mac, neighbour).await,
            )
        });
        let checking = Checking {
            asked,
            grant,
            tries,
        };
        self.checking.insert(seeker, checking);
        Outcome::Later
    }

    fn checked(&mut self, done: Result<(Seeker, io::Result<Use>), JoinError>) -> Outcome {
        let (seeker, used) = match done {
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
        }) = self.checking.remove(&seeker)
        else {
            return Outcome::Later;
        };
        let used = used.unwrap_or_else(|error| {
            // The client looks as well before it uses an address.
            tracing::debug!(address = %grant.address, %error, "an address could not be looked at");
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
                self.leases.avoid(grant.address, None, now());
            }
            Use::Doubtful => self.leases.doubt(grant.address, now()),
        }
        match tries + 1 < CHECKS_PER_CLIENT_MAX {
            true => self.discover(asked, tries + 1),
            false => Outcome::Silence(Fate::NoAddress),
        }
    }

    fn request(&mut self, asked: Box<Asked>) -> Outcome {
        let place = &asked.place;
        if asked.request.server_id.is_none()
            && self.has_rival(place)
            && !self.is_ours(&asked.request)
        {
            // The other server's client, which that one answers.
            return Outcome::Silence(Fate::NotOurs);
        }
        let verdict = self
            .leases
            .request(&asked.request, place.subnet, place.server, now());
        match verdict {
            Verdict::Given(grant) => {
                let grant = self.grant(grant);
                if self.file.is_none() {
                    self.changed();
                    return Outcome::Answer(asked, Some(grant));
                }
                // A machine that asks again while the disk is slow is answered once.
                let seeker = asked.seeker();
                self.unwritten
                    .retain(|(before, _)| before.seeker() != seeker);
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
        let is_older = |at: Instant, age| now.saturating_duration_since(at) >= age;
        let before = self.rivals.get(&index);
        // Whoever makes servers up does not fill the log.
        let is_news = before.is_none_or(|before| {
            is_older(before.heard_at, RIVAL_MEMORY)
                || before.server != server && is_older(before.told_at, WARN_AGAIN)
        });
        let told_at = before.filter(|_| !is_news).map(|before| before.told_at);
        let rival = Rival {
            server,
            heard_at: now,
            told_at: told_at.unwrap_or(now),
        };
        self.rivals.insert(index, rival);
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
        if is_due(&mut self.warned_at) {
            tracing::warn!(
                interface = place.interface,
                "no address of --dhcp-range is free"
            );
        }
    }

    /// Shows how many addresses are given.
    fn count(&self) {
        let now = now().as_secs();
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
            if is_due(&mut self.unkept_at) {
                tracing::error!(error, "the leases cannot be kept");
            }
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

/// Whether the same trouble is to be said again.
fn is_due(told_at: &mut Option<Instant>) -> bool {
    let is_due = told_at.is_none_or(|at| at.elapsed() >= WARN_AGAIN);
    if is_due {
        *told_at = Some(Instant::now());
    }
    is_due
}

async fn finished(
    writing: Option<&mut JoinHandle<io::Result<()>>>,
) -> Result<io::Result<()>, JoinError> {
    match writing {
        Some(writing) => writing.await,
        None => pending().await,
    }
}

/// Leases outlive the process, so they are counted from the Unix epoch; but by a clock that nobody sets: when the machine
/// learns what time it is, no lease ends or lasts for ever.
pub(super) fn now() -> Duration {
    static START: LazyLock<(Duration, Instant)> = LazyLock::new(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        (since_epoch.unwrap_or_default(), Instant::now())
    });
    let (since_epoch, started) = &*START;
    *since_epoch + started.elapsed()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use pxe::leases::{Pool, Subnet};
    use pxe::strategy::Arrival;

    use super::*;

    const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];

    fn addresses() -> Addresses {
        let pools = OWN.map(|own| Pool {
            first: Ipv4Addr::from(u32::from(own) + 100),
            last: Ipv4Addr::from(u32::from(own) + 110),
            prefix: Some(24),
            lease: Duration::from_secs(3_600),
        });
        let metrics = Arc::new(BootMetrics::default());
        Addresses::new(Leases::new(pools.to_vec()), Told::default(), None, metrics)
    }

    /// What the same machine asks on the subnet of one of our addresses.
    fn asked(kind: Kind, server: Ipv4Addr) -> Asked {
        let bytes = rival::question(Kind::Discover, [1, 2, 3, 4], server);
        let mut request = Request::parse(&bytes).unwrap();
        request.kind = kind;
        let subnet = Subnet {
            address: server,
            prefix: Some(24),
        };
        let place = Place {
            arrival: Arrival::Port67,
            index: u32::from(server.octets()[0]),
            interface: "eth0".to_owned(),
            server,
            peer: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68),
            relay: None,
            subnet,
            is_routed: false,
            own: OWN.to_vec(),
        };
        Asked {
            request,
            place,
            client: None,
        }
    }

    #[test]
    fn our_own_address_on_another_interface_is_no_rival() {
        let mut addresses = addresses();
        for (chosen, rivals) in [(OWN[1], 0), (Ipv4Addr::new(192, 0, 2, 9), 1)] {
            let mut asked = asked(Kind::Request, OWN[0]);
            asked.request.server_id = Some(chosen);
            asked.request.requested = Some(Ipv4Addr::new(192, 0, 2, 101));
            let outcome = addresses.asked(asked);
            assert!(
                matches!(outcome, Outcome::Silence(Fate::NotOurs)),
                "{outcome:?}"
            );
            assert_eq!(addresses.rivals.len(), rivals, "{chosen}");
        }
    }

    #[test]
    fn clients_of_another_server_are_left_to_it() {
        let mut addresses = addresses();
        let keeps = |mac: u8, last: u8| {
            let mut asked = asked(Kind::Request, OWN[0]);
            asked.request.mac.0[5] = mac;
            asked.request.requested = Some(Ipv4Addr::new(192, 0, 2, last));
            asked
        };
        let outcome = addresses.asked(keeps(1, 101));
        assert!(matches!(outcome, Outcome::Answer(..)), "{outcome:?}");
        let index = keeps(1, 101).place.index;
        addresses.found_rival(index, "eth0", Ipv4Addr::new(192, 0, 2, 9));
        // Neither taken away from it nor refused.
        for last in [102, 101] {
            let outcome = addresses.asked(keeps(2, last));
            assert!(matches!(outcome, Outcome::Silence(_)), "{outcome:?}");
        }
        let outcome = addresses.asked(keeps(1, 101));
        assert!(matches!(outcome, Outcome::Answer(..)), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_card_that_two_subnets_share_is_offered_an_address_on_each() {
        let mut addresses = addresses();
        for own in OWN {
            let outcome = addresses.asked(asked(Kind::Discover, own));
            assert!(matches!(outcome, Outcome::Later), "{outcome:?}");
        }
        for _ in OWN {
            let outcome = addresses.next().await;
            let Outcome::Answer(asked, Some(grant)) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(asked.place.subnet.has(grant.address()), "{grant:?}");
        }
    }
}
