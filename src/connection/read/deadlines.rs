//! What a reader waits for by the clock: progress of an unfinished message, and room for one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::connection::budget::{MemoryAccount, MemoryWait};
use crate::connection::close_reason::CloseReason;
use crate::connection::config::ConnectionConfig;

/// How often a connection that waits for memory looks whether there is room.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Passes that read something between two looks at the timer.
const PASSES_PER_LOOK: u8 = 32;

/// Whether a connection that leaves a message unfinished makes progress.
///
/// Invariant: `nothing_unfinished_lives_for_ever`.
/// - Statement: a message that began ends, or grows at the least rate, or the connection ends. The
///   clock stands while this node does not read.
/// - Enforced by: a timer runs while anything is unfinished. At its end it looks at the bytes that
///   came meanwhile.
/// - Breaks if: something is kept for a peer past a pass without the timer.
pub(super) struct ProgressWatch {
    timer: Pin<Box<Sleep>>,
    /// What counts the memory of what is unfinished. Kept here: finding it takes a lock.
    pub(super) account: Arc<MemoryAccount>,
    /// Passes since the timer was looked at.
    passes: u8,
    /// Bytes of unfinished messages, in whole frames, since the timer was set.
    bytes: usize,
    /// Bytes of a part of a frame that were there when it was set.
    rest_before: usize,
    /// Whether a frame was completed since then.
    has_frame: bool,
    /// Whether a message of many frames was completed since then, or nothing was unfinished, or we
    /// did not read.
    is_excused: bool,
}

/// What is unfinished at the end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    Nothing,
    /// We do not read.
    Paused,
    /// A part of one frame.
    Frame,
    /// A message of many frames.
    Message,
}

impl ProgressWatch {
    pub(super) fn new(config: &ConnectionConfig, account: Arc<MemoryAccount>) -> Self {
        let timer = Box::pin(sleep(config.progress_window));
        Self { timer, account, passes: 0, bytes: 0, rest_before: 0, has_frame: false, is_excused: false }
    }

    /// Counts what a pass decoded: bytes of unfinished messages, whether a frame was complete, and
    /// whether a message of many frames was.
    pub(super) fn count(&mut self, bytes: usize, has_frame: bool, has_message: bool) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.has_frame |= has_frame;
        self.is_excused |= has_message;
    }

    /// Looks at the clock, if it may be time. `rest` is the part of a frame that is there. `false` if
    /// nothing needs the watch any more.
    pub(super) fn poll(
        &mut self,
        unfinished: Unfinished,
        rest: usize,
        has_read: bool,
        config: &ConnectionConfig,
        cx: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        self.is_excused |= matches!(unfinished, Unfinished::Nothing | Unfinished::Paused);
        // A pass that the timer caused reads nothing, unless bytes came at the same moment.
        let passes = self.passes;
        self.passes = (passes + 1) % PASSES_PER_LOOK;
        if has_read && passes != 0 {
            return Ok(true);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if unfinished == Unfinished::Nothing {
                return Ok(false);
            }
            let wanted = config.min_progress.saturating_mul(config.progress_window.as_secs().max(1) as usize);
            let has_progress = self.is_excused
                || (self.bytes + rest).saturating_sub(self.rest_before) >= wanted
                || (unfinished == Unfinished::Frame && self.has_frame);
            if !has_progress && config.min_progress > 0 {
                return Err(CloseReason::NoProgress);
            }
            let next = Instant::now() + config.progress_window.max(Duration::from_millis(1));
            self.timer.as_mut().reset(next);
            (self.bytes, self.rest_before) = (0, rest);
            (self.has_frame, self.is_excused) = (false, unfinished == Unfinished::Paused);
        }
        Ok(true)
    }
}

/// A reader that waits until there is room for what it holds.
pub(super) struct RoomWait {
    timer: Pin<Box<Sleep>>,
    pub(super) waiting: MemoryWait,
}

impl RoomWait {
    pub(super) fn new(waiting: MemoryWait) -> Self {
        Self { timer: Box::pin(sleep(MEMORY_CHECK_INTERVAL)), waiting }
    }

    /// Makes the task look again, in a moment.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(()) = self.timer.as_mut().poll(cx) {
            self.timer.as_mut().reset(Instant::now() + MEMORY_CHECK_INTERVAL);
        }
    }
}
