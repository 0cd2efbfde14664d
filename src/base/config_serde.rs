//! How values of configuration types are written in a file, for `#[serde(with = "...")]`.
//!
//! | module | type | written as |
//! |---|---|---|
//! | [`byte_size`] | a number of bytes | `1500`, `"64 KiB"`; 0 for `None` |
//! | [`large_number`] | any `u64` | a number; text above `i64::MAX`, where TOML integers end |
//! | [`hex`] | bytes | `"00ff"` |
//! | [`hex_option`] | bytes or `None` | `"00ff"`; left out for `None` |
//! | [`switchable`] | a table or `None` | a table; `false` for `None`, `true` for the defaults |
//!
//! Durations use the `humantime-serde` crate. Reading needs a self-describing format, such as TOML.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

/// Reads a number that may also be written as text.
struct NumberVisitor {
    expected: &'static str,
    parse: fn(&str) -> Option<u64>,
}

impl Visitor<'_> for NumberVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// A number of bytes: `1500` or `"64 KiB"`.
pub(crate) mod byte_size {
    use std::num::{NonZeroU32, NonZeroUsize};

    use super::*;

    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

    /// A type that holds a number of bytes.
    pub(crate) trait ByteCount: Copy {
        fn to_bytes(self) -> u64;
        /// Returns `None` if the number is too large for the type.
        fn from_bytes(bytes: u64) -> Option<Self>;
    }

    impl ByteCount for usize {
        fn to_bytes(self) -> u64 {
            self as u64
        }

        fn from_bytes(bytes: u64) -> Option<Self> {
            bytes.try_into().ok()
        }
    }

    macro_rules! optional {
        ($($type:ty),+) => { $(
            /// Zero stands for `None`.
            impl ByteCount for Option<$type> {
                fn to_bytes(self) -> u64 {
                    self.map_or(0, |bytes| bytes.get() as u64)
                }

                fn from_bytes(bytes: u64) -> Option<Self> {
                    bytes.try_into().ok().map(<$type>::new)
                }
            }
        )+ };
    }
    optional!(NonZeroU32, NonZeroUsize);

    pub(crate) fn serialize<S: Serializer>(size: &impl ByteCount, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = size.to_bytes();
        match UNITS.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
            Some((unit, factor)) => serializer.collect_str(&format_args!("{} {unit}", bytes / factor)),
            None => serializer.serialize_u64(bytes),
        }
    }

    pub(crate) fn deserialize<'de, T: ByteCount, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let visitor = NumberVisitor {
            expected: "a size in bytes, like 65536 or \"64 KiB\"",
            parse: |text| text.trim().parse().ok().map(|bytesize::ByteSize(bytes)| bytes),
        };
        let bytes = deserializer.deserialize_any(visitor)?;
        T::from_bytes(bytes).ok_or_else(|| D::Error::custom(format_args!("{bytes} bytes are too many")))
    }
}

/// A `u64` that may exceed the integers of TOML.
pub(crate) mod large_number {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        if i64::try_from(*number).is_ok() {
            serializer.serialize_u64(*number)
        } else {
            serializer.collect_str(number)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let visitor = NumberVisitor {
            expected: "a whole number from 0 to 18446744073709551615",
            parse: |text| text.parse().ok(),
        };
        deserializer.deserialize_any(visitor)
    }
}

/// Bytes in hexadecimal.
pub(crate) mod hex {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        bytes: &impl AsRef<[u8]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let digits: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }

    pub(crate) fn deserialize<'de, T: TryFrom<Vec<u8>>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::invalid_value(Unexpected::Str(&text), &"an even number of hexadecimal digits");
        if text.len() % 2 != 0 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong());
        let bytes = (0..text.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, _>>()?;
        let count = bytes.len();
        T::try_from(bytes).map_err(|_| D::Error::custom(format_args!("{count} bytes are the wrong length")))
    }
}

/// Bytes in hexadecimal, or nothing. Needs `#[serde(default)]`.
pub(crate) mod hex_option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Option<impl AsRef<[u8]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => hex::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T: TryFrom<Vec<u8>>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        hex::deserialize(deserializer).map(Some)
    }
}

/// A table that can be turned off with `false`.
pub(crate) mod switchable {
    use std::marker::PhantomData;

    use super::*;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_bool(false),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de> + Default,
        D: Deserializer<'de>,
    {
        deserializer.deserialize_any(SwitchVisitor(PhantomData))
    }

    struct SwitchVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for SwitchVisitor<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table, true or false")
        }

        fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
            Ok(on.then(T::default))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::num::NonZeroU32;

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(default)]
    struct Sample {
        #[serde(with = "byte_size")]
        size: usize,
        #[serde(with = "byte_size")]
        optional_size: Option<NonZeroU32>,
        #[serde(with = "large_number")]
        number: u64,
        #[serde(with = "hex")]
        bytes: Vec<u8>,
        #[serde(with = "hex_option", skip_serializing_if = "Option::is_none")]
        hash: Option<[u8; 2]>,
        #[serde(with = "switchable")]
        table: Option<Vec<u8>>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self {
                size: 8 << 20,
                optional_size: None,
                number: 1,
                bytes: vec![0, 255],
                hash: None,
                table: None,
            }
        }
    }

    fn read(value: Value) -> Result<Sample, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_written_as_documented_and_read_back() {
        let json = serde_json::to_value(Sample::default()).unwrap();
        let wanted =
            json!({"size": "8 MiB", "optional_size": 0, "number": 1, "bytes": "00ff", "table": false});
        assert_eq!(json, wanted);
        let other = Sample {
            size: 1025,
            optional_size: NonZeroU32::new(1024),
            number: u64::MAX,
            bytes: Vec::new(),
            hash: Some([1, 2]),
            table: None,
        };
        let json = serde_json::to_value(&other).unwrap();
        assert_eq!((&json["size"], &json["optional_size"]), (&json!(1025), &json!("1 KiB")));
        assert_eq!((&json["number"], &json["hash"]), (&json!(u64::MAX.to_string()), &json!("0102")));
        assert_eq!(read(json), Ok(other));
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (written, bytes) in [
            (json!(0), 0),
            (json!(17), 17),
            (json!("17"), 17),
            (json!("512B"), 512),
            (json!("8 MiB"), 8 << 20),
            (json!("1.5 KiB"), 1536),
            (json!("2 MB"), 2_000_000),
        ] {
            assert_eq!(read(json!({ "size": written })).map(|sample| sample.size), Ok(bytes));
        }
        for wrong in [json!(-1), json!(1.5), json!("8 parsecs"), json!(""), json!("MiB"), json!(true)] {
            let error = read(json!({ "size": wrong })).unwrap_err();
            assert!(error.contains("a size in bytes, like 65536"), "{wrong}: {error}");
        }
        assert!(read(json!({"optional_size": "8 GiB"})).unwrap_err().contains("are too many"));
    }

    #[test]
    fn wrong_bytes_and_numbers_are_refused() {
        for wrong in ["0", "0g", "é", "+1"] {
            assert!(read(json!({ "bytes": wrong })).unwrap_err().contains("hexadecimal"), "{wrong}");
        }
        assert!(read(json!({"hash": "010203"})).unwrap_err().contains("3 bytes are the wrong length"));
        for wrong in [json!(-1), json!("x"), json!("18446744073709551616")] {
            assert!(read(json!({ "number": wrong })).unwrap_err().contains("a whole number"), "{wrong}");
        }
    }
}
