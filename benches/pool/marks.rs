//! Nanoseconds to mark one peer as seen, all competitors in turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use peerpool::PeerId;

use crate::common::recorder::Recorder;
use crate::common::results::case;
use crate::common::rounds::interleave;
use crate::common::stats::{median, ratio};
use crate::common::system::pin;
use crate::common::table;
use crate::competitors::{self, BY_HANDLE, BY_KEY, Competitor, Plan, churn_keys, warm_up};

/// Numbers of threads, and whether peers come and go.
pub(crate) const SITUATIONS: [(usize, bool); 4] = [(1, false), (1, true), (2, false), (2, true)];
/// Marks of a turn: enough to fill the caches, few enough to fall between two turns of the
/// scheduler.
const MARKS_ALONE: usize = 20_000;
const MARKS_OF_TWO: usize = 5_000;
/// Ticks from one turn to the next: more than a turn has marks.
const TICKS_PER_TURN: u64 = 100_000;

/// One turn of one competitor.
#[derive(Clone, Copy)]
struct Turn {
    round: usize,
    threads: usize,
    churn: bool,
    marks: usize,
    from: u64,
}

pub(crate) fn table(recorder: &mut Recorder, peers: usize, rounds: usize) {
    const METRIC: &str = "ns_per_mark";
    let (all, order) = competitors::all(peers);
    // Never moves back, so that every mark has something to write: the first two mark the same
    // peers.
    let mut from = 1;
    for (threads, churn) in SITUATIONS {
        let marks = if threads == 1 { MARKS_ALONE } else { MARKS_OF_TWO };
        let times = interleave(all.len(), rounds, |at, round| {
            from += TICKS_PER_TURN;
            time(all[at].as_ref(), &order, Turn { round, threads, churn, marks, from })
        });
        let churn = if churn { "yes" } else { "no" };
        println!(
            "\n{peers} peers, {threads} thread(s), churn: {churn}; ns a mark, medians of {rounds} rounds\n"
        );
        table::header(&["", "ns", "pool, by key over it"]);
        let case = case(&[("peers", &peers), ("threads", &threads), ("churn", &churn)]);
        for (competitor, values) in all.iter().zip(&times) {
            let name = competitor.name();
            recorder.add(&case, name, METRIC, values);
            if ![BY_KEY, BY_HANDLE].contains(&name) {
                recorder.add_ratio(&case, (BY_KEY, &times[0]), (name, values), METRIC);
            }
            let over = ratio(&times[0], values);
            table::row([
                name.to_owned(),
                format!("{:.1}", median(values.iter().copied())),
                format!("{over:.2}"),
            ]);
        }
    }
}

/// Nanoseconds per mark.
fn time(competitor: &dyn Competitor, order: &[PeerId], turn: Turn) -> f64 {
    let Turn { round, threads, churn, marks, from } = turn;
    // Each thread has a share of the peers, and each round other ones of it where there are enough:
    // no turn finds in the cache what the turn before left there.
    let share = order.len() / threads;
    let window = share.min(marks);
    let waiting = AtomicUsize::new(threads);
    let mark = |thread: usize| {
        let churn = if churn { churn_keys(thread) } else { Vec::new() };
        let share = share * thread + window * (round % (share / window));
        let keys = &order[share..share + window];
        warm_up();
        // Spin instead of sleeping: to wake up takes as long as all the marks, and the threads
        // would mark one after the other.
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        competitor.mark(Plan { keys, churn: &churn, share, marks, from });
        start.elapsed().as_nanos() as f64 / (marks * threads) as f64
    };
    if threads == 1 {
        return mark(0);
    }
    std::thread::scope(|scope| {
        let mark = &mark;
        let pinned = |thread| {
            move || {
                pin(Some(thread));
                mark(thread)
            }
        };
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(pinned(thread))).collect();
        all.into_iter().map(|one| one.join().unwrap_or(f64::NAN)).sum::<f64>() / threads as f64
    })
}
