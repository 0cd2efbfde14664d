//! The graph of links over time, from what both ends of each link reported.

use std::collections::HashMap;
use std::net::SocketAddr;

use peerpool::base::ConnId;

use super::clock::Micros;

/// A number for each node that ever lived: a node that restarts is another one.
pub(super) type Incarnation = u32;

/// Both addresses of one connection in a fixed order: its two ends name it alike.
pub(super) type Wire = (SocketAddr, SocketAddr);

/// Names a connection by its two addresses.
pub(super) fn wire(one: SocketAddr, other: SocketAddr) -> Wire {
    if one <= other { (one, other) } else { (other, one) }
}

/// One end of a link, as its node reported it.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) of: Incarnation,
    pub(super) conn: ConnId,
    pub(super) wire: Wire,
    /// No later than this it was up.
    pub(super) up: Micros,
    /// No earlier than this it was down; `None` while it is up.
    pub(super) down: Option<Micros>,
    /// Moments, as bounds, at which broadcasts were skipped for being too slow.
    pub(super) gaps: Vec<(Micros, Micros)>,
}

/// A link that both ends agree on.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) ends: [(Incarnation, ConnId); 2],
    /// From here on both ends had reported it up.
    pub(super) up: Micros,
    /// Up to here neither had reported it down; the end of time if none has.
    pub(super) down: Micros,
    pub(super) gaps: Vec<(Micros, Micros)>,
}

impl Link {
    /// Whether it was up without interruption or gap from `from` to `until`.
    pub(super) fn holds(&self, from: Micros, until: Micros) -> bool {
        let gap = |&(first, last): &(Micros, Micros)| last >= from && first <= until;
        self.up <= from && until <= self.down && !self.gaps.iter().any(gap)
    }

    /// Whether nobody has reported it down.
    pub(super) fn is_up(&self) -> bool {
        self.down == Micros::MAX
    }
}

/// Pairs the ends. An end whose other end reported nothing is no link; a pair of addresses may serve again later, so only
/// ends that were up at the same time are one link.
pub(super) fn pair(ends: &[End]) -> Vec<Link> {
    let mut by_wire: HashMap<Wire, Vec<&End>> = HashMap::new();
    for end in ends {
        by_wire.entry(end.wire).or_default().push(end);
    }
    let mut links = Vec::new();
    for ends in by_wire.values() {
        for (at, one) in ends.iter().enumerate() {
            for other in &ends[at + 1..] {
                let up = one.up.max(other.up);
                let down = one.down.unwrap_or(Micros::MAX).min(other.down.unwrap_or(Micros::MAX));
                if one.of != other.of && up < down {
                    let gaps = one.gaps.iter().chain(&other.gaps).copied().collect();
                    links.push(Link { ends: [(one.of, one.conn), (other.of, other.conn)], up, down, gaps });
                }
            }
        }
    }
    links.sort_by_key(|link| (link.up, link.ends));
    links
}

/// Which incarnations are joined by a path: union by size, paths halved.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    parent: Vec<u32>,
    size: Vec<u32>,
}

impl Groups {
    pub(super) fn new(count: usize) -> Self {
        Self { parent: (0..count as u32).collect(), size: vec![1; count] }
    }

    /// The groups of the links that `keep` keeps.
    pub(super) fn of<'l>(count: usize, links: impl IntoIterator<Item = &'l Link>) -> Self {
        let mut groups = Self::new(count);
        for link in links {
            groups.join(link.ends[0].0, link.ends[1].0);
        }
        groups
    }

    fn find(&mut self, of: Incarnation) -> u32 {
        let mut at = of;
        while self.parent[at as usize] != at {
            let above = self.parent[self.parent[at as usize] as usize];
            self.parent[at as usize] = above;
            at = above;
        }
        at
    }

    fn join(&mut self, one: Incarnation, other: Incarnation) {
        let (one, other) = (self.find(one), self.find(other));
        if one == other {
            return;
        }
        let (small, large) =
            if self.size[one as usize] < self.size[other as usize] { (one, other) } else { (other, one) };
        self.parent[small as usize] = large;
        self.size[large as usize] += self.size[small as usize];
    }

    /// Whether a path joins the two.
    pub(super) fn joined(&mut self, one: Incarnation, other: Incarnation) -> bool {
        self.find(one) == self.find(other)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn end(of: Incarnation, ports: (u16, u16), up: Micros, down: Option<Micros>) -> End {
        let conn = ConnId::new(u64::from(of) + 1).expect("not zero");
        End { of, conn, wire: wire(addr(ports.0), addr(ports.1)), up, down, gaps: Vec::new() }
    }

    #[test]
    fn a_link_is_up_only_while_both_ends_say_so() {
        let links = pair(&[end(0, (1, 2), 10, Some(90)), end(1, (2, 1), 20, Some(80))]);
        assert_eq!(links.len(), 1);
        assert_eq!((links[0].up, links[0].down), (20, 80));
        assert!(links[0].holds(20, 80));
        assert!(!links[0].holds(19, 80) && !links[0].holds(20, 81));
    }

    #[test]
    fn an_end_without_its_other_end_is_no_link() {
        assert!(pair(&[end(0, (1, 2), 10, None)]).is_empty());
        assert!(pair(&[end(0, (1, 2), 10, None), end(1, (1, 3), 10, None)]).is_empty());
        assert!(pair(&[end(0, (1, 2), 10, None), end(0, (1, 2), 20, None)]).is_empty(), "one node twice");
    }

    #[test]
    fn a_pair_of_addresses_that_serves_twice_is_two_links() {
        let ends = [
            end(0, (1, 2), 10, Some(20)),
            end(1, (1, 2), 10, Some(20)),
            end(0, (1, 2), 30, None),
            end(2, (1, 2), 31, None),
        ];
        let links = pair(&ends);
        assert_eq!(links.len(), 2);
        assert_eq!((links[0].ends[0].0, links[0].ends[1].0, links[0].down), (0, 1, 20));
        assert_eq!((links[1].ends[0].0, links[1].ends[1].0, links[1].up), (0, 2, 31));
        assert!(links[1].is_up());
    }

    #[test]
    fn a_gap_breaks_the_promise_of_what_was_sent_shortly_before_it() {
        let mut one = end(0, (1, 2), 0, None);
        one.gaps.push((100, 102));
        let links = pair(&[one, end(1, (1, 2), 0, None)]);
        assert!(!links[0].holds(98, 103), "around it");
        assert!(!links[0].holds(102, 110), "perhaps before it");
        assert!(links[0].holds(103, 110), "after it");
        assert!(links[0].holds(10, 99), "long before it");
    }

    #[test]
    fn a_path_joins_and_an_island_does_not() {
        let links = pair(&[
            end(0, (1, 2), 0, None),
            end(1, (1, 2), 0, None),
            end(1, (3, 4), 0, None),
            end(2, (3, 4), 0, None),
        ]);
        let mut groups = Groups::of(4, &links);
        assert!(groups.joined(0, 2));
        assert!(!groups.joined(0, 3));
    }
}
