//! Connections by address: the live peers of each IP address, and a count per subnet.
//!
//! ```text
//!   admit   -> reserve: IP pending + 1, subnets + 1     release: both - 1
//!   live    -> list:    IP pending - 1, peer listed     (one step)
//!   removed -> unlist:  peer unlisted,  subnets - 1
//! ```
//!
//! Invariant: `counters_never_wrap_or_drift`, `one_source_cannot_exhaust_accepts`
//! - Statement: an address counts from admission to disconnect, an entry vanishes at zero, and an
//!   address over its limit is refused before the global word changes.
//! - Enforced by: one lock per shard, never two at once. A pending count becomes a listed peer in
//!   one step.
//! - Breaks if: a count changes without the shard's lock.
//!
//! Invariant: `one_authority_for_connected`
//! - Statement: the index is derived from the map, and each item belongs to one connection: it
//!   holds that very `Arc`.
//! - Enforced by: [`AddressIndex::list`] checks the peer's phase under the lock that
//!   [`AddressIndex::unlist`] takes after the phase changed, so exactly one of the two gives the
//!   subnets' counts back.
//! - Breaks if: a peer is listed after its disconnect.
//!
//! Memory at a load of one half: an IP address with one live connection takes one pointer in a
//! table (about 19 bytes), an IPv4 subnet 8 bytes (about 19), an IPv6 subnet 12 bytes (about 27).
//! IPv6 addresses count in two subnets. Only addresses with pending or several connections take a
//! record of their own.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::base::counts::{add_one, subtract_one};
use crate::base::{ConnId, Subnet};
use crate::sync::{HashState, Mutex};

use super::{AdmitError, ConnectionHandle, Limits, Peer, PeerKey, SlotClass};

/// Which peers each address has, and how many connections each subnet.
pub(super) struct AddressIndex<K: PeerKey, C: ConnectionHandle> {
    ips: Box<[Shard<IpShard<K, C>>]>,
    subnets: Box<[Shard<SubnetShard>]>,
    /// Selects the shard. The tables have hashers of their own.
    hasher: HashState,
}

type Shard<T> = CachePadded<Mutex<T>>;

/// The connections of one shard's IP addresses. IPv4 addresses are keys in their IPv4-mapped form.
struct IpShard<K: PeerKey, C: ConnectionHandle> {
    /// Admitted connections that are not live. No zeros.
    pending: HashMap<Ipv6Addr, u32, HashState>,
    /// The live peer of each address that has one.
    single: HashSet<ByIp<K, C>, HashState>,
    /// The live peers of each address that has several.
    several: HashMap<Ipv6Addr, Siblings<K, C>, HashState>,
}

type Siblings<K, C> = HashMap<ConnId, Arc<Peer<K, C>>, HashState>;

/// A peer that is hashed and compared by its IP address.
struct ByIp<K: PeerKey, C: ConnectionHandle>(Arc<Peer<K, C>>);

/// How many connections each of one shard's subnets has. No zeros.
#[derive(Default)]
struct SubnetShard {
    v4_slash24: HashMap<[u8; 3], u32, HashState>,
    v6_slash64: HashMap<[u32; 2], u32, HashState>,
    v6_slash48: HashMap<[u32; 2], u32, HashState>,
}

impl<K: PeerKey, C: ConnectionHandle> AddressIndex<K, C> {
    /// An empty index. `shards` is a power of two.
    pub(super) fn with_shards(shards: usize) -> Self {
        Self {
            ips: (0..shards).map(|_| CachePadded::new(Mutex::new(IpShard::new()))).collect(),
            subnets: (0..shards).map(|_| CachePadded::new(Mutex::default())).collect(),
            hasher: HashState::default(),
        }
    }

    /// Counts one pending connection. Only [`SlotClass::Ordinary`] is ever refused here.
    pub(super) fn reserve(&self, ip: IpAddr, slot: SlotClass, limits: &Limits) -> Result<(), AdmitError> {
        let limited = slot == SlotClass::Ordinary;
        {
            let key = mapped(ip);
            let mut shard = self.ip_shard(&key).lock();
            if limited && shard.count(&key) >= limits.max_per_source as usize {
                return Err(AdmitError::PerSource);
            }
            *shard.pending.entry(key).or_insert(0) += 1;
        }
        for (done, subnet) in Subnet::of(ip).enumerate() {
            let max = if limited { subnet_limit(subnet, limits) } else { u32::MAX };
            if !self.subnet_shard(subnet).lock().add(subnet, max) {
                Subnet::of(ip).take(done).for_each(|subnet| self.release_subnet(subnet));
                self.release_pending(ip);
                let is_source = matches!(subnet, Subnet::V6Slash64(_));
                return Err(if is_source { AdmitError::PerSource } else { AdmitError::PerSubnet });
            }
        }
        Ok(())
    }

    /// Gives back what [`AddressIndex::reserve`] counted.
    pub(super) fn release(&self, ip: IpAddr) {
        Subnet::of(ip).for_each(|subnet| self.release_subnet(subnet));
        self.release_pending(ip);
    }

    /// Replaces one pending count by the peer. If the peer disconnected meanwhile, gives the counts
    /// back instead.
    pub(super) fn list(&self, peer: &Arc<Peer<K, C>>) {
        let key = *peer.mapped_ip();
        let listed = Arc::clone(peer);
        let rejected = {
            let mut shard = self.ip_shard(&key).lock();
            shard.release_pending(&key);
            if peer.is_live() {
                shard.add(listed);
                None
            } else {
                Some(listed)
            }
        };
        if rejected.is_some() {
            Subnet::of(peer.ip()).for_each(|subnet| self.release_subnet(subnet));
        }
    }

    /// Removes a disconnected peer and its counts, if it is listed. If it is not,
    /// [`AddressIndex::list`] will not list it.
    pub(super) fn unlist(&self, peer: &Arc<Peer<K, C>>) {
        let removed = self.ip_shard(peer.mapped_ip()).lock().remove(peer);
        if removed.is_some() {
            Subnet::of(peer.ip()).for_each(|subnet| self.release_subnet(subnet));
        }
    }

    /// The listed peers of an IP address; some may have disconnected this moment.
    pub(super) fn peers(&self, ip: IpAddr) -> Vec<Arc<Peer<K, C>>> {
        let key = mapped(ip);
        let shard = self.ip_shard(&key).lock();
        match shard.several.get(&key) {
            Some(siblings) => siblings.values().cloned().collect(),
            None => shard.single.get(&key).map(|listed| Arc::clone(&listed.0)).into_iter().collect(),
        }
    }

    /// Number of connections of an IP address, pending ones included.
    pub(super) fn count(&self, ip: IpAddr) -> usize {
        let key = mapped(ip);
        self.ip_shard(&key).lock().count(&key)
    }

    /// The listed peers of each IP address that has more than `max`; some may have disconnected
    /// this moment.
    ///
    /// # Cost
    /// A lock and a walk per shard.
    pub(super) fn ips_over(&self, max: usize) -> Vec<Vec<Arc<Peer<K, C>>>> {
        let mut over = Vec::new();
        for shard in &self.ips {
            let shard = shard.lock();
            if max == 0 {
                over.extend(shard.single.iter().map(|listed| vec![Arc::clone(&listed.0)]));
            }
            let several = shard.several.values().filter(|siblings| siblings.len() > max);
            over.extend(several.map(|siblings| siblings.values().cloned().collect()));
        }
        over
    }

    /// Every subnet that has more connections than its limit, pending ones included.
    ///
    /// # Cost
    /// A lock and a walk per shard.
    pub(super) fn subnets_over(&self, limits: &Limits) -> HashSet<Subnet> {
        let mut over = HashSet::new();
        for shard in &self.subnets {
            let shard = shard.lock();
            let counts = shard.iter().filter(|(subnet, count)| *count > subnet_limit(*subnet, limits));
            over.extend(counts.map(|(subnet, _)| subnet));
        }
        over
    }

    /// Shrinks every table to its content.
    pub(super) fn shrink_to_fit(&self) {
        for shard in &self.ips {
            let mut shard = shard.lock();
            shard.pending.shrink_to_fit();
            shard.single.shrink_to_fit();
            shard.several.shrink_to_fit();
        }
        for shard in &self.subnets {
            let mut shard = shard.lock();
            shard.v4_slash24.shrink_to_fit();
            shard.v6_slash64.shrink_to_fit();
            shard.v6_slash48.shrink_to_fit();
        }
    }

    /// Number of entries in all tables: addresses with pending connections, addresses with live
    /// ones, subnets.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let ips = self.ips.iter().map(|shard| {
            let shard = shard.lock();
            shard.pending.len() + shard.single.len() + shard.several.len()
        });
        ips.sum::<usize>() + self.subnets.iter().map(|shard| shard.lock().iter().count()).sum::<usize>()
    }

    fn release_pending(&self, ip: IpAddr) {
        let key = mapped(ip);
        self.ip_shard(&key).lock().release_pending(&key);
    }

    fn release_subnet(&self, subnet: Subnet) {
        self.subnet_shard(subnet).lock().remove(subnet);
    }

    fn ip_shard(&self, key: &Ipv6Addr) -> &Mutex<IpShard<K, C>> {
        &self.ips[self.hasher.hash_one(key) as usize & (self.ips.len() - 1)]
    }

    fn subnet_shard(&self, subnet: Subnet) -> &Mutex<SubnetShard> {
        &self.subnets[self.hasher.hash_one(subnet) as usize & (self.subnets.len() - 1)]
    }
}

impl<K: PeerKey, C: ConnectionHandle> IpShard<K, C> {
    fn new() -> Self {
        Self { pending: HashMap::default(), single: HashSet::default(), several: HashMap::default() }
    }

    fn count(&self, key: &Ipv6Addr) -> usize {
        let pending = self.pending.get(key).map_or(0, |count| *count as usize);
        let live = match self.several.get(key) {
            Some(siblings) => siblings.len(),
            None => usize::from(self.single.contains(key)),
        };
        pending + live
    }

    fn release_pending(&mut self, key: &Ipv6Addr) {
        subtract_one(&mut self.pending, key);
    }

    fn add(&mut self, peer: Arc<Peer<K, C>>) {
        let key = *peer.mapped_ip();
        if let Some(siblings) = self.several.get_mut(&key) {
            siblings.insert(peer.id(), peer);
        } else if let Some(ByIp(first)) = self.single.take(&key) {
            self.several.insert(key, [first, peer].map(|peer| (peer.id(), peer)).into_iter().collect());
        } else {
            self.single.insert(ByIp(peer));
        }
    }

    /// Removes this very peer, if it is listed.
    fn remove(&mut self, peer: &Arc<Peer<K, C>>) -> Option<Arc<Peer<K, C>>> {
        let key = *peer.mapped_ip();
        let Some(siblings) = self.several.get_mut(&key) else {
            let listed = self.single.get(&key)?;
            return if Arc::ptr_eq(&listed.0, peer) {
                self.single.take(&key).map(|ByIp(peer)| peer)
            } else {
                None
            };
        };
        let removed = siblings.remove(&peer.id());
        if siblings.len() <= 1 {
            self.single.extend(self.several.remove(&key).into_iter().flatten().map(|(_, last)| ByIp(last)));
        } else if siblings.capacity() > siblings.len() * 4 + 16 {
            siblings.shrink_to(siblings.len() * 2);
        }
        removed
    }
}

impl<K: PeerKey, C: ConnectionHandle> Borrow<Ipv6Addr> for ByIp<K, C> {
    fn borrow(&self) -> &Ipv6Addr {
        self.0.mapped_ip()
    }
}

impl<K: PeerKey, C: ConnectionHandle> Hash for ByIp<K, C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.mapped_ip().hash(state);
    }
}

impl<K: PeerKey, C: ConnectionHandle> PartialEq for ByIp<K, C> {
    fn eq(&self, other: &Self) -> bool {
        self.0.mapped_ip() == other.0.mapped_ip()
    }
}

impl<K: PeerKey, C: ConnectionHandle> Eq for ByIp<K, C> {}

impl SubnetShard {
    /// Counts one more connection, unless the subnet has `max` already.
    fn add(&mut self, subnet: Subnet, max: u32) -> bool {
        match subnet {
            Subnet::V4Slash24(bits) => add_one(&mut self.v4_slash24, bits, max),
            Subnet::V6Slash64(bits) => add_one(&mut self.v6_slash64, halves(bits), max),
            Subnet::V6Slash48(bits) => add_one(&mut self.v6_slash48, halves(bits), max),
        }
    }

    fn remove(&mut self, subnet: Subnet) {
        match subnet {
            Subnet::V4Slash24(bits) => subtract_one(&mut self.v4_slash24, &bits),
            Subnet::V6Slash64(bits) => subtract_one(&mut self.v6_slash64, &halves(bits)),
            Subnet::V6Slash48(bits) => subtract_one(&mut self.v6_slash48, &halves(bits)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (Subnet, u32)> {
        let v4 = self.v4_slash24.iter().map(|(bits, count)| (Subnet::V4Slash24(*bits), *count));
        let v6 = self.v6_slash64.iter().map(|(bits, count)| (Subnet::V6Slash64(joined(*bits)), *count));
        let site = self.v6_slash48.iter().map(|(bits, count)| (Subnet::V6Slash48(joined(*bits)), *count));
        v4.chain(v6).chain(site)
    }
}

/// How many connections a subnet may have.
pub(super) fn subnet_limit(subnet: Subnet, limits: &Limits) -> u32 {
    match subnet {
        Subnet::V4Slash24(_) => limits.max_per_subnet,
        // One source, whichever of its addresses it uses.
        Subnet::V6Slash64(_) => limits.max_per_source,
        Subnet::V6Slash48(_) => limits.max_per_site,
    }
}

/// The key of an address in the tables.
fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// As two words, so that an entry of a table is 12 bytes without padding.
fn halves(bits: u64) -> [u32; 2] {
    [(bits >> 32) as u32, bits as u32]
}

fn joined([high, low]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
