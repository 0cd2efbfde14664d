//! The time in a block header: RFC 3339 text that is written back exactly as it was read.
//!
//! The calendar is the `time` crate's. The text form is checked here, because the network accepts
//! less than RFC 3339 allows (no leap seconds, at most 9 fraction digits) and every refusal is
//! typed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::error::ComponentRange;
use time::{Date, Month, OffsetDateTime, Time};

/// 0000-01-01T00:00:00Z, the first second that a year of four digits can name.
const MIN_SECONDS: i64 = -62_167_219_200;
/// 9999-12-31T23:59:59Z, the last second that a year of four digits can name.
const MAX_SECONDS: i64 = 253_402_300_799;
/// Length of `2025-12-06T05:46:40`, in bytes.
const DATE_TIME_BYTES: usize = 19;

/// When a block was made: RFC 3339 in UTC, years 0 to 9999, nanosecond resolution.
///
/// The number of fraction digits (0, 3, 6 or 9) is remembered, so that the time is written the same
/// way again. On input, a time with an offset is converted to UTC, and a fraction of another length
/// is widened to the next of these lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockTime {
    seconds: i64,
    nanos: u32,
    digits: u8,
}

/// Why a text is not a [`BlockTime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockTimeError {
    /// Not of the form `2025-12-06T05:46:40Z`, with or without a fraction of at most 9 digits.
    #[error("a time is not in the form 2025-12-06T05:46:40Z")]
    Form,
    /// A month, day, hour, minute or second that does not exist. This network has no leap seconds.
    #[error("a time names a {field} that does not exist")]
    Range {
        /// The name of the component.
        field: &'static str,
    },
    /// Before the year 0 or after the year 9999.
    #[error("a time is outside the years 0 to 9999")]
    Year,
}

impl From<ComponentRange> for BlockTimeError {
    fn from(error: ComponentRange) -> Self {
        Self::Range { field: error.name() }
    }
}

impl BlockTime {
    /// A time without a fraction, in seconds since 1970.
    ///
    /// # Errors
    /// [`BlockTimeError::Year`].
    pub const fn from_seconds(seconds: i64) -> Result<Self, BlockTimeError> {
        if seconds < MIN_SECONDS || seconds > MAX_SECONDS {
            return Err(BlockTimeError::Year);
        }
        Ok(Self { seconds, nanos: 0, digits: 0 })
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// The fraction of the second, in nanoseconds.
    pub const fn nanos(self) -> u32 {
        self.nanos
    }

    /// The form that a block's hash covers: `+00:00` in place of `Z`, and the fewest fraction
    /// digits (0, 3, 6 or 9) that keep the value.
    pub fn hashed_form(self) -> impl fmt::Display {
        let digits = match self.nanos {
            0 => 0,
            nanos if nanos % 1_000_000 == 0 => 3,
            nanos if nanos % 1_000 == 0 => 6,
            _ => 9,
        };
        Formatted { time: Self { digits, ..self }, zone: "+00:00" }
    }
}

/// A time with the zone designator to print.
struct Formatted {
    time: BlockTime,
    zone: &'static str,
}

impl fmt::Display for Formatted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BlockTime { seconds, nanos, digits } = self.time;
        // Every `BlockTime` is within the range of the calendar.
        let at = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| fmt::Error)?;
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second) = at.to_hms();
        let month = u8::from(month);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match digits {
            0 => {}
            3 => write!(f, ".{:03}", nanos / 1_000_000)?,
            6 => write!(f, ".{:06}", nanos / 1_000)?,
            _ => write!(f, ".{nanos:09}")?,
        }
        f.write_str(self.zone)
    }
}

impl fmt::Display for BlockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Formatted { time: *self, zone: "Z" }.fmt(f)
    }
}

impl FromStr for BlockTime {
    type Err = BlockTimeError;

    fn from_str(text: &str) -> Result<Self, BlockTimeError> {
        let form = BlockTimeError::Form;
        let (head, rest) = text.as_bytes().split_at_checked(DATE_TIME_BYTES).ok_or(form)?;
        let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
        if separators.iter().any(|(at, byte)| head[*at] != *byte) || !matches!(head[10], b'T' | b't' | b' ') {
            return Err(form);
        }
        let two = |from: usize| parse_digits(&head[from..from + 2]).map(|value| value as u8).ok_or(form);
        let year = parse_digits(&head[..4]).ok_or(form)?;
        let (month, day, hour, minute, second) = (two(5)?, two(8)?, two(11)?, two(14)?, two(17)?);
        let date = Date::from_calendar_date(year as i32, Month::try_from(month)?, day)?;
        let time = Time::from_hms(hour, minute, second)?;
        let (nanos, digits, zone) = parse_fraction(rest).ok_or(form)?;
        let offset = parse_offset(zone).ok_or(form)?;
        let seconds = date.with_time(time).assume_utc().unix_timestamp() - i64::from(offset);
        Ok(Self { nanos, digits, ..Self::from_seconds(seconds)? })
    }
}

/// Splits a fraction such as `.5` off `text`: its nanoseconds, the number of digits to print, the
/// rest.
fn parse_fraction(text: &[u8]) -> Option<(u32, u8, &[u8])> {
    let Some(rest) = text.strip_prefix(b".") else { return Some((0, 0, text)) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, zone) = rest.split_at(count);
    let printed = match count {
        1..=3 => 3,
        4..=6 => 6,
        7..=9 => 9,
        _ => return None,
    };
    Some((parse_digits(digits)? * 10_u32.pow(9 - count as u32), printed, zone))
}

/// Seconds by which local time is ahead of UTC.
fn parse_offset(zone: &[u8]) -> Option<i32> {
    match *zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours @ 0..24, minutes @ 0..60) = (parse_digits(&[h1, h2])?, parse_digits(&[m1, m2])?)
            else {
                return None;
            };
            let ahead = (hours * 3600 + minutes * 60) as i32;
            Some(if sign == b'+' { ahead } else { -ahead })
        }
        _ => None,
    }
}

/// The value of at most nine ASCII digits; signs are refused.
fn parse_digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
}

impl Serialize for BlockTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlockTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = BlockTime;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BlockTime, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_SECONDS: i64 = 86_400;

    const fn days_in(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    #[test]
    fn every_day_of_ten_thousand_years_has_one_date() {
        let (mut year, mut month, mut day) = (0, 1, 1);
        for seconds in (MIN_SECONDS..=MAX_SECONDS).step_by(DAY_SECONDS as usize) {
            let time = BlockTime::from_seconds(seconds).unwrap();
            let text = format!("{year:04}-{month:02}-{day:02}T00:00:00Z");
            assert_eq!((time.to_string(), text.parse()), (text, Ok(time)));
            day += 1;
            if day > days_in(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    #[test]
    fn text_round_trips_unchanged() {
        for text in [
            "2025-12-06T05:46:40Z",
            "2025-12-06T05:46:40.000Z",
            "2025-12-06T05:46:40.120Z",
            "2025-12-06T05:46:40.123456Z",
            "2025-12-06T05:46:40.123456789Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "2024-02-29T00:00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(text.parse::<BlockTime>().unwrap().to_string(), text);
        }
        let time: BlockTime = "2025-12-06T05:46:40.123Z".parse().unwrap();
        assert_eq!((time.seconds(), time.nanos()), (1_765_000_000, 123_000_000));
    }

    #[test]
    fn offsets_and_short_fractions_are_normalised() {
        for (text, same) in [
            ("2025-12-06T06:46:40+01:00", "2025-12-06T05:46:40Z"),
            ("2025-12-05T22:16:40-07:30", "2025-12-06T05:46:40Z"),
            ("2025-12-06 05:46:40z", "2025-12-06T05:46:40Z"),
            ("2025-12-06T05:46:40.5Z", "2025-12-06T05:46:40.500Z"),
            ("2025-12-06T05:46:40.1234Z", "2025-12-06T05:46:40.123400Z"),
            ("2025-12-06T05:46:40.12345678+00:00", "2025-12-06T05:46:40.123456780Z"),
        ] {
            assert_eq!(text.parse::<BlockTime>().unwrap().to_string(), same, "{text}");
        }
    }

    #[test]
    fn invalid_times_are_refused() {
        let range = |field| BlockTimeError::Range { field };
        for (text, want) in [
            ("", BlockTimeError::Form),
            ("2025-12-06", BlockTimeError::Form),
            ("2025-12-06T05:46:40", BlockTimeError::Form),
            ("2025-12-06T05:46:40ZZ", BlockTimeError::Form),
            ("2025-12-06T05:46:40.Z", BlockTimeError::Form),
            ("2025-12-06T05:46:40.1234567890Z", BlockTimeError::Form),
            ("2025-12-06T05:46:40+1:00", BlockTimeError::Form),
            ("2025-12-06T05:46:40+24:00", BlockTimeError::Form),
            ("2025-12-06T05:46:40+00000:00", BlockTimeError::Form),
            ("2025-12-06T05:46:4\u{e9}Z", BlockTimeError::Form),
            ("+025-12-06T05:46:40Z", BlockTimeError::Form),
            ("2025/12/06T05:46:40Z", BlockTimeError::Form),
            ("2025-13-06T05:46:40Z", range("month")),
            ("2025-02-29T05:46:40Z", range("day")),
            ("2025-12-00T05:46:40Z", range("day")),
            ("2025-12-06T24:00:00Z", range("hour")),
            ("2025-12-06T23:60:00Z", range("minute")),
            ("2016-12-31T23:59:60Z", range("second")),
            ("0000-01-01T00:00:00+00:01", BlockTimeError::Year),
            ("9999-12-31T23:59:59-00:01", BlockTimeError::Year),
        ] {
            assert_eq!(text.parse::<BlockTime>(), Err(want), "{text}");
        }
        assert_eq!(BlockTime::from_seconds(MAX_SECONDS + 1), Err(BlockTimeError::Year));
        assert_eq!(BlockTime::from_seconds(MIN_SECONDS).unwrap().to_string(), "0000-01-01T00:00:00Z");
    }

    #[test]
    fn hashed_form_has_an_offset_and_the_fewest_digits() {
        for (text, hashed) in [
            ("2025-12-06T05:46:40Z", "2025-12-06T05:46:40+00:00"),
            ("2025-12-06T05:46:40.000Z", "2025-12-06T05:46:40+00:00"),
            ("2025-12-06T05:46:40.120000000Z", "2025-12-06T05:46:40.120+00:00"),
            ("2025-12-06T05:46:40.000001Z", "2025-12-06T05:46:40.000001+00:00"),
        ] {
            assert_eq!(text.parse::<BlockTime>().unwrap().hashed_form().to_string(), hashed);
        }
    }
}
