//! Connections counted and listed by address: per IP (an index into the peers) and per subnet (counts only).
//!
//! **Statement** (14, 15): an address is counted from admission to departure, entries vanish at zero, and an address
//! over its limit is refused before it touches the global word. **Enforced by**: one lock a shard, never two at once;
//! a peer's pending count turns into its place in the list in one step. **Statement** (3): the index is derived from
//! the map and tagged with the connection instance (it holds the very `Arc`). **Breaks if** a peer is listed after its
//! departure: [`Addresses::list`] checks the phase under the lock that [`Addresses::unlist`] takes after the phase
//! changed, so exactly one of the two gives the count back.
//!
//! Memory: an IP with one live connection costs one pointer in a table (about 19 bytes), a subnet 12 bytes in a table
//! (about 27); IPv6 addresses count in two subnets. Only IPs with handshakes under way or several connections cost a
//! record of their own.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use crate::base::Subnet;
use crate::sync::{HashState, Mutex};

use super::{AdmitError, ConnectionHandle, Limits, Peer, PeerKey, SlotClass};

pub(super) struct Addresses<K: PeerKey, C: ConnectionHandle> {
    ips: Box<[Shard<Ips<K, C>>]>,
    nets: Box<[Shard<HashTable<Net>>]>,
    hasher: HashState,
}

type Shard<T> = CachePadded<Mutex<T>>;
type Peers<K, C> = HashTable<Arc<Peer<K, C>>>;

/// The addresses of one shard.
struct Ips<K: PeerKey, C: ConnectionHandle> {
    /// Admitted, not live yet. No zeros.
    pending: HashMap<IpAddr, u32, HashState>,
    /// The live peer of each IP that has one, by IP.
    single: Peers<K, C>,
    /// The live peers of each IP that has several, by connection id.
    several: HashMap<IpAddr, Peers<K, C>, HashState>,
}

/// One subnet: 64 bits of address, then kind (2 bits) and count (30 bits). Packed to three words of 32.
#[derive(Clone, Copy)]
struct Net {
    bits: [u32; 2],
    counted: u32,
}

impl<K: PeerKey, C: ConnectionHandle> Addresses<K, C> {
    pub(super) fn with_shards(shards: usize) -> Self {
        Self {
            ips: (0..shards).map(|_| CachePadded::new(Mutex::new(Ips::new()))).collect(),
            nets: (0..shards).map(|_| CachePadded::new(Mutex::new(HashTable::new()))).collect(),
            hasher: HashState::default(),
        }
    }

    /// Counts one pending connection. Reserved slots are counted and never refused here.
    pub(super) fn reserve(&self, ip: IpAddr, slot: SlotClass, limits: &Limits) -> Result<(), AdmitError> {
        let limited = slot == SlotClass::Ordinary;
        {
            let hash = self.hasher.hash_one(ip);
            let mut ips = self.ips_of(hash).lock();
            if limited && ips.count(ip, hash) >= limits.max_per_ip as usize {
                return Err(AdmitError::PerIp);
            }
            *ips.pending.entry(ip).or_insert(0) += 1;
        }
        for (done, net) in Subnet::of(ip).enumerate() {
            if !self.count_net(net, if limited { limit_of(net, limits) } else { u32::MAX }) {
                Subnet::of(ip).take(done).for_each(|net| self.uncount_net(net));
                self.end_pending(ip);
                return Err(AdmitError::PerSubnet);
            }
        }
        Ok(())
    }

    /// Gives back what [`Addresses::reserve`] counted.
    pub(super) fn release(&self, ip: IpAddr) {
        Subnet::of(ip).for_each(|net| self.uncount_net(net));
        self.end_pending(ip);
    }

    /// Turns one pending count into the peer's place in the list. If it departed meanwhile, gives the count back.
    pub(super) fn list(&self, peer: &Arc<Peer<K, C>>) {
        let ip = peer.ip();
        let hash = self.hasher.hash_one(ip);
        let entry = Arc::clone(peer);
        let late = {
            let mut ips = self.ips_of(hash).lock();
            ips.end_pending(ip);
            if peer.is_live() {
                ips.add(ip, hash, entry, &self.hasher);
                None
            } else {
                Some(entry)
            }
        };
        if late.is_some() {
            Subnet::of(ip).for_each(|net| self.uncount_net(net));
        }
    }

    /// Takes a departed peer from the list and the counts, if it is there; if not yet, [`Addresses::list`] will not
    /// put it there.
    pub(super) fn unlist(&self, peer: &Arc<Peer<K, C>>) {
        let ip = peer.ip();
        let hash = self.hasher.hash_one(ip);
        let taken = self.ips_of(hash).lock().take(ip, hash, peer, &self.hasher);
        if taken.is_some() {
            Subnet::of(ip).for_each(|net| self.uncount_net(net));
        }
    }

    /// The peers of an IP. `look` runs under the shard's lock.
    pub(super) fn each(&self, ip: IpAddr, mut look: impl FnMut(&Arc<Peer<K, C>>)) {
        let hash = self.hasher.hash_one(ip);
        let ips = self.ips_of(hash).lock();
        match ips.several.get(&ip) {
            Some(several) => several.iter().for_each(look),
            None => {
                if let Some(peer) = ips.single.find(hash, |peer| peer.ip() == ip) {
                    look(peer);
                }
            }
        }
    }

    /// The peers of every IP that lists more than this; some may have departed this moment. Cost: a lock a shard; not for every
    /// day.
    pub(super) fn crowded_ips(&self, max: usize) -> Vec<Vec<Arc<Peer<K, C>>>> {
        let mut crowded = Vec::new();
        for ips in &self.ips {
            let ips = ips.lock();
            if max == 0 {
                crowded.extend(ips.single.iter().map(|peer| vec![Arc::clone(peer)]));
            }
            let several = ips.several.values().filter(|peers| peers.len() > max);
            crowded.extend(several.map(|peers| peers.iter().cloned().collect()));
        }
        crowded
    }

    /// Every subnet that counts more than its limit, pending connections included. Cost: a lock a shard.
    pub(super) fn crowded_nets(&self, limits: &Limits) -> HashSet<Subnet> {
        let mut crowded = HashSet::new();
        for nets in &self.nets {
            let nets = nets.lock();
            let over = nets.iter().filter(|net| net.count() > limit_of(net.subnet(), limits));
            crowded.extend(over.map(Net::subnet));
        }
        crowded
    }

    /// How many connections, pending and live, an IP has.
    pub(super) fn count(&self, ip: IpAddr) -> usize {
        let hash = self.hasher.hash_one(ip);
        self.ips_of(hash).lock().count(ip, hash)
    }

    /// How many entries there are in all tables: IPs with pending, IPs with live, subnets.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let ips = self.ips.iter().map(|ips| {
            let ips = ips.lock();
            ips.pending.len() + ips.single.len() + ips.several.len()
        });
        ips.sum::<usize>() + self.nets.iter().map(|nets| nets.lock().len()).sum::<usize>()
    }

    fn end_pending(&self, ip: IpAddr) {
        self.ips_of(self.hasher.hash_one(ip)).lock().end_pending(ip);
    }

    fn count_net(&self, subnet: Subnet, max: u32) -> bool {
        let net = Net::new(subnet);
        let hash = self.hasher.hash_one(net.identity());
        let mut nets = self.nets[self.shard(hash)].lock();
        match nets.entry(hash, |other| other.is(&net), |other| self.hasher.hash_one(other.identity())) {
            hashbrown::hash_table::Entry::Occupied(mut entry) => {
                if entry.get().count() >= max {
                    return false;
                }
                entry.get_mut().counted += 1;
            }
            hashbrown::hash_table::Entry::Vacant(entry) => {
                if max == 0 {
                    return false;
                }
                entry.insert(Net { counted: net.counted + 1, ..net });
            }
        }
        true
    }

    fn uncount_net(&self, subnet: Subnet) {
        let net = Net::new(subnet);
        let hash = self.hasher.hash_one(net.identity());
        let mut nets = self.nets[self.shard(hash)].lock();
        match nets.find_entry(hash, |other| other.is(&net)) {
            Ok(mut entry) if entry.get().count() > 1 => entry.get_mut().counted -= 1,
            Ok(entry) => drop(entry.remove()),
            Err(_) => debug_assert!(false, "a subnet was released twice"),
        }
    }

    fn ips_of(&self, hash: u64) -> &Mutex<Ips<K, C>> {
        &self.ips[self.shard(hash)]
    }

    /// From the middle bits: the tables use the low and the top ones.
    fn shard(&self, hash: u64) -> usize {
        (hash >> 24) as usize & (self.ips.len() - 1)
    }
}

impl<K: PeerKey, C: ConnectionHandle> Ips<K, C> {
    fn new() -> Self {
        Self {
            pending: HashMap::with_hasher(HashState::default()),
            single: HashTable::new(),
            several: HashMap::with_hasher(HashState::default()),
        }
    }

    fn count(&self, ip: IpAddr, hash: u64) -> usize {
        let pending = self.pending.get(&ip).map_or(0, |count| *count as usize);
        let live = match self.several.get(&ip) {
            Some(several) => several.len(),
            None => usize::from(self.single.find(hash, |peer| peer.ip() == ip).is_some()),
        };
        pending + live
    }

    fn end_pending(&mut self, ip: IpAddr) {
        match self.pending.get_mut(&ip) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(self.pending.remove(&ip)),
            None => debug_assert!(false, "an address was released twice"),
        }
    }

    fn add(&mut self, ip: IpAddr, hash: u64, peer: Arc<Peer<K, C>>, hasher: &HashState) {
        let by_id = |peer: &Arc<Peer<K, C>>| hasher.hash_one(peer.id());
        if let Some(several) = self.several.get_mut(&ip) {
            several.insert_unique(by_id(&peer), peer, by_id);
            return;
        }
        match self.single.find_entry(hash, |other| other.ip() == ip) {
            Ok(entry) => {
                let (first, _) = entry.remove();
                let mut several = HashTable::with_capacity(2);
                several.insert_unique(by_id(&first), first, by_id);
                several.insert_unique(by_id(&peer), peer, by_id);
                self.several.insert(ip, several);
            }
            Err(_) => {
                self.single.insert_unique(hash, peer, |other| hasher.hash_one(other.ip()));
            }
        }
    }

    /// Takes this very peer out, if it is listed.
    fn take(
        &mut self,
        ip: IpAddr,
        hash: u64,
        peer: &Arc<Peer<K, C>>,
        hasher: &HashState,
    ) -> Option<Arc<Peer<K, C>>> {
        let same = |other: &Arc<Peer<K, C>>| Arc::ptr_eq(other, peer);
        let Some(several) = self.several.get_mut(&ip) else {
            return self.single.find_entry(hash, same).ok().map(|entry| entry.remove().0);
        };
        let taken = several.find_entry(hasher.hash_one(peer.id()), same).ok().map(|entry| entry.remove().0);
        if several.len() <= 1 {
            for last in self.several.remove(&ip).into_iter().flatten() {
                self.single.insert_unique(hash, last, |other| hasher.hash_one(other.ip()));
            }
        } else if several.capacity() > several.len() * 4 + 16 {
            several.shrink_to(several.len() * 2, |other| hasher.hash_one(other.id()));
        }
        taken
    }
}

impl Net {
    fn new(subnet: Subnet) -> Self {
        let (kind, bits) = match subnet {
            Subnet::V4Slash24([a, b, c]) => (1, u64::from(u32::from_be_bytes([0, a, b, c]))),
            Subnet::V6Slash64(bits) => (2, bits),
            Subnet::V6Slash48(bits) => (3, bits),
        };
        Self { bits: [(bits >> 32) as u32, bits as u32], counted: kind << KIND }
    }

    fn subnet(&self) -> Subnet {
        let bits = u64::from(self.bits[0]) << 32 | u64::from(self.bits[1]);
        match self.counted >> KIND {
            1 => Subnet::V4Slash24([(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]),
            2 => Subnet::V6Slash64(bits),
            _ => Subnet::V6Slash48(bits),
        }
    }

    fn identity(&self) -> ([u32; 2], u32) {
        (self.bits, self.counted >> KIND)
    }

    fn is(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    fn count(&self) -> u32 {
        self.counted & ((1 << KIND) - 1)
    }
}

/// How many connections a subnet may have.
pub(super) fn limit_of(net: Subnet, limits: &Limits) -> u32 {
    match net {
        Subnet::V4Slash24(_) | Subnet::V6Slash64(_) => limits.max_per_subnet,
        Subnet::V6Slash48(_) => limits.max_per_site,
    }
}

const KIND: u32 = 30;
