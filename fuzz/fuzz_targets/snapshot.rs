//! Snapshots as peers send them, gzip and then bincode that is read by hand: no panic, a result only of what is within the bound
//! unpacked, the same whether packed or not, and of outputs the sums of a plain map.
#![no_main]

use std::collections::HashMap;
use std::io::{Read, Write};

use arbitrary::Arbitrary;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use peerpool::timecoin::{SnapshotFault, StateSnapshot, fuzz_balances};

#[derive(Arbitrary, Debug)]
enum Data<'a> {
    /// Said to be packed.
    Gzip(&'a [u8]),
    /// Not packed, and packed by us, so that the fuzzer gets behind the sums of gzip.
    Plain(&'a [u8]),
    /// An output each, and bytes that replace some.
    Outputs { list: Vec<Output<'a>>, with: Option<(u16, &'a [u8])> },
}

#[derive(Arbitrary, Debug)]
struct Output<'a> {
    txid: &'a str,
    vout: u32,
    amount: u64,
    address: &'a str,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    data: Data<'a>,
    /// Unpacked bytes at most; the largest stands for no bound.
    most: u16,
}

type Outcome = Result<HashMap<String, u64>, SnapshotFault>;

fuzz_target!(|input: Input| {
    let most = if input.most == u16::MAX { usize::MAX } else { usize::from(input.most) };
    match input.data {
        Data::Gzip(bytes) => {
            if balances(bytes, true, most).is_ok() {
                let mut unpacked = Vec::new();
                GzDecoder::new(bytes).read_to_end(&mut unpacked).expect("it was unpacked");
                assert!(unpacked.len() <= most, "{} bytes unpacked, at most {most}", unpacked.len());
            }
        }
        Data::Plain(bytes) => drop(either(bytes, most)),
        Data::Outputs { list, with: None } => assert_eq!(either(&encode(&list), most), sums(&list, most)),
        Data::Outputs { list, with: Some((at, with)) } => {
            let mut bytes = encode(&list);
            let at = usize::from(at) % bytes.len();
            let end = bytes.len().min(at + with.len());
            bytes.splice(at..end, with.iter().copied());
            drop(either(&bytes, most));
        }
    }
});

fn balances(bytes: &[u8], compressed: bool, most: usize) -> Outcome {
    let snapshot = StateSnapshot { state_data: bytes.to_vec(), compressed, ..StateSnapshot::default() };
    fuzz_balances(&snapshot, most)
}

/// Of these bytes, plain and packed.
fn either(bytes: &[u8], most: usize) -> Outcome {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("memory");
    let outcome = balances(bytes, false, most);
    assert_eq!(balances(&packed.finish().expect("memory"), true, most), outcome, "packing made a difference");
    assert!(bytes.len() <= most || outcome == Err(SnapshotFault::TooLarge(most)), "beyond the bound");
    outcome
}

fn encode(list: &[Output<'_>]) -> Vec<u8> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    let mut bytes = (list.len() as u64).to_le_bytes().to_vec();
    for output in list {
        text(&mut bytes, output.txid);
        bytes.extend(output.vout.to_le_bytes());
        bytes.extend(output.amount.to_le_bytes());
        text(&mut bytes, output.address);
    }
    // The total supply, which nothing is derived from.
    bytes.extend(7u64.to_le_bytes());
    bytes
}

fn sums(list: &[Output<'_>], most: usize) -> Outcome {
    if encode(list).len() > most {
        return Err(SnapshotFault::TooLarge(most));
    }
    let mut sums: HashMap<String, u64> = HashMap::new();
    for output in list {
        let sum = sums.entry(output.address.to_owned()).or_default();
        *sum = sum.checked_add(output.amount).ok_or(SnapshotFault::Overflow)?;
    }
    Ok(sums)
}
