//! Cuts replies that are longer than a frame may be.

use crate::connection::Message;
use crate::timecoin::wire::{Block, NetworkMessage, TextError, TimeCoin};

use super::broadcast::to_message;

/// Upper bound for the JSON around the blocks, in bytes.
const ENVELOPE_BYTES: usize = 64;

/// A reply as the node carries it. If it has too many blocks for a frame, its last blocks are
/// dropped, as if the chain had sent fewer at a time; the requester continues from there. Any other
/// oversized reply is returned as it is, and refused later.
///
/// # Cost
/// One encoding to JSON; two more if it is cut.
pub(super) fn truncated_to_frame(reply: &NetworkMessage) -> Result<Message, TextError> {
    let whole = to_message(reply)?;
    let max_bytes = TimeCoin::MAX_MESSAGE;
    if whole.payload.len() <= max_bytes {
        return Ok(whole);
    }
    let cut = match reply {
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

/// The first blocks that fit, at least one.
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
