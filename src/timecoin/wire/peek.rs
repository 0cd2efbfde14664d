//! Finds the kind of a message without parsing all of its text.

use super::kinds::{Kind, MAX_NAME_BYTES};
use super::message::NetworkMessage;

/// Longest escaped name that is read; an escape takes six bytes.
const MAX_ESCAPED_NAME_BYTES: usize = 6 * MAX_NAME_BYTES;

/// The kind of a message, from the start of its text: `"Name"` or `{"Name":`, with whitespace
/// anywhere. `None` for other texts and for unknown names.
///
/// # Cost
/// No allocation, except for a name with escapes.
#[inline]
pub(super) fn peek_kind(text: &[u8]) -> Option<Kind> {
    let (name, rest, is_map) = leading_name(text)?;
    let kind = name.kind()?;
    let next = after_whitespace(rest).first();
    let goes_on = if is_map { next == Some(&b':') } else { next.is_none() };
    goes_on.then_some(kind)
}

/// Whether the text begins with a known name, whatever follows.
pub(super) fn has_known_name(text: &[u8]) -> bool {
    leading_name(text).is_some_and(|(name, ..)| name.kind().is_some())
}

/// Whether a text that begins like a ping or a pong is one completely.
pub(super) fn is_whole(kind: Kind, text: &[u8]) -> bool {
    // The usual form.
    if text.len() == 6 {
        return true;
    }
    NetworkMessage::decode(text).is_ok_and(|message| message.kind() == kind)
}

enum Name<'a> {
    Plain(&'a [u8]),
    Escaped(String),
}

impl Name<'_> {
    #[inline]
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Plain(name) => Kind::from_name(name),
            Self::Escaped(name) => Kind::from_name(name.as_bytes()),
        }
    }
}

/// The leading name, what follows it, and whether it is a key of a map.
#[inline]
fn leading_name(text: &[u8]) -> Option<(Name<'_>, &[u8], bool)> {
    let text = after_whitespace(text);
    let (text, is_map) = match text.strip_prefix(b"{") {
        Some(inside) => (after_whitespace(inside), true),
        None => (text, false),
    };
    let quoted = text.strip_prefix(b"\"")?;
    let window = &quoted[..quoted.len().min(MAX_NAME_BYTES + 1)];
    match window.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        Some(at) if quoted[at] == b'"' => Some((Name::Plain(&quoted[..at]), &quoted[at + 1..], is_map)),
        Some(_) => escaped_name(text, is_map),
        None => None,
    }
}

/// Reads a name with escapes.
#[cold]
fn escaped_name(text: &[u8], is_map: bool) -> Option<(Name<'_>, &[u8], bool)> {
    let window = &text[..text.len().min(MAX_ESCAPED_NAME_BYTES + 2)];
    let mut values = serde_json::Deserializer::from_slice(window).into_iter::<String>();
    let name = values.next()?.ok()?;
    let rest = text.get(values.byte_offset()..)?;
    Some((Name::Escaped(name), rest, is_map))
}

#[inline]
fn after_whitespace(text: &[u8]) -> &[u8] {
    let blank = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    &text[blank..]
}
