//! All contenders, each connected to as many receivers.

use crate::Setup;
use crate::channel::{Channels, Style};
use crate::common::contest::Contest;
use crate::common::native::NATIVE;
use crate::node::Peerpool;
use crate::pea2pea::Pea2PeaContender;
use crate::spawn::Spawning;

/// Connects the limit and the contenders whose names are wanted.
pub(crate) fn contest(peers: usize, setup: Setup, wanted: impl Fn(&str) -> bool) -> Contest {
    let mut contest = Contest::new(peers, setup.workers, setup.receivers, NATIVE);
    if wanted("peerpool") {
        let peerpool = Peerpool::new(&mut contest, None);
        contest.contenders.push(Box::new(peerpool));
    }
    if let Some(lowat) = setup.lowat {
        let peerpool = Peerpool::new(&mut contest, Some(lowat));
        contest.contenders.push(Box::new(peerpool));
    }
    if wanted("pea2pea") {
        let pea2pea = Pea2PeaContender::new(&mut contest);
        contest.contenders.push(Box::new(pea2pea));
    }
    for style in [Style::Batched, Style::Plain] {
        if wanted(style.name()) {
            let channels = Channels::new(&mut contest, style);
            contest.contenders.push(Box::new(channels));
        }
    }
    if wanted("spawn") {
        let spawning = Spawning::new(&mut contest);
        contest.contenders.push(Box::new(spawning));
    }
    contest
}
