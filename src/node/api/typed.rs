//! Typed messages: serde types over kinds and bytes, in the compact encoding of postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::Lane;
use crate::connection::{Event, Message, Request};

/// A type that is sent as one kind of message.
///
/// ```
/// use peerpool::{Message, Typed};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// struct Vote { height: u64, yes: bool }
///
/// impl Typed for Vote {
///     const KIND: u16 = 7;
///     const LANE: peerpool::Lane = peerpool::Lane::Urgent;
/// }
///
/// let message = Message::of(&Vote { height: 9, yes: true })?;
/// assert_eq!(Vote::read(message.kind, &message.payload)?, Vote { height: 9, yes: true });
/// # Ok::<(), peerpool::TypedError>(())
/// ```
pub trait Typed: Serialize + DeserializeOwned {
    /// Its message kind.
    const KIND: u16;
    /// The lane it is sent on.
    const LANE: Lane = Lane::Normal;

    /// Decodes a value.
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
    /// Encodes a typed value as a message.
    ///
    /// # Errors
    /// The value cannot be encoded, for example a sequence of unknown length.
    pub fn of<T: Typed>(value: &T) -> Result<Self, TypedError> {
        Ok(Self { lane: T::LANE, kind: T::KIND, payload: postcard::to_allocvec(value)?.into() })
    }
}

impl Event<'_> {
    /// Decodes the event.
    ///
    /// # Errors
    /// See [`TypedError`].
    pub fn read<T: Typed>(&self) -> Result<T, TypedError> {
        T::read(self.kind, &self.payload)
    }
}

impl Request<'_> {
    /// Decodes the request.
    ///
    /// # Errors
    /// See [`TypedError`].
    pub fn read<T: Typed>(&self) -> Result<T, TypedError> {
        T::read(self.kind, &self.payload)
    }
}

/// Why a value could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// The message is of another kind.
    #[error("expected a message of kind {want}, got {got}")]
    Kind {
        /// The type's kind.
        want: u16,
        /// The message's.
        got: u16,
    },
    /// The bytes do not decode to the type, or the value cannot be encoded.
    #[error("postcard: {0}")]
    Postcard(#[from] postcard::Error),
    /// There are bytes after the value.
    #[error("{count} bytes after the value")]
    Trailing {
        /// How many.
        count: usize,
    },
}
