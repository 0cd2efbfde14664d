//! The pool and its background: keyed by IP, cleared of the stale, filled by dialling.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex as Lock};

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Stream;
use super::connection::Connection;
use super::handshake::Handshake;
use super::record::{Record, What};
use super::setup::ConnectionSetup;

/// The first port of those that are taken for a dialler's own.
const EPHEMERAL: u16 = 49_152;
/// Maximum number of announcements a minute.
const TOLD_A_MINUTE: usize = 60;

/// A pooled peer.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) connection: Arc<Mutex<Connection>>,
    pub(super) addr: SocketAddr,
    pub(super) version: String,
    pub(super) last_seen: Instant,
}

/// Announced peers.
struct Told {
    when: HashMap<SocketAddr, Instant>,
    minute: Instant,
    in_minute: usize,
}

pub(super) struct Manager {
    pub(super) setup: ConnectionSetup,
    pub(super) listen: Option<SocketAddr>,
    pub(super) record: Record,
    pub(super) pool: RwLock<HashMap<IpAddr, Entry>>,
    /// Every address it heard of by connecting, in that order.
    known: Lock<Vec<SocketAddr>>,
    told: Lock<Told>,
    /// Announcements of masternodes that were passed on.
    pub(super) passed_on: Lock<Vec<String>>,
    /// `None` once the node has been stopped: what a task then spawns is dropped.
    tasks: Lock<Option<JoinSet<()>>>,
}

impl Manager {
    pub(super) fn new(setup: ConnectionSetup, listen: Option<SocketAddr>) -> Arc<Self> {
        let told = Told { when: HashMap::new(), minute: Instant::now(), in_minute: 0 };
        Arc::new(Self {
            setup,
            listen,
            record: Record::new(),
            pool: RwLock::default(),
            known: Lock::default(),
            told: Lock::new(told),
            passed_on: Lock::default(),
            tasks: Lock::new(Some(JoinSet::new())),
        })
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut *self.tasks.lock().unwrap() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    /// Ends all tasks; they are gone once the set that is returned is.
    pub(super) fn end(&self) -> Option<JoinSet<()>> {
        let mut tasks = self.tasks.lock().unwrap().take()?;
        tasks.abort_all();
        Some(tasks)
    }

    /// What handshakes advertise.
    pub(super) fn public(&self) -> SocketAddr {
        let any = SocketAddr::from(([0, 0, 0, 0], self.setup.standard_port));
        self.setup.public.or(self.listen).unwrap_or(any)
    }

    pub(super) fn handshake(&self) -> Handshake {
        let mut ours = Handshake::new(self.setup.network, &self.setup.version, self.public());
        ours.genesis_hash = self.setup.genesis.clone();
        ours
    }

    pub(super) async fn connect_to_peer(self: &Arc<Self>, addr: SocketAddr) -> Result<(), String> {
        if Some(addr) == self.listen || addr.ip() == self.public().ip() {
            return Ok(());
        }
        if self.pool.read().await.contains_key(&addr.ip()) {
            return Ok(());
        }
        let connect = async {
            let stream = self.dial(addr).await.map_err(|error| error.to_string())?;
            self.greet(Box::new(stream)).await
        };
        let connected = timeout(self.setup.times.dial, connect).await;
        match connected.unwrap_or_else(|_| Err("Connection timeout".to_owned())) {
            Ok((stream, theirs)) => {
                self.pool_dialled(addr, stream, &theirs).await;
                Ok(())
            }
            Err(error) => {
                self.record.add(addr.ip(), What::DialFailed(error.clone()));
                Err(error)
            }
        }
    }

    async fn dial(&self, addr: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(ip) = self.setup.dial_from {
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The dialler's side of the handshake: it speaks first.
    pub(super) async fn greet(
        &self,
        mut stream: Box<dyn Stream>,
    ) -> Result<(Box<dyn Stream>, Handshake), String> {
        let ours = self.handshake();
        ours.send(&mut *stream).await.map_err(|error| error.to_string())?;
        let theirs = Handshake::receive(&mut *stream, self.setup.network).await?;
        if let (Some(ours), Some(theirs)) = (&ours.genesis_hash, &theirs.genesis_hash)
            && ours != theirs
        {
            let cut = |hash: &String| hash.chars().take(16).collect::<String>();
            let (ours, theirs) = (cut(ours), cut(theirs));
            return Err(format!("Genesis block mismatch: expected {ours}..., got {theirs}..."));
        }
        Ok((stream, theirs))
    }

    /// Pools what was dialled, tells the others, and asks for peers: mute until that is over.
    pub(super) async fn pool_dialled(
        self: &Arc<Self>,
        addr: SocketAddr,
        stream: Box<dyn Stream>,
        theirs: &Handshake,
    ) {
        let ip = addr.ip();
        self.record.add(ip, What::Dialled);
        let connection = Connection::new(stream, ip, self.setup.times, self.record.clone());
        let connection = Arc::new(Mutex::new(connection));
        let entry = Entry {
            connection: Arc::clone(&connection),
            addr,
            version: theirs.version.clone(),
            last_seen: Instant::now(),
        };
        self.pool.write().await.insert(ip, entry);
        self.record.add(ip, What::Pooled);
        self.discovered(addr);
        self.broadcast_new_peer(addr, &theirs.version).await;
        let mute = self.setup.times.mute;
        self.spawn(async move {
            let _ = connection.lock().await.request_response(r#""GetPeerList""#, mute).await;
        });
        self.spawn(keep_alive(Arc::clone(self), ip));
    }

    /// Pools an accepted connection under `addr`'s IP; the connection, if it now is in the pool.
    pub(super) async fn add_connected_peer_with_connection(
        self: &Arc<Self>,
        addr: SocketAddr,
        version: &str,
        stream: Box<dyn Stream>,
    ) -> Option<Arc<Mutex<Connection>>> {
        let ip = addr.ip();
        if ip.is_unspecified() || Some(addr) == self.listen {
            self.record.add(ip, What::NotPooled("unspecified or our own address"));
            return None;
        }
        let connection = Connection::new(stream, ip, self.setup.times, self.record.clone());
        let connection = Arc::new(Mutex::new(connection));
        let new = {
            let mut pool = self.pool.write().await;
            let there = pool.get(&ip);
            if there.is_some() && self.public().ip() < ip {
                self.record.add(ip, What::NotPooled("duplicate, and our address is the smaller"));
                return None;
            }
            if there.is_some_and(|there| there.version != "unknown" && version == "unknown") {
                self.record.add(ip, What::NotPooled("duplicate of unknown version"));
                return None;
            }
            self.record.add(ip, if there.is_some() { What::Replaced } else { What::Pooled });
            let entry = Entry {
                connection: Arc::clone(&connection),
                addr,
                version: version.to_owned(),
                last_seen: Instant::now(),
            };
            pool.insert(ip, entry).is_none()
        };
        self.discovered(addr);
        if new {
            self.broadcast_new_peer(addr, version).await;
        }
        // One loop more for each replacement, as it was.
        self.spawn(keep_alive(Arc::clone(self), ip));
        Some(connection)
    }

    /// Remembers where a peer may be found: ephemeral ports become the standard one.
    fn discovered(&self, mut addr: SocketAddr) {
        if addr.port() >= EPHEMERAL {
            addr.set_port(self.setup.standard_port);
        }
        let mut known = self.known.lock().unwrap();
        if !known.iter().any(|known| known.ip() == addr.ip()) {
            known.push(addr);
        }
    }

    pub(super) async fn broadcast_new_peer(self: &Arc<Self>, new: SocketAddr, version: &str) {
        if !self.setup.tell || !self.may_tell(new) {
            return;
        }
        let list =
            serde_json::json!([{ "ip": new.ip().to_string(), "port": new.port(), "version": version }]);
        let message = format!(r#"{{"PeerList":{list}}}"#);
        for ip in self.ips().await.into_iter().filter(|ip| *ip != new.ip()) {
            let _ = self.send_to_peer_tcp(ip, &message).await;
        }
    }

    fn may_tell(&self, new: SocketAddr) -> bool {
        let (times, now) = (self.setup.times, Instant::now());
        let mut told = self.told.lock().unwrap();
        if told.when.get(&new).is_some_and(|when| now - *when < times.told) {
            return false;
        }
        told.when.insert(new, now);
        if now - told.minute >= times.minute {
            (told.minute, told.in_minute) = (now, 0);
        }
        told.in_minute += 1;
        told.in_minute <= TOLD_A_MINUTE
    }

    pub(super) async fn ips(&self) -> Vec<IpAddr> {
        self.pool.read().await.keys().copied().collect()
    }

    pub(super) async fn connection(&self, ip: IpAddr) -> Result<Arc<Mutex<Connection>>, String> {
        let pool = self.pool.read().await;
        pool.get(&ip).map(|entry| Arc::clone(&entry.connection)).ok_or(format!("No connection to peer {ip}"))
    }

    /// Waits for the connection's mutex as long as it takes; only the write has a deadline.
    pub(super) async fn send_to_peer_tcp(&self, ip: IpAddr, json: &str) -> Result<(), String> {
        let connection = self.connection(ip).await?;
        let sent = connection.lock().await.send_message(json).await;
        match &sent {
            Ok(()) => self.peer_seen(ip).await,
            Err(_) => self.remove(ip, "failed send").await,
        }
        sent
    }

    /// Under the pool's read lock, the wait for the connection's mutex included.
    pub(super) async fn send_message_to_peer(&self, ip: IpAddr, json: &str) -> Result<(), String> {
        let pool = self.pool.read().await;
        let entry = pool.get(&ip).ok_or(format!("No connection to peer {ip}"))?;
        entry.connection.lock().await.send_message(json).await
    }

    pub(super) async fn peer_seen(&self, ip: IpAddr) {
        if let Some(entry) = self.pool.write().await.get_mut(&ip) {
            entry.last_seen = Instant::now();
        }
    }

    pub(super) async fn remove(&self, ip: IpAddr, why: &'static str) {
        if self.pool.write().await.remove(&ip).is_some() {
            self.record.add(ip, What::Removed(why));
        }
    }

    /// Removes, and dials the standard port once, later.
    pub(super) async fn remove_dead_connection(self: &Arc<Self>, ip: IpAddr) {
        self.remove(ip, "dead").await;
        let this = Arc::clone(self);
        self.spawn(async move {
            sleep(this.setup.times.redial).await;
            let _ = this.connect_to_peer(SocketAddr::new(ip, this.setup.standard_port)).await;
        });
    }

    /// Reaps and redials for ever.
    pub(super) async fn maintain(self: Arc<Self>) {
        sleep(self.setup.times.first_tick).await;
        for tick in 0u64.. {
            self.reap().await;
            if self.setup.reconnect {
                self.reconnect(tick).await;
            }
            sleep(self.setup.times.tick).await;
        }
    }

    async fn reap(&self) {
        let stale = self.setup.times.stale;
        let mut pool = self.pool.write().await;
        let record = &self.record;
        pool.retain(|ip, entry| {
            let stays = entry.last_seen.elapsed() <= stale;
            if !stays {
                record.add(*ip, What::Removed("stale"));
            }
            stays
        });
    }

    async fn reconnect(self: &Arc<Self>, tick: u64) {
        let (every, most) = match self.pool.read().await.len() {
            0..5 => (1, 20),
            5..8 => (2, 10),
            _ => (4, 5),
        };
        if !tick.is_multiple_of(every) {
            return;
        }
        let seeds = if every == 1 { self.setup.seeds.clone() } else { Vec::new() };
        let known = self.known.lock().unwrap().iter().take(most).copied().collect::<Vec<_>>();
        for addr in seeds.into_iter().chain(known) {
            let this = Arc::clone(self);
            self.spawn(async move {
                let _ = this.connect_to_peer(addr).await;
            });
        }
    }
}

/// Pings whatever is pooled under `ip`, holding its mutex; ends when nothing is.
async fn keep_alive(manager: Arc<Manager>, ip: IpAddr) {
    loop {
        sleep(manager.setup.times.ping_every).await;
        let Ok(connection) = manager.connection(ip).await else { return };
        let answered = connection.lock().await.ping().await;
        drop(connection);
        if answered.is_ok() {
            manager.peer_seen(ip).await;
        }
    }
}
