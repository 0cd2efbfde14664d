//! Matches replies to requests: the fields that both contain must agree.
//!
//! A field that cannot be read contradicts nothing: the reply is delivered to the requester, whose
//! typed parse reports the error. Only the fields that matter are parsed.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess};

use crate::wire::ReplyMatcher;

use super::kinds::Kind;

/// Matches requests and replies by the table of kinds and by their common fields.
#[derive(Debug)]
pub(super) struct KindReplyMatcher;

impl ReplyMatcher for KindReplyMatcher {
    fn request_slot(&self, kind: u16) -> Option<u32> {
        Kind::from_code(kind)?.request_slot()
    }

    fn reply_slot(&self, kind: u16) -> Option<u32> {
        Kind::from_code(kind)?.reply_slot()
    }

    fn is_reply_to(&self, kind: u16, request: &[u8], reply_kind: u16, reply: &[u8]) -> bool {
        let (Some(kind), Some(reply_kind)) = (Kind::from_code(kind), Kind::from_code(reply_kind)) else {
            return false;
        };
        is_reply_to(kind, request, reply_kind, reply)
    }

    fn are_distinguishable(&self, kind: u16, request: &[u8], other_kind: u16, other: &[u8]) -> bool {
        kind == other_kind
            && Kind::from_code(kind).is_some_and(|kind| are_distinguishable(kind, request, other))
    }
}

/// Whether `reply` can be the reply to `request`. Both are JSON texts.
fn is_reply_to(kind: Kind, request: &[u8], reply_kind: Kind, reply: &[u8]) -> bool {
    if kind.request_slot().is_none() || kind.request_slot() != reply_kind.reply_slot() {
        return false;
    }
    disagrees(kind, request, reply_kind, reply) != Some(true)
}

/// Whether the replies to two requests of a kind can be distinguished, because both requests name a
/// different value that the reply repeats. Only for kinds whose replies may be missing without a
/// refusal ([`decline`](super::decline)): otherwise a second request could never be sent.
fn are_distinguishable(kind: Kind, request: &[u8], other: &[u8]) -> bool {
    let differ = match kind {
        Kind::InstantFinalityRequest => txid_of(request).zip(txid_of(other)).map(|(one, other)| one != other),
        Kind::ConsensusBlockVote => hash_of(request).zip(hash_of(other)).map(|(one, other)| one != other),
        _ => None,
    };
    differ == Some(true)
}

fn txid_of(text: &[u8]) -> Option<String> {
    content::<TxidField<'_>>(text).map(|field| field.txid.into_owned())
}

/// The hash of the block that a vote is about.
fn hash_of(vote: &[u8]) -> Option<String> {
    let vote: Cow<'_, str> = content::<JsonText<'_>>(vote)?.0;
    serde_json::from_str(&vote).ok().map(|field: HashField<'_>| field.block_hash.into_owned())
}

/// Whether a common field differs; `None` if no such field could be read.
fn disagrees(kind: Kind, request: &[u8], reply_kind: Kind, reply: &[u8]) -> Option<bool> {
    Some(match kind {
        Kind::TimeRequest => {
            content::<TimeFields>(request)?.request_time_ms != content::<TimeFields>(reply)?.request_time_ms
        }
        Kind::GetBlocks => {
            let Range { start_height, end_height } = content(request)?;
            let first = match reply_kind {
                Kind::BlocksData => content::<FirstElement<HeightField>>(reply)?.0?.height,
                _ => content::<Blocks>(reply)?.blocks.0?.header.block_number,
            };
            !(start_height..=end_height).contains(&first)
        }
        Kind::InstantFinalityRequest => txid_of(request)? != txid_of(reply)?,
        Kind::ConsensusBlockVote => hash_of(request)? != content::<HashField<'_>>(reply)?.block_hash,
        Kind::RequestMissingTransactions => missing_differ(&content(request)?, &content(reply)?),
        Kind::BlockRequest => {
            content::<HeightField>(request)?.height != content::<OneBlock>(reply)?.block?.header.block_number
        }
        Kind::ChainRequest => {
            content::<FromHeight>(request)?.from_height
                != content::<Blocks>(reply)?.blocks.0?.header.block_number
        }
        Kind::StateSnapshotRequest => {
            content::<HeightField>(request)?.height != content::<HeightField>(reply)?.height
        }
        Kind::UTXOStateQuery => states_differ(&content(request)?, &content(reply)?)?,
        // The other replies repeat no field of their request. Finalized transactions contain times,
        // but nodes differ in the times they select by.
        _ => return None,
    })
}

/// Whether the reply is for another block, or has transactions that were not requested.
fn missing_differ(request: &MissingRequest<'_>, reply: &MissingReply<'_>) -> bool {
    let mut wanted: Vec<&str> = request.txids.iter().map(|JsonText(txid)| &**txid).collect();
    wanted.sort_unstable();
    let is_wanted = |txid: &str| wanted.binary_search(&txid).is_ok();
    request.block_height != reply.block_height
        || !reply.transactions.iter().all(|found| is_wanted(&found.txid))
}

/// Whether the reply has states of outputs that were not requested; `None` if it is not a list of
/// states.
fn states_differ(request: &StatesRequest<'_>, reply: &StatesReply<'_>) -> Option<bool> {
    let found: Vec<(OutPointFields<'_>, IgnoredAny)> = serde_json::from_str(&reply.states).ok()?;
    let wanted =
        request.outpoints.iter().map(|JsonText(text)| serde_json::from_str::<OutPointFields<'_>>(text));
    let mut wanted: Vec<OutPointFields<'_>> = wanted.collect::<Result<_, _>>().ok()?;
    wanted.sort_unstable();
    Some(!found.iter().all(|(outpoint, _)| wanted.binary_search(outpoint).is_ok()))
}

#[derive(Deserialize)]
struct TimeFields {
    request_time_ms: i64,
}

#[derive(Deserialize)]
struct Range {
    start_height: u64,
    end_height: u64,
}

#[derive(Deserialize)]
struct FromHeight {
    from_height: u64,
}

#[derive(Deserialize)]
struct HeightField {
    height: u64,
}

#[derive(Deserialize)]
struct TxidField<'a> {
    #[serde(borrow)]
    txid: Cow<'a, str>,
}

#[derive(Deserialize)]
struct HashField<'a> {
    #[serde(borrow)]
    block_hash: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Blocks {
    blocks: FirstElement<BlockFields>,
}

#[derive(Deserialize)]
struct OneBlock {
    block: Option<BlockFields>,
}

#[derive(Deserialize)]
struct BlockFields {
    header: HeaderFields,
}

#[derive(Deserialize)]
struct HeaderFields {
    block_number: u64,
}

#[derive(Deserialize)]
struct MissingRequest<'a> {
    #[serde(borrow)]
    txids: Vec<JsonText<'a>>,
    block_height: u64,
}

#[derive(Deserialize)]
struct MissingReply<'a> {
    #[serde(borrow)]
    transactions: Vec<TxidField<'a>>,
    block_height: u64,
}

#[derive(Deserialize)]
struct StatesRequest<'a> {
    #[serde(borrow)]
    outpoints: Vec<JsonText<'a>>,
}

#[derive(Deserialize)]
struct StatesReply<'a> {
    #[serde(borrow)]
    states: Cow<'a, str>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct OutPointFields<'a> {
    #[serde(borrow)]
    txid: Cow<'a, str>,
    vout: u32,
}

/// A string, borrowed if it has no escapes. Serde borrows a `Cow` only in a field of its own.
#[derive(Deserialize)]
struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);

/// The first element of a list, if any; the others are skipped.
struct FirstElement<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FirstElement<T> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Seq<T> {
            type Value = FirstElement<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FirstElement<T>, A::Error> {
                let first = seq.next_element()?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstElement(first))
            }
        }
        deserializer.deserialize_seq(Seq(PhantomData))
    }
}

/// The content of a message's text, whatever its name.
fn content<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    struct Content<T>(T);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Content<T> {
        fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Map<T>(PhantomData<T>);
            impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Map<T> {
                type Value = Content<T>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a message")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content<T>, A::Error> {
                    let entry = map.next_entry::<IgnoredAny, T>()?;
                    entry
                        .map(|(_, content)| Content(content))
                        .ok_or_else(|| de::Error::invalid_length(0, &self))
                }
            }
            deserializer.deserialize_map(Map(PhantomData))
        }
    }
    serde_json::from_slice::<Content<T>>(text).ok().map(|Content(content)| content)
}
