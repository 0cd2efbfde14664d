//! The order in which contenders take turns.

/// The turns of one round among `count` contenders: a different one first each round, every second
/// round backwards.
///
/// So no contender always runs after the same other one, and none always runs first.
pub(crate) fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| {
        let turn = if round.is_multiple_of(2) { turn } else { count - 1 - turn };
        (turn + round) % count
    })
}

/// Runs `rounds` rounds in that order; what each contender came to, by contender.
pub(crate) fn interleave<T>(
    count: usize,
    rounds: usize,
    mut run: impl FnMut(usize, usize) -> T,
) -> Vec<Vec<T>> {
    let mut done: Vec<Vec<T>> = (0..count).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for at in turns(count, round) {
            done[at].push(run(at, round));
        }
    }
    done
}
