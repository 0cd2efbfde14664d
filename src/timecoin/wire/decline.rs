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
pub(super) fn text(place: u32, status: Status) -> Option<String> {
    let answer = Kind::from_code(u16::try_from(place).ok()?).filter(|answer| is_declinable(*answer))?;
    Some(format!(r#"{{"Declined":{{"answer":"{}","status":{}}}}}"#, answer.name(), status.code()))
}

/// The slot and the status, if the text is a refusal.
pub(super) fn read(text: &[u8]) -> Option<(u32, Status)> {
    if text.len() > MAX_TEXT_BYTES || !text.starts_with(PREFIX) {
        return None;
    }
    let DeclinedFrame { declined: Declined { answer, status } } = serde_json::from_slice(text).ok()?;
    let place = Kind::from_name(answer.as_bytes()).filter(|answer| is_declinable(*answer))?.reply_slot()?;
    (status != Status::Ok.code()).then_some((place, Status::from_code(status)))
}

/// Whether a missing reply of this kind is reported.
fn is_declinable(answer: Kind) -> bool {
    answer.reply_slot() == Some(u32::from(answer.code()))
        && !matches!(answer, Kind::ConsensusVoteAck | Kind::TransactionApproved)
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
