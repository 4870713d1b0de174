//! A set of pieces: one bit each, of a length that never changes.

/// Which of a fixed number of pieces are in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PieceSet {
    words: Vec<u64>,
    length: usize,
}

impl PieceSet {
    /// None of `length` pieces.
    pub fn new(length: usize) -> Self {
        Self {
            words: vec![0; length.div_ceil(64)],
            length,
        }
    }

    /// All of `length` pieces.
    pub fn full(length: usize) -> Self {
        let mut set = Self::new(length);
        set.words.fill(u64::MAX);
        set.clear_spare_bits();
        set
    }

    /// Those of `length` pieces that are named; numbers past the end are left out.
    pub fn of(length: usize, pieces: impl IntoIterator<Item = usize>) -> Self {
        let mut set = Self::new(length);
        for piece in pieces {
            set.insert(piece);
        }
        set
    }

    /// How many pieces there are, in it or not.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Puts a piece into it. `true`: it was not in it, and there is such a piece.
    pub fn insert(&mut self, piece: usize) -> bool {
        let is_new = piece < self.length && !self.contains(piece);
        if is_new {
            self.words[piece / 64] |= 1 << (piece % 64);
        }
        is_new
    }

    /// Takes a piece out of it. `true`: it was in it.
    pub fn remove(&mut self, piece: usize) -> bool {
        let was = self.contains(piece);
        if was {
            self.words[piece / 64] &= !(1 << (piece % 64));
        }
        was
    }

    /// Whether a piece is in it.
    pub fn contains(&self, piece: usize) -> bool {
        piece < self.length && self.words[piece / 64] >> (piece % 64) & 1 == 1
    }

    /// How many pieces are in it.
    pub fn count(&self) -> usize {
        let ones = |word: &u64| word.count_ones() as usize;
        self.words.iter().map(ones).sum()
    }

    /// Whether no piece is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether every piece is in it.
    pub fn is_full(&self) -> bool {
        self.count() == self.length
    }

    /// The pieces in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        Bits::of(self.words.iter().copied())
    }

    /// The pieces that are in both.
    pub fn both<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        Bits::of(self.words.iter().zip(&other.words).map(|(a, b)| a & b))
    }

    /// The pieces that are in this one and not in the other one.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let others = other.words.iter().chain(std::iter::repeat(&0));
        Bits::of(self.words.iter().zip(others).map(|(a, b)| a & !b))
    }

    /// Puts everything into it that is in the other one.
    pub fn union(&mut self, other: &Self) {
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            *own |= other;
        }
        self.clear_spare_bits();
    }

    /// Whether some piece is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    fn clear_spare_bits(&mut self) {
        if let (Some(last), spare @ 1..) = (self.words.last_mut(), self.length % 64) {
            *last &= (1 << spare) - 1;
        }
    }
}

/// The numbers of the bits that are set in a row of words.
struct Bits<I> {
    words: I,
    word: u64,
    /// The number of the first bit of `word`, and 64 before the first word.
    base: usize,
}

impl<I: Iterator<Item = u64>> Bits<I> {
    fn of(words: I) -> Self {
        Self {
            words,
            word: 0,
            base: 0_usize.wrapping_sub(64),
        }
    }
}

impl<I: Iterator<Item = u64>> Iterator for Bits<I> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.word == 0 {
            self.word = self.words.next()?;
            self.base = self.base.wrapping_add(64);
        }
        let bit = self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(self.base.wrapping_add(bit))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(length in 0..300_usize, one: BTreeSet<u8>, other: BTreeSet<u8>) {
            let fits = |set: &BTreeSet<u8>| -> BTreeSet<usize> {
                set.iter().map(|&piece| usize::from(piece)).filter(|&piece| piece < length).collect()
            };
            let set = |pieces: &BTreeSet<u8>| PieceSet::of(length, pieces.iter().map(|&piece| usize::from(piece)));
            let (a, b) = (set(&one), set(&other));
            let (one, other) = (fits(&one), fits(&other));
            prop_assert!(a.iter().eq(one.iter().copied()));
            prop_assert!(a.both(&b).eq(one.intersection(&other).copied()));
            prop_assert!(a.without(&b).eq(one.difference(&other).copied()));
            prop_assert_eq!(a.count(), one.len());
            prop_assert_eq!(a.is_empty(), one.is_empty());
            prop_assert_eq!(a.is_full(), one.len() == length);
            prop_assert_eq!(a.meets(&b), !one.is_disjoint(&other));
            let mut both = a.clone();
            both.union(&b);
            prop_assert!(both.iter().eq(one.union(&other).copied()));
            for piece in one {
                prop_assert!(both.remove(piece) && !both.remove(piece) && !both.contains(piece));
                prop_assert!(both.insert(piece) && !both.insert(piece));
            }
        }

        #[test]
        fn all_of_them_are_no_more_than_there_are(length in 0..300_usize) {
            let full = PieceSet::full(length);
            prop_assert!(full.is_full() && full.iter().eq(0..length));
            prop_assert!(full.without(&PieceSet::new(0)).eq(0..length));
        }
    }
}
