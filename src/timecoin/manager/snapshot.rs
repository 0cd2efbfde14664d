//! Decoding a state snapshot: unspent outputs in bincode, optionally compressed with gzip, summed
//! by address.

use std::collections::HashMap;
use std::io::Read;

use crate::timecoin::chain::StateSnapshot;

/// The state at a chain's tip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The height of the last block.
    pub height: u64,
    /// The hash of the outputs, as the peer states it.
    pub state_hash: String,
    /// The unspent amount of each address.
    pub balances: HashMap<String, u64>,
    /// The ids of the masternodes that the peer knows.
    pub masternodes: Vec<String>,
    /// When it was downloaded, in seconds since 1970.
    pub timestamp: i64,
}

/// Why a snapshot cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFault {
    /// Declared as compressed, but not valid gzip.
    #[error("not gzip")]
    Gzip,
    /// The uncompressed size exceeds the limit.
    #[error("larger than {0} bytes uncompressed")]
    TooLarge(usize),
    /// The data ends within an output.
    #[error("truncated")]
    Short,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Text,
    /// The sum of an address overflows.
    #[error("the sum of an address overflows")]
    Overflow,
    /// Bytes follow the last output.
    #[error("{0} trailing bytes")]
    TrailingBytes(usize),
}

/// Sums the outputs of a snapshot by address. `most` limits the uncompressed size, in bytes.
pub(super) fn balances_of(
    snapshot: &StateSnapshot,
    most: usize,
) -> Result<HashMap<String, u64>, SnapshotFault> {
    if !snapshot.compressed {
        return if snapshot.state_data.len() > most {
            Err(SnapshotFault::TooLarge(most))
        } else {
            balances(&snapshot.state_data)
        };
    }
    let mut unpacked = Vec::new();
    let packed = flate2::read::GzDecoder::new(&snapshot.state_data[..]);
    // One byte more than allowed reveals an excess. The size stated by the sender is not used.
    let read = packed.take((most as u64).saturating_add(1)).read_to_end(&mut unpacked);
    read.map_err(|_| SnapshotFault::Gzip)?;
    if unpacked.len() > most {
        return Err(SnapshotFault::TooLarge(most));
    }
    balances(&unpacked)
}

/// `balances_of` for its fuzz target.
#[cfg(fuzzing)]
pub fn fuzz_balances(snapshot: &StateSnapshot, most: usize) -> Result<HashMap<String, u64>, SnapshotFault> {
    balances_of(snapshot, most)
}

/// Decodes bincode 1.3 of a map from output point to output, followed by the total supply.
fn balances(bytes: &[u8]) -> Result<HashMap<String, u64>, SnapshotFault> {
    let mut reader = ByteReader(bytes);
    let count = reader.u64()?;
    let mut balances: HashMap<String, u64> = HashMap::new();
    for _ in 0..count {
        let _txid = reader.text()?;
        let _vout = reader.take::<4>()?;
        let amount = reader.u64()?;
        let address = reader.text()?;
        match balances.get_mut(address) {
            Some(balance) => *balance = balance.checked_add(amount).ok_or(SnapshotFault::Overflow)?,
            None => drop(balances.insert(address.to_owned(), amount)),
        }
    }
    let _total_supply = reader.u64()?;
    if reader.0.is_empty() { Ok(balances) } else { Err(SnapshotFault::TrailingBytes(reader.0.len())) }
}

struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotFault> {
        let (head, rest) = self.0.split_first_chunk().ok_or(SnapshotFault::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, SnapshotFault> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, SnapshotFault> {
        let length = usize::try_from(self.u64()?).map_err(|_| SnapshotFault::Short)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(SnapshotFault::Short)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| SnapshotFault::Text)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn outputs(list: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = (list.len() as u64).to_le_bytes().to_vec();
        for (at, (address, amount)) in list.iter().enumerate() {
            bytes.extend(text("ab"));
            bytes.extend((at as u32).to_le_bytes());
            bytes.extend(amount.to_le_bytes());
            bytes.extend(text(address));
        }
        bytes.extend(7u64.to_le_bytes());
        bytes
    }

    fn packed(bytes: &[u8]) -> StateSnapshot {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        StateSnapshot { compressed: true, state_data: encoder.finish().unwrap(), ..StateSnapshot::default() }
    }

    #[test]
    fn outputs_are_summed_by_address() {
        let bytes = outputs(&[("a", 1), ("b", 2), ("a", 40)]);
        let want = HashMap::from([("a".to_owned(), 41), ("b".to_owned(), 2)]);
        assert_eq!(balances_of(&packed(&bytes), 10_000), Ok(want.clone()));
        let plain = StateSnapshot { state_data: bytes, ..StateSnapshot::default() };
        assert_eq!(balances_of(&plain, 10_000), Ok(want));
    }

    #[test]
    fn a_bomb_is_refused_at_the_bound() {
        let bomb = packed(&vec![0; 10_000_000]);
        assert!(bomb.state_data.len() < 100_000);
        assert_eq!(balances_of(&bomb, 1_000_000), Err(SnapshotFault::TooLarge(1_000_000)));
    }

    #[test]
    fn every_cut_and_every_excess_is_an_error() {
        let bytes = outputs(&[("a", 1), ("b", 2)]);
        for end in 0..bytes.len() {
            assert_eq!(balances(&bytes[..end]), Err(SnapshotFault::Short), "cut at {end}");
        }
        assert_eq!(balances(&[&bytes[..], &[0]].concat()), Err(SnapshotFault::TrailingBytes(1)));
        assert_eq!(balances(&outputs(&[("a", u64::MAX), ("a", 1)])), Err(SnapshotFault::Overflow));
        // A count without data allocates nothing.
        assert_eq!(balances(&u64::MAX.to_le_bytes()), Err(SnapshotFault::Short));
        let plain = StateSnapshot { compressed: true, state_data: bytes, ..StateSnapshot::default() };
        assert_eq!(balances_of(&plain, 1_000), Err(SnapshotFault::Gzip));
    }

    #[test]
    fn the_captured_sample_reads() {
        let samples = include_str!("../../../tests/golden/timecoin_messages.jsonl");
        let line = samples.lines().find(|line| line.starts_with("{\"StateSnapshotResponse\"")).unwrap();
        let message = crate::timecoin::NetworkMessage::decode(line.as_bytes()).unwrap();
        let crate::timecoin::NetworkMessage::StateSnapshotResponse { state_data, compressed, .. } = message
        else {
            panic!("it is a snapshot");
        };
        let snapshot = StateSnapshot { state_data, compressed, ..StateSnapshot::default() };
        let balances = balances_of(&snapshot, 1_000_000).unwrap();
        assert!(!balances.is_empty() && balances.values().all(|amount| *amount > 0));
    }
}
