//! Receivers in a second process, as the bench sees them.
//!
//! The process dials, reads and counts; see [`child`] for what it does with the bytes. Every byte
//! that is sent must arrive.

pub(crate) mod child;
mod order;

use std::fmt::{self, Display};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::thread;

use peerpool::Node;
use socket2::{Domain, Socket, Type};

use super::child_process::ChildProcess;
use super::node::wait_for_peers;

/// The argument that starts the receiving process. A processor to keep to, or `-`, follows.
pub(crate) const FLAG: &str = "--receiver-process";

/// What receivers do with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadMode {
    /// The kernel counts and discards them.
    Discard,
    /// They are copied out.
    Copy,
    /// They are copied out, and the numbers in them are checked for order.
    Order,
    /// Messages of this many bytes, each of which ends with the time at which it was sent.
    Stamps(usize),
    /// Native frames: urgent ones end with the time at which they were sent, the bytes of others
    /// are counted, pings are answered.
    Frames,
    /// Discards this many bytes a second.
    Slow(usize),
    /// Nothing is read.
    Never,
}

impl Display for ReadMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discard => write!(out, "discard"),
            Self::Copy => write!(out, "copy"),
            Self::Order => write!(out, "order"),
            Self::Stamps(len) => write!(out, "stamps:{len}"),
            Self::Frames => write!(out, "frames"),
            Self::Slow(rate) => write!(out, "slow:{rate}"),
            Self::Never => write!(out, "never"),
        }
    }
}

impl FromStr for ReadMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        let number = number.parse().map_err(|error| format!("{text}: {error}"))?;
        Ok(match name {
            "discard" => Self::Discard,
            "copy" => Self::Copy,
            "order" => Self::Order,
            "stamps" => Self::Stamps(number),
            "frames" => Self::Frames,
            "slow" => Self::Slow(number),
            "never" => Self::Never,
            _ => return Err(format!("{text} is no way to read")),
        })
    }
}

/// How receivers begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// With a hello, and wait for the answer.
    Hello,
    /// They write nothing.
    Silent,
}

/// Receivers that belong together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: usize,
    pub(crate) peers: u64,
    received: u64,
    /// Bytes that never came, of all that were sent.
    pub(crate) lost: u64,
}

/// The receiving process.
#[derive(Debug)]
pub(crate) struct Receivers(ChildProcess);

impl Receivers {
    pub(crate) fn start() -> Self {
        Self(ChildProcess::start(&[FLAG, "-"]))
    }

    /// Starts the process on one processor.
    pub(crate) fn start_on(cpu: Option<usize>) -> Self {
        Self(ChildProcess::start(&[FLAG, &cpu.map_or("-".to_owned(), |cpu| cpu.to_string())]))
    }

    pub(crate) fn ask(&mut self, line: &str) -> Vec<u64> {
        self.0.ask(line)
    }

    /// A group that the process has made already.
    pub(crate) fn group(id: usize, peers: usize) -> Group {
        Group { id, peers: peers as u64, received: 0, lost: 0 }
    }

    /// Has `peers` receivers dial `addr`.
    pub(crate) fn dial(&mut self, addr: SocketAddr, peers: usize, opening: Opening, mode: ReadMode) -> Group {
        let opening = if opening == Opening::Hello { "hello" } else { "silent" };
        let answer = self.ask(&format!("dial {addr} {peers} {opening} {mode}"));
        let mut group = Self::group(answer[0] as usize, peers);
        group.received = self.total(&group);
        group
    }

    /// Has receivers dial a node and waits until all of them are live.
    pub(crate) fn join(&mut self, node: &Node, peers: usize, mode: ReadMode) -> Group {
        let before = node.roster().iter().count();
        let group = self.dial(node.local_addrs()[0], peers, Opening::Hello, mode);
        wait_for_peers(node, before + peers);
        group
    }

    /// Has receivers dial a plain listener; the accepted sockets.
    pub(crate) fn sockets(&mut self, peers: usize, mode: ReadMode) -> (Vec<TcpStream>, Group) {
        let listener = listen();
        let addr = listener.local_addr().expect("an address");
        let accepting = thread::spawn(move || {
            let accept = |_| {
                let (stream, _) = listener.accept().expect("a receiver");
                stream
                    .set_nonblocking(true)
                    .and_then(|()| stream.set_nodelay(true))
                    .expect("a socket option");
                stream
            };
            (0..peers).map(accept).collect()
        });
        let group = self.dial(addr, peers, Opening::Silent, mode);
        (accepting.join().expect("all accepted"), group)
    }

    fn total(&mut self, group: &Group) -> u64 {
        self.ask(&format!("received {}", group.id))[0]
    }

    /// How many bytes the receivers have got since the last [`Receivers::settle`].
    pub(crate) fn received(&mut self, group: &Group) -> u64 {
        self.total(group) - group.received
    }

    /// Waits until the receivers have `bytes` more than before, or nothing comes any more; how many
    /// they got.
    ///
    /// With `equal` all receivers must have got the same, unless bytes are missing.
    ///
    /// # Panics
    /// If they got more, or not the same.
    pub(crate) fn settle(&mut self, group: &mut Group, bytes: u64, equal: bool) -> u64 {
        let answer = self.ask(&format!("wait {} {}", group.id, group.received + bytes));
        let (total, least, most) = (answer[0], answer[1], answer[2]);
        let got = total - group.received;
        group.received = total;
        assert!(got <= bytes, "{got} bytes came of {bytes} that were sent to {} peers", group.peers);
        group.lost += bytes - got;
        let as_wanted = !equal || group.lost > 0 || least == most;
        assert!(as_wanted, "one peer has {least} bytes, another {most}");
        got
    }

    /// Waits until all of `bytes` have come.
    ///
    /// # Panics
    /// If they do not come.
    pub(crate) fn settle_all(&mut self, group: &mut Group, bytes: u64) {
        let got = self.settle(group, bytes, false);
        assert_eq!(got, bytes, "bytes were lost");
    }

    /// Numbered messages that the receivers got, and how many of them came after a later one.
    pub(crate) fn order(&mut self, group: &Group) -> (u64, u64) {
        let answer = self.ask(&format!("order {}", group.id));
        (answer[0], answer[1])
    }

    /// How many latencies are there to take.
    pub(crate) fn latency_count(&mut self, group: &Group) -> usize {
        self.ask(&format!("latency-count {}", group.id))[0] as usize
    }

    /// Takes the latencies, in nanoseconds.
    pub(crate) fn latencies(&mut self, group: &Group) -> Vec<u64> {
        self.ask(&format!("latencies {}", group.id))
    }
}

fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let addr: SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&addr.into()).and_then(|()| socket.listen(4096)).expect("a port");
    socket.into()
}
