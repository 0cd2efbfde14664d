//! What a connection holds for others is dropped under none of its locks.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::broadcast::{LOGS_PER_SET, LogConfig, LogSet, WakeSet};
use crate::wire::{Native, Protocol};

fn connection() -> Arc<Connection> {
    let (protocol, hub) = (Native::default(), WakeSet::new());
    let shared = ConnectionShared {
        config: ConnectionConfig::default(),
        budget: MemoryBudget::new(1 << 20),
        limits: protocol.limits().clone(),
        features: protocol.features(),
        reply_matcher: protocol.reply_matcher(),
        protocol: protocol.name(),
    };
    let positions =
        LogSet::new([LogConfig::test(); LOGS_PER_SET], &hub).join(ConnId::new(1).expect("not zero"), None);
    Connection::new(Arc::new(shared), Arc::clone(positions.states()), Arc::clone(hub.parker().parked_waker()))
}

/// Looks at the connection when it is woken and when it is dropped, as a task's waker may that runs or holds the task.
struct Meddler(Arc<Connection>);

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        let _ = self.0.pending_counts();
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let _ = self.0.pending_counts();
    }
}

fn meddler(connection: &Arc<Connection>) -> Waker {
    Waker::from(Arc::new(Meddler(Arc::clone(connection))))
}

/// Runs it; one that waits for a lock which it holds itself never ends.
fn ends(run: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let run = std::thread::spawn(move || {
        run();
        done.send(()).expect("awaited");
    });
    assert!(is_done.recv_timeout(Duration::from_secs(60)).is_ok());
    run.join().expect("no panic");
}

#[test]
fn an_heir_whose_place_another_takes_is_told_outside_the_lock() {
    ends(|| {
        let connection = connection();
        let mut first = connection.final_resume_points().expect_err("it has not ended");
        let waker = meddler(&connection);
        let mut context = Context::from_waker(&waker);
        assert!(pin!(&mut first).poll(&mut context).is_pending());
        let _second = connection.final_resume_points().expect_err("it has not ended");
        assert!(pin!(&mut first).poll(&mut context).is_ready());
    });
}
