// SPDX-License-Identifier: Apache-2.0
//! Locks by name: what belongs to one VM is changed by one thread at a time, and other VMs do not wait for
//! it.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The locked names, and who waits for them.
#[derive(Debug, Default)]
struct LockTable {
    names: Mutex<HashSet<String>>,
    released: Condvar,
}

/// A lock for each name.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameLocks(Arc<LockTable>);

/// A locked name. Released when dropped.
#[derive(Debug)]
pub(crate) struct NameGuard {
    locked: Arc<LockTable>,
    name: String,
}

impl NameLocks {
    /// Waits until `name` is not locked, and locks it.
    pub(crate) fn lock(&self, name: &str) -> NameGuard {
        let LockTable { names, released } = &*self.0;
        let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
        while names.contains(name) {
            names = released.wait(names).unwrap_or_else(PoisonError::into_inner);
        }
        names.insert(name.to_owned());
        NameGuard { locked: Arc::clone(&self.0), name: name.to_owned() }
    }
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        self.locked.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.locked.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn one_thread_has_a_name_and_others_have_other_names() {
        let (locks, holders, entered) = (NameLocks::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let held = locks.lock("a");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _guard = locks.lock("a");
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    holders.fetch_sub(1, Ordering::SeqCst);
                    entered.fetch_add(1, Ordering::SeqCst);
                });
            }
            drop(locks.lock("b"));
            assert_eq!(entered.load(Ordering::SeqCst), 0);
            drop(held);
        });
        assert_eq!(entered.into_inner(), 8);
        assert!(locks.0.names.lock().unwrap().is_empty());
    }
}
