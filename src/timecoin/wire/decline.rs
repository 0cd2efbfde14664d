//! That a question has no answer: `{"Declined":{"answer":"Blocks","status":3}}`.
//!
//! The network itself refuses by silence, which leaves who asked waiting, and the question's place closed for the next one. Nodes of
//! ours, told by a capability in their handshakes, say it to each other; to an old node it would be a message it does not know.
//! What is broadcast as well as asked, votes and requests for instant finality, is left unanswered in silence all the same: a refusal
//! for each that nobody waits for would be most of the traffic.

use serde::Deserialize;

use crate::wire::Status;

use super::kinds::Kind;

/// What the text begins with, to the letter; nobody else writes it.
const PREFIX: &[u8] = b"{\"Declined\":";
/// No longer text is looked at.
const MAX_TEXT_BYTES: usize = 128;

/// The text for the question in this place; `None` where there is no such place.
pub(super) fn text(place: u32, status: Status) -> Option<String> {
    let answer = Kind::from_code(u16::try_from(place).ok()?).filter(|answer| is_declinable(*answer))?;
    Some(format!(r#"{{"Declined":{{"answer":"{}","status":{}}}}}"#, answer.name(), status.code()))
}

/// The place and the status, if that is what the text says.
pub(super) fn read(text: &[u8]) -> Option<(u32, Status)> {
    if text.len() > MAX_TEXT_BYTES || !text.starts_with(PREFIX) {
        return None;
    }
    let DeclinedFrame { declined: Declined { answer, status } } = serde_json::from_slice(text).ok()?;
    let place = Kind::from_name(answer.as_bytes()).filter(|answer| is_declinable(*answer))?.reply_slot()?;
    (status != Status::Ok.code()).then_some((place, Status::from_code(status)))
}

/// Whether a missing answer of this kind is told.
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
