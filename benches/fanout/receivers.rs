//! The receivers as the bench sees them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use socket2::{Domain, Socket, Type};

use crate::receiver_process::{self, Taking};

/// The second process.
pub(crate) struct Receivers {
    child: Child,
    tell: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

/// The receivers of one contender.
#[derive(Debug)]
pub(crate) struct Group {
    id: usize,
    peers: u64,
    received: u64,
    /// Bytes that never came, of all that were sent.
    pub(crate) lost: u64,
}

/// How receivers begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greets {
    /// With the hello of the native dialect, and wait for the answer.
    Native,
    /// They say nothing.
    Nothing,
}

impl Group {
    /// How many receivers there are.
    #[allow(dead_code, reason = "not every bench that shares this asks")]
    pub(crate) fn peers(&self) -> u64 {
        self.peers
    }
}

impl Receivers {
    pub(crate) fn start(taking: Taking) -> Self {
        let exe = std::env::current_exe().expect("this very program");
        let mut child = Command::new(exe)
            .args([receiver_process::FLAG, taking.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let tell = child.stdin.take();
        let hear = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, tell, hear }
    }

    fn ask(&mut self, line: &str) -> Vec<u64> {
        let tell = self.tell.as_mut().expect("a pipe");
        writeln!(tell, "{line}").and_then(|()| tell.flush()).expect("the receivers live");
        let mut answer = String::new();
        self.hear.read_line(&mut answer).expect("the receivers live");
        answer.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    /// Has `peers` receivers dial `addr`.
    pub(crate) fn dial(&mut self, addr: SocketAddr, peers: usize, greets: Greets) -> Group {
        let greets = if greets == Greets::Native { "native" } else { "nothing" };
        let answer = self.ask(&format!("dial {addr} {peers} {greets}"));
        let mut group = Group { id: answer[0] as usize, peers: peers as u64, received: 0, lost: 0 };
        group.received = self.ask(&format!("wait {} 0", group.id))[0];
        group
    }

    /// Has receivers dial a listener of our own; the accepted sockets.
    pub(crate) fn sockets(&mut self, peers: usize) -> (Vec<TcpStream>, Group) {
        let listener = listen();
        let addr = listener.local_addr().expect("an address");
        let accepting = thread::spawn(move || {
            let accept = |_| {
                let (stream, _) = listener.accept().expect("a receiver");
                stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).expect("a socket");
                stream
            };
            (0..peers).map(accept).collect()
        });
        let group = self.dial(addr, peers, Greets::Nothing);
        (accepting.join().expect("all accepted"), group)
    }

    /// How many bytes the receivers have got since the last [`Receivers::settle`].
    pub(crate) fn received(&mut self, group: &Group) -> u64 {
        self.ask(&format!("wait {} 0", group.id))[0] - group.received
    }

    /// Of all that the receivers got, if they look at the order: numbered messages, and those that came after a later one.
    #[allow(dead_code, reason = "only some of the benches that share this number their messages")]
    pub(crate) fn order(&mut self, group: &Group) -> (u64, u64) {
        let answer = self.ask(&format!("order {}", group.id));
        (answer[0], answer[1])
    }

    /// Waits until the receivers have `bytes` more than before; how many they got.
    ///
    /// # Panics
    /// If they got more, or not the same each although none is missing.
    pub(crate) fn settle(&mut self, group: &mut Group, bytes: u64, even: bool) -> u64 {
        let answer = self.ask(&format!("wait {} {}", group.id, group.received + bytes));
        let (total, least, most) = (answer[0], answer[1], answer[2]);
        let got = total - group.received;
        group.received = total;
        assert!(got <= bytes, "{got} bytes came of {bytes} that were sent to {} peers", group.peers);
        group.lost += bytes - got;
        let told_the_same = !even || group.lost > 0 || least == most;
        assert!(told_the_same, "one peer has {least} bytes, another {most}");
        got
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        // The receivers end with their standard input.
        self.tell = None;
        let _ = self.child.wait();
    }
}

fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let addr: SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&addr.into()).and_then(|()| socket.listen(4096)).expect("a port");
    socket.into()
}
