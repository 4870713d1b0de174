//! What happens, step by step.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use boot_manifest::Digest;

use crate::pieces::Pieces;
use crate::random::Random;
use crate::schedule::{Action, End, Event, Kind};
use crate::set::PieceSet;
use crate::simulate::machine::{Lane, Lie, Machine, address, at};
use crate::simulate::network::{Flow, Network};
use crate::simulate::{Outcome, Setup};
use crate::table::{Table, are_near};

/// Transfers that a machine has going at once as a sender; it is busy for more, and says so with this pause.
const UPLOADS_MAX: usize = 4;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How often a schedule is told of its rates.
const TICK: Duration = Duration::from_millis(250);

/// A machine that knows nobody asks again for peers after this time.
const ALONE_PAUSE: Duration = Duration::from_millis(250);

/// A step is this part of what a piece takes, within these bounds: what ends within a step lets its links idle until the
/// next one.
const STEPS_PER_PIECE: f64 = 40.0;

/// The same for more machines than this: coarser, so that it takes seconds. It makes the swarm look a little slower.
const FEW_MACHINES: usize = 32;
const STEPS_PER_PIECE_OF_MANY: f64 = 8.0;
const STEP_MIN: Duration = Duration::from_micros(200);
const STEP_MAX: Duration = Duration::from_millis(20);

/// What takes until a later moment.
#[derive(Debug)]
enum Later {
    Start,
    Vanish,
    OriginGone,
    /// The machine's question for peers was answered.
    Peers,
    /// A map of a source arrived, or not.
    Map {
        source: usize,
        map: Option<(PieceSet, PieceSet)>,
    },
    /// A request of the machine arrived at a source.
    Request {
        source: usize,
        number: u64,
        first: usize,
    },
    /// The answer to it is that it failed, or that the source is busy.
    Refused {
        source: usize,
        number: u64,
        end: End,
    },
}

pub(super) struct World<'a> {
    setup: &'a Setup,
    pieces: Pieces,
    manifest: Digest,
    table: Table,
    machines: Vec<Machine>,
    network: Network,
    later: BinaryHeap<Reverse<(Duration, u64)>>,
    what: std::collections::HashMap<u64, (usize, Later)>,
    number: u64,
    random: Random,
    now: Duration,
    origin_is_on: bool,
    /// Pieces that some machine had.
    seen: PieceSet,
    outcome: Outcome,
}

impl<'a> World<'a> {
    pub(super) fn new(setup: &'a Setup) -> Self {
        let files = setup.files.iter().enumerate();
        let pieces =
            Pieces::new(files.map(|(index, &size)| (Digest::of(&index.to_be_bytes()), size)));
        let mut random = Random::new(setup.seed);
        let seen = PieceSet::new(pieces.count());
        let mut machines: Vec<Machine> = (0..setup.machines)
            .map(|index| Machine::new(setup, &pieces, index, random.next()))
            .collect();
        let mut order: Vec<usize> = (0..setup.machines).collect();
        random.shuffle(&mut order);
        let liars = (setup.machines as f64 * setup.liars) as usize;
        for (place, &index) in order.iter().take(liars).enumerate() {
            machines[index].lie = Some(Lie::ALL[place % Lie::ALL.len()]);
        }
        let vanish = (setup.machines as f64 * setup.churn) as usize;
        for &index in order.iter().skip(liars).take(vanish) {
            machines[index].vanishes = true;
        }
        let counted = |machine: &&Machine| machine.lie.is_none() && !machine.vanishes;
        let outcome = Outcome {
            machines: machines.iter().filter(counted).count(),
            finished: Vec::new(),
            together: None,
            image: setup.image(),
            origin_bytes: 0,
            outside_bytes: 0,
            received_bytes: 0,
            wasted_bytes: 0,
            requests: 0,
            looks: 0,
            questions: 0,
            bound: setup.bound(),
            alone: setup.alone(),
        };
        let mut world = Self {
            setup,
            manifest: Digest::of(b"manifest"),
            table: Table::new(random.next()),
            network: Network::new(setup),
            pieces,
            machines,
            later: BinaryHeap::new(),
            what: std::collections::HashMap::new(),
            number: 0,
            random,
            now: Duration::ZERO,
            origin_is_on: true,
            seen,
            outcome,
        };
        world.plan();
        world
    }

    /// Who starts and vanishes when.
    fn plan(&mut self) {
        let spread = usize::try_from(self.setup.spread.as_micros()).unwrap_or(usize::MAX);
        let bound = usize::try_from(self.setup.bound().as_micros()).unwrap_or(usize::MAX);
        for index in 0..self.machines.len() {
            let start = micros(self.random.below(spread));
            self.at(start, index, Later::Start);
            if self.machines[index].vanishes {
                let life = micros(self.random.below(bound));
                self.at(start + life, index, Later::Vanish);
            }
        }
        if let Some(gone) = self.setup.origin_gone {
            self.at(gone, 0, Later::OriginGone);
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        let step = self.step();
        while self.outcome.finished.len() < self.outcome.machines && self.now < self.setup.time_max
        {
            self.now += step;
            while let Some(Reverse((when, number))) = self.later.peek().copied() {
                if when > self.now {
                    break;
                }
                self.later.pop();
                if let Some((machine, what)) = self.what.remove(&number) {
                    self.happen(machine, what);
                }
            }
            for machine in 0..self.machines.len() {
                if self.machines[machine].wake <= self.now {
                    self.decide(machine);
                }
            }
            self.network.share();
            for place in self.network.places() {
                self.flow(place, step);
            }
        }
        self.outcome
    }

    fn step(&self) -> Duration {
        let piece = self.pieces.files().iter().map(|file| file.chunk_size).min();
        let rate = self.setup.link.min(self.setup.uplink) as f64;
        let piece = piece.unwrap_or(1) as f64 / rate;
        let steps = match self.machines.len() {
            0..=FEW_MACHINES => STEPS_PER_PIECE,
            _ => STEPS_PER_PIECE_OF_MANY,
        };
        Duration::from_secs_f64(piece / steps).clamp(STEP_MIN, STEP_MAX)
    }

    fn at(&mut self, when: Duration, machine: usize, what: Later) {
        self.number += 1;
        self.what.insert(self.number, (machine, what));
        self.later.push(Reverse((when, self.number)));
    }

    fn happen(&mut self, index: usize, what: Later) {
        match what {
            Later::Start => self.start(index),
            Later::Vanish => self.vanish(index),
            Later::OriginGone => {
                self.origin_is_on = false;
                self.cut(self.machines.len());
            }
            Later::Peers => self.meet(index),
            Later::Map { source, map } => {
                let event = match map {
                    Some((have, coming)) => Event::Map {
                        source,
                        have,
                        coming,
                    },
                    None => Event::Unread { source },
                };
                self.tell(index, &event);
            }
            Later::Request {
                source,
                number,
                first,
            } => self.request(index, source, number, first),
            Later::Refused {
                source,
                number,
                end,
            } => {
                if matches!(self.machines[index].lanes.get(&source), Some(Lane::Asked { number: asked, .. }) if *asked == number)
                {
                    self.machines[index].lanes.remove(&source);
                    self.tell(index, &Event::Ended { source, end });
                }
            }
        }
    }

    fn start(&mut self, index: usize) {
        let origin = self.machines.len();
        let machine = &mut self.machines[index];
        machine.is_on = true;
        if machine.lie.is_none() {
            machine.join(origin, Kind::Origin, self.now);
        }
        if self.setup.swarm {
            // The first question comes before the first piece.
            machine.wake = Duration::MAX;
            self.at(self.now + self.setup.round_trip, index, Later::Peers);
        }
    }

    fn vanish(&mut self, index: usize) {
        self.machines[index].is_on = false;
        self.machines[index].wake = Duration::MAX;
        self.cut(index);
    }

    /// Ends every transfer of a node that is gone.
    fn cut(&mut self, node: usize) {
        for place in self.network.of(node) {
            if let Some(flow) = self.network.end(place) {
                self.waste(&flow);
                self.machines[flow.to].lanes.remove(&flow.source);
                let end = End::Failed { transient: true };
                let source = flow.source;
                if flow.to != node {
                    self.tell(flow.to, &Event::Ended { source, end });
                }
            }
        }
    }

    /// A list of peers arrived: from the origin, or when that is gone from somebody who is known.
    fn meet(&mut self, index: usize) {
        if !self.machines[index].is_on {
            return;
        }
        self.outcome.questions += 1;
        let own = address(self.setup, index);
        let (mut peers, mut refresh) = (Vec::new(), Duration::from_secs(1));
        if self.origin_is_on {
            let is_complete = self.machines[index].finished.is_some();
            // A table that is full answers all the same.
            let _full = self
                .table
                .register(&self.manifest, own, is_complete, self.now);
            let answer = self
                .table
                .sample(&self.manifest, own.ip(), Some(own), self.now);
            refresh = answer.refresh;
            peers.extend(
                answer
                    .peers
                    .iter()
                    .filter_map(|peer| at(self.setup, peer.address)),
            );
        } else if !self.machines[index].nodes.is_empty() {
            let place = self.random.below(self.machines[index].nodes.len());
            let other = self.machines[index].nodes[place];
            if let Some(other) = self.machines.get(other).filter(|other| other.is_on) {
                peers.extend(other.nodes.iter().copied());
            }
        }
        let machine = &mut self.machines[index];
        if machine.finished.is_none() && machine.lie.is_none() {
            machine.wake = self.now;
            let count = machine.schedule.peers_wanted();
            let new = |peer: &usize| *peer < self.setup.machines && !machine.known.contains(peer);
            let peers: Vec<usize> = peers.into_iter().filter(new).take(count).collect();
            for peer in peers {
                let near = are_near(address(self.setup, peer).ip(), own.ip());
                machine.join(peer, Kind::Peer { near }, self.now);
            }
        }
        if machine.nodes.len() <= 1 {
            refresh = ALONE_PAUSE;
        }
        self.at(self.now + refresh, index, Later::Peers);
    }

    /// Lets a schedule decide, and does what it says.
    fn decide(&mut self, index: usize) {
        if self.machines[index].lie.is_some() || !self.machines[index].is_on {
            self.machines[index].wake = Duration::MAX;
            return;
        }
        let mut goes_on = true;
        while goes_on {
            let actions = self.machines[index].schedule.poll(self.now);
            // What was taken from somebody is given to somebody else at once.
            let gives =
                |action: &Action| matches!(action, Action::Shrink { .. } | Action::Stop { .. });
            goes_on = actions.iter().any(gives);
            for action in actions {
                self.act(index, action);
            }
        }
        let machine = &mut self.machines[index];
        let wake = machine.schedule.wake(self.now);
        machine.wake = wake.unwrap_or(Duration::MAX).min(self.now + TICK);
        if machine.finished.is_some() {
            machine.wake = Duration::MAX;
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let half = self.setup.round_trip / 2;
        match action {
            Action::Fetch { source, run } => {
                self.outcome.requests += 1;
                let number = self.number + 1;
                let (first, end) = (run.start, run.end);
                let lane = Lane::Asked { number, end };
                self.machines[index].lanes.insert(source, lane);
                let request = Later::Request {
                    source,
                    number,
                    first,
                };
                self.at(self.now + half, index, request);
            }
            Action::Shrink { source, end } => {
                let end = match self.machines[index].lanes.get_mut(&source) {
                    Some(Lane::Asked { end: asked, .. }) => {
                        *asked = (*asked).min(end);
                        *asked
                    }
                    Some(Lane::Flows { place }) => {
                        let flow = self.network.flow(*place).expect("a lane's flow flows");
                        flow.run.end = flow.run.end.min(end.max(flow.run.start + 1));
                        flow.run.end
                    }
                    None => end,
                };
                self.tell(index, &Event::Shrunk { source, end });
            }
            Action::Stop { source } => {
                if let Some(Lane::Flows { place }) = self.machines[index].lanes.remove(&source)
                    && let Some(flow) = self.network.end(place)
                {
                    self.waste(&flow);
                }
                let end = End::Stopped;
                self.tell(index, &Event::Ended { source, end });
            }
            Action::Look { source } => {
                self.outcome.looks += 1;
                let node = self.machines[index].nodes[source];
                let other = self.machines.get(node).filter(|other| other.is_on);
                let map = other.map(Machine::map);
                self.at(
                    self.now + self.setup.round_trip,
                    index,
                    Later::Map { source, map },
                );
            }
        }
    }

    /// A request arrived where it was sent to.
    fn request(&mut self, index: usize, source: usize, number: u64, first: usize) {
        let Some(&Lane::Asked { number: asked, end }) = self.machines[index].lanes.get(&source)
        else {
            return;
        };
        if asked != number {
            return;
        }
        let node = self.machines[index].nodes[source];
        let origin = self.machines.len();
        let failed = End::Failed { transient: true };
        let busy = End::Busy {
            retry_after: BUSY_PAUSE,
        };
        let (mut refusal, mut is_stalled) = (None, false);
        if node == origin {
            if !self.origin_is_on {
                refusal = Some(failed);
            } else if self.network.sending(origin) >= self.setup.origin_places {
                refusal = Some(busy);
            }
        } else {
            let other = &self.machines[node];
            let has = (first..end).all(|piece| other.have.contains(piece));
            match other.lie {
                _ if !other.is_on => refusal = Some(failed),
                Some(Lie::Nothing | Lie::Coming) => refusal = Some(busy),
                Some(Lie::Stall) => is_stalled = true,
                Some(Lie::WrongBytes) => {}
                None if !has || self.network.sending(node) >= UPLOADS_MAX => refusal = Some(busy),
                None => {}
            }
        }
        if let Some(end) = refusal {
            let when = self.now + self.setup.round_trip / 2;
            let refused = Later::Refused {
                source,
                number,
                end,
            };
            self.at(when, index, refused);
            return;
        }
        let place = self.network.start(Flow {
            from: node,
            to: index,
            source,
            run: first..end,
            left: self.pieces.size(first) as f64,
            came: 0.0,
            rate: 0.0,
            counted: 0.0,
            counted_at: self.now,
            is_stalled,
        });
        self.machines[index]
            .lanes
            .insert(source, Lane::Flows { place });
    }

    /// What a transfer brings in a step.
    fn flow(&mut self, place: usize, step: Duration) {
        let Some(flow) = self.network.flow(place) else {
            return;
        };
        let (from, to, source) = (flow.from, flow.to, flow.source);
        let bytes = flow.rate * step.as_secs_f64();
        flow.left -= bytes;
        flow.came += bytes;
        flow.counted += bytes;
        let passed = self.now + step - flow.counted_at;
        let mut done = Vec::new();
        while flow.left <= 0.0 && !flow.run.is_empty() {
            done.push(flow.run.start);
            flow.run.start += 1;
            flow.came = -flow.left;
            flow.left += self.pieces.size(flow.run.start) as f64;
        }
        let is_over = flow.run.is_empty();
        let mut traffic = None;
        if passed >= TICK || is_over {
            traffic = Some((std::mem::take(&mut flow.counted) as u64, passed));
            flow.counted_at = self.now + step;
        }
        let counts = self.machines[to].lie.is_none();
        if counts {
            self.outcome.received_bytes += bytes as u64;
        }
        if from == self.machines.len() {
            self.outcome.origin_bytes += bytes as u64;
        }
        if self.network.is_outside(from, to) {
            self.outcome.outside_bytes += bytes as u64;
        }
        if let Some((bytes, time)) = traffic {
            self.tell(
                to,
                &Event::Traffic {
                    source,
                    bytes,
                    time,
                },
            );
        }
        for piece in done {
            self.piece(from, to, source, piece);
        }
        if is_over && self.network.end(place).is_some() {
            self.machines[to].lanes.remove(&source);
            let end = End::Done;
            self.tell(to, &Event::Ended { source, end });
        }
    }

    /// A piece is there.
    fn piece(&mut self, from: usize, to: usize, source: usize, piece: usize) {
        let is_right = self
            .machines
            .get(from)
            .is_none_or(|from| from.lie.is_none());
        if !is_right {
            self.outcome.wasted_bytes += self.pieces.size(piece);
            let sealed = false;
            self.tell(
                to,
                &Event::Wrong {
                    source,
                    piece,
                    sealed,
                },
            );
            return;
        }
        self.machines[to].have.insert(piece);
        if self.seen.insert(piece) && self.seen.is_full() {
            self.outcome.together = Some(self.now);
        }
        self.tell(to, &Event::Kept { source, piece });
        let machine = &mut self.machines[to];
        if machine.schedule.is_complete() && machine.finished.is_none() {
            machine.finished = Some(self.now);
            if !machine.vanishes {
                self.outcome.finished.push(self.now);
            }
            if let Some(linger) = self.setup.linger {
                self.at(self.now + linger, to, Later::Vanish);
            }
        }
    }

    /// What came of a piece that will not be whole is of no use.
    fn waste(&mut self, flow: &Flow) {
        if self.machines[flow.to].lie.is_none() {
            self.outcome.wasted_bytes += flow.came as u64;
        }
    }

    fn tell(&mut self, index: usize, event: &Event) {
        let machine = &mut self.machines[index];
        machine.schedule.handle(event, self.now);
        if machine.is_on {
            machine.wake = machine.wake.min(self.now);
        }
    }
}

fn micros(number: usize) -> Duration {
    Duration::from_micros(u64::try_from(number).unwrap_or(u64::MAX))
}
