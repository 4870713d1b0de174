//! Places for connections: how many there are, in all and for one address, and who has to leave when time is up or others
//! need room.
//!
//! Each connection says in its [`Seat`] what it waits for, in one atomic. One sweep a second looks at all of them, which
//! is cheaper than a timer for each: an idle connection costs its socket, its task and some hundred bytes here.
//!
//! ```text
//!  Busy ──> Write ──> Busy      bytes are sent; the client takes none for a while
//!    └────> Idle ──> Head ──> Busy      nothing was asked; the head of a request has begun
//! ```
//!
//! When all places are taken, those leave that wait longest for a client: silent ones first, then readers that are slower
//! than [`RATE_MIN`]. The networks with most connections give first, so that one that opens many does not make the few of
//! others leave, such as firmware that is silent between two requests. Whoever only holds a place cannot keep it from
//! others. Nobody who is being served leaves.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::http::heads::{Budget, Share};
use crate::http::limits::{
    HEAD_WAIT_MAX, HEADS_SIZE_MAX, IDLE_MAX, RATE_MIN, RATE_WINDOW, ROOM_BATCH, SWEEP_PERIOD,
};
use crate::serve::metrics::{Cut, Metrics};

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// For nothing the client does: a request is being answered.
    Busy = 0,
    /// For the first byte of a request.
    Idle = 1,
    /// For the rest of a request's head.
    Head = 2,
    /// For the client to take bytes.
    Write = 3,
    /// For a handshake, which has its own deadline.
    Handshake = 4,
    /// It is being ended.
    Leaves = 5,
}

/// Bits of a state that tell what is waited for; the others tell since when, in milliseconds of [`Seats::now`].
const KIND_BITS: u32 = 3;

impl Waits {
    fn of(state: u64) -> Self {
        match state & ((1 << KIND_BITS) - 1) {
            0 => Self::Busy,
            1 => Self::Idle,
            2 => Self::Head,
            3 => Self::Write,
            4 => Self::Handshake,
            _ => Self::Leaves,
        }
    }

    fn since(self, now: u64) -> u64 {
        (now << KIND_BITS) | self as u64
    }
}

/// What one connection shows of itself.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    state: AtomicU64,
    sent: AtomicU64,
}

/// A connection in the list.
struct Taken {
    seat: Arc<Seat>,
    network: IpAddr,
    is_encrypted: bool,
    task: Option<AbortHandle>,
    /// The last look at its rate: when, and how much had been sent.
    looked: (u64, u64),
    /// Since when it reads too slowly.
    slow_since: Option<u64>,
}

#[derive(Default)]
struct List {
    taken: HashMap<u64, Taken>,
    by_network: HashMap<IpAddr, usize>,
    encrypted: usize,
    next: u64,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    /// In all.
    pub(crate) total: usize,
    /// Of them, how many may speak TLS.
    pub(crate) encrypted: usize,
    /// For one client network.
    pub(crate) per_address: usize,
    /// Whether this machine's own addresses are counted too.
    pub(crate) counts_loopback: bool,
    /// Time a client may take to accept no byte at all.
    pub(crate) stall_max: Duration,
}

/// All places.
pub(crate) struct Seats {
    caps: Caps,
    started: Instant,
    /// Milliseconds since `started`, as of the last sweep.
    now: AtomicU64,
    is_stopping: AtomicBool,
    list: Mutex<List>,
    left: Notify,
    heads: Arc<Budget>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All are taken by clients that are being served.
    All,
    /// This client has all that one may have, and is being served on each.
    Address,
}

/// One place, until it is dropped.
pub(crate) struct Place {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
    id: u64,
    head: Share,
}

impl Seats {
    /// Free places.
    pub(crate) fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Self {
            caps,
            started: Instant::now(),
            now: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            list: Mutex::default(),
            left: Notify::new(),
            heads: Budget::new(HEADS_SIZE_MAX),
        })
    }

    /// Takes a place for `client`, that will speak TLS or not. Makes some wait-for-nothing leave when there is none: then the answer is still `Full`,
    /// and a place is free soon.
    pub(crate) fn take(
        self: &Arc<Self>,
        client: IpAddr,
        is_encrypted: bool,
        metrics: &Metrics,
    ) -> Result<Place, Full> {
        let network = network(client);
        let mut list = self.lock();
        let counts = !client.is_loopback() || self.caps.counts_loopback;
        let of_network = list.by_network.get(&network).copied().unwrap_or_default();
        if counts && of_network >= self.caps.per_address {
            // The one that leaves is counted until it has left, so this client may be above its number for a moment.
            let of_network = |taken: &Taken| taken.network == network;
            if self.make_room(&mut list, of_network, 1, metrics) == 0 {
                return Err(Full::Address);
            }
        }
        if list.taken.len() >= self.caps.total {
            self.make_room(&mut list, |_| true, ROOM_BATCH, metrics);
            return Err(Full::All);
        }
        if is_encrypted && list.encrypted >= self.caps.encrypted {
            self.make_room(&mut list, |taken| taken.is_encrypted, ROOM_BATCH, metrics);
            return Err(Full::All);
        }
        list.encrypted += usize::from(is_encrypted);
        let id = list.next;
        list.next += 1;
        let seat = Arc::new(Seat::default());
        let taken = Taken {
            seat: Arc::clone(&seat),
            network,
            is_encrypted,
            task: None,
            looked: (self.now.load(Ordering::Relaxed), 0),
            slow_since: None,
        };
        list.taken.insert(id, taken);
        *list.by_network.entry(network).or_default() += 1;
        Ok(Place {
            seats: Arc::clone(self),
            seat,
            id,
            head: self.heads.share(),
        })
    }

    /// Says which task sits at a place, so that it can be ended.
    pub(crate) fn seat_task(&self, id: u64, task: AbortHandle) {
        if let Some(taken) = self.lock().taken.get_mut(&id) {
            // It may have been told to leave before anybody knew its task.
            if Waits::of(taken.seat.state.load(Ordering::SeqCst)) == Waits::Leaves {
                task.abort();
            }
            taken.task = Some(task);
        }
    }

    /// Ends those who waited too long for their client, once a second, for ever.
    pub(crate) async fn sweep(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut period = tokio::time::interval(SWEEP_PERIOD);
        loop {
            period.tick().await;
            let now = millis(self.started.elapsed());
            self.now.store(now, Ordering::Relaxed);
            let mut list = self.lock();
            for taken in list.taken.values_mut() {
                taken.watch_rate(now);
                if let Some(cut) = taken.is_late(now, self.caps.stall_max) {
                    taken.leave(cut, &metrics);
                }
            }
        }
    }

    /// Ends all that nobody has asked anything of, and lets the others finish what they are at.
    pub(crate) fn stop(&self) {
        // Connections look at this after they said that they are idle; whoever comes second sees the other.
        self.is_stopping.store(true, Ordering::SeqCst);
        for taken in self.lock().taken.values() {
            let state = taken.seat.state.load(Ordering::SeqCst);
            if matches!(Waits::of(state), Waits::Idle | Waits::Handshake) && taken.seat.end(state) {
                taken.abort();
            }
        }
    }

    /// Makes room for what the machine has no more of.
    pub(crate) fn relieve(&self, metrics: &Metrics) {
        self.make_room(&mut self.lock(), |_| true, ROOM_BATCH, metrics);
    }

    /// Whether no further requests are wanted.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// What unfinished requests may take.
    #[cfg(test)]
    pub(crate) fn heads(&self) -> &Arc<Budget> {
        &self.heads
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.lock().taken.len()
    }

    /// Waits until somebody has left. With several waiters one is woken: look again after some time all the same.
    pub(crate) async fn somebody_left(&self) {
        self.left.notified().await;
    }

    /// Makes up to `count` of the connections that `may_leave` leave: those of the networks that have most, and of them those that wait longest for
    /// their client. Returns how many.
    fn make_room(
        &self,
        list: &mut List,
        may_leave: impl Fn(&Taken) -> bool,
        count: usize,
        metrics: &Metrics,
    ) -> usize {
        let now = self.now.load(Ordering::Relaxed);
        // Networks are alike when neither has twice as many.
        let crowd = |taken: &Taken| {
            let count = list.by_network.get(&taken.network);
            Reverse(count.and_then(|count| count.checked_ilog2()))
        };
        let mut waiting: Vec<(Reverse<Option<u32>>, bool, u64, u64)> = list
            .taken
            .iter()
            .filter(|(_, taken)| may_leave(taken))
            .filter_map(|(id, taken)| {
                let state = taken.seat.state.load(Ordering::Relaxed);
                match Waits::of(state) {
                    Waits::Idle | Waits::Head | Waits::Handshake => {
                        Some((crowd(taken), false, state >> KIND_BITS, *id))
                    }
                    Waits::Write => taken
                        .slow_since
                        .map(|since| (crowd(taken), true, since, *id)),
                    Waits::Busy | Waits::Leaves => None,
                }
            })
            .collect();
        if count < waiting.len() {
            waiting.select_nth_unstable(count);
            waiting.truncate(count);
        }
        let mut left = 0;
        for (_, is_slow, _, id) in waiting {
            let cut = if is_slow { Cut::Slow } else { Cut::Idle };
            let taken = list.taken.get_mut(&id);
            left += usize::from(taken.is_some_and(|taken| taken.leave(cut, metrics)));
        }
        tracing::debug!(left, now, "made room for new connections");
        left
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Whole at every unlock.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Looks at how much the client took since the last look.
    fn watch_rate(&mut self, now: u64) {
        let (then, before) = self.looked;
        let window = now.saturating_sub(then);
        if window < millis(RATE_WINDOW) {
            return;
        }
        let sent = self.seat.sent.load(Ordering::Relaxed);
        let is_writing = Waits::of(self.seat.state.load(Ordering::Relaxed)) == Waits::Write;
        let is_slow = is_writing && (sent - before) * 1000 < RATE_MIN * window;
        self.slow_since = is_slow.then(|| self.slow_since.unwrap_or(then));
        self.looked = (now, sent);
    }

    fn is_late(&self, now: u64, stall_max: Duration) -> Option<Cut> {
        let state = self.seat.state.load(Ordering::Relaxed);
        let (wait_max, cut) = match Waits::of(state) {
            Waits::Busy | Waits::Handshake | Waits::Leaves => return None,
            Waits::Idle => (IDLE_MAX, Cut::Idle),
            Waits::Head => (HEAD_WAIT_MAX, Cut::Head),
            Waits::Write => (stall_max, Cut::Write),
        };
        // A state may be older than it says by the time between two sweeps, never younger.
        (now.saturating_sub(state >> KIND_BITS) > millis(wait_max)).then_some(cut)
    }

    /// Ends the connection unless it has something to do by now.
    fn leave(&mut self, cut: Cut, metrics: &Metrics) -> bool {
        let state = self.seat.state.load(Ordering::Relaxed);
        if Waits::of(state) == Waits::Busy || !self.seat.end(state) {
            return false;
        }
        metrics.cut(cut);
        self.abort();
        true
    }

    fn abort(&self) {
        // A task that is not known yet is ended when it is.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Seat {
    fn end(&self, state: u64) -> bool {
        self.state
            .compare_exchange(
                state,
                Waits::Leaves as u64,
                Ordering::SeqCst,
                Ordering::Relaxed,
            )
            .is_ok()
    }
}

impl Place {
    /// Which one.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// All of them.
    pub(crate) fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    /// Says what is waited for from now on; the time counts from when that changed. `false` when the connection must end.
    pub(crate) fn waits(&self, waits: Waits) -> bool {
        let state = self.seat.state.load(Ordering::Relaxed);
        match Waits::of(state) {
            Waits::Leaves => return false,
            same if same == waits => return true,
            _ => {}
        }
        let state_new = waits.since(self.seats.now.load(Ordering::Relaxed));
        self.seat
            .state
            .compare_exchange(state, state_new, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Says that a request was answered at once: the time for the next one counts anew.
    pub(crate) fn idles_anew(&self) {
        let state = Waits::Idle.since(self.seats.now.load(Ordering::Relaxed));
        if Waits::of(self.seat.state.load(Ordering::Relaxed)) != Waits::Leaves {
            self.seat.state.store(state, Ordering::SeqCst);
        }
    }

    /// Says how many bytes of an unfinished request are held from now on. `false` when there is no memory for more than
    /// before.
    pub(crate) fn holds(&self, bytes: usize) -> bool {
        self.head.resize(bytes)
    }

    /// Counts bytes that the client has taken.
    pub(crate) fn sent(&self, bytes: u64) {
        self.seat.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut list = self.seats.lock();
        if let Some(taken) = list.taken.remove(&self.id) {
            list.encrypted -= usize::from(taken.is_encrypted);
            if let Some(count) = list.by_network.get_mut(&taken.network) {
                *count -= 1;
                if *count == 0 {
                    list.by_network.remove(&taken.network);
                }
            }
        }
        drop(list);
        self.seats.left.notify_one();
    }
}

/// One client's addresses: an IPv6 host has all of its /64.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
