//! How each kind of value is written in TOML and read back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use toml::Value;

use peerpool::node::LagPolicy;

/// A way to write and read values of a type. `None` stands for a value that is not set.
pub(super) trait Kind<T> {
    fn show(value: &T) -> Option<String>;
    fn read(value: &Value) -> Result<T, String>;
}

/// A whole number.
pub(super) struct Number;
/// Bytes: a whole number, or one with a unit.
pub(super) struct Size;
/// A duration with a unit.
pub(super) struct Time;
/// As it stands: text, yes or no.
pub(super) struct Plain;
/// Bytes in hexadecimal.
pub(super) struct Hex;
/// An address, or a list of them.
pub(super) struct Addr;
/// What happens to a peer that is too slow.
pub(super) struct Lag;
/// A value that need not be set.
pub(super) struct Maybe<K>(std::marker::PhantomData<K>);

impl<T, K: Kind<T>> Kind<Option<T>> for Maybe<K> {
    fn show(value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(K::show)
    }

    fn read(value: &Value) -> Result<Option<T>, String> {
        K::read(value).map(Some)
    }
}

fn wrong(wanted: &str, value: &Value) -> String {
    format!("{wanted} is wanted here, not the {} {value}", value.type_str())
}

fn number(value: &Value) -> Result<u64, String> {
    let wanted = "a whole number, zero or more,";
    match value {
        Value::Integer(number) => u64::try_from(*number).map_err(|_| wrong(wanted, value)),
        // Numbers beyond what a TOML integer holds.
        Value::String(text) => text.parse().map_err(|_| wrong(wanted, value)),
        _ => Err(wrong(wanted, value)),
    }
}

macro_rules! numbers {
    ($($type:ty),+) => { $(
        impl Kind<$type> for Number {
            fn show(value: &$type) -> Option<String> {
                let fits = i64::try_from(*value).is_ok();
                Some(if fits { value.to_string() } else { format!("\"{value}\"") })
            }

            fn read(value: &Value) -> Result<$type, String> {
                let most = <$type>::MAX;
                number(value)?.try_into().map_err(|_| format!("{value} is too much, {most} is the most"))
            }
        }
    )+ };
}
numbers!(u8, u32, u64, usize);

macro_rules! non_zero_numbers {
    ($($type:ty as $plain:ty),+) => { $(
        impl Kind<$type> for Number {
            fn show(value: &$type) -> Option<String> {
                Some(value.to_string())
            }

            fn read(value: &Value) -> Result<$type, String> {
                let number = <Number as Kind<$plain>>::read(value)?;
                <$type>::new(number).ok_or_else(|| "must not be zero".into())
            }
        }
    )+ };
}
non_zero_numbers!(NonZeroU32 as u32, NonZeroUsize as usize);

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Kind<usize> for Size {
    fn show(value: &usize) -> Option<String> {
        let bytes = *value as u64;
        let fits = |unit: &&(&str, u64)| bytes > 0 && unit.1 > 1 && bytes.is_multiple_of(unit.1);
        Some(match SIZES.iter().find(fits) {
            Some((unit, factor)) => format!("\"{} {unit}\"", bytes / factor),
            None => bytes.to_string(),
        })
    }

    fn read(value: &Value) -> Result<usize, String> {
        let wanted = "a size in bytes, or with a unit like \"8 MiB\",";
        let bytes = match value {
            Value::Integer(_) => number(value).ok(),
            Value::String(text) => SIZES.iter().find_map(|(unit, factor)| {
                let number = text.trim().strip_suffix(unit)?.trim_end().parse::<u64>().ok()?;
                number.checked_mul(*factor)
            }),
            _ => None,
        };
        bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| wrong(wanted, value))
    }
}

impl Kind<NonZeroUsize> for Size {
    fn show(value: &NonZeroUsize) -> Option<String> {
        <Self as Kind<usize>>::show(&value.get())
    }

    fn read(value: &Value) -> Result<NonZeroUsize, String> {
        let bytes = <Self as Kind<usize>>::read(value)?;
        NonZeroUsize::new(bytes).ok_or_else(|| "must not be zero".into())
    }
}

impl Kind<NonZeroU32> for Size {
    fn show(value: &NonZeroU32) -> Option<String> {
        <Self as Kind<usize>>::show(&(value.get() as usize))
    }

    fn read(value: &Value) -> Result<NonZeroU32, String> {
        let bytes = <Self as Kind<usize>>::read(value)?;
        let bytes = u32::try_from(bytes).map_err(|_| format!("{value} is too much"))?;
        NonZeroU32::new(bytes).ok_or_else(|| "must not be zero".into())
    }
}

const TIMES: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("s", 1_000_000_000),
];

/// Reads a duration with its unit, like `250ms` or `1.5s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("a duration with its unit is wanted, like 250ms, 10s or 5min, not {text:?}");
    let (number, nanos) = TIMES
        .iter()
        .find_map(|(unit, nanos)| Some((text.trim().strip_suffix(unit)?.trim_end(), *nanos)))
        .ok_or_else(wrong)?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(nanos).map(Duration::from_nanos).ok_or_else(wrong);
    }
    let number = number.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let seconds = number.ok_or_else(wrong)? * nanos as f64 / 1e9;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

impl Kind<Duration> for Time {
    fn show(value: &Duration) -> Option<String> {
        let nanos = value.as_nanos();
        let units = ["h", "min", "s", "ms", "us", "ns"].map(|name| {
            let factor = TIMES.iter().find(|(unit, _)| *unit == name).map_or(1, |(_, nanos)| *nanos);
            (name, u128::from(factor))
        });
        let fit = units.into_iter().find(|(name, factor)| {
            // Whole minutes read better than seconds only from a few on.
            let stop = if *name == "min" { 5 } else { 1 };
            nanos.is_multiple_of(*factor) && nanos / factor >= stop
        });
        Some(match fit {
            Some((unit, factor)) => format!("\"{}{unit}\"", nanos / factor),
            None => "\"0s\"".into(),
        })
    }

    fn read(value: &Value) -> Result<Duration, String> {
        match value {
            Value::String(text) => duration(text),
            _ => Err(wrong("a duration with its unit, like \"250ms\" or \"10s\",", value)),
        }
    }
}

impl Kind<bool> for Plain {
    fn show(value: &bool) -> Option<String> {
        Some(value.to_string())
    }

    fn read(value: &Value) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| wrong("true or false", value))
    }
}

impl Kind<String> for Plain {
    fn show(value: &String) -> Option<String> {
        Some(Value::String(value.clone()).to_string())
    }

    fn read(value: &Value) -> Result<String, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| wrong("text", value))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> Result<Vec<u8>, String> {
    let error = || wrong("an even number of hexadecimal digits as text", value);
    let text = value.as_str().filter(|text| text.len() % 2 == 0 && text.is_ascii()).ok_or_else(error)?;
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| error());
    (0..text.len()).step_by(2).map(byte).collect()
}

impl Kind<[u8; 32]> for Hex {
    fn show(value: &[u8; 32]) -> Option<String> {
        Some(format!("\"{}\"", hex(value)))
    }

    fn read(value: &Value) -> Result<[u8; 32], String> {
        unhex(value)?.try_into().map_err(|_| "64 hexadecimal digits are wanted, 32 bytes".into())
    }
}

impl Kind<Bytes> for Hex {
    fn show(value: &Bytes) -> Option<String> {
        Some(format!("\"{}\"", hex(value)))
    }

    fn read(value: &Value) -> Result<Bytes, String> {
        unhex(value).map(Bytes::from)
    }
}

macro_rules! addresses {
    ($($type:ty: $wanted:literal),+) => { $(
        impl Kind<$type> for Addr {
            fn show(value: &$type) -> Option<String> {
                Some(format!("\"{value}\""))
            }

            fn read(value: &Value) -> Result<$type, String> {
                let parsed = value.as_str().and_then(|text| text.parse().ok());
                parsed.ok_or_else(|| wrong($wanted, value))
            }
        }
    )+ };
}
addresses!(
    SocketAddr: "an address with its port, like \"192.0.2.1:9000\",",
    Ipv4Addr: "an IPv4 address",
    Ipv6Addr: "an IPv6 address"
);

impl Kind<Vec<SocketAddr>> for Addr {
    fn show(value: &Vec<SocketAddr>) -> Option<String> {
        let items: Vec<_> = value.iter().map(|addr| format!("\"{addr}\"")).collect();
        Some(format!("[{}]", items.join(", ")))
    }

    fn read(value: &Value) -> Result<Vec<SocketAddr>, String> {
        let list = value.as_array().ok_or_else(|| wrong("a list of addresses", value))?;
        list.iter().map(<Self as Kind<SocketAddr>>::read).collect()
    }
}

impl Kind<LagPolicy> for Lag {
    fn show(value: &LagPolicy) -> Option<String> {
        let name = match value {
            LagPolicy::Disconnect => "disconnect",
            LagPolicy::Skip => "skip",
        };
        Some(format!("\"{name}\""))
    }

    fn read(value: &Value) -> Result<LagPolicy, String> {
        match value.as_str() {
            Some("disconnect") => Ok(LagPolicy::Disconnect),
            Some("skip") => Ok(LagPolicy::Skip),
            _ => Err(wrong("\"skip\" or \"disconnect\"", value)),
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_every_unit() {
        let wanted = [
            ("250ms", Duration::from_millis(250)),
            ("10s", Duration::from_secs(10)),
            ("1.5s", Duration::from_millis(1_500)),
            ("5min", Duration::from_secs(300)),
            ("24 h", Duration::from_secs(86_400)),
            ("7us", Duration::from_micros(7)),
        ];
        for (text, time) in wanted {
            assert_eq!(duration(text), Ok(time), "{text}");
        }
        for text in ["10", "s", "-1s", "1 fortnight", "inf s", "99999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let read = |value: Value| <Size as Kind<usize>>::read(&value);
        assert_eq!(read(Value::Integer(17)), Ok(17));
        assert_eq!(read(Value::String("8 MiB".into())), Ok(8 << 20));
        assert_eq!(read(Value::String("512B".into())), Ok(512));
        assert!(read(Value::String("8 MB".into())).is_err());
        assert!(read(Value::Integer(-1)).is_err());
    }

    #[test]
    fn what_is_shown_reads_back() {
        for time in [0u64, 1, 999, 1_000_000, 1_500_000_000, 90_000_000_000, 86_400_000_000_000] {
            let time = Duration::from_nanos(time);
            let shown = Time::show(&time).unwrap();
            assert_eq!(duration(shown.trim_matches('"')), Ok(time), "{shown}");
        }
        for size in [0usize, 1, 1024, 1025, 8 << 20, 3 << 30] {
            let value: Value = format!("x = {}", <Size as Kind<usize>>::show(&size).unwrap())
                .parse::<toml::Table>()
                .unwrap()["x"]
                .clone();
            assert_eq!(<Size as Kind<usize>>::read(&value), Ok(size));
        }
    }
}
