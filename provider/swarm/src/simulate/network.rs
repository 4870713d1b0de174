//! Transfers that share links.

use std::ops::Range;
use std::time::Duration;

use crate::simulate::Setup;

/// A transfer: a run of pieces from one node to another one.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// The sender; the origin comes after the last machine.
    pub(super) from: usize,
    /// The receiver.
    pub(super) to: usize,
    /// The number that the sender has as a source of the receiver.
    pub(super) source: usize,
    /// The pieces that are still to come, the one under way included.
    pub(super) run: Range<usize>,
    /// Bytes that the first of them still lacks.
    pub(super) left: f64,
    /// What of it came.
    pub(super) came: f64,
    /// Bytes per second now.
    pub(super) rate: f64,
    /// Bytes, and the time, since its rate was told to the schedule.
    pub(super) counted: f64,
    pub(super) counted_at: Duration,
    /// The sender sends nothing.
    pub(super) is_stalled: bool,
}

/// The links, and what each transfer gets of them.
pub(super) struct Network {
    flows: Vec<Option<Flow>>,
    vacant: Vec<usize>,
    capacity: Vec<f64>,
    left: Vec<f64>,
    sharing: Vec<u32>,
    machines: usize,
    rack: usize,
    /// Transfers that each node sends.
    sending: Vec<usize>,
}

/// How often what is left over is shared again: after three rounds it is a few hundredths.
const ROUNDS: usize = 3;

impl Network {
    pub(super) fn new(setup: &Setup) -> Self {
        let machines = setup.machines;
        let racks = machines.div_ceil(setup.rack);
        let mut capacity = vec![setup.link as f64; 2 * machines];
        capacity.extend(vec![setup.uplink as f64; 2 * racks]);
        capacity.push(setup.origin as f64);
        Self {
            flows: Vec::new(),
            vacant: Vec::new(),
            left: vec![0.0; capacity.len()],
            sharing: vec![0; capacity.len()],
            capacity,
            machines,
            rack: setup.rack,
            sending: vec![0; machines + 1],
        }
    }

    pub(super) fn start(&mut self, flow: Flow) -> usize {
        self.sending[flow.from] += 1;
        match self.vacant.pop() {
            Some(place) => {
                self.flows[place] = Some(flow);
                place
            }
            None => {
                self.flows.push(Some(flow));
                self.flows.len() - 1
            }
        }
    }

    pub(super) fn end(&mut self, place: usize) -> Option<Flow> {
        let flow = self.flows.get_mut(place)?.take()?;
        self.sending[flow.from] -= 1;
        self.vacant.push(place);
        Some(flow)
    }

    pub(super) fn flow(&mut self, place: usize) -> Option<&mut Flow> {
        self.flows.get_mut(place)?.as_mut()
    }

    pub(super) fn sending(&self, node: usize) -> usize {
        self.sending[node]
    }

    pub(super) fn places(&self) -> Range<usize> {
        0..self.flows.len()
    }

    /// Transfers from or to a node.
    pub(super) fn of(&self, node: usize) -> Vec<usize> {
        let flows = self.flows.iter().enumerate();
        let of = |(place, flow): (usize, &Option<Flow>)| {
            let flow = flow.as_ref()?;
            (flow.from == node || flow.to == node).then_some(place)
        };
        flows.filter_map(of).collect()
    }

    pub(super) fn is_outside(&self, from: usize, to: usize) -> bool {
        from == self.machines || from / self.rack != to / self.rack
    }

    /// The links on the way of a transfer.
    fn way(&self, flow: &Flow) -> [usize; 4] {
        let (machines, racks) = (self.machines, self.machines.div_ceil(self.rack));
        let down = machines + flow.to;
        let origin = 2 * machines + 2 * racks;
        let rack_down = 2 * machines + racks + flow.to / self.rack;
        if flow.from == machines {
            return [origin, rack_down, down, down];
        }
        if !self.is_outside(flow.from, flow.to) {
            return [flow.from, down, down, down];
        }
        [
            flow.from,
            2 * machines + flow.from / self.rack,
            rack_down,
            down,
        ]
    }

    /// Gives every transfer its rate.
    pub(super) fn share(&mut self) {
        self.left.copy_from_slice(&self.capacity);
        let mut flows = std::mem::take(&mut self.flows);
        for flow in flows.iter_mut().flatten() {
            flow.rate = 0.0;
        }
        for _ in 0..ROUNDS {
            self.sharing.fill(0);
            let open = |left: &[f64], way: &[usize; 4], capacity: &[f64]| {
                way.iter().all(|&link| left[link] > capacity[link] * 1e-3)
            };
            for flow in flows.iter().flatten().filter(|flow| !flow.is_stalled) {
                let way = self.way(flow);
                if open(&self.left, &way, &self.capacity) {
                    each(way, |link| self.sharing[link] += 1);
                }
            }
            let before = self.left.clone();
            for flow in flows.iter_mut().flatten().filter(|flow| !flow.is_stalled) {
                let way = self.way(flow);
                if open(&before, &way, &self.capacity) {
                    let share = |link: usize| before[link] / f64::from(self.sharing[link].max(1));
                    let rate = way
                        .iter()
                        .map(|&link| share(link))
                        .fold(f64::INFINITY, f64::min);
                    flow.rate += rate;
                    each(way, |link| self.left[link] -= rate);
                }
            }
        }
        self.flows = flows;
    }
}

/// Each link once, though the last one may be written several times.
fn each(way: [usize; 4], mut take: impl FnMut(usize)) {
    for (place, &link) in way.iter().enumerate() {
        if !way[..place].contains(&link) {
            take(link);
        }
    }
}
