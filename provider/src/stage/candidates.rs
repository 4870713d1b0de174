//! Who may have an image: a bounded table of addresses to ask, and whose turn it is. Pure: time is an argument.
//!
//! Anybody on the wire can fill such a table, so nobody's place in it is safe: who failed makes room for who is new, who
//! was asked waits longer each time, who fails again and again is let go, and when all are new, chance decides who leaves.
//! One machine has few places, and is asked few things at a time, so that however much it announces, the others are asked
//! soon. What a flood crowds out is heard again when the listener listens anew. Never decides what is believed, only what
//! is asked.

use std::time::{Duration, Instant};

use boot_manifest::Digest;
use fetch::Url;

/// Addresses that are kept: a rack of machines that all announce themselves, several times.
const CANDIDATES_MAX: usize = 256;

/// Of them at one IP address, unless somebody decided for this machine: providers in containers of one machine.
const AT_ONE_HOST_MAX: usize = 8;

/// Of those, asked at the same time: a machine that never answers holds up so many questions of all that are possible.
const ASKED_AT_ONE_HOST_MAX: usize = 2;

/// Failures in a row after which somebody that nobody named is let go. They take half a minute; who is there after all is
/// heard again.
const FAILURES_MAX: u32 = 6;

/// Those that a download is told of: in all, for the machines of a rack bring no more together; at one address; and at
/// once, for it takes a few at a time.
const TOLD_MAX: usize = 64;
const TOLD_AT_ONE_HOST_MAX: usize = 2;
const TOLD_AT_ONCE_MAX: usize = 4;

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
    failures: u32,
    /// When it may be asked (again).
    due: Instant,
    is_asked: bool,
}

impl Candidate {
    /// Whether both are at one IP address.
    fn is_at(&self, url: &Url) -> bool {
        self.url.host() == url.host()
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Candidates {
    known: Vec<Candidate>,
    /// Those that the download was told of.
    told: Vec<Url>,
    announced_at: Option<Instant>,
    elsewhere_at: Option<Instant>,
    chance: u64,
}

impl Candidates {
    /// Nobody yet; `seed` decides who leaves a table full of strangers.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            known: Vec::new(),
            told: Vec::new(),
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
        let neighbours = self.known.iter().filter(|one| one.is_at(&url)).count();
        let leaves = if way != Way::Named && neighbours >= AT_ONE_HOST_MAX {
            Some(self.leaves(way, |one| one.is_at(&url)))
        } else if self.known.len() >= CANDIDATES_MAX {
            Some(self.leaves(way, |_| true))
        } else {
            None
        };
        match leaves {
            None => {}
            Some(Some(leaves)) => _ = self.known.remove(leaves),
            Some(None) => return,
        }
        self.known.push(Candidate {
            url,
            way,
            manifest,
            failures: 0,
            due: now,
            is_asked: false,
        });
    }

    /// Which of `those` makes room for somebody of this way: who failed most often, or else anybody of those that are no
    /// better.
    fn leaves(&mut self, way: Way, those: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let idle = |one: &Candidate| !one.is_asked && one.way >= way && those(one);
        let failed = self.known.iter().enumerate().filter(|(_, one)| idle(one));
        let failed = failed.max_by_key(|(_, one)| one.failures)?;
        if failed.1.failures > 0 {
            return Some(failed.0);
        }
        let idle = self.known.iter().enumerate().filter(|(_, one)| idle(one));
        let idle: Vec<usize> = idle.map(|(at, _)| at).collect();
        let at = self.any_of(idle.len())?;
        idle.get(at).copied()
    }

    /// A number below `count` that a flood cannot foresee, which is all it has to be: xorshift.
    fn any_of(&mut self, count: usize) -> Option<usize> {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let count = u64::try_from(count).ok()?;
        usize::try_from(self.chance.checked_rem(count)?).ok()
    }

    /// Whose turn it is: who was named comes first, and all others as they came, so that nobody's inventions go on ahead of
    /// somebody who waits already.
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
        let may = |one: &Candidate| match one.way {
            Way::Named => true,
            Way::Announced => announced,
            Way::Elsewhere => elsewhere,
        };
        let has_room = |one: &Candidate| {
            let asked = self.known.iter().filter(|other| other.is_asked);
            let here = asked.filter(|other| other.is_at(&one.url));
            here.count() < ASKED_AT_ONE_HOST_MAX
        };
        let due = self.known.iter().enumerate();
        let due = due.filter(|(_, one)| !one.is_asked && one.due <= now);
        let due = due.filter(|(_, one)| may(one) && has_room(one));
        let (next, _) = due.min_by_key(|(_, one)| (one.way != Way::Named, one.due))?;
        let next = self.known.get_mut(next)?;
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
        self.known
            .retain(|one| one.way == Way::Named || one.failures < FAILURES_MAX);
    }

    /// Some of those that say to have this manifest, chosen by chance; each of them once.
    pub(super) fn having(&mut self, manifest: &Digest) -> Vec<Url> {
        let mut chosen = Vec::new();
        while chosen.len() < TOLD_AT_ONCE_MAX && self.told.len() < TOLD_MAX {
            let is_new = |one: &&Candidate| {
                let here = self
                    .told
                    .iter()
                    .filter(|told| told.host() == one.url.host());
                one.manifest.as_ref() == Some(manifest)
                    && !self.told.contains(&one.url)
                    && here.count() < TOLD_AT_ONE_HOST_MAX
            };
            let new = self.known.iter().filter(is_new);
            let mut new: Vec<Url> = new.map(|one| one.url.clone()).collect();
            let Some(any) = self.any_of(new.len()) else {
                break;
            };
            let url = new.swap_remove(any);
            self.told.push(url.clone());
            chosen.push(url);
        }
        chosen
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

    /// Each at a machine of its own.
    fn url(number: usize) -> Url {
        let (network, host) = (number / 250, number % 250 + 1);
        let url = format!("http://10.0.{network}.{host}/m.json");
        url.parse().unwrap()
    }

    /// One of many at the same machine.
    fn port(number: usize) -> Url {
        let url = format!("http://10.66.6.6:{number}/m.json");
        url.parse().unwrap()
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

    #[test]
    fn one_machine_that_invents_without_end_holds_up_nobody() {
        let mut now = Instant::now();
        let mut table = Candidates::new(7);
        let digest = Digest::of(b"a");
        for number in 1..2_000 {
            table.heard(Way::Announced, port(number), Some(digest), now);
        }
        assert_eq!(table.known.len(), AT_ONE_HOST_MAX);
        table.heard(Way::Announced, url(1), Some(digest), now);
        now = after(now, 2);
        // It answers none of the questions; the other one is asked all the same.
        let asked: Vec<Url> = std::iter::from_fn(|| table.next(now)).collect();
        assert_eq!(asked.len(), ASKED_AT_ONE_HOST_MAX + 1, "{asked:?}");
        assert!(asked.contains(&url(1)), "{asked:?}");
        // The download is told of no more, and of the other one.
        let told: Vec<Url> = (0..100).flat_map(|_| table.having(&digest)).collect();
        assert_eq!(told.len(), TOLD_AT_ONE_HOST_MAX + 1, "{told:?}");
        assert!(told.contains(&url(1)), "{told:?}");
    }

    #[test]
    fn among_ten_times_as_many_lies_somebody_honest_is_asked_soon() {
        let mut now = Instant::now();
        let mut table = Candidates::new(7);
        table.heard(Way::Announced, url(0), None, now);
        now = after(now, 2);
        // It was asked while it started.
        assert_eq!(table.next(now), Some(url(0)));
        table.failed(&url(0), now);
        // New inventions come all the time, and each is asked and fails; it has its turn again all the same.
        now = after(now, 1);
        let mut turns = 0;
        for number in 1.. {
            table.heard(Way::Announced, url(2 * number), None, now);
            table.heard(Way::Announced, url(2 * number + 1), None, now);
            turns += 1;
            now += Duration::from_millis(10);
            match table.next(now) {
                Some(asked) if asked == url(0) => break,
                Some(asked) => table.failed(&asked, now),
                None => {}
            }
            assert!(turns < 100, "it is not asked again");
        }
    }

    #[test]
    fn who_never_answers_is_let_go_and_who_was_named_is_not() {
        let mut now = Instant::now();
        let mut table = Candidates::new(7);
        table.heard(Way::Named, url(1), None, now);
        table.heard(Way::Announced, url(2), None, now);
        for _ in 0..FAILURES_MAX {
            now = after(now, 10);
            while let Some(asked) = table.next(now) {
                table.failed(&asked, now);
            }
        }
        assert_eq!(table.rank(&url(2)), None);
        assert_eq!(table.rank(&url(1)), Some(Way::Named));
    }

    #[test]
    fn a_download_is_told_of_a_few_at_a_time_and_of_so_many_in_all() {
        let now = Instant::now();
        let mut table = Candidates::new(7);
        let digest = Digest::of(b"a");
        for number in 0..CANDIDATES_MAX {
            table.heard(Way::Announced, url(number), Some(digest), now);
        }
        let told: Vec<Vec<Url>> = (0..100).map(|_| table.having(&digest)).collect();
        assert!(told.iter().all(|some| some.len() <= TOLD_AT_ONCE_MAX));
        let mut told = told.concat();
        told.sort_by_key(ToString::to_string);
        told.dedup();
        assert_eq!(told.len(), TOLD_MAX);
    }
}
