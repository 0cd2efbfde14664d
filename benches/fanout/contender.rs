//! What every contender can do.

use std::time::{Duration, Instant};

use crate::receivers::Group;

/// When to stop producing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// After so long.
    Time(Duration),
    /// After so many messages to all peers.
    Messages(u64),
}

impl Goal {
    /// Counts messages against the goal; looks at the clock only every so often.
    pub(crate) fn start(self, size: usize) -> Countdown {
        // About 8 KiB of payload between two looks at the clock.
        Countdown { goal: self, since: Instant::now(), every: (8192 / size as u64).max(1), done: 0 }
    }
}

/// A goal under way.
#[derive(Debug)]
pub(crate) struct Countdown {
    goal: Goal,
    since: Instant,
    every: u64,
    done: u64,
}

impl Countdown {
    /// One more message to all? Counts it.
    pub(crate) fn next(&mut self) -> bool {
        let more = match self.goal {
            Goal::Messages(most) => self.done < most,
            Goal::Time(most) => !self.done.is_multiple_of(self.every) || self.since.elapsed() < most,
        };
        self.done += u64::from(more);
        more
    }

    /// Messages counted.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }
}

/// What was produced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Produced {
    /// When it began.
    pub(crate) since: Instant,
    /// Bytes that the receivers are to get, all together.
    pub(crate) bytes: u64,
}

/// One way to send the same message to many peers.
pub(crate) trait Contender {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// Ways to run it, of which the best counts.
    fn variants(&self) -> Vec<String> {
        vec![String::new()]
    }

    /// Bytes on the line of one message with a payload of `size` bytes.
    fn wire_len(&self, size: usize) -> usize {
        crate::native::frame(size).len()
    }

    /// Sends until the goal is reached; what it returns is on its way, not received yet.
    fn produce(&mut self, variant: usize, size: usize, goal: Goal) -> Produced;

    /// Its receivers.
    fn group(&mut self) -> &mut Group;
}

/// Bytes that may be under way to one peer, in messages: as much as the shipped node lets the slowest peer fall behind,
/// and at least a few messages. Of small ones no more than a thousand, which makes nobody slower: eight times as many made
/// no difference.
pub(crate) fn window(size: usize) -> usize {
    (2 * 1024 * 1024 / size).clamp(32, 1024)
}
