//! Names of peers' software, each kept once: thousands of peers say the same few.

use std::collections::HashSet;
use std::sync::Arc;

use crate::sync::Mutex;

/// The names that were said lately.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    known: Mutex<HashSet<Arc<str>, foldhash::fast::RandomState>>,
}

impl Interner {
    /// This name, shared with all who said the same. Once there are [`MOST`], those that no peer bears any more are forgotten,
    /// and if there are none, a new one is not shared: peers make names up, and must not fill the table.
    ///
    /// # Cost
    /// A short lock; an allocation if the name is new.
    pub(crate) fn share(&self, name: &str) -> Arc<str> {
        let mut known = self.known.lock();
        if let Some(shared) = known.get(name) {
            return Arc::clone(shared);
        }
        let new: Arc<str> = name.into();
        if known.len() == MOST {
            known.retain(|name| Arc::strong_count(name) > 1);
        }
        if known.len() < MOST {
            known.insert(Arc::clone(&new));
        }
        new
    }
}

/// Most names that are shared.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_kept_once_and_made_up_ones_do_not_pile_up() {
        let agents = Interner::default();
        let one = agents.share("peer/1.0");
        assert!(Arc::ptr_eq(&one, &agents.share("peer/1.0")));
        let held: Vec<_> = (0..2 * MOST).map(|n| agents.share(&format!("made up {n}"))).collect();
        assert_eq!(agents.known.lock().len(), MOST);
        assert!(!Arc::ptr_eq(&held[2 * MOST - 1], &agents.share(&held[2 * MOST - 1])), "no place");
        assert!(Arc::ptr_eq(&one, &agents.share("peer/1.0")));
        drop(held);
        let new = agents.share("peer/2.0");
        assert!(
            Arc::ptr_eq(&new, &agents.share("peer/2.0")),
            "the places of those that are gone serve new ones"
        );
        assert_eq!(agents.known.lock().len(), 2);
    }
}
