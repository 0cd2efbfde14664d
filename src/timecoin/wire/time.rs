//! The time in a block's header: RFC 3339 text that stays as it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// When a block was made: RFC 3339 in UTC, in the years 0 to 9999, to the nanosecond at most.
///
/// Remembers with how many digits its fraction was written (none, 3, 6 or 9), so that it is written the same again. A time
/// that came with an offset is kept as UTC, a fraction of other lengths with the next larger of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockTime {
    seconds: i64,
    nanos: u32,
    digits: u8,
}

/// Why a text is no [`BlockTime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockTimeError {
    /// Not of the form `2025-12-06T05:46:40Z`, with or without a fraction of at most 9 digits.
    #[error("a time is not in the form 2025-12-06T05:46:40Z")]
    Form,
    /// A month, day, hour, minute or second that does not exist. Leap seconds do not, in this network.
    #[error("a time names a {field} that does not exist")]
    Range {
        /// Which of them.
        field: &'static str,
    },
    /// Before the year 0 or after the year 9999.
    #[error("a time is outside the years 0 to 9999")]
    Year,
}

/// The first and the last second that four digits of a year can say.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;
const DAY: i64 = 86_400;

impl BlockTime {
    /// This many seconds since 1970, without a fraction.
    ///
    /// # Errors
    /// [`BlockTimeError::Year`].
    pub const fn from_seconds(seconds: i64) -> Result<Self, BlockTimeError> {
        if seconds < FIRST || seconds > LAST {
            return Err(BlockTimeError::Year);
        }
        Ok(Self { seconds, nanos: 0, digits: 0 })
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// What goes beyond the whole second, in nanoseconds.
    pub const fn nanos(self) -> u32 {
        self.nanos
    }

    /// The form that a block's hash covers: `+00:00` in place of `Z`, and no more digits than the fraction needs.
    pub fn hashed_form(self) -> impl fmt::Display {
        let digits = match self.nanos {
            0 => 0,
            nanos if nanos % 1_000_000 == 0 => 3,
            nanos if nanos % 1_000 == 0 => 6,
            _ => 9,
        };
        Form { time: Self { digits, ..self }, zone: "+00:00" }
    }
}

/// A time in one of its forms.
struct Form {
    time: BlockTime,
    zone: &'static str,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BlockTime { seconds, nanos, digits } = self.time;
        let (year, month, day) = date_of(seconds.div_euclid(DAY));
        let within = seconds.rem_euclid(DAY);
        let (hour, minute, second) = (within / 3600, within / 60 % 60, within % 60);
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
        Form { time: *self, zone: "Z" }.fmt(f)
    }
}

impl FromStr for BlockTime {
    type Err = BlockTimeError;

    fn from_str(text: &str) -> Result<Self, BlockTimeError> {
        parse(text.as_bytes())
    }
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

fn parse(text: &[u8]) -> Result<BlockTime, BlockTimeError> {
    let form = BlockTimeError::Form;
    let (head, rest) = text.split_at_checked(19).ok_or(form)?;
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| head[*at] != *mark) || !matches!(head[10], b'T' | b't' | b' ') {
        return Err(form);
    }
    let number = |from: usize, to: usize| digits_of(&head[from..to]).ok_or(form);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = |fits, field| if fits { Ok(()) } else { Err(BlockTimeError::Range { field }) };
    in_range((1..=12).contains(&month), "month")?;
    in_range((1..=days_in(year, month)).contains(&day), "day")?;
    in_range(hour < 24, "hour")?;
    in_range(minute < 60, "minute")?;
    in_range(second < 60, "second")?;
    let (nanos, digits, zone) = fraction(rest).ok_or(form)?;
    let offset = offset_of(zone)?;
    let seconds = days_to(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    Ok(BlockTime { nanos, digits, ..BlockTime::from_seconds(seconds)? })
}

/// The fraction at the start of `text` in nanoseconds, with how many digits to write it, and what follows it.
fn fraction(text: &[u8]) -> Option<(u32, u8, &[u8])> {
    let Some(rest) = text.strip_prefix(b".") else { return Some((0, 0, text)) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, zone) = rest.split_at(count);
    let written = match count {
        1..=3 => 3,
        4..=6 => 6,
        7..=9 => 9,
        _ => return None,
    };
    let value = digits_of(digits)? * 10_i64.pow(9 - count as u32);
    Some((u32::try_from(value).ok()?, written, zone))
}

/// Seconds that local time is ahead of UTC.
fn offset_of(zone: &[u8]) -> Result<i64, BlockTimeError> {
    match zone {
        b"Z" | b"z" => Ok(0),
        [sign @ (b'+' | b'-'), hours @ .., b':', m1, m2] => {
            let (hours, minutes) = (digits_of(hours), digits_of(&[*m1, *m2]));
            let (Some(hours @ 0..24), Some(minutes @ 0..60), 6) = (hours, minutes, zone.len()) else {
                return Err(BlockTimeError::Form);
            };
            let ahead = hours * 3600 + minutes * 60;
            Ok(if *sign == b'+' { ahead } else { -ahead })
        }
        _ => Err(BlockTimeError::Form),
    }
}

/// The number that at most nine digits say.
fn digits_of(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from the first of March of the year 0 to the first of January 1970.
const EPOCH: i64 = 719_468;
/// Days in 400 years, after which the calendar repeats.
const CYCLE: i64 = 146_097;

/// Days since 1970. Years are counted from March, so that the leap day is a year's last one.
const fn days_to(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (cycle, within) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    cycle * CYCLE + within * 365 + within / 4 - within / 100 + day_of_year - EPOCH
}

/// Year, month and day, so many days since 1970.
const fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let (cycle, within) = (days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
    let year = (within - within / 1_460 + within / 36_524 - within / 146_096) / 365;
    let day_of_year = within - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + (month <= 2) as i64, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_ten_thousand_years_has_one_date() {
        let (mut year, mut month, mut day) = (0, 1, 1);
        for days in FIRST / DAY..=LAST.div_euclid(DAY) {
            assert_eq!(date_of(days), (year, month, day));
            assert_eq!(days_to(year, month, day), days);
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
    fn the_written_form_stays_as_it_is() {
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
    fn other_offsets_and_fractions_mean_the_same_time() {
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
    fn what_is_no_time_is_refused() {
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
        assert_eq!(BlockTime::from_seconds(LAST + 1), Err(BlockTimeError::Year));
        assert_eq!(BlockTime::from_seconds(FIRST).unwrap().to_string(), "0000-01-01T00:00:00Z");
    }

    #[test]
    fn the_hashed_form_has_an_offset_and_only_the_digits_it_needs() {
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
