//! The refusal of a request: `{"Declined":{"answer":"Blocks","status":3}}`.
//!
//! Legacy nodes refuse by silence. The requester waits until its time limit, and the reply slot
//! stays occupied. Peerpool nodes recognise each other by a capability in the handshake and send
//! refusals to each other. A legacy node would not understand one.
//!
//! Requests that are also broadcast (votes, instant finality) are never refused: refusals that
//! nothing waits for would be most of the traffic.

use serde::Deserialize;

use crate::wire::Status;

use super::kinds::Kind;

/// The exact prefix of a refusal. No other message has it.
const PREFIX: &[u8] = b"{\"Declined\":";
/// Longest text that is parsed, in bytes.
const MAX_TEXT_BYTES: usize = 128;

/// The text that refuses the request of a slot; `None` if it cannot be refused.
pub(super) fn encode(slot: u32, status: Status) -> Option<String> {
    let reply = Kind::from_code(u16::try_from(slot).ok()?).filter(|reply| is_declinable(*reply))?;
    Some(format!(r#"{{"Declined":{{"answer":"{}","status":{}}}}}"#, reply.name(), status.code()))
}

/// The slot and the status, if the text is a refusal.
pub(super) fn decode(text: &[u8]) -> Option<(u32, Status)> {
    if text.len() > MAX_TEXT_BYTES || !text.starts_with(PREFIX) {
        return None;
    }
    let DeclinedFrame { declined: Declined { answer, status } } = serde_json::from_slice(text).ok()?;
    let slot = Kind::from_name(answer.as_bytes()).filter(|reply| is_declinable(*reply))?.reply_slot()?;
    (status != Status::Ok.code()).then_some((slot, Status::from_code(status)))
}

/// Whether a missing reply of this kind is reported.
fn is_declinable(reply: Kind) -> bool {
    reply.reply_slot() == Some(u32::from(reply.code()))
        && !matches!(reply, Kind::ConsensusVoteAck | Kind::TransactionApproved)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclinedFrame<'a> {
    #[serde(rename = "Declined", borrow)]
    declined: Declined<'a>,
}

#[derive(Deserialize)]
struct Declined<'a> {
    answer: &'a str,
    status: u8,
}
