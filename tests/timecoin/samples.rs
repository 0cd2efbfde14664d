//! What the network's own node writes is read, and written again byte for byte.

use peerpool::Lane;
use peerpool::timecoin::PeerInfo;
use peerpool::timecoin::wire::{
    Block, BlockHeader, ConflictInfo, HandshakeMessage, Kind, NetworkMessage, OutPoint, ProtocolVersion,
    TextError, Transaction, TxInput, TxOutput, UNKNOWN, UTXOState, UTXOStateNotification, UtxoInput,
    UtxoOutput,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

pub(crate) const MESSAGES: &str = include_str!("../golden/timecoin_messages.jsonl");
const NESTED: &str = include_str!("../golden/timecoin_nested.txt");

/// Each nested sample with the line that names it.
fn nested() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut lines = NESTED.lines();
    std::iter::from_fn(move || Some((lines.next()?.strip_prefix("# ").expect("a name"), lines.next()?)))
}

fn sample(name: &str) -> &'static str {
    nested().find(|(which, _)| which.starts_with(name)).unwrap_or_else(|| panic!("no sample {name}")).1
}

#[test]
fn every_message_round_trips_byte_for_byte() {
    let mut out = Vec::new();
    for text in MESSAGES.lines() {
        let message =
            NetworkMessage::decode(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
        out.clear();
        message.encode(&mut out).unwrap();
        assert_eq!(std::str::from_utf8(&out).unwrap(), text);
        assert_eq!(message.to_bytes().unwrap(), text);
        // The plain serializer says the same: what is quick about ours changes nothing.
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
    }
    assert_eq!(MESSAGES.lines().count(), 71);
}

#[test]
fn every_nested_structure_round_trips_byte_for_byte() {
    fn same<T: Serialize + DeserializeOwned + Debug>(text: &str) {
        let value: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
    }
    let (mut seen, mut unreadable) = (0, 0);
    for (name, text) in nested() {
        seen += 1;
        match name.split([' ', '(']).next().unwrap() {
            _ if name.contains("NaN") => {
                unreadable += 1;
                let error = NetworkMessage::decode(text.as_bytes()).unwrap_err();
                assert!(error.to_string().starts_with("invalid type: null, expected f64"), "{error}");
            }
            "BlockchainInfo" | "BlockResponse" | "UtxoCommit" => same::<NetworkMessage>(text),
            "time_core::OutPoint" => same::<OutPoint>(text),
            "time_core::TxInput" => same::<TxInput>(text),
            "time_core::TxOutput" => same::<TxOutput>(text),
            "time_core::Transaction" => same::<Transaction>(text),
            "time_core::Block" => same::<Block>(text),
            "time_core::BlockHeader" => same::<BlockHeader>(text),
            "UTXOState::Unspent" | "UTXOState::Locked" | "UTXOState::SpentPending" => same::<UTXOState>(text),
            "UTXOState::SpentFinalized" | "UTXOState::Confirmed" => same::<UTXOState>(text),
            "utxo_sync::UtxoInput" => same::<UtxoInput>(text),
            "utxo_sync::UtxoOutput" => same::<UtxoOutput>(text),
            "utxo_sync::ConflictInfo" => same::<ConflictInfo>(text),
            "PeerInfo" => same::<PeerInfo>(text),
            "ProtocolVersion" => same::<ProtocolVersion>(text),
            "HandshakeMessage" => same::<HandshakeMessage>(text),
            other => panic!("no type for {other}"),
        }
    }
    assert_eq!((seen, unreadable), (24, 1));
}

#[test]
fn text_inside_messages_round_trips_byte_for_byte() {
    let mut texts = 0;
    let mut check = |text: &str, again: String| {
        assert_eq!(again, text);
        texts += 1;
    };
    fn again<T: Serialize + DeserializeOwned>(text: &str) -> String {
        serde_json::to_string(&serde_json::from_str::<T>(text).unwrap()).unwrap()
    }
    for line in MESSAGES.lines() {
        match NetworkMessage::decode(line.as_bytes()).unwrap() {
            NetworkMessage::GenesisBlock(text) => check(&text, again::<Block>(&text)),
            NetworkMessage::UTXOStateQuery { outpoints } => {
                check(&outpoints[0], again::<OutPoint>(&outpoints[0]))
            }
            NetworkMessage::UTXOStateResponse { states } => {
                check(&states, again::<Vec<(OutPoint, UTXOState)>>(&states))
            }
            NetworkMessage::UTXOStateNotification { notification: text } => {
                check(&text, again::<UTXOStateNotification>(&text));
            }
            NetworkMessage::UtxoLockBroadcast { inputs, outputs, .. } => {
                check(&inputs[0], again::<UtxoInput>(&inputs[0]));
                check(&outputs[0], again::<UtxoOutput>(&outputs[0]));
            }
            NetworkMessage::UtxoLockAcknowledge { conflict: Some(text), .. } => {
                check(&text, again::<ConflictInfo>(&text));
            }
            _ => {}
        }
    }
    assert_eq!(texts, 7);
}

#[test]
fn hashes_and_ids_match_the_network() {
    for name in ["time_core::Block (genesis", "time_core::Block (1 tx"] {
        let block: Block = serde_json::from_str(sample(name)).unwrap();
        assert_eq!(block.header.computed_hash(), block.hash);
        let other = BlockHeader { block_number: 7, ..block.header };
        assert_ne!(other.computed_hash(), block.hash);
    }
    let transaction: Transaction = serde_json::from_str(sample("time_core::Transaction (regular)")).unwrap();
    assert_eq!(transaction.computed_txid(), transaction.txid);
}

#[test]
fn a_non_finite_weight_is_refused_and_leaves_the_buffer_unchanged() {
    for total_weight in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let message = NetworkMessage::UtxoCommit {
            txid: "ab".into(),
            status: "Approved".into(),
            ack_count: 1,
            total_weight,
            timestamp: 1,
            reason: None,
        };
        let mut out = b"before".to_vec();
        let error = message.encode(&mut out).unwrap_err();
        assert!(matches!(error, TextError::NotFinite { field: "total_weight", .. }), "{error}");
        assert_eq!(out, b"before");
        assert!(message.to_bytes().is_err());
        // Nor does a serializer that is not ours write null.
        assert!(serde_json::to_string(&message).is_err());
    }
    // The buffer that the failure used is fit for the next message.
    assert_eq!(NetworkMessage::Ping.to_bytes().unwrap(), r#""Ping""#);
}

#[test]
fn bytes_are_written_as_numbers_whatever_their_count_and_value() {
    let all: Vec<u8> = (0..=255).collect();
    for count in [0, 1, 2, 63, 64, 65, 127, 128, 129, 256, 1000, 100_000] {
        let bytes: Vec<u8> = all.iter().copied().cycle().take(count).collect();
        let message = NetworkMessage::BlockProposal(bytes.clone());
        let text = message.to_bytes().unwrap();
        let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
        assert_eq!(text, format!(r#"{{"BlockProposal":[{}]}}"#, numbers.join(",")), "{count}");
        assert_eq!(NetworkMessage::decode(&text).unwrap(), message);
    }
}

#[test]
fn kinds_are_the_variants_in_order() {
    assert_eq!(Kind::ALL.len(), 71);
    for (at, text) in MESSAGES.lines().enumerate() {
        let message = NetworkMessage::decode(text.as_bytes()).unwrap();
        let kind = message.kind();
        assert_eq!(usize::from(kind.code()), at);
        assert_eq!(Kind::from_code(at as u16), Some(kind));
        let name = text.trim_start_matches(['{', '"']).split('"').next().unwrap();
        assert_eq!((kind.name(), kind.to_string().as_str()), (name, name));
        assert_eq!(Kind::from_name(name.as_bytes()), Some(kind));
    }
    for code in [71, 72, UNKNOWN] {
        assert_eq!(Kind::from_code(code), None);
    }
    for name in ["", "P", "ping", "Pingg", "Blockz", "TransactionRejectedByNetworkz", &"x".repeat(300)] {
        assert_eq!(Kind::from_name(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn long_messages_take_a_lane_with_room_in_the_native_protocol() {
    let limits = peerpool::wire::WireLimits::default();
    for kind in Kind::ALL {
        let sizes = [
            0,
            Kind::URGENT_SIZE,
            Kind::URGENT_SIZE + 1,
            Kind::NORMAL_SIZE,
            Kind::NORMAL_SIZE + 1,
            10_485_760,
        ];
        let lanes = sizes.map(|size| kind.lane_for(size));
        assert_eq!(lanes[0], kind.lane());
        assert!(lanes.is_sorted(), "{kind} gets more urgent with its length: {lanes:?}");
        for (lane, size) in lanes.into_iter().zip(sizes) {
            assert!(
                lane != Lane::Control && size <= limits.message(lane),
                "{kind} of {size} bytes on {lane:?}"
            );
        }
    }
    assert_eq!(Kind::ConsensusBlockVote.lane(), Lane::Urgent);
    assert_eq!(Kind::BlockProposal.lane_for(3_700), Lane::Urgent);
    assert_eq!(Kind::BlockProposal.lane_for(100_000), Lane::Normal);
    assert_eq!(Kind::Blocks.lane(), Lane::Bulk);
    assert_eq!(Kind::UpdateTip.lane(), Lane::Normal);
}
