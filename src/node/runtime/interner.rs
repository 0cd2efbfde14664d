//! An interner of agent strings: thousands of peers send the same few.

use std::collections::HashSet;
use std::sync::Arc;

use crate::sync::Mutex;

/// The most strings that are shared.
const MAX_STRINGS: usize = 64;

/// A bounded set of shared strings.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: Mutex<HashSet<Arc<str>, foldhash::fast::RandomState>>,
}

impl Interner {
    /// A string equal to this one, shared with earlier callers.
    ///
    /// A full table first forgets the strings that nobody else holds. If there are none, the new
    /// string is not shared: peers make strings up, and must not fill memory.
    ///
    /// # Cost
    /// A short lock; an allocation if the string is new.
    pub(crate) fn intern(&self, string: &str) -> Arc<str> {
        let mut strings = self.strings.lock();
        if let Some(shared) = strings.get(string) {
            return Arc::clone(shared);
        }
        let new: Arc<str> = string.into();
        if strings.len() == MAX_STRINGS {
            strings.retain(|string| Arc::strong_count(string) > 1);
        }
        if strings.len() < MAX_STRINGS {
            strings.insert(Arc::clone(&new));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_shared_and_made_up_ones_do_not_accumulate() {
        let agents = Interner::default();
        let one = agents.intern("peer/1.0");
        assert!(Arc::ptr_eq(&one, &agents.intern("peer/1.0")));
        let held: Vec<_> = (0..2 * MAX_STRINGS).map(|n| agents.intern(&format!("made up {n}"))).collect();
        assert_eq!(agents.strings.lock().len(), MAX_STRINGS);
        assert!(!Arc::ptr_eq(&held[2 * MAX_STRINGS - 1], &agents.intern(&held[2 * MAX_STRINGS - 1])), "the table is full");
        assert!(Arc::ptr_eq(&one, &agents.intern("peer/1.0")));
        drop(held);
        let new = agents.intern("peer/2.0");
        assert!(
            Arc::ptr_eq(&new, &agents.intern("peer/2.0")),
            "unused strings make room for new ones"
        );
        assert_eq!(agents.strings.lock().len(), 2);
    }
}
