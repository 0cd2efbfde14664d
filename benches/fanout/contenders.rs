//! All contenders, each connected to as many receivers.

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

use crate::channel::{Channels, Style};
use crate::contender::{Contender, Goal};
use crate::node::Peerpool;
use crate::pea2pea::Pea2PeaContender;
use crate::raw_write_limit::RawWriteLimit;
use crate::receiver_process::Taking;
use crate::receivers::Receivers;
use crate::spawn::Spawning;

/// The contenders; the limit is the first.
pub(crate) struct Contenders {
    pub(crate) contenders: Vec<Box<dyn Contender>>,
    receivers: Receivers,
    /// One for all contenders that need one; those whose turn it is not are asleep.
    _runtime: Arc<Runtime>,
}

/// What one slice came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Messages received by all peers together, in a second, from the first call to the last.
    pub(crate) rate: f64,
    /// CPU seconds of this process for a million of them.
    pub(crate) cpu: f64,
    /// How long it took until the last byte was received.
    pub(crate) took: Duration,
}

impl Contenders {
    pub(crate) fn new(
        peers: usize,
        workers: usize,
        taking: Taking,
        lowat: Option<usize>,
        wanted: impl Fn(&str) -> bool,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
        let runtime = Arc::new(runtime.expect("a runtime"));
        let mut receivers = Receivers::start(taking);
        let mut contenders: Vec<Box<dyn Contender>> =
            vec![Box::new(RawWriteLimit::new(&mut receivers, peers))];
        if wanted("peerpool") {
            contenders.push(Box::new(Peerpool::new(&runtime, &mut receivers, peers, None)));
        }
        if let Some(lowat) = lowat {
            contenders.push(Box::new(Peerpool::new(&runtime, &mut receivers, peers, Some(lowat))));
        }
        if wanted("pea2pea") {
            contenders.push(Box::new(Pea2PeaContender::new(&runtime, &mut receivers, peers)));
        }
        for (name, style) in [("channel, batched", Style::Batched), ("channel, plain", Style::Plain)] {
            if wanted(name) {
                contenders.push(Box::new(Channels::new(&runtime, &mut receivers, peers, style)));
            }
        }
        if wanted("spawn") {
            contenders.push(Box::new(Spawning::new(&runtime, &mut receivers, peers)));
        }
        Self { contenders, receivers, _runtime: runtime }
    }

    /// Lets one contender send until the goal is reached, and waits until all of it is received.
    pub(crate) fn slice(&mut self, at: usize, variant: usize, size: usize, goal: Goal) -> Slice {
        let contender = &mut self.contenders[at];
        let before = cpu();
        let produced = contender.produce(variant, size, goal);
        // What is still under way when the producer stops counts for nobody: how long a queue takes to run dry is not
        // what is asked, and the limit has none. But all of it must arrive.
        let (early, window) = (self.receivers.received(contender.group()), produced.since.elapsed());
        // The limit writes bytes to whoever takes them, the others messages to all.
        let received = self.receivers.settle(contender.group(), produced.bytes, at > 0);
        let took = produced.since.elapsed();
        let wire = contender.wire_len(size) as f64;
        let deliveries = received as f64 / wire;
        let cpu = (cpu() - before).as_secs_f64();
        Slice { rate: early as f64 / wire / window.as_secs_f64(), cpu: cpu / deliveries * 1e6, took }
    }
}

/// CPU time that this process has taken.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
