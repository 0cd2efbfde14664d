//! The graph of connections over time, built from what both ends of each connection reported.
//!
//! A node of the graph is an [`Incarnation`], an [`Edge`] is a connection. [`match_ends`] pairs the
//! reports of the two ends; [`Components`] answers whether a path joins two incarnations.

use std::collections::HashMap;
use std::net::SocketAddr;

use peerpool::ConnId;

use super::clock::Micros;

/// The number of a started node. A restarted node gets a new number.
pub(super) type Incarnation = u32;

/// Both addresses of a connection, the smaller one first: the same at both ends.
pub(super) type AddrPair = (SocketAddr, SocketAddr);

/// Names a connection by its two addresses.
pub(super) fn addr_pair(one: SocketAddr, other: SocketAddr) -> AddrPair {
    if one <= other { (one, other) } else { (other, one) }
}

/// Bounds on the time of an event, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeBounds {
    pub(super) earliest: Micros,
    pub(super) latest: Micros,
}

/// One end of a connection, as its node reported it.
#[derive(Clone, Debug)]
pub(super) struct EdgeEnd {
    pub(super) id: EndId,
    pub(super) addrs: AddrPair,
    /// An upper bound on the time at which it came up.
    pub(super) up: Micros,
    /// A lower bound on the time at which it went down; `None` while it is up.
    pub(super) down: Option<Micros>,
    /// Times at which the node skipped broadcasts because the peer was too slow.
    pub(super) gaps: Vec<TimeBounds>,
}

/// Identifies one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId {
    pub(super) incarnation: Incarnation,
    pub(super) conn: ConnId,
}

/// A connection that both ends reported.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub(super) ends: [EndId; 2],
    /// From this time on both ends had reported it up.
    pub(super) up: Micros,
    /// Until this time neither end had reported it down. `Micros::MAX` while it is up.
    pub(super) down: Micros,
    pub(super) gaps: Vec<TimeBounds>,
}

impl Edge {
    /// Returns whether it was up without interruption or gap from `from` to `until`.
    pub(super) fn holds(&self, from: Micros, until: Micros) -> bool {
        let overlaps = |gap: &TimeBounds| gap.latest >= from && gap.earliest <= until;
        self.up <= from && until <= self.down && !self.gaps.iter().any(overlaps)
    }

    /// Returns whether neither end has reported it down.
    pub(super) fn is_up(&self) -> bool {
        self.down == Micros::MAX
    }
}

/// Pairs the ends of connections.
///
/// - An end whose other end reported nothing is dropped.
/// - A pair of addresses may be used again later, so two ends match only if their times overlap.
pub(super) fn match_ends(ends: &[EdgeEnd]) -> Vec<Edge> {
    let mut by_addrs: HashMap<AddrPair, Vec<&EdgeEnd>> = HashMap::new();
    for end in ends {
        by_addrs.entry(end.addrs).or_default().push(end);
    }
    let mut edges = Vec::new();
    for ends in by_addrs.values() {
        for (index, one) in ends.iter().enumerate() {
            for other in &ends[index + 1..] {
                let up = one.up.max(other.up);
                let down = one.down.unwrap_or(Micros::MAX).min(other.down.unwrap_or(Micros::MAX));
                if one.id.incarnation != other.id.incarnation && up < down {
                    let gaps = one.gaps.iter().chain(&other.gaps).copied().collect();
                    edges.push(Edge { ends: [one.id, other.id], up, down, gaps });
                }
            }
        }
    }
    edges.sort_by_key(|edge| (edge.up, edge.ends));
    edges
}

/// The connected components of the graph: a union-find structure with union by size and path
/// halving.
#[derive(Clone, Debug)]
pub(super) struct Components {
    parent: Vec<u32>,
    size: Vec<u32>,
}

impl Components {
    /// The components of `count` incarnations joined by `edges`.
    pub(super) fn new<'e>(count: usize, edges: impl IntoIterator<Item = &'e Edge>) -> Self {
        let mut components = Self { parent: (0..count as u32).collect(), size: vec![1; count] };
        for edge in edges {
            components.union(edge.ends[0].incarnation, edge.ends[1].incarnation);
        }
        components
    }

    fn find(&mut self, incarnation: Incarnation) -> u32 {
        let mut at = incarnation;
        while self.parent[at as usize] != at {
            let grandparent = self.parent[self.parent[at as usize] as usize];
            self.parent[at as usize] = grandparent;
            at = grandparent;
        }
        at
    }

    fn union(&mut self, one: Incarnation, other: Incarnation) {
        let (one, other) = (self.find(one), self.find(other));
        if one == other {
            return;
        }
        let (small, large) =
            if self.size[one as usize] < self.size[other as usize] { (one, other) } else { (other, one) };
        self.parent[small as usize] = large;
        self.size[large as usize] += self.size[small as usize];
    }

    /// Returns whether a path joins the two.
    pub(super) fn connected(&mut self, one: Incarnation, other: Incarnation) -> bool {
        self.find(one) == self.find(other)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn end(incarnation: Incarnation, ports: (u16, u16), up: Micros, down: Option<Micros>) -> EdgeEnd {
        let conn = ConnId::new(u64::from(incarnation) + 1).expect("not zero");
        let id = EndId { incarnation, conn };
        EdgeEnd { id, addrs: addr_pair(addr(ports.0), addr(ports.1)), up, down, gaps: Vec::new() }
    }

    #[test]
    fn an_edge_is_up_only_while_both_ends_report_it_up() {
        let edges = match_ends(&[end(0, (1, 2), 10, Some(90)), end(1, (2, 1), 20, Some(80))]);
        assert_eq!(edges.len(), 1);
        assert_eq!((edges[0].up, edges[0].down), (20, 80));
        assert!(edges[0].holds(20, 80));
        assert!(!edges[0].holds(19, 80) && !edges[0].holds(20, 81));
    }

    #[test]
    fn an_end_without_its_other_end_is_no_edge() {
        assert!(match_ends(&[end(0, (1, 2), 10, None)]).is_empty());
        assert!(match_ends(&[end(0, (1, 2), 10, None), end(1, (1, 3), 10, None)]).is_empty());
        let same_node = [end(0, (1, 2), 10, None), end(0, (1, 2), 20, None)];
        assert!(match_ends(&same_node).is_empty(), "one node twice");
    }

    #[test]
    fn an_address_pair_used_twice_gives_two_edges() {
        let ends = [
            end(0, (1, 2), 10, Some(20)),
            end(1, (1, 2), 10, Some(20)),
            end(0, (1, 2), 30, None),
            end(2, (1, 2), 31, None),
        ];
        let edges = match_ends(&ends);
        let incarnations = |edge: &Edge| edge.ends.map(|end| end.incarnation);
        assert_eq!(edges.len(), 2);
        assert_eq!((incarnations(&edges[0]), edges[0].down), ([0, 1], 20));
        assert_eq!((incarnations(&edges[1]), edges[1].up), ([0, 2], 31));
        assert!(edges[1].is_up());
    }

    #[test]
    fn an_edge_does_not_hold_around_a_gap() {
        let mut one = end(0, (1, 2), 0, None);
        one.gaps.push(TimeBounds { earliest: 100, latest: 102 });
        let edges = match_ends(&[one, end(1, (1, 2), 0, None)]);
        assert!(!edges[0].holds(98, 103), "around it");
        assert!(!edges[0].holds(102, 110), "perhaps before it");
        assert!(edges[0].holds(103, 110), "after it");
        assert!(edges[0].holds(10, 99), "long before it");
    }

    #[test]
    fn a_path_connects_and_an_isolated_node_is_not_connected() {
        let edges = match_ends(&[
            end(0, (1, 2), 0, None),
            end(1, (1, 2), 0, None),
            end(1, (3, 4), 0, None),
            end(2, (3, 4), 0, None),
        ]);
        let mut components = Components::new(4, &edges);
        assert!(components.connected(0, 2));
        assert!(!components.connected(0, 3));
    }
}
