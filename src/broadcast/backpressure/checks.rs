//! By the clock: who stands still, who is in the way of the others, and who is waited for again.

use smallvec::SmallVec;

use super::{FORGIVEN, LogSnapshot, Members};
use crate::base::Tick;

impl Members {
    /// Looks at the clock: who has stood still for too long is not waited for.
    pub(super) fn judge(&mut self, span: &LogSnapshot, now: Tick) {
        for (_, view, face) in self.known() {
            let pos = view.position();
            // One that has nothing to write moves as far as it can.
            if pos != face.seen || pos >= span.end {
                (face.seen, face.since, face.stalled) = (pos, now, false);
            } else if now.since(face.since) >= span.stall {
                face.stalled = true;
            }
        }
        self.unwatch();
        if let Some(wait) = &mut self.wait {
            (wait.at, wait.now) = (0, now);
        }
    }

    /// Looks at who is in the way while most others idle; whether somebody has turned out to be slow.
    pub(super) fn look(&mut self, span: &LogSnapshot, now: Tick) -> bool {
        let Some(need) = self.wait.as_ref().map(|wait| wait.need) else { return false };
        // Without a producer nobody is in the way of anything.
        if self.waiters.is_empty() {
            self.known().for_each(|(_, _, face)| face.blamed = None);
            return false;
        }
        let (mut all, mut idle) = (0usize, 0usize);
        for (_, view, _) in self.known().filter(|(_, _, face)| !face.slow) {
            let pos = view.position();
            all += usize::from(pos >= span.begin);
            idle += usize::from(pos >= span.end);
        }
        let mut found = SmallVec::<[u32; 8]>::new();
        for (seat, view, face) in self.known().filter(|(_, _, face)| !face.slow) {
            if 2 * idle <= all || view.position() >= need {
                face.blamed = None;
                continue;
            }
            let (since, looks) = face.blamed.get_or_insert((now, 0));
            *looks += 1;
            if *looks >= LOOKS && now.since(*since) >= 2 * span.stall {
                face.call_slow();
                found.push(seat);
            }
        }
        self.slow |= !found.is_empty();
        found.iter().for_each(|seat| self.slow_detector.forget(*seat));
        !found.is_empty()
    }

    /// Slow links that have kept up for long enough are waited for again.
    pub(super) fn reinstate(&mut self, span: &LogSnapshot, now: Tick) {
        self.slow = false;
        for (seat, (view, face)) in (0..).zip(self.members.iter().zip(&mut self.faces)) {
            let Some(view) = view.as_ref().filter(|_| face.slow) else { continue };
            let view = view.at(self.place);
            let skipped = face.has_skipped(view);
            if skipped {
                self.slow_detector.forget(seat);
            }
            if skipped || span.end.saturating_sub(view.position()) > span.window / 2 {
                face.good = None;
            } else if now.since(*face.good.get_or_insert(now)) >= self.slow_detector.term(seat, span.stall) {
                face.slow = false;
                self.slow_detector.reinstated(seat, now);
            }
            self.slow |= face.slow;
        }
    }

    /// Where nobody has waited for long, and nothing is known of anybody that a wait would have to know, it is let go of.
    pub(super) fn doze(&mut self, span: &LogSnapshot, now: Tick) {
        if self.slow || self.faces.is_empty() || now.since(self.waited) < FORGIVEN * span.stall {
            return;
        }
        self.waited = now;
        if self.known().all(|(_, view, face)| !face.stalled && view.skipped() == 0) {
            self.faces = Vec::new();
        }
    }
}

/// Fewest looks that make a link slow.
const LOOKS: u32 = 4;
