//! Who may have an image: a bounded table of addresses to ask, and whose turn it is. Pure: time is an argument.
//!
//! Anybody on the wire can fill such a table, so nobody's place in it is safe: who failed makes room for who is new, who
//! was asked waits longer each time, and when all are new, chance decides who leaves. What a flood crowds out is heard again
//! when the listener listens anew. Never decides what is believed, only what is asked.

use std::time::{Duration, Instant};

use boot_manifest::Digest;
use fetch::Url;

/// Addresses that are kept: a rack of machines that all announce themselves, several times.
const CANDIDATES_MAX: usize = 256;

/// Addresses that are kept of one host, unless somebody decided for this machine: it may serve from several containers, and
/// one host alone must not fill the table.
const AT_ONE_HOST_MAX: usize = 8;

/// Announcements wait this long for what a boot server says, which somebody decided for this machine.
const ANNOUNCED_WAIT: Duration = Duration::from_secs(2);

/// Those elsewhere wait this long for those on this network, and no longer: somebody here may announce without end.
const ELSEWHERE_WAIT: Duration = Duration::from_secs(5);

/// Until somebody who failed is asked again, and the longest such time.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(8);

/// Who said it, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// A boot server, for this machine.
    Named,
    /// Itself, on this network.
    Announced,
    /// The distributed table.
    Elsewhere,
}

/// One address.
#[derive(Debug)]
struct Candidate {
    url: Url,
    way: Way,
    /// What it says to have.
    manifest: Option<Digest>,
    /// The download was told of it.
    is_told: bool,
    failures: u32,
    /// When it may be asked (again).
    due: Instant,
    is_asked: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Candidates {
    known: Vec<Candidate>,
    announced_at: Option<Instant>,
    elsewhere_at: Option<Instant>,
    chance: u64,
}

impl Candidates {
    /// Nobody yet; `seed` decides who leaves a table full of strangers.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            known: Vec::new(),
            announced_at: None,
            elsewhere_at: None,
            chance: seed | 1,
        }
    }

    /// Somebody says that there is a manifest at `url`, and perhaps which.
    pub(super) fn heard(&mut self, way: Way, url: Url, manifest: Option<Digest>, now: Instant) {
        match way {
            Way::Named => {}
            Way::Announced => _ = self.announced_at.get_or_insert(now),
            Way::Elsewhere => _ = self.elsewhere_at.get_or_insert(now),
        }
        if let Some(known) = self.known.iter_mut().find(|known| known.url == url) {
            known.way = known.way.min(way);
            known.manifest = manifest.or(known.manifest);
            return;
        }
        let is_there = |one: &Candidate| one.url.host() == url.host();
        let at_host = self.known.iter().filter(|one| is_there(one)).count();
        if way != Way::Named && at_host >= AT_ONE_HOST_MAX {
            let failed = |one: &Candidate| is_there(one) && one.failures > 0 && !one.is_asked;
            let Some(leaves) = self.known.iter().position(failed) else {
                return;
            };
            self.known.swap_remove(leaves);
        }
        if self.known.len() >= CANDIDATES_MAX {
            let Some(leaves) = self.leaves(way) else {
                return;
            };
            self.known.swap_remove(leaves);
        }
        self.known.push(Candidate {
            url,
            way,
            manifest,
            is_told: false,
            failures: 0,
            due: now,
            is_asked: false,
        });
    }

    /// Who makes room for somebody of this way: who failed most often, or else anybody of those that are no better.
    fn leaves(&mut self, way: Way) -> Option<usize> {
        let idle = |known: &&Candidate| !known.is_asked && known.way >= way;
        let failed = self.known.iter().enumerate().filter(|(_, one)| idle(one));
        let failed = failed.max_by_key(|(_, one)| one.failures)?;
        if failed.1.failures > 0 {
            return Some(failed.0);
        }
        let idle: Vec<usize> = (0..self.known.len())
            .filter(|at| idle(&&self.known[*at]))
            .collect();
        // Xorshift: it only has to be something that a flood cannot foresee.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let count = u64::try_from(idle.len()).ok()?;
        let at = usize::try_from(self.chance.checked_rem(count)?).ok()?;
        idle.get(at).copied()
    }

    /// Whose turn it is: of those that failed least often, the first of the best way.
    pub(super) fn next(&mut self, now: Instant) -> Option<Url> {
        let settled = |since: Option<Instant>, wait| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= wait)
        };
        let announced = settled(self.announced_at, ANNOUNCED_WAIT);
        let quiet = self
            .known
            .iter()
            .all(|one| one.way == Way::Elsewhere || one.failures > 0);
        let elsewhere = quiet || settled(self.elsewhere_at, ELSEWHERE_WAIT);
        let may = |one: &&mut Candidate| match one.way {
            Way::Named => true,
            Way::Announced => announced,
            Way::Elsewhere => elsewhere,
        };
        let due = self
            .known
            .iter_mut()
            .filter(|one| !one.is_asked && one.due <= now);
        let next = due.filter(may).min_by_key(|one| (one.failures, one.way))?;
        next.is_asked = true;
        Some(next.url.clone())
    }

    /// It had nothing of use.
    pub(super) fn failed(&mut self, url: &Url, now: Instant) {
        if let Some(one) = self.known.iter_mut().find(|one| one.url == *url) {
            one.is_asked = false;
            one.due = now + (RETRY_MIN * 2_u32.pow(one.failures.min(8))).min(RETRY_MAX);
            one.failures = one.failures.saturating_add(1);
        }
    }

    /// Those that say to have this manifest; each of them once.
    pub(super) fn having(&mut self, manifest: &Digest) -> Vec<Url> {
        let has = |one: &&mut Candidate| !one.is_told && one.manifest.as_ref() == Some(manifest);
        let having = self.known.iter_mut().filter(has);
        let told = having.map(|one| {
            one.is_told = true;
            one.url.clone()
        });
        told.collect()
    }

    /// How good the word for it is: who is better comes first.
    pub(super) fn rank(&self, url: &Url) -> Option<Way> {
        let known = self.known.iter().find(|one| one.url == *url);
        known.map(|one| one.way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(number: usize) -> Url {
        let (net, host) = (number / 250, number % 250 + 1);
        format!("http://10.0.{net}.{host}/m.json").parse().unwrap()
    }

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn who_was_named_comes_first_and_announcements_wait() {
        let now = Instant::now();
        let mut table = Candidates::new(1);
        table.heard(Way::Announced, url(2), None, now);
        assert_eq!(table.next(now), None);
        table.heard(Way::Named, url(1), None, now);
        assert_eq!(table.next(now), Some(url(1)));
        assert_eq!(table.next(now), None, "it is being asked");
        assert_eq!(table.next(after(now, 2)), Some(url(2)));
        assert_eq!(table.rank(&url(2)), Some(Way::Announced));
        table.heard(Way::Named, url(2), None, now);
        assert_eq!(table.rank(&url(2)), Some(Way::Named));
        assert_eq!(table.rank(&url(3)), None);
    }

    #[test]
    fn those_elsewhere_are_asked_at_once_when_this_network_is_silent() {
        let now = Instant::now();
        let mut table = Candidates::new(1);
        table.heard(Way::Elsewhere, url(3), None, now);
        assert_eq!(table.next(now), Some(url(3)));
        let mut table = Candidates::new(1);
        table.heard(Way::Announced, url(2), None, now);
        table.heard(Way::Elsewhere, url(3), None, now);
        assert_eq!(table.next(after(now, 2)), Some(url(2)));
        assert_eq!(table.next(after(now, 2)), None);
        table.failed(&url(2), after(now, 2));
        assert_eq!(table.next(after(now, 2)), Some(url(3)));
        // Somebody who announces without end does not keep them out.
        let mut table = Candidates::new(1);
        table.heard(Way::Elsewhere, url(3), None, now);
        for number in 100..400 {
            table.heard(Way::Announced, url(number), None, now);
        }
        let asked = std::iter::from_fn(|| table.next(after(now, 5)));
        assert!(asked.take(CANDIDATES_MAX).any(|asked| asked == url(3)));
    }

    #[test]
    fn one_host_does_not_fill_the_table() {
        let now = Instant::now();
        let mut table = Candidates::new(1);
        let at = |port: u16| -> Url { format!("http://10.0.0.1:{port}/m.json").parse().unwrap() };
        for port in 1..100 {
            table.heard(Way::Announced, at(port), None, now);
        }
        assert_eq!(table.known.len(), AT_ONE_HOST_MAX);
        // What failed there makes room for what is new there.
        let later = after(now, 2);
        let failed = table.next(later).unwrap();
        table.failed(&failed, later);
        table.heard(Way::Announced, at(200), None, later);
        assert_eq!(
            (table.rank(&failed), table.known.len()),
            (None, AT_ONE_HOST_MAX)
        );
        assert!(table.rank(&at(200)).is_some());
    }

    #[test]
    fn those_who_have_the_same_are_told_of_once() {
        let now = Instant::now();
        let mut table = Candidates::new(1);
        let (wanted, other) = (Digest::of(b"a"), Digest::of(b"b"));
        table.heard(Way::Announced, url(1), Some(wanted), now);
        table.heard(Way::Announced, url(2), Some(other), now);
        table.heard(Way::Announced, url(3), None, now);
        assert_eq!(table.having(&wanted), [url(1)]);
        // It was updated meanwhile.
        table.heard(Way::Elsewhere, url(2), Some(wanted), now);
        assert_eq!(table.having(&wanted), [url(2)]);
        assert_eq!(table.having(&wanted), []);
    }

    #[test]
    fn who_fails_waits_longer_each_time() {
        let mut now = Instant::now();
        let mut table = Candidates::new(1);
        table.heard(Way::Named, url(1), None, now);
        for pause in [1, 2, 4, 8, 8] {
            assert_eq!(table.next(now), Some(url(1)));
            table.failed(&url(1), now);
            assert_eq!(table.next(after(now, pause - 1)), None);
            now = after(now, pause);
        }
    }

    #[test]
    fn a_flood_is_bounded_and_does_not_stay() {
        let now = Instant::now();
        let mut table = Candidates::new(7);
        table.heard(Way::Named, url(1), None, now);
        for number in 1_000..3_000 {
            table.heard(Way::Announced, url(number), None, now);
        }
        assert_eq!(table.known.len(), CANDIDATES_MAX);
        assert_eq!(table.rank(&url(1)), Some(Way::Named), "it was crowded out");
        // Chance decides who stays, not who shouted last.
        let older = (1_000..2_800).filter(|number| table.rank(&url(*number)).is_some());
        let older = older.count();
        assert!((10..CANDIDATES_MAX - 10).contains(&older), "{older}");
        // Those who failed make room first.
        let later = after(now, 2);
        let failed = table.next(later).and_then(|_| table.next(later)).unwrap();
        table.failed(&failed, later);
        table.heard(Way::Announced, url(5_000), None, later);
        assert_eq!(table.rank(&failed), None);
        assert_eq!(table.rank(&url(5_000)), Some(Way::Announced));
    }
}
