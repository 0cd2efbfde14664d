//! What a link holds for others is dropped under none of its locks.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::broadcast::{LOGS_PER_SET, LogConfig, LogSet, WakeSet};
use crate::wire::{Native, Protocol};

fn link() -> Arc<Connection> {
    let (dialect, hub) = (Native::default(), WakeSet::new());
    let common = ConnectionShared {
        config: ConnectionConfig::default(),
        budget: Budget::new(1 << 20),
        limits: dialect.limits().clone(),
        features: dialect.features(),
        reply_matcher: dialect.reply_matcher(),
        dialect: dialect.name(),
    };
    let footing =
        LogSet::new([LogConfig::test(); LOGS_PER_SET], &hub).join(ConnId::new(1).expect("not zero"), None);
    Connection::new(Arc::new(common), Arc::clone(footing.states()), Arc::clone(hub.parker().parked_waker()))
}

/// Looks at the link when it is woken and when it is dropped, as a task's waker may that runs or holds the task.
struct Meddler(Arc<Connection>);

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        let _ = self.0.waiting();
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let _ = self.0.waiting();
    }
}

fn meddler(link: &Arc<Connection>) -> Waker {
    Waker::from(Arc::new(Meddler(Arc::clone(link))))
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
        let link = link();
        let mut first = link.positions().expect_err("it has not ended");
        let waker = meddler(&link);
        let mut context = Context::from_waker(&waker);
        assert!(pin!(&mut first).poll(&mut context).is_pending());
        let _second = link.positions().expect_err("it has not ended");
        assert!(pin!(&mut first).poll(&mut context).is_ready());
    });
}
