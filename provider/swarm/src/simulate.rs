//! Thousands of machines that fetch one image at the same moment, each with the very schedule that real ones run.
//!
//! ```text
//! Setup ──> World { machines: Schedule + Table, Network: flows that share links } ──> Outcome
//! ```
//!
//! The network is a fluid one: a transfer goes as fast as its share of every link on its way allows, and what others leave
//! over is shared again. Machines stand in racks; inside a rack only their own links count, between racks the uplinks as
//! well. Requests take a round trip. Left out: TCP's slow start, loss, and the time to hash.
//!
//! Pure like everything here: the same [`Setup`] gives the same [`Outcome`].

use std::time::Duration;

use crate::simulate::world::World;

mod machine;
mod network;
mod world;

/// What is simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Machines that fetch, liars among them.
    pub machines: usize,
    /// Machines in one rack, at most 250: their addresses are of one /24.
    pub rack: usize,
    /// Sizes of the files, in bytes.
    pub files: Vec<u64>,
    /// Bytes per second of a machine's link, each way.
    pub link: u64,
    /// Bytes per second between a rack and everybody else, each way.
    pub uplink: u64,
    /// Bytes per second of the origin's link.
    pub origin: u64,
    /// Transfers that the origin has going at once; it is busy for more.
    pub origin_places: usize,
    /// A round trip.
    pub round_trip: Duration,
    /// The machines start within this time, by chance.
    pub spread: Duration,
    /// How long a machine serves after it has everything; nothing for as long as it takes.
    pub linger: Option<Duration>,
    /// Which part of the machines vanishes at some moment while the others fetch.
    pub churn: f64,
    /// Which part of the machines lies: with wrong bytes, with maps of what they do not have or get, or by bringing
    /// nothing.
    pub liars: f64,
    /// When the origin is switched off.
    pub origin_gone: Option<Duration>,
    /// Machines know of each other; otherwise everybody has only the origin.
    pub swarm: bool,
    /// The simulation ends then at the latest.
    pub time_max: Duration,
    /// For everything that is left to chance.
    pub seed: u64,
}

impl Default for Setup {
    /// Sixteen clients of one provider, 64 MiB, every link 100 Mbit/s.
    fn default() -> Self {
        const LINK: u64 = 100_000_000 / 8;
        Self {
            machines: 16,
            rack: 250,
            files: vec![64 << 20],
            link: LINK,
            uplink: u64::MAX,
            origin: LINK,
            origin_places: 1_024,
            round_trip: Duration::from_micros(300),
            spread: Duration::from_millis(100),
            linger: None,
            churn: 0.0,
            liars: 0.0,
            origin_gone: None,
            swarm: true,
            time_max: Duration::from_secs(600),
            seed: 1,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Honest machines that did not vanish.
    pub machines: usize,
    /// When each of those that have everything had it, after the start of all; ascending.
    pub finished: Vec<Duration>,
    /// When the machines had every piece between them, and did not need the origin any more.
    pub together: Option<Duration>,
    /// Bytes of one image.
    pub image: u64,
    /// Bytes that the origin sent.
    pub origin_bytes: u64,
    /// Bytes that went from one rack to another one, or came from the origin.
    pub outside_bytes: u64,
    /// Bytes of bodies that all honest machines received.
    pub received_bytes: u64,
    /// Those of them that were of no use: wrong, or cut off in the middle of a piece.
    pub wasted_bytes: u64,
    /// Requests for pieces, for maps, and for lists of peers.
    pub requests: u64,
    /// Maps that were read.
    pub looks: u64,
    /// Lists of peers that were asked for.
    pub questions: u64,
    /// The least time in which all could have everything: see [`Setup::bound`].
    pub bound: Duration,
    /// The time of one machine alone.
    pub alone: Duration,
}

impl Outcome {
    /// When this part of the machines had everything, of 1 for all; nothing when they never had.
    pub fn time(&self, part: f64) -> Option<Duration> {
        let count = (self.machines as f64 * part).ceil() as usize;
        self.finished.get(count.max(1) - 1).copied()
    }

    /// What the origin sent, in images.
    pub fn egress(&self) -> f64 {
        self.origin_bytes as f64 / self.image as f64
    }

    /// Useless bytes for each byte of use.
    pub fn overhead(&self) -> f64 {
        self.wasted_bytes as f64 / (self.received_bytes - self.wasted_bytes).max(1) as f64
    }
}

impl Setup {
    /// Bytes of all files.
    pub fn image(&self) -> u64 {
        self.files.iter().sum()
    }

    /// The time of one machine alone.
    pub fn alone(&self) -> Duration {
        let rate = self.link.min(self.uplink).min(self.origin);
        seconds(self.image(), rate as f64)
    }

    /// The least time in which everybody can have everything, whoever decides: what the origin, a machine, a rack and all
    /// of them together can carry, and then as often the time of one piece as those who have the last one must double. For
    /// equal links and whole pieces no schedule needs less (Mundinger, Weber, Weiss: Optimal scheduling of peer-to-peer
    /// file dissemination, 2008).
    pub fn bound(&self) -> Duration {
        let (image, machines) = (self.image() as f64, self.machines as f64);
        let (link, origin) = (self.link as f64, self.origin as f64);
        let all = machines * image / (origin + machines * link);
        let rack = image / self.uplink as f64;
        let fluid = (image / origin).max(image / link).max(rack).max(all);
        let last = crate::Pieces::new(
            self.files
                .iter()
                .map(|&size| (boot_manifest::Digest::of(b""), size)),
        );
        let piece = last
            .files()
            .iter()
            .map(|file| file.chunk_size.min(file.size))
            .max();
        let doublings = (machines + 1.0).log2().ceil() - 1.0;
        let pipeline = doublings.max(0.0) * piece.unwrap_or(0) as f64 / link;
        Duration::from_secs_f64(fluid + pipeline)
    }

    /// Simulates it.
    pub fn run(&self) -> Outcome {
        World::new(self).run()
    }
}

fn seconds(bytes: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate)
}

#[cfg(test)]
mod tests;
