//! The thread that speaks multicast DNS, and what keeps strangers from filling its memory.
//!
//! mdns-sd remembers every record of a service type that it listens to, for as long as the record says, and reads before it
//! does anything else. So it is asked now and then how much it holds; one that holds too much, or is too busy to answer, is
//! replaced by a new one. Who is really there answers the new one's question, so nothing is lost but the flood.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mdns_sd::{IfKind, Metrics, Receiver, ServiceDaemon, TryRecvError};

use crate::DiscoveryError;
use crate::sockets::{self, Socket};

/// How long stopping may take. The thread only has to send its goodbyes.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Between two attempts to give it a command.
const AGAIN_AFTER: Duration = Duration::from_millis(1);

/// How long starting may take: opening two sockets.
const START_TIME_MAX: Duration = Duration::from_secs(2);

/// Between two questions to the thread. A flood that it can read at all brings some ten thousand records in that time.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// A thread that does not answer for so long does nothing but read. On a busy machine an honest one is this late at times.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// Records of others: a thousand providers and peers have less; at a kilobyte each they are 8 MB.
const RECORDS_MAX: i64 = 8_192;

/// Alarms for when records end: several for each record and each time it is said again. At 16 bytes each they are 4 MB.
const TIMERS_MAX: i64 = 1 << 18;

/// One thread starts at a time, so that it is known which sockets are whose.
static STARTING: Mutex<()> = Mutex::new(());

/// A flood is told of once: those who listen anew now and then would tell of it each time.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// A running mDNS thread that is stopped, and waited for, when dropped.
pub(crate) struct Daemon {
    thread: ServiceDaemon,
    sockets: Vec<Socket>,
    look_seconds: u32,
    /// What was asked, and when.
    asked: Option<(Receiver<Metrics>, Instant)>,
    /// When it is asked next.
    ask_at: Instant,
    /// How often it was replaced.
    renewals: u32,
}

impl Daemon {
    /// Starts the thread; it uses every interface but loopback, and looks for new addresses every `look_seconds`.
    pub(crate) fn start(look_seconds: u32) -> Result<Self, DiscoveryError> {
        let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sockets::all();
        let thread = ServiceDaemon::new()?;
        thread.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        thread.set_ip_check_interval(look_seconds)?;
        // Its sockets are there when it answers. One that does not in time cannot be made deaf, and works all the same.
        let _status = thread.status()?.recv_timeout(START_TIME_MAX);
        let mut sockets = sockets::all();
        sockets.retain(|socket| !socket.is_in(&before));
        Ok(Self {
            thread,
            sockets,
            look_seconds,
            asked: None,
            ask_at: Instant::now() + ASK_INTERVAL,
            renewals: 0,
        })
    }

    /// What mdns-sd can do.
    pub(crate) fn thread(&self) -> &ServiceDaemon {
        &self.thread
    }

    /// How often it was replaced by a new one, which knows nothing: whoever subscribed or registered does that again then.
    pub(crate) fn renewals(&self) -> u32 {
        self.renewals
    }

    /// Looks after it: to be called at least every second. Does not wait, unless it has to be replaced.
    pub(crate) fn look_after(&mut self) -> Result<(), DiscoveryError> {
        let now = Instant::now();
        let is_flooded = match &self.asked {
            None if now < self.ask_at => false,
            None => match self.thread.get_metrics() {
                Ok(answer) => {
                    self.asked = Some((answer, now));
                    false
                }
                // It has a hundred commands to carry out already.
                Err(mdns_sd::Error::Again) => true,
                Err(error) => return Err(error.into()),
            },
            Some((answer, asked_at)) => match answer.try_recv() {
                Ok(metrics) => {
                    self.asked = None;
                    self.ask_at = now + ASK_INTERVAL;
                    is_full(&metrics)
                }
                Err(TryRecvError::Empty) => now >= *asked_at + ANSWER_TIME_MAX,
                Err(TryRecvError::Disconnected) => {
                    return Err(mdns_sd::Error::DaemonShutdown.into());
                }
            },
        };
        if is_flooded {
            self.renew()?;
        }
        Ok(())
    }

    fn renew(&mut self) -> Result<(), DiscoveryError> {
        match IS_TOLD.swap(true, Ordering::Relaxed) {
            false => tracing::warn!("a flood of multicast DNS on this network: listening anew"),
            true => tracing::debug!(times = self.renewals, "the flood of multicast DNS goes on"),
        }
        for socket in &self.sockets {
            socket.deafen();
        }
        let mut next = Self::start(self.look_seconds)?;
        next.renewals = self.renewals.saturating_add(1);
        // The old one says its goodbyes before anything is announced by the new one.
        *self = next;
        Ok(())
    }
}

/// Whether it holds more than any honest network has to say.
fn is_full(metrics: &Metrics) -> bool {
    let count = |name: &str| metrics.get(name).copied().unwrap_or_default();
    let records: i64 = metrics
        .iter()
        .filter(|(name, _)| name.starts_with("cached-"))
        .map(|(_, count)| *count)
        .sum();
    records > RECORDS_MAX || count("timer") > TIMERS_MAX
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `Again`: the queue of commands is full for a moment, or for long, when somebody floods it.
        let end = Instant::now() + STOP_TIME_MAX;
        let stopping = loop {
            match self.thread.shutdown() {
                Err(mdns_sd::Error::Again) if Instant::now() < end => {
                    std::thread::sleep(AGAIN_AFTER);
                }
                other => break other,
            }
        };
        let stopped = stopping
            .map_err(|error| error.to_string())
            .and_then(|done| {
                done.recv_timeout(STOP_TIME_MAX)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = stopped {
            // What it still reads is the last: then it sees that it is to end.
            for socket in &self.sockets {
                socket.deafen();
            }
            tracing::warn!(%error, "multicast DNS did not stop cleanly");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_known_by_its_sum() {
        for (metrics, expected) in [
            (vec![], false),
            (vec![("cached-ptr", RECORDS_MAX)], false),
            (vec![("cached-ptr", RECORDS_MAX), ("cached-srv", 1)], true),
            (vec![("respond", i64::MAX)], false),
            (vec![("timer", TIMERS_MAX)], false),
            (vec![("timer", TIMERS_MAX + 1)], true),
        ] {
            let metrics: Metrics = metrics
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect();
            assert_eq!(is_full(&metrics), expected, "{metrics:?}");
        }
    }
}
