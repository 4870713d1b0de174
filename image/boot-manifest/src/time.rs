//! Points in time as the format writes them: whole seconds, UTC, one spelling. Reads no clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Seconds since 1970-01-01 UTC, between the years 1970 and 9999.
///
/// Written `2026-11-21T10:00:00Z`, and only so: no offset, no fraction, no lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not a point in time in the form `2026-11-21T10:00:00Z`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time is written 2026-11-21T10:00:00Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    /// 9999-12-30T22:00:00Z, the last second that exists in every time zone of jiff.
    pub const MAX: Self = Self(253_402_207_200);

    /// The point `seconds` after 1970; outside the range of the type it is the nearest end.
    pub const fn from_unix(seconds: i64) -> Self {
        if seconds < 0 {
            Self(0)
        } else if seconds > Self::MAX.0 {
            Self::MAX
        } else {
            Self(seconds)
        }
    }

    /// Seconds since 1970.
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// The point `seconds` later (earlier when negative), within the range of the type.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self::from_unix(self.0.saturating_add(seconds))
    }

    /// The point `days` later, within the range of the type.
    #[must_use]
    pub const fn plus_days(self, days: u32) -> Self {
        self.plus_seconds(days as i64 * 86_400)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_second(self.0).map_err(|_| fmt::Error)?;
        let t = jiff::tz::Offset::UTC.to_datetime(moment);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            t.year(),
            t.month(),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        )
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        parse(text.as_bytes()).ok_or(InvalidTimestamp)
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let form = b"0000-00-00T00:00:00Z";
    let fits = |(byte, form): (&u8, &u8)| {
        if *form == b'0' {
            byte.is_ascii_digit()
        } else {
            byte == form
        }
    };
    if text.len() != form.len() || !text.iter().zip(form).all(fits) {
        return None;
    }
    let digits = |from: usize, to: usize| {
        text.get(from..to)?.iter().try_fold(0_i16, |value, digit| {
            value.checked_mul(10)?.checked_add((digit - b'0').into())
        })
    };
    let small = |from: usize| i8::try_from(digits(from, from + 2)?).ok();
    let datetime = jiff::civil::DateTime::new(
        digits(0, 4)?,
        small(5)?,
        small(8)?,
        small(11)?,
        small(14)?,
        small(17)?,
        0,
    )
    .ok()?;
    let seconds = jiff::tz::Offset::UTC
        .to_timestamp(datetime)
        .ok()?
        .as_second();
    (0..=Timestamp::MAX.0)
        .contains(&seconds)
        .then_some(Timestamp(seconds))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points_in_both_directions() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_255_200, "2026-11-21T10:00:00Z"),
            (Timestamp::MAX.unix(), "9999-12-30T22:00:00Z"),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp::from_unix(seconds)));
            assert_eq!(Timestamp::from_unix(seconds).to_string(), text);
        }
    }

    #[test]
    fn every_other_form_is_refused() {
        for wrong in [
            "",
            "2026-11-21",
            "2026-11-21T10:00:00",
            "2026-11-21T10:00:00z",
            "2026-11-21t10:00:00Z",
            "2026-11-21 10:00:00Z",
            "2026-11-21T10:00:00.0Z",
            "2026-11-21T10:00:00+00:00",
            "2026-11-21T24:00:00Z",
            "2026-11-21T23:59:60Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "9999-12-30T22:00:01Z",
            "+026-11-21T10:00:00Z",
            "12026-11-21T10:00:00Z",
            " 2026-11-21T10:00:00Z",
        ] {
            assert_eq!(
                wrong.parse::<Timestamp>(),
                Err(InvalidTimestamp),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn arithmetic_stays_in_range() {
        assert_eq!(Timestamp::from_unix(-5).unix(), 0);
        assert_eq!(Timestamp::MAX.plus_days(u32::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_unix(10).plus_seconds(i64::MIN).unix(), 0);
        assert_eq!(Timestamp::from_unix(0).plus_days(30).unix(), 2_592_000);
    }
}
