//! A typed layer on kinds and bytes: serde types as messages, in postcard's compact form.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::Lane;
use crate::connection::{Event, Message, Request};

/// A type that travels as one kind of message.
///
/// ```
/// use peerpool::node::{Message, Typed};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// struct Vote { height: u64, yes: bool }
///
/// impl Typed for Vote {
///     const KIND: u16 = 7;
///     const LANE: peerpool::base::Lane = peerpool::base::Lane::Urgent;
/// }
///
/// let message = Message::of(&Vote { height: 9, yes: true })?;
/// assert_eq!(Vote::read(message.kind, &message.payload)?, Vote { height: 9, yes: true });
/// # Ok::<(), peerpool::node::TypedError>(())
/// ```
pub trait Typed: Serialize + DeserializeOwned {
    /// Its kind on the line.
    const KIND: u16;
    /// The lane it takes.
    const LANE: Lane = Lane::Normal;

    /// Reads one back.
    ///
    /// # Errors
    /// See [`TypedError`]; never panics, whatever the bytes.
    fn read(kind: u16, payload: &[u8]) -> Result<Self, TypedError> {
        if kind != Self::KIND {
            return Err(TypedError::Kind { want: Self::KIND, got: kind });
        }
        let (value, rest) = postcard::take_from_bytes(payload)?;
        if rest.is_empty() { Ok(value) } else { Err(TypedError::Trailing { count: rest.len() }) }
    }
}

impl Message {
    /// A typed value as a message.
    ///
    /// # Errors
    /// When the value cannot be encoded (a sequence of unknown length, say).
    pub fn of<T: Typed>(value: &T) -> Result<Self, TypedError> {
        Ok(Self { lane: T::LANE, kind: T::KIND, payload: postcard::to_allocvec(value)?.into() })
    }
}

impl Event<'_> {
    /// The event as a typed value.
    ///
    /// # Errors
    /// See [`TypedError`].
    pub fn read<T: Typed>(&self) -> Result<T, TypedError> {
        T::read(self.kind, &self.payload)
    }
}

impl Request<'_> {
    /// The request as a typed value.
    ///
    /// # Errors
    /// See [`TypedError`].
    pub fn read<T: Typed>(&self) -> Result<T, TypedError> {
        T::read(self.kind, &self.payload)
    }
}

/// Why bytes are not a value of a type, or a value cannot become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedError {
    /// The message is of another kind.
    #[error("a message of kind {got}, not {want}")]
    Kind {
        /// The type's kind.
        want: u16,
        /// The message's.
        got: u16,
    },
    /// The bytes do not fit the type.
    #[error("postcard: {0}")]
    Postcard(#[from] postcard::Error),
    /// The bytes go on after the value.
    #[error("{count} bytes after the value")]
    Trailing {
        /// How many.
        count: usize,
    },
}
