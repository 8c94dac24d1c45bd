//! Which tests are at work in this process at the same time.
//!
//! Most stand any neighbour. A test that compares times, or takes all of something that the machine
//! has once, must have none: it makes its site by [`crate::Site::alone`], which waits until the
//! others have dropped theirs and lets no other begin before its end.

use std::collections::HashMap;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Longer than any test takes.
const LONGEST: Duration = Duration::from_secs(1200);

#[derive(Default)]
struct House {
    /// How many sites each thread has.
    sites: HashMap<ThreadId, usize>,
    /// Whether one of them must have no neighbours.
    alone: bool,
    /// How many threads wait for that.
    waiting: usize,
}

static HOUSE: LazyLock<Mutex<House>> = LazyLock::new(Mutex::default);
static CHANGED: Condvar = Condvar::new();

/// A test at work, for as long as this lives.
#[derive(Debug)]
pub struct Presence {
    thread: ThreadId,
    alone: bool,
}

fn house() -> MutexGuard<'static, House> {
    HOUSE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `may` agrees, and counts the present thread as one that is at work.
fn enter(alone: bool, may: impl Fn(&House, ThreadId) -> bool) -> Presence {
    let thread = std::thread::current().id();
    let end = Instant::now() + LONGEST;
    let mut guard = house();
    guard.waiting += usize::from(alone);
    while !may(&guard, thread) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            guard.waiting -= usize::from(alone);
            panic!("another test does not end");
        }
        guard = CHANGED.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    guard.waiting -= usize::from(alone);
    guard.alone |= alone;
    *guard.sites.entry(thread).or_default() += 1;
    Presence { thread, alone }
}

/// Begins beside others. A thread that has a site already never waits for another one.
pub fn beside_others() -> Presence {
    enter(false, |house, thread| house.sites.contains_key(&thread) || !(house.alone || house.waiting > 0))
}

/// Begins when no other test is at work.
pub fn alone() -> Presence {
    enter(true, |house, thread| !house.alone && house.sites.keys().all(|other| *other == thread))
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut house = house();
        house.alone &= !self.alone;
        if let Some(sites) = house.sites.get_mut(&self.thread) {
            *sites -= 1;
            if *sites == 0 {
                house.sites.remove(&self.thread);
            }
        }
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_that_must_be_alone_has_no_neighbours() {
        let at_work = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..12 {
                let at_work = &at_work;
                scope.spawn(move || {
                    let alone = n % 3 == 0;
                    let _first = if alone { super::alone() } else { super::beside_others() };
                    let before = at_work.fetch_add(1, Ordering::SeqCst);
                    assert!(!alone || before == 0, "{before} neighbours");
                    // A thread that waits to be alone does not hold up a thread that has a site and
                    // needs another one.
                    let _second = super::beside_others();
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    let left = at_work.fetch_sub(1, Ordering::SeqCst);
                    assert!(!alone || left == 1, "{left} at work");
                });
            }
        });
    }
}
