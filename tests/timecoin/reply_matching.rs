//! Questions and answers: which belong together by kind, and which by content.

use crate::samples::MESSAGES;
use peerpool::timecoin::wire::{Kind, Software, TimeCoin, UNKNOWN};
use peerpool::wire::{Protocol, ReplyMatcher};
use std::sync::Arc;

fn reply_matcher() -> Arc<dyn ReplyMatcher> {
    TimeCoin::testnet(Software::default()).reply_matcher().unwrap()
}

fn answers(asks: Kind, asked: &str, replies: Kind, reply: &str) -> bool {
    reply_matcher().is_reply_to(asks.code(), asked.as_bytes(), replies.code(), reply.as_bytes())
}

fn sample(kind: Kind) -> &'static str {
    MESSAGES.lines().nth(usize::from(kind.code())).unwrap()
}

/// Every request with what may answer it.
const PAIRS: &[(Kind, &[Kind])] = &[
    (Kind::TimeRequest, &[Kind::TimeResponse]),
    (Kind::GetBlockchainHeight, &[Kind::BlockchainHeight]),
    (Kind::GetBlocks, &[Kind::Blocks, Kind::BlocksData]),
    (Kind::CatchUpRequest, &[Kind::CatchUpAcknowledge]),
    (Kind::InstantFinalityRequest, &[Kind::TransactionApproved, Kind::TransactionRejected]),
    (Kind::MempoolQuery, &[Kind::MempoolResponse]),
    (Kind::GetMempool, &[Kind::MempoolResponse]),
    (Kind::ConsensusBlockVote, &[Kind::ConsensusVoteAck]),
    (Kind::RequestMissingTransactions, &[Kind::MissingTransactionsResponse]),
    (Kind::RegisterXpub, &[Kind::XpubRegistered]),
    (Kind::RequestWalletTransactions, &[Kind::WalletTransactionsResponse]),
    (Kind::GetPeerList, &[Kind::PeerList]),
    (Kind::GetGenesis, &[Kind::GenesisBlock]),
    (Kind::GetBlockchainInfo, &[Kind::BlockchainInfo]),
    (Kind::HeightRequest, &[Kind::HeightResponse]),
    (Kind::BlockRequest, &[Kind::BlockResponse]),
    (Kind::ChainRequest, &[Kind::ChainResponse]),
    (Kind::StateSnapshotRequest, &[Kind::StateSnapshotResponse]),
    (Kind::RequestFinalizedTransactions, &[Kind::FinalizedTransactionsResponse]),
    (Kind::UTXOStateQuery, &[Kind::UTXOStateResponse]),
    (Kind::GetMasternodeList, &[Kind::MasternodeList]),
    (Kind::GetMasternodeHash, &[Kind::MasternodeHash]),
];

#[test]
fn requests_wait_in_the_slot_of_their_reply() {
    let reply_matcher = reply_matcher();
    for kind in Kind::ALL {
        let pair = PAIRS.iter().find(|(asks, _)| asks == kind);
        let place = reply_matcher.request_slot(kind.code());
        assert_eq!(place, pair.map(|(_, replies)| u32::from(replies[0].code())), "{kind}");
        assert_eq!(kind.request_slot(), place);
        let fillers: Vec<Kind> = Kind::ALL
            .iter()
            .copied()
            .filter(|reply| place.is_some() && reply_matcher.reply_slot(reply.code()) == place)
            .collect();
        let mut want = pair.map_or(vec![], |(_, replies)| replies.to_vec());
        want.sort_unstable();
        assert_eq!(fillers, want, "{kind}");
        // No message is both: an answer that asks back would wait for ever.
        assert!(kind.request_slot().is_none() || kind.reply_slot().is_none(), "{kind}");
    }
    for code in [71, UNKNOWN] {
        assert_eq!((reply_matcher.request_slot(code), reply_matcher.reply_slot(code)), (None, None));
        assert!(!reply_matcher.is_reply_to(code, b"", code, b""));
    }
}

#[test]
fn a_reply_of_another_kind_matches_nothing() {
    for (asks, _) in PAIRS {
        for reply in Kind::ALL {
            if reply.reply_slot() != asks.request_slot() {
                assert!(!answers(*asks, sample(*asks), *reply, sample(*reply)), "{asks} by {reply}");
            }
        }
    }
}

#[test]
fn replies_without_common_fields_match_by_kind() {
    for (asks, replies) in PAIRS {
        // The samples were not made for each other: where fields are compared, their values differ
        // in these.
        let compared = [Kind::ConsensusBlockVote, Kind::BlockRequest];
        for reply in *replies {
            let fits = answers(*asks, sample(*asks), *reply, sample(*reply));
            assert_eq!(fits, !compared.contains(asks), "{asks} by {reply}");
        }
    }
}

#[test]
fn common_fields_must_agree() {
    use Kind::*;
    let block = |height: u64| {
        sample(ChainResponse).replace(r#""block_number":0"#, &format!(r#""block_number":{height}"#))
    };
    let blocks = |height| block(height).replace("ChainResponse", "Blocks");
    let one_block = |height| {
        let text = block(height).replace(r#"{"ChainResponse":{"blocks":["#, r#"{"BlockResponse":{"block":"#);
        text.replace(r#"],"complete":true"#, "")
    };
    let missing =
        r#"{"RequestMissingTransactions":{"txids":["a","\u0062"],"requester":"x","block_height":5}}"#;
    let found = |txids: &[&str], height: u32| {
        let list: Vec<String> =
            txids.iter().map(|txid| format!(r#"{{"zzz":[1],"txid":"{txid}"}}"#)).collect();
        format!(
            r#"{{"MissingTransactionsResponse":{{"transactions":[{}],"block_height":{height}}}}}"#,
            list.join(",")
        )
    };
    let query =
        r#"{"UTXOStateQuery":{"outpoints":["{\"txid\":\"a\",\"vout\":1}","{\"vout\":2,\"txid\":\"b\"}"]}}"#;
    let states = |list: &str| {
        format!(r#"{{"UTXOStateResponse":{{"states":{}}}}}"#, serde_json::to_string(list).expect("text"))
    };
    let vote = r#"{"ConsensusBlockVote":"{\"approve\":true,\"block_hash\":\"cd\"}"}"#;
    let ack = |hash: &str| {
        format!(r#"{{"ConsensusVoteAck":{{"block_hash":"{hash}","voter":"v","received_at":1}}}}"#)
    };
    let chain = r#"{"ChainRequest":{"from_height":7}}"#;
    let range = r#"{"GetBlocks":{"start_height":5,"end_height":7}}"#;
    let cases: Vec<(Kind, &str, Kind, String, bool)> = vec![
        (TimeRequest, sample(TimeRequest), TimeResponse, sample(TimeResponse).into(), true),
        (
            TimeRequest,
            r#"{"TimeRequest":{"request_time_ms":1}}"#,
            TimeResponse,
            sample(TimeResponse).into(),
            false,
        ),
        (GetBlocks, range, Blocks, blocks(5), true),
        (GetBlocks, range, Blocks, blocks(7), true),
        (GetBlocks, range, Blocks, blocks(4), false),
        (GetBlocks, range, Blocks, blocks(8), false),
        (GetBlocks, range, Blocks, r#"{"Blocks":{"blocks":[]}}"#.into(), true),
        (
            GetBlocks,
            range,
            BlocksData,
            r#"{"BlocksData":[{"block":[1,2],"height":6},{"block":[],"height":9}]}"#.into(),
            true,
        ),
        (GetBlocks, range, BlocksData, r#"{"BlocksData":[{"block":[1,2],"height":9}]}"#.into(), false),
        (
            InstantFinalityRequest,
            sample(InstantFinalityRequest),
            TransactionApproved,
            sample(TransactionApproved).into(),
            true,
        ),
        (
            InstantFinalityRequest,
            sample(InstantFinalityRequest),
            TransactionRejected,
            sample(TransactionRejected).replace("a3857d", "b3857d"),
            false,
        ),
        (ConsensusBlockVote, vote, ConsensusVoteAck, ack("cd"), true),
        (ConsensusBlockVote, vote, ConsensusVoteAck, ack("ce"), false),
        (RequestMissingTransactions, missing, MissingTransactionsResponse, found(&["b", "a"], 5), true),
        (RequestMissingTransactions, missing, MissingTransactionsResponse, found(&["\\u0061"], 5), true),
        (RequestMissingTransactions, missing, MissingTransactionsResponse, found(&[], 5), true),
        (RequestMissingTransactions, missing, MissingTransactionsResponse, found(&["a", "c"], 5), false),
        (RequestMissingTransactions, missing, MissingTransactionsResponse, found(&["a"], 6), false),
        (BlockRequest, r#"{"BlockRequest":{"height":3}}"#, BlockResponse, one_block(3), true),
        (BlockRequest, r#"{"BlockRequest":{"height":3}}"#, BlockResponse, one_block(4), false),
        (
            BlockRequest,
            r#"{"BlockRequest":{"height":3}}"#,
            BlockResponse,
            r#"{"BlockResponse":{"block":null}}"#.into(),
            true,
        ),
        (ChainRequest, chain, ChainResponse, block(7), true),
        (ChainRequest, chain, ChainResponse, block(8), false),
        (
            ChainRequest,
            chain,
            ChainResponse,
            r#"{"ChainResponse":{"blocks":[],"complete":true}}"#.into(),
            true,
        ),
        (
            StateSnapshotRequest,
            sample(StateSnapshotRequest),
            StateSnapshotResponse,
            sample(StateSnapshotResponse).into(),
            true,
        ),
        (
            StateSnapshotRequest,
            r#"{"StateSnapshotRequest":{"height":41}}"#,
            StateSnapshotResponse,
            sample(StateSnapshotResponse).into(),
            false,
        ),
        (UTXOStateQuery, query, UTXOStateResponse, states(r#"[[{"txid":"b","vout":2},"Unspent"]]"#), true),
        (UTXOStateQuery, query, UTXOStateResponse, states("[]"), true),
        (UTXOStateQuery, query, UTXOStateResponse, states(r#"[[{"txid":"b","vout":1},"Unspent"]]"#), false),
    ];
    for (asks, asked, replies, reply, want) in cases {
        assert_eq!(answers(asks, asked, replies, &reply), want, "{asked} by {reply}");
    }
}

#[test]
fn unreadable_fields_do_not_prevent_a_match() {
    for (asks, replies) in PAIRS {
        for reply in *replies {
            for broken in ["", "{", "7", "{}", &format!("{{\"{reply}\":"), &format!("{{\"{reply}\":{{}}}}")] {
                assert!(answers(*asks, sample(*asks), *reply, broken), "{asks} by {broken}");
                assert!(answers(*asks, broken, *reply, sample(*reply)), "{broken} by {reply}");
            }
        }
    }
    let vote = r#"{"ConsensusBlockVote":"of a later form"}"#;
    assert!(answers(Kind::ConsensusBlockVote, vote, Kind::ConsensusVoteAck, sample(Kind::ConsensusVoteAck)));
}
