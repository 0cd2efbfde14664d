//! For tests that attack a node from many sources on one machine.

use std::sync::atomic::{AtomicBool, Ordering};

static LOOPBACK_IS_PUBLIC: AtomicBool = AtomicBool::new(false);

/// Treats 127.0.0.0/8 as public addresses in the whole process, so that each of its addresses is a
/// source as strangers on the internet are. Set it before a node starts.
pub fn treat_loopback_as_public(public: bool) {
    LOOPBACK_IS_PUBLIC.store(public, Ordering::Relaxed);
}

pub(super) fn is_loopback_public() -> bool {
    LOOPBACK_IS_PUBLIC.load(Ordering::Relaxed)
}
