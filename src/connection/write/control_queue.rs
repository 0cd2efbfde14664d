//! Control messages on their way to the stream.

use bytes::{Bytes, BytesMut};

use crate::connection::close_reason::CloseReason;
use crate::wire::{Control, Protocol};

use super::Writer;

/// Control bytes that may wait. A peer that causes more replies than it reads is flooding.
const MAX_CONTROL_BYTES: usize = 32 * 1024;

/// Encoded control messages. The writer takes all of them with the next round.
#[derive(Default)]
pub(in crate::connection) struct ControlQueue(BytesMut);

/// The end of the control queue that the reader appends to. The queue belongs to the state of an
/// active writer, so that an idle connection holds none.
pub(in crate::connection) struct ControlSink<'a>(&'a mut Writer);

impl<'a> ControlSink<'a> {
    pub(in crate::connection) fn new(writer: &'a mut Writer) -> Self {
        Self(writer)
    }

    /// As [`ControlQueue::push`].
    pub(in crate::connection) fn push<D: Protocol>(
        &mut self,
        protocol: &D,
        control: &Control,
    ) -> Result<(), CloseReason> {
        self.0.control_queue().push(protocol, control)
    }
}

impl ControlQueue {
    /// Queues bytes that go out before anything else.
    pub(in crate::connection) fn start_with(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Queues a control message. One that the protocol cannot encode is left out.
    ///
    /// # Errors
    /// [`CloseReason::Flood`] if too much waits already.
    pub(in crate::connection) fn push<D: Protocol>(
        &mut self,
        protocol: &D,
        control: &Control,
    ) -> Result<(), CloseReason> {
        if self.0.len() > MAX_CONTROL_BYTES {
            return Err(CloseReason::Flood);
        }
        let _ = protocol.encode_control(control, &mut self.0);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes everything; no memory stays behind.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0).freeze()
    }
}
