//! Chance from a seed: the same seed gives the same decisions, so every one of them can be tested.

use std::time::Duration;

use crate::limits::RETRY_DELAY_FACTOR_MAX;

/// A xorshift generator: enough to keep machines from asking in step, and for nothing that must not be guessed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds that lie side by side, as tests and simulations have them, must not give similar rows.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `sides`; 0 when there is none.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        let high = self.next() >> 32;
        let sides = u64::try_from(sides).unwrap_or(u64::MAX);
        usize::try_from((u128::from(high) * u128::from(sides)) >> 32).unwrap_or(0)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            let other = self.below(index + 1);
            items.swap(index, other);
        }
    }
}

/// The pause after the `failures`-th failure in a row: doubled each time up to a bound, and between half and all of that
/// by chance, so that clients that failed together do not come back together.
pub fn jittered(first: Duration, failures: u32, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    let whole = first.saturating_mul(factor.min(RETRY_DELAY_FACTOR_MAX));
    let part = (random >> 40) as f64 / (1_u64 << 24) as f64;
    whole / 2 + (whole / 2).mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_bound_and_is_shortened_by_chance() {
        const S: Duration = Duration::from_secs(1);
        for (failures, seconds) in [
            (0, 1),
            (1, 2),
            (4, 16),
            (5, 30),
            (31, 30),
            (32, 30),
            (u32::MAX, 30),
        ] {
            assert_eq!(jittered(S, failures, 0), seconds * S / 2, "{failures}");
            let longest = jittered(S, failures, u64::MAX);
            assert!(longest <= seconds * S && longest > seconds * S * 99 / 100);
        }
    }

    #[test]
    fn every_side_comes_up() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut seen = [0_u32; 10];
            for _ in 0..10_000 {
                seen[random.below(10)] += 1;
            }
            assert!(
                seen.iter().all(|&times| (800..1_200).contains(&times)),
                "{seen:?}"
            );
            assert_eq!(random.below(0), 0);
        }
    }
}
