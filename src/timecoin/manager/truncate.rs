//! Answers that are longer than a frame may be, cut to fit.

use crate::connection::Message;
use crate::timecoin::wire::{Block, NetworkMessage, TextError, TimeCoin};

use super::broadcast::to_message;

/// What stands around the blocks, in bytes, and more.
const ENVELOPE_BYTES: usize = 64;

/// An answer as the node carries it. One with too many blocks for a frame is cut from its end, as if the chain had sent fewer at a
/// time: whoever asks goes on from there. What is too long all the same is left as it is, to be refused.
///
/// # Cost
/// One encoding to JSON; two more where it is cut.
pub(super) fn truncated_to_frame(answer: &NetworkMessage) -> Result<Message, TextError> {
    let whole = to_message(answer)?;
    let max_bytes = TimeCoin::MAX_MESSAGE;
    if whole.payload.len() <= max_bytes {
        return Ok(whole);
    }
    let cut = match answer {
        NetworkMessage::Blocks { blocks } => {
            NetworkMessage::Blocks { blocks: leading_blocks(blocks, max_bytes)? }
        }
        NetworkMessage::ChainResponse { blocks, .. } => {
            NetworkMessage::ChainResponse { blocks: leading_blocks(blocks, max_bytes)?, complete: false }
        }
        _ => return Ok(whole),
    };
    to_message(&cut)
}

/// As many of the first blocks as fit, one at least.
fn leading_blocks(blocks: &[Block], max_bytes: usize) -> Result<Vec<Block>, TextError> {
    let mut room = max_bytes.saturating_sub(ENVELOPE_BYTES);
    let mut truncated_to_frame = Vec::new();
    for block in blocks {
        let size = serde_json::to_vec(block).map_err(TextError::Json)?.len() + 1;
        if size > room && !truncated_to_frame.is_empty() {
            break;
        }
        room = room.saturating_sub(size);
        truncated_to_frame.push(block.clone());
    }
    Ok(truncated_to_frame)
}
