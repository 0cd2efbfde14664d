//! Answers that are longer than a frame may be, cut to fit.

use crate::connection::Message;
use crate::timecoin::wire::{Block, NetworkMessage, TextError, TimeCoin};

use super::say::text_of;

/// An answer as the node carries it. One with too many blocks for a frame is cut from its end, as if the chain had sent fewer at a
/// time: whoever asks goes on from there. What is too long all the same is left as it is, to be refused.
///
/// # Cost
/// One encoding to JSON; two more where it is cut.
pub(super) fn fitting(answer: &NetworkMessage) -> Result<Message, TextError> {
    let whole = text_of(answer)?;
    let most = TimeCoin::MAX_MESSAGE;
    if whole.payload.len() <= most {
        return Ok(whole);
    }
    let cut = match answer {
        NetworkMessage::Blocks { blocks } => NetworkMessage::Blocks { blocks: first(blocks, most)? },
        NetworkMessage::ChainResponse { blocks, .. } => {
            NetworkMessage::ChainResponse { blocks: first(blocks, most)?, complete: false }
        }
        _ => return Ok(whole),
    };
    text_of(&cut)
}

/// As many of the first blocks as fit, one at least.
fn first(blocks: &[Block], most: usize) -> Result<Vec<Block>, TextError> {
    let mut room = most.saturating_sub(AROUND);
    let mut fitting = Vec::new();
    for block in blocks {
        let size = serde_json::to_vec(block).map_err(TextError::Json)?.len() + 1;
        if size > room && !fitting.is_empty() {
            break;
        }
        room = room.saturating_sub(size);
        fitting.push(block.clone());
    }
    Ok(fitting)
}

/// What stands around the blocks, in bytes, and more.
const AROUND: usize = 64;
