//! Runs the same operations on a pool and on a model, a plain `HashMap`, and compares them after
//! each one.
//!
//! The property test and a fuzz target include this file with `#[path]`. [`Op::read`] decodes
//! operations from bytes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use peerpool::pool::{
    AdmitError, Claim, ConnectionHandle, DisconnectReason, EvictOutcome, InsertFailure, Limits, Misbehavior,
    PenaltyOutcome, Permit, Pool, PoolConfig, ReplaceFailure, SeenOutcome, SlotClass,
};
use peerpool::{ConnId, Direction, Tick};

/// One operation. Its numbers are small, so that operations hit the same peers.
#[derive(Clone, Copy, Debug)]
#[rustfmt::skip]
pub(crate) enum Op {
    Insert { key: u8, host: u8, outbound: bool },
    Admit { host: u8, outbound: bool, reserved: bool, deadline_secs: u8 },
    Claim { permit: u8, key: u8 },
    Rekey { claim: u8, key: u8 },
    ReleaseKey { claim: u8 },
    GoLive { claim: u8 },
    Replace { permit: u8, key: u8, stale_id: bool },
    DropPermit { permit: u8 },
    DropClaim { claim: u8 },
    Remove { key: u8, stale_id: bool },
    Evict { key: u8 },
    RemoveCurrent { key: u8 },
    Seen { key: u8, by_ip: bool },
    Penalize { key: u8, cause: u8 },
    Reward { key: u8 },
    Pause { key: u8, on: bool },
    Wait { secs: u8 },
    Sweep,
    Limit { max: u8, per_source: u8, per_subnet: u8 },
    Close,
}

impl Op {
    /// Decodes an operation; every four bytes are one.
    pub(crate) fn read(bytes: [u8; 4]) -> Self {
        let [op, a, b, c] = bytes;
        let (key, host, flag) = (a % 6, b % 8, c & 1 == 1);
        match op % 40 {
            0..=4 => Self::Insert { key, host, outbound: flag },
            5..=8 => Self::Admit { host, outbound: flag, reserved: c & 6 == 6, deadline_secs: a },
            9..=12 => Self::Claim { permit: b, key },
            13 => Self::Rekey { claim: b, key },
            14 => Self::ReleaseKey { claim: b },
            15..=17 => Self::GoLive { claim: b },
            18..=19 => Self::Replace { permit: b, key, stale_id: c % 4 == 0 },
            20 => Self::DropPermit { permit: b },
            21 => Self::DropClaim { claim: b },
            22..=23 => Self::Remove { key, stale_id: flag },
            24 => Self::Evict { key },
            25 => Self::RemoveCurrent { key },
            26..=28 => Self::Seen { key, by_ip: flag },
            29..=31 => Self::Penalize { key, cause: b },
            32 => Self::Reward { key },
            33 => Self::Pause { key, on: flag },
            34..=35 => Self::Wait { secs: a % 16 },
            36..=37 => Self::Sweep,
            38 => Self::Limit { max: a % 12, per_source: b % 4 + 1, per_subnet: c % 6 + 1 },
            // Rare, because most operations fail afterwards.
            _ if a < 16 => Self::Close,
            _ => Self::Sweep,
        }
    }
}

/// Runs the operations. Panics where the pool and the model differ.
pub(crate) fn run(ops: impl IntoIterator<Item = Op>) {
    let mut model = Model::new();
    for op in ops {
        model.step(op);
        model.compare();
    }
    model.end();
}

#[derive(Clone, Default)]
struct TestConnection(Arc<AtomicUsize>);

impl ConnectionHandle for TestConnection {
    type Info = u8;

    fn close(&self, _reason: DisconnectReason) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A live peer of the model.
struct ModelPeer {
    id: ConnId,
    host: u8,
    outbound: bool,
    reserved: bool,
    seen: u64,
    since: u64,
    paused: bool,
    health: u64,
    stamp: u64,
    window: u64,
    causes: u64,
    conn: TestConnection,
}

/// A connection of the model that is set up.
struct Pending {
    token: Token,
    host: u8,
    outbound: bool,
    reserved: bool,
    deadline: u64,
    revoked: bool,
}

enum Token {
    Permit(Permit<u8, TestConnection>),
    Claim(Claim<u8, TestConnection>, u8),
}

struct Model {
    pool: Arc<Pool<u8, TestConnection>>,
    live: HashMap<u8, ModelPeer>,
    pending: Vec<Pending>,
    limits: Limits,
    now: u64,
    closed: bool,
    removed: Vec<TestConnection>,
}

impl Model {
    fn new() -> Self {
        let mut config = PoolConfig::test();
        config.expected_peers = 16;
        config.limits = Limits {
            max_inbound: 8,
            max_outbound: 8,
            max_pending_inbound: 4,
            max_pending_outbound: 4,
            max_per_source: 3,
            max_per_subnet: 5,
            reserved_inbound: 1,
            floor: 2,
            ..Limits::default()
        };
        config.liveness.stale_after = Duration::from_secs(30);
        // A mass failure would make every health depend on all others; another test covers it.
        config.health.mass_failure_quorum = u32::MAX;
        let limits = config.limits.clone();
        let pool = Pool::new(config);
        Self {
            pool,
            live: HashMap::new(),
            pending: Vec::new(),
            limits,
            now: 100,
            closed: false,
            removed: Vec::new(),
        }
    }

    fn tick(&self) -> Tick {
        Tick::from_millis(self.now * 1_000)
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Insert { key, host, outbound } => self.insert(key, host, outbound),
            Op::Admit { host, outbound, reserved, deadline_secs } => {
                self.admit(host, outbound, reserved, deadline_secs)
            }
            Op::Claim { permit, key } => self.claim(permit, key),
            Op::Rekey { claim, key } => self.rekey(claim, key),
            Op::ReleaseKey { claim } => self.release_key(claim),
            Op::GoLive { claim } => self.go_live(claim),
            Op::Replace { permit, key, stale_id } => self.replace(permit, key, stale_id),
            Op::DropPermit { permit } => drop(self.take_pending(permit, false)),
            Op::DropClaim { claim } => drop(self.take_pending(claim, true)),
            Op::Remove { key, stale_id } => self.remove(key, stale_id),
            Op::Evict { key } => self.evict(key),
            Op::RemoveCurrent { key } => {
                let removed =
                    self.pool.remove_current(&key, DisconnectReason::Requested).map(|peer| peer.id());
                assert_eq!(removed, self.remove_live(key));
            }
            Op::Seen { key, by_ip } => self.seen(key, by_ip),
            Op::Penalize { key, cause } => self.penalize(key, cause),
            Op::Reward { key } => self.reward(key),
            Op::Pause { key, on } => self.pause(key, on),
            Op::Wait { secs } => self.now += u64::from(secs),
            Op::Sweep => self.sweep(),
            Op::Limit { max, per_source, per_subnet } => {
                self.limits.max_inbound = max.into();
                self.limits.max_per_source = per_source.into();
                self.limits.max_per_subnet = per_subnet.into();
                self.pool.set_limits(self.limits.clone());
            }
            Op::Close => {
                self.pool.close();
                self.closed = true;
            }
        }
    }

    /// Whether the model admits a connection, or why not.
    fn admits(&self, host: u8, outbound: bool, reserved: bool) -> Result<(), AdmitError> {
        let connections = || {
            let live = self.live.values().map(|known| (known.host, known.outbound));
            live.chain(self.unrevoked().map(|pending| (pending.host, pending.outbound)))
        };
        let count = |is: &dyn Fn(u8, bool) -> bool| {
            connections().filter(|(host, out)| is(*host, *out)).count() as u32
        };
        let direction = direction(outbound);
        let (max, kept, max_pending) = if outbound {
            (self.limits.max_outbound, self.limits.reserved_outbound, self.limits.max_pending_outbound)
        } else {
            (self.limits.max_inbound, self.limits.reserved_inbound, self.limits.max_pending_inbound)
        };
        // Reserved connections take the kept slots first.
        let live = self.live.values().filter(|known| known.reserved && known.outbound == outbound).count();
        let pending = self.unrevoked().filter(|known| known.reserved && known.outbound == outbound).count();
        let kept = kept.saturating_sub((live + pending) as u32);
        let room = if reserved { max } else { max.saturating_sub(kept) };
        if !reserved && count(&|other, _| ip(other) == ip(host)) >= self.limits.max_per_source {
            return Err(AdmitError::PerSource);
        }
        if !reserved && count(&|other, _| subnet(other) == subnet(host)) >= self.limits.max_per_subnet {
            return Err(AdmitError::PerSubnet);
        }
        if self.closed {
            return Err(AdmitError::Closed);
        }
        if count(&|_, out| out == outbound) >= room {
            return Err(AdmitError::Full(direction));
        }
        if self.unrevoked().filter(|pending| pending.outbound == outbound).count() as u32 >= max_pending {
            return Err(AdmitError::TooManyPending(direction));
        }
        Ok(())
    }

    /// Pending and not revoked.
    fn unrevoked(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter().filter(|pending| !pending.revoked)
    }

    fn claimed(&self, key: u8) -> Option<ConnId> {
        self.unrevoked().find_map(|pending| match &pending.token {
            Token::Claim(claim, claimed) if *claimed == key => Some(claim.id()),
            _ => None,
        })
    }

    fn key_owner(&self, key: u8) -> Option<ConnId> {
        self.live.get(&key).map(|known| known.id).or_else(|| self.claimed(key))
    }

    fn insert(&mut self, key: u8, host: u8, outbound: bool) {
        let expected = match (self.admits(host, outbound, false), self.key_owner(key)) {
            (Err(why), _) => Err(InsertFailure::Admit(why)),
            (Ok(()), Some(id)) => Err(InsertFailure::KeyHeld(id)),
            (Ok(()), None) => Ok(()),
        };
        let conn = TestConnection::default();
        let inserted =
            self.pool.insert(key, addr(host), direction(outbound), conn.clone(), host, self.tick());
        assert_eq!(inserted.as_ref().map(drop).map_err(|error| error.cause), expected);
        if let Ok(peer) = inserted {
            self.add_live(key, peer.id(), host, outbound, false, conn);
        }
    }

    fn add_live(
        &mut self,
        key: u8,
        id: ConnId,
        host: u8,
        outbound: bool,
        reserved: bool,
        conn: TestConnection,
    ) {
        let (now, stamp) = (self.now, self.now * 10);
        let known = ModelPeer {
            id,
            host,
            outbound,
            reserved,
            seen: now,
            since: now,
            paused: false,
            health: 100,
            stamp,
            window: 0,
            causes: 0,
            conn,
        };
        assert!(self.live.insert(key, known).is_none());
    }

    fn remove_live(&mut self, key: u8) -> Option<ConnId> {
        let known = self.live.remove(&key)?;
        assert_eq!(known.conn.0.load(Ordering::SeqCst), 1, "closed once, before the removal returned");
        self.removed.push(known.conn);
        Some(known.id)
    }

    fn admit(&mut self, host: u8, outbound: bool, reserved: bool, deadline_secs: u8) {
        let expected = self.admits(host, outbound, reserved);
        let slot = if reserved { SlotClass::Reserved } else { SlotClass::Ordinary };
        let deadline = self.now + u64::from(deadline_secs % 32);
        let admitted =
            self.pool.admit(addr(host), direction(outbound), slot, Tick::from_millis(deadline * 1_000));
        assert_eq!(admitted.as_ref().map(drop).map_err(|why| *why), expected);
        if let Ok(permit) = admitted {
            let token = Token::Permit(permit);
            self.pending.push(Pending { token, host, outbound, reserved, deadline, revoked: false });
        }
    }

    /// Takes a pending permit or claim out.
    fn take_pending(&mut self, index: u8, claimed: bool) -> Option<Pending> {
        let is = |pending: &Pending| matches!(pending.token, Token::Claim(..)) == claimed;
        let places: Vec<usize> = (0..self.pending.len()).filter(|at| is(&self.pending[*at])).collect();
        let place = *places.get(usize::from(index) % places.len().max(1))?;
        Some(self.pending.remove(place))
    }

    fn claim(&mut self, permit: u8, key: u8) {
        let Some(mut pending) = self.take_pending(permit, false) else { return };
        let free = self.key_owner(key).is_none();
        let Token::Permit(token) = pending.token else { unreachable!() };
        pending.token = match token.claim(key) {
            Ok(claim) => {
                assert!(free && !pending.revoked);
                Token::Claim(claim, key)
            }
            Err(error) => {
                assert!(!free || pending.revoked);
                Token::Permit(error.permit)
            }
        };
        self.pending.push(pending);
    }

    fn rekey(&mut self, claim: u8, key: u8) {
        let Some(mut pending) = self.take_pending(claim, true) else { return };
        let Token::Claim(token, old) = pending.token else { unreachable!() };
        let free = key == old || self.key_owner(key).is_none() && !pending.revoked;
        pending.token = match token.rekey(key) {
            Ok(claim) => {
                assert!(free);
                Token::Claim(claim, key)
            }
            Err(error) => {
                assert!(!free);
                Token::Claim(error.claim, old)
            }
        };
        self.pending.push(pending);
    }

    fn release_key(&mut self, claim: u8) {
        let Some(mut pending) = self.take_pending(claim, true) else { return };
        let Token::Claim(token, _) = pending.token else { unreachable!() };
        pending.token = Token::Permit(token.release_key());
        self.pending.push(pending);
    }

    fn go_live(&mut self, claim: u8) {
        let Some(pending) = self.take_pending(claim, true) else { return };
        let Token::Claim(token, key) = pending.token else { unreachable!() };
        let conn = TestConnection::default();
        let live = token.go_live(conn.clone(), pending.host, self.tick());
        assert_eq!(live.is_ok(), !pending.revoked && !self.closed);
        match live {
            Ok(peer) => self.add_live(key, peer.id(), pending.host, pending.outbound, pending.reserved, conn),
            Err(_) => assert_eq!(conn.0.load(Ordering::SeqCst), 0, "a refused connection is not closed"),
        }
    }

    fn replace(&mut self, permit: u8, key: u8, stale_id: bool) {
        let Some(mut pending) = self.take_pending(permit, false) else { return };
        let Token::Permit(token) = pending.token else { unreachable!() };
        let old = self.live.get(&key).map(|known| known.id).filter(|_| !stale_id);
        let asked = old.unwrap_or(token.id());
        let expected = match old {
            _ if pending.revoked => Err(ReplaceFailure::Revoked),
            None => Err(ReplaceFailure::NotFound),
            Some(_) if self.closed => Err(ReplaceFailure::Closed),
            Some(_) => Ok(()),
        };
        let conn = TestConnection::default();
        match token.replace(&key, asked, conn.clone(), pending.host, self.tick()) {
            Ok(both) => {
                assert_eq!((expected, self.remove_live(key)), (Ok(()), Some(both.old.id())));
                self.add_live(key, both.new.id(), pending.host, pending.outbound, pending.reserved, conn);
            }
            Err(error) => {
                assert_eq!(expected, Err(error.cause));
                pending.token = Token::Permit(error.permit);
                self.pending.push(pending);
            }
        }
    }

    fn remove(&mut self, key: u8, stale_id: bool) {
        let meant = self.live.get(&key).map(|known| known.id).filter(|_| !stale_id);
        let asked = meant.or(ConnId::new(u64::MAX)).expect("not zero");
        let removed = self.pool.remove(&key, asked, DisconnectReason::Lost).map(|peer| peer.id());
        assert_eq!(removed, meant);
        if meant.is_some() {
            self.remove_live(key);
        }
    }

    fn evict(&mut self, key: u8) {
        let asked = self.live.get(&key).map(|known| known.id);
        let evicted = self.pool.evict(
            &key,
            asked.or(ConnId::new(u64::MAX)).expect("not zero"),
            DisconnectReason::Banned,
        );
        match evicted {
            EvictOutcome::Evicted(peer) => {
                assert!(self.live.len() > self.limits.floor as usize);
                assert_eq!(Some(peer.id()), self.remove_live(key));
            }
            EvictOutcome::AtFloor => {
                assert!(asked.is_some() && self.live.len() <= self.limits.floor as usize)
            }
            EvictOutcome::NotFound => assert!(asked.is_none()),
        }
    }

    fn seen(&mut self, key: u8, by_ip: bool) {
        let host = self.live.get(&key).map(|known| known.host);
        match host {
            Some(host) if by_ip => {
                let same = self.live.values_mut().filter(|known| ip(known.host) == ip(host));
                let marked = same.map(|known| known.seen = self.now).count();
                let peers = self.pool.by_ip(ip(host));
                assert_eq!(peers.len(), marked);
                for peer in peers {
                    assert_eq!(peer.seen(self.tick()), SeenOutcome::Alive);
                }
            }
            _ => {
                assert_eq!(self.pool.seen(&key, self.tick()), host.is_some());
                if let Some(known) = self.live.get_mut(&key) {
                    known.seen = self.now;
                }
            }
        }
    }

    fn penalize(&mut self, key: u8, cause: u8) {
        let cause = Misbehavior::ALL[usize::from(cause) % Misbehavior::ALL.len()];
        let outcome = self.pool.penalize(&key, cause, self.tick());
        let price = u64::from(self.pool.health_policy().penalties.get(cause));
        let Some(known) = self.live.get_mut(&key) else { return assert_eq!(outcome, None) };
        known.recover(self.now);
        let window = self.now / 10;
        if known.window != window {
            (known.window, known.causes) = (window, 0);
        }
        if known.causes & 1 << cause.index() != 0 {
            return assert_eq!(outcome, Some(PenaltyOutcome::AlreadyCounted));
        }
        known.causes |= 1 << cause.index();
        known.health = known.health.saturating_sub(price);
        assert_eq!(outcome, Some(PenaltyOutcome::Counted { health: known.health as u8 }));
    }

    fn reward(&mut self, key: u8) {
        let outcome = self.pool.reward(&key, self.tick());
        let Some(known) = self.live.get_mut(&key) else { return assert_eq!(outcome, None) };
        known.recover(self.now);
        known.health = (known.health + 5).min(100);
        assert_eq!(outcome, Some(known.health as u8));
    }

    fn pause(&mut self, key: u8, on: bool) {
        let (Some(known), Some(peer)) = (self.live.get_mut(&key), self.pool.get(&key)) else { return };
        known.paused = on;
        if on {
            peer.pause();
        } else {
            peer.resume(Tick::from_millis(self.now * 1_000));
            known.seen = self.now;
        }
    }

    fn sweep(&mut self) {
        let swept = self.pool.sweep(self.tick());
        let mut revoked = Vec::new();
        for pending in
            self.pending.iter_mut().filter(|pending| !pending.revoked && self.now >= pending.deadline)
        {
            pending.revoked = true;
            revoked.push(match &pending.token {
                Token::Permit(permit) => permit.id(),
                Token::Claim(claim, _) => claim.id(),
            });
        }
        let mut reported = swept.revoked;
        reported.sort_unstable();
        revoked.sort_unstable();
        assert_eq!(reported, revoked);
        let now = self.now;
        let stale = |known: &ModelPeer| !known.paused && now - known.seen > 30;
        let mut expected: Vec<u8> =
            self.live.iter().filter(|(_, known)| stale(known)).map(|(key, _)| *key).collect();
        let (stale_peers, trimmed): (Vec<_>, Vec<_>) =
            swept.removed.iter().partition(|peer| peer.disconnect_reason() == Some(DisconnectReason::Stale));
        let mut stale_keys: Vec<u8> = stale_peers.iter().map(|peer| *peer.key()).collect();
        stale_keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(stale_keys, expected);
        stale_keys.iter().for_each(|key| assert!(self.remove_live(*key).is_some()));
        for peer in trimmed {
            assert_eq!(peer.disconnect_reason(), Some(DisconnectReason::OverLimit));
            assert!(self.live.len() > self.limits.floor as usize, "trimmed below the floor");
            assert!(!self.live[peer.key()].reserved, "a reserved slot was trimmed");
            self.remove_live(*peer.key());
        }
        self.within_limits();
    }

    /// After a sweep no peer that a trim may remove is beyond the limits.
    fn within_limits(&self) {
        if self.live.len() <= self.limits.floor as usize {
            return;
        }
        let within = |is: &dyn Fn(&ModelPeer) -> bool, max: u32| {
            let count = self.live.values().filter(|known| is(known) && !known.reserved).count();
            assert!(count <= max as usize, "{count} ordinary peers are live, the limit is {max}");
        };
        within(&|known| !known.outbound, self.limits.max_inbound);
        for host in 0..8 {
            within(&|known| ip(known.host) == ip(host), self.limits.max_per_source);
            within(&|known| subnet(known.host) == subnet(host), self.limits.max_per_subnet);
        }
    }

    fn compare(&self) {
        let counts = self.pool.admission();
        let of = |outbound: bool| {
            let live = self.live.values().filter(|known| known.outbound == outbound).count() as u32;
            (live, self.unrevoked().filter(|pending| pending.outbound == outbound).count() as u32)
        };
        assert_eq!((counts.live_inbound, counts.pending_inbound), of(false));
        assert_eq!((counts.live_outbound, counts.pending_outbound), of(true));
        assert_eq!(counts.closed, self.closed);
        let mut keys = self.pool.keys();
        keys.sort_unstable();
        let mut expected: Vec<u8> = self.live.keys().copied().collect();
        expected.sort_unstable();
        assert_eq!(keys, expected);
        for key in 0..6 {
            let (peer, known) = (self.pool.get(&key), self.live.get(&key));
            assert_eq!(peer.as_ref().map(|peer| peer.id()), known.map(|known| known.id));
            let (Some(peer), Some(known)) = (peer, known) else { continue };
            assert_eq!((peer.addr(), peer.direction()), (addr(known.host), direction(known.outbound)));
            assert_eq!((peer.last_seen().as_millis(), peer.is_paused()), (known.seen * 1_000, known.paused));
            assert_eq!((peer.connected_at().as_millis(), *peer.info()), (known.since * 1_000, known.host));
            assert_eq!(u64::from(peer.health(self.tick())), known.recovered(self.now).0);
        }
        for host in 0..8 {
            let live = self.live.values().filter(|known| ip(known.host) == ip(host)).count();
            let pending = self.unrevoked().filter(|pending| ip(pending.host) == ip(host)).count();
            assert_eq!(
                (self.pool.by_ip(ip(host)).len(), self.pool.count_by_ip(ip(host))),
                (live, live + pending)
            );
        }
        let stats = self.pool.stats(self.tick());
        assert_eq!((stats.total_connections, stats.walked_connections), (self.live.len(), self.live.len()));
    }

    /// Releases everything; nothing may remain.
    fn end(mut self) {
        self.pending.clear();
        for key in 0..6 {
            assert_eq!(
                self.pool.remove_current(&key, DisconnectReason::Shutdown).map(|peer| peer.id()),
                self.remove_live(key)
            );
        }
        self.compare();
        assert!(self.removed.iter().all(|conn| conn.0.load(Ordering::SeqCst) == 1), "closed exactly once");
        assert_eq!(self.pool.stats(self.tick()).disconnects.total(), self.removed.len() as u64);
    }
}

impl ModelPeer {
    /// One point per step of 10 s, as documented.
    fn recovered(&self, now: u64) -> (u64, u64) {
        let steps = (now * 10 - self.stamp) / 100;
        let health = (self.health + steps).min(100);
        (health, if health == 100 { now * 10 } else { self.stamp + steps * 100 })
    }

    fn recover(&mut self, now: u64) {
        (self.health, self.stamp) = self.recovered(now);
    }
}

fn direction(outbound: bool) -> Direction {
    if outbound { Direction::Outbound } else { Direction::Inbound }
}

/// Eight hosts: two ports on each of two addresses in each of two subnets, the last four
/// IPv4-mapped.
fn addr(host: u8) -> SocketAddr {
    SocketAddr::new(ip(host), 1_000 + u16::from(host))
}

fn ip(host: u8) -> IpAddr {
    IpAddr::from([10, 0, host / 4 % 2, host / 2 % 2])
}

fn subnet(host: u8) -> u8 {
    host / 4 % 2
}
