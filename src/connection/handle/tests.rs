//! What a connection holds for others is dropped under none of its locks.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::broadcast::{LOGS_PER_SET, LogConfig, LogSet, WakeSet};
use crate::connection::{ConnectionConfig, MemoryBudget, MemoryOrigin};
use crate::wire::{Native, Protocol};

const TIMEOUT: Duration = Duration::from_secs(60);

fn connection() -> Arc<Connection> {
    let (protocol, wake_set) = (Native::default(), WakeSet::new());
    let shared = ConnectionShared {
        config: ConnectionConfig::default(),
        budget: MemoryBudget::new(1 << 20),
        limits: protocol.limits().clone(),
        features: protocol.features(),
        reply_matcher: protocol.reply_matcher(),
        protocol: protocol.name(),
    };
    let logs = LogSet::new([LogConfig::test(); LOGS_PER_SET], &wake_set);
    let positions = logs.join(ConnId::new(1).expect("not zero"), None);
    let parker = wake_set.parker();
    Connection::new(Arc::new(shared), MemoryOrigin::EXEMPT, Arc::clone(positions.states()), Arc::clone(parker.parked_waker()))
}

/// Locks the connection when it is woken and when it is dropped, like a waker that runs or owns a
/// task.
struct LockingWaker(Arc<Connection>);

impl Wake for LockingWaker {
    fn wake(self: Arc<Self>) {
        let _ = self.0.pending_counts();
    }
}

impl Drop for LockingWaker {
    fn drop(&mut self) {
        let _ = self.0.pending_counts();
    }
}

/// Runs `f` on a thread of its own: a deadlock fails the test.
fn assert_no_deadlock(f: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        f();
        done.send(()).expect("awaited");
    });
    assert!(is_done.recv_timeout(TIMEOUT).is_ok());
    thread.join().expect("no panic");
}

#[test]
fn a_replaced_successor_is_woken_outside_the_lock() {
    assert_no_deadlock(|| {
        let connection = connection();
        let mut first = connection.final_resume_points().expect_err("it has not ended");
        let waker = Waker::from(Arc::new(LockingWaker(Arc::clone(&connection))));
        let mut context = Context::from_waker(&waker);
        assert!(pin!(&mut first).poll(&mut context).is_pending());
        let _second = connection.final_resume_points().expect_err("it has not ended");
        assert!(pin!(&mut first).poll(&mut context).is_ready());
    });
}
