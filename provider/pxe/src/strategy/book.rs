//! What each client did with what it was given, by MAC: which style it is offered now, and which one it booted with.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Mac;
use crate::boot::Style;
use crate::limits::{ATTEMPT_GAP, BOOK_MACHINES_MAX, CHAINS_MAX, REPEAT_GAP, STOPS_MAX};

/// How far a file got on its way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// The client asked for it. Firmware may well ask for the size first and stop (C27).
    Begun,
    /// All of it was sent.
    Done,
}

/// What a client did since it was last offered something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Nothing,
    /// It came to port 4011.
    Asked,
    /// It began to fetch.
    Begun,
    /// It has the file, or already runs it.
    Done,
}

#[derive(Debug, Clone)]
struct Track {
    seen: Duration,
    /// When this process last offered it something.
    offered: Option<Duration>,
    style: Style,
    progress: Progress,
    /// Offers in this attempt that led to nothing.
    rung: u32,
    /// Files in a row that were begun and not finished.
    stops: u32,
    /// Our iPXE given to an iPXE, times in a row that it took it and came back.
    chains: u32,
    learned: Option<Style>,
}

/// The memory of [`decide`](super::decide). Bounded: of too many machines the one goes that was quiet for longest, and
/// those that never booted go first.
#[derive(Debug, Clone, Default)]
pub struct Book {
    machines: BTreeMap<Mac, Track>,
}

impl Book {
    /// Takes over what was learned about a machine before this process began.
    pub fn learn(&mut self, mac: Mac, style: Style) {
        let track = self.track(mac, style, Duration::ZERO);
        track.offered = None;
        track.style = style;
        track.learned = Some(style);
    }

    /// Forgets a machine, so that it is found out anew what it takes.
    pub fn forget(&mut self, mac: Mac) {
        self.machines.remove(&mac);
    }

    /// What was learned, to be kept.
    pub fn learned(&self) -> impl Iterator<Item = (Mac, Style)> {
        let known = self.machines.iter();
        known.filter_map(|(mac, track)| Some((*mac, track.learned?)))
    }

    /// The style a machine booted with.
    pub fn learned_style(&self, mac: Mac) -> Option<Style> {
        self.machines.get(&mac)?.learned
    }

    /// How many offers in a row led to nothing.
    pub fn rung(&self, mac: Mac) -> u32 {
        self.machines.get(&mac).map_or(0, |track| track.rung)
    }

    /// How many machines it knows.
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// A machine asked for a file by TFTP, or got all of it.
    pub fn saw_tftp(&mut self, mac: Mac, transfer: Transfer, now: Duration) {
        self.saw_transfer(mac, transfer, now);
    }

    /// A machine asked for a file by HTTP, or got all of it.
    pub fn saw_http(&mut self, mac: Mac, transfer: Transfer, now: Duration) {
        self.saw_transfer(mac, transfer, now);
    }

    fn saw_transfer(&mut self, mac: Mac, transfer: Transfer, now: Duration) {
        let progress = match transfer {
            Transfer::Begun => Progress::Begun,
            Transfer::Done => Progress::Done,
        };
        self.saw(mac, progress, now);
    }

    pub(super) fn saw_boot_request(&mut self, mac: Mac, now: Duration) {
        self.saw(mac, Progress::Asked, now);
    }

    /// The program that was offered runs and asks for itself.
    pub(super) fn saw_next_program(&mut self, mac: Mac, now: Duration) {
        let begun = self.machines.get(&mac);
        if begun.is_some_and(|track| track.progress >= Progress::Begun) {
            self.saw(mac, Progress::Done, now);
        }
    }

    /// Progress counts only for what was offered; who was offered nothing may fetch what it likes.
    fn saw(&mut self, mac: Mac, progress: Progress, now: Duration) {
        let Some(track) = self.machines.get_mut(&mac) else {
            return;
        };
        track.seen = now;
        track.progress = track.progress.max(progress);
        if progress == Progress::Done {
            track.learned = Some(track.style);
            track.rung = 0;
            track.stops = 0;
        }
    }

    pub(super) fn style(&self, mac: Mac) -> Option<Style> {
        self.machines.get(&mac).map(|track| track.style)
    }

    /// A client looks for servers: which style it is offered. `order` is not empty.
    pub(super) fn discover(&mut self, mac: Mac, order: &[Style], now: Duration) -> Style {
        let first = order.first().copied().unwrap_or(Style::Plain);
        let is_new = !self.machines.contains_key(&mac);
        let track = self.track(mac, first, now);
        track.seen = now;
        if is_new {
            return track.style;
        }
        let since = track.offered.map(|offered| now.saturating_sub(offered));
        if !order.contains(&track.style) {
            // Another kind of firmware on the same card: somebody changed the setup.
            *track = Track::new(first, now);
        } else if let Some(since) = since.filter(|since| *since >= REPEAT_GAP) {
            track.again(order, since);
            track.offered = Some(now);
        } else if since.is_none() {
            // What it was offered before this process began says nothing about now.
            track.offered = Some(now);
        }
        track.style
    }

    /// Whether an iPXE without HTTP is given ours. Not if it took it again and again and is still without (C14).
    pub(super) fn may_chain(&mut self, mac: Mac, order: &[Style], now: Duration) -> bool {
        let first = order.first().copied().unwrap_or(Style::Plain);
        let track = self.track(mac, first, now);
        let since = now.saturating_sub(track.seen);
        track.seen = now;
        if since >= ATTEMPT_GAP {
            track.chains = 0;
        } else if track.progress == Progress::Done {
            track.chains += 1;
        }
        track.progress = Progress::Nothing;
        track.chains < CHAINS_MAX
    }

    fn track(&mut self, mac: Mac, style: Style, now: Duration) -> &mut Track {
        if self.machines.len() >= BOOK_MACHINES_MAX && !self.machines.contains_key(&mac) {
            let quiet = self.machines.iter();
            let quiet = quiet.min_by_key(|(_, track)| (track.learned.is_some(), track.seen));
            if let Some(mac) = quiet.map(|(mac, _)| *mac) {
                self.machines.remove(&mac);
            }
        }
        let track = self.machines.entry(mac);
        track.or_insert_with(|| Track::new(style, now))
    }
}

impl Track {
    const fn new(style: Style, now: Duration) -> Self {
        Self {
            seen: now,
            offered: Some(now),
            style,
            progress: Progress::Nothing,
            rung: 0,
            stops: 0,
            chains: 0,
            learned: None,
        }
    }

    /// The client asks again, this long after the last offer. What became of that decides what it is offered now.
    fn again(&mut self, order: &[Style], since: Duration) {
        match self.progress {
            // A second boot, or the next one after power-on: it goes on as it went before.
            Progress::Done => {}
            Progress::Begun => {
                self.stops += 1;
                self.rung += 1;
                if self.stops >= STOPS_MAX {
                    self.stops = 0;
                    self.style = next(order, self.style);
                }
            }
            Progress::Nothing | Progress::Asked => {
                self.rung += 1;
                self.style = match self.learned {
                    // Somebody switched it off in between; what it took before is the best guess.
                    Some(learned) if since >= ATTEMPT_GAP && order.contains(&learned) => learned,
                    _ => next(order, self.style),
                };
            }
        }
        self.progress = Progress::Nothing;
    }
}

/// The style after this one, and after the last the first.
fn next(order: &[Style], style: Style) -> Style {
    let at = order.iter().position(|known| *known == style);
    let after = at.and_then(|at| order.get(at + 1)).or(order.first());
    after.copied().unwrap_or(style)
}
