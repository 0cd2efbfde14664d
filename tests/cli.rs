//! The `peerpool` command, run as real processes: exit codes, stdout and log.
#![cfg(all(feature = "cli", not(peerpool_loom)))]
#![allow(clippy::unwrap_used)] // clippy exempts only `#[test]` functions, not their helpers

#[path = "common/legacy_node.rs"]
mod legacy_node;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use peerpool::wire::{Hello, Native, Protocol};
use peerpool::{Message, Node, NodeConfig, Nonce};

const WAIT: Duration = Duration::from_secs(20);

fn peerpool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerpool"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    peerpool().args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Sends a signal with the shell's built-in `kill`. The program `kill` is not installed everywhere.
fn signal(to: &Child, name: &str) {
    let kill = ["-c", "kill \"$0\" \"$1\"", name, &to.id().to_string()];
    assert!(Command::new("sh").args(kill).status().unwrap().success());
}

/// Writes a file into a temporary folder.
fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The lines that a process has written so far.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let into = lines.clone();
        thread::spawn(move || {
            BufReader::new(stream)
                .lines()
                .map_while(Result::ok)
                .for_each(|line| into.0.lock().unwrap().push(line));
        });
        lines
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    fn count(&self, matches: impl Fn(&str) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|line| matches(line)).count()
    }

    /// Waits until `times` lines match, and returns how long that took.
    fn wait(&self, times: usize, matches: impl Fn(&str) -> bool) -> Duration {
        let begun = Instant::now();
        while self.count(&matches) < times {
            assert!(begun.elapsed() < WAIT, "fewer than {times} lines match:\n{}", self.text());
            thread::sleep(Duration::from_millis(5));
        }
        begun.elapsed()
    }
}

/// A process that is killed when dropped.
struct Running {
    child: Child,
    out: Lines,
    log: Lines,
}

impl Running {
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, log) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { child, out: Lines::of(out), log: Lines::of(log) }
    }

    fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits until the process ends, and returns its exit code.
    fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < WAIT, "the process does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `peerpool node`.
struct RunningNode {
    process: Running,
    addr: SocketAddr,
}

impl RunningNode {
    fn start(args: &[&str]) -> Self {
        let mut command = peerpool();
        command.arg("node").args(args);
        let mut process = Running::spawn(command);
        let begun = Instant::now();
        while process.out.count(|_| true) == 0 && process.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < WAIT, "the node does not start");
            thread::sleep(Duration::from_millis(5));
        }
        let first = process.out.text();
        let addr = first.lines().next().and_then(|line| line.strip_prefix("listening "));
        let addr = addr.unwrap_or_else(|| panic!("the first line is {first:?}: {}", process.log.text()));
        Self { addr: addr.parse().unwrap(), process }
    }

    fn count(&self, words: &[&str]) -> usize {
        self.process.log.count(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Waits for a log line with all these words, and returns how long that took.
    fn logs(&self, words: &[&str]) -> Duration {
        self.logs_times(words, 1)
    }

    fn logs_times(&self, words: &[&str], times: usize) -> Duration {
        self.process.log.wait(times, |line| words.iter().all(|word| line.contains(word)))
    }

    fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Ends the node with a signal, and returns its exit code.
    fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.process.code()
    }
}

#[test]
fn a_small_mesh_delivers_everything_once_and_reports_it_as_json() {
    let output = run(&["mesh", "--nodes", "4", "--degree", "3", "--seconds", "2", "--json"]);
    let (out, err) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{out}\n{err}");
    let json: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let keys: BTreeSet<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = "nodes connections seconds interrupted broadcasts expected delivered lost duplicates redundant promised_share \
                  deliveries_per_s latency_ms requests reconnects reaped leaked pool";
    assert_eq!(keys, wanted.split_whitespace().collect());
    let below = |key: &str| -> BTreeSet<String> { json[key].as_object().unwrap().keys().cloned().collect() };
    let named = |names: &str| -> BTreeSet<String> { names.split_whitespace().map(str::to_owned).collect() };
    assert_eq!(below("latency_ms"), named("p50 p99 max"));
    assert_eq!(below("requests"), named("sent answered failed p50_ms p99_ms"));
    assert_eq!(below("leaked"), named("permits connections peers tasks"));
    assert!(below("pool").contains("total_connections"));
    assert_eq!((&json["nodes"], &json["interrupted"]), (&4.into(), &false.into()));
    assert_eq!(json["promised_share"], 1.0);
    assert_all_delivered_and_answered(&json);
}

#[test]
fn a_mesh_over_the_timecoin_protocol_delivers_everything_once() {
    let output = run(&["mesh", "--timecoin", "--nodes", "4", "--degree", "3", "--seconds", "2", "--json"]);
    let (out, err) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{out}\n{err}");
    assert_all_delivered_and_answered(&serde_json::from_str(out.lines().last().unwrap()).unwrap());
}

fn assert_all_delivered_and_answered(json: &serde_json::Value) {
    assert_eq!((&json["lost"], &json["duplicates"]), (&0.into(), &0.into()));
    assert_eq!(json["expected"], json["delivered"]);
    assert!(json["expected"].as_u64().unwrap() > 500);
    let requests = &json["requests"];
    assert_eq!((&requests["failed"], &requests["answered"]), (&0.into(), &requests["sent"]));
    assert!(requests["sent"].as_u64().unwrap() > 0);
}

/// Starts a mesh for ten minutes and waits until it has delivered a message.
fn start_long_mesh(args: &[&str]) -> Running {
    let mut command = peerpool();
    command.args(["mesh", "--nodes", "3", "--degree", "2", "--seconds", "600"]).args(args);
    let mesh = Running::spawn({
        command.env("RUST_LOG", "peerpool::mesh=debug");
        command
    });
    mesh.log.wait(1, |line| line.contains("traffic") && !line.contains("delivered=0"));
    mesh
}

#[test]
fn an_interrupted_mesh_still_accounts_for_what_it_sent() {
    for (signal, args) in [("-INT", &["--json"][..]), ("-TERM", &["--json", "--chaos"])] {
        let mut mesh = start_long_mesh(args);
        mesh.signal(signal);
        assert_eq!(mesh.code(), Some(0), "{}\n{}", mesh.out.text(), mesh.log.text());
        mesh.out.wait(1, |line| line.starts_with('{'));
        let out = mesh.out.text();
        assert!(out.contains("\ncut short "), "{out}");
        let json: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!(json["interrupted"], true);
        assert!(json["seconds"].as_f64().unwrap() < 60.0);
        assert_eq!((&json["lost"], &json["duplicates"]), (&0.into(), &0.into()));
        assert!(json["expected"].as_u64().unwrap() > 0);
        assert_eq!(json["leaked"]["tasks"], 0);
    }
}

#[test]
fn a_mesh_that_is_interrupted_twice_ends_at_once() {
    let mut mesh = start_long_mesh(&[]);
    mesh.signal("-INT");
    // A complete account would take five seconds, the delivery window.
    mesh.log.wait(1, |line| line.starts_with("interrupt: no more traffic"));
    let begun = Instant::now();
    mesh.signal("-INT");
    assert_eq!(mesh.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    mesh.log.wait(1, |line| line.starts_with("error: ") && line.contains("twice"));
    assert_eq!(mesh.out.text(), "");
}

#[test]
fn every_subcommand_has_help_with_examples() {
    for args in [
        &["--help"][..],
        &["mesh", "--help"],
        &["node", "--help"],
        &["ping", "--help"],
        &["config", "--help"],
    ] {
        let output = run(args);
        assert!(output.status.success());
        assert!(stdout(&output).contains("Examples:"), "{args:?}");
    }
    assert!(stdout(&run(&["mesh", "--help"])).contains("[default: 16]"));
    assert_eq!(stdout(&run(&["--version"])), concat!("peerpool ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(run(&["mesh", "--nodes", "1"]).status.code(), Some(2));
    assert_eq!(run(&["node"]).status.code(), Some(2), "no listen address");
    assert_eq!(run(&["nonsense"]).status.code(), Some(2));
    for (args, message) in [
        (&["ping", "no-port"][..], "a port is missing"),
        (&["node", "--listen", "127.0.0.1:0", "--peer", "no-port"], "a port is missing"),
        (&["node", "--listen", "127.0.0.1:0", "--peer", "127.0.0.010:9000"], "looks like an address"),
        (&["ping", "0x7f000001:9000"], "looks like an address"),
        (&["ping", "127.0.0.1:9000", "--timeout", "0s"], "at least a millisecond"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
}

#[test]
fn the_printed_config_starts_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let printed = run(&["config"]);
    assert!(printed.status.success());
    let path = file(&folder, "node.toml", &stdout(&printed));
    let node = RunningNode::start(&["--listen", "127.0.0.1:0", "--config", path.to_str().unwrap()]);
    node.logs(&["limit of open files", "now="]);
    assert_eq!(node.end("-TERM"), Some(0));
}

/// Returns whether the process has installed a handler for a signal.
#[cfg(target_os = "linux")]
fn catches(child: &Child, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(target_os = "linux")]
#[test]
fn a_node_that_has_not_started_yet_ends_on_a_signal() {
    for (name, number) in [("-INT", 2), ("-TERM", 15)] {
        let mut command = peerpool();
        // The node waits for the end of the configuration, which never comes.
        command.args(["node", "--listen", "127.0.0.1:0", "--config", "/dev/stdin"]).stdin(Stdio::piped());
        let mut node = Running::spawn(command);
        let begun = Instant::now();
        while !catches(&node.child, number) {
            assert!(begun.elapsed() < WAIT, "no handler is installed: {}", node.log.text());
            thread::sleep(Duration::from_millis(5));
        }
        node.signal(name);
        assert_eq!(node.code(), Some(0), "{}", node.log.text());
        assert_eq!(node.out.text(), "");
    }
}

#[test]
fn a_failed_start_is_explained_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, "bad.toml", "[runtime]\nping_intervl = \"1s\"\n");
    let book = file(&folder, "bad.redb", "this is no book");
    let other = RunningNode::start(&["--listen", "127.0.0.1:0"]);
    let taken = other.addr.to_string();
    let cases = [
        (
            vec!["--config", config.to_str().unwrap()],
            "`runtime.ping_intervl`; did you mean `runtime.ping_interval`?",
        ),
        (vec!["--config", "/nowhere/at/all"], "/nowhere/at/all"),
        (vec!["--book", book.to_str().unwrap()], "is not an address book"),
        (vec!["--listen", &taken], "the address is in use"),
    ];
    for (args, wanted) in cases {
        let output = run(&[&["node", "--listen", "127.0.0.1:0"][..], &args].concat());
        let err = stderr(&output);
        let errors: Vec<_> = err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(errors.len() == 1 && errors[0].contains(wanted), "{wanted}: {err}");
        assert!(output.stdout.is_empty(), "the node must not listen");
    }
}

#[test]
fn a_peer_whose_name_does_not_resolve_stops_nothing() {
    let one = RunningNode::start(&["--listen", "127.0.0.1:0"]);
    let config = "[runtime.discovery]\nallow_private = true\n";
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, "node.toml", config);
    let peers = ["--peer", "no.such.name.invalid:9000", &one.addr.to_string()];
    let config = ["--config", config.to_str().unwrap()];
    let two = RunningNode::start(&[&["--listen", "127.0.0.1:0"][..], &config, &peers].concat());
    two.logs(&["a name does not resolve"]);
    two.logs(&["peer up"]);
    assert_eq!(two.end("-INT"), Some(0));
}

#[test]
fn two_nodes_connect_and_answer_pings() {
    let one = RunningNode::start(&["--listen", "127.0.0.1:0"]);
    let two = RunningNode::start(&["--listen", "127.0.0.1:0", "--peer", &one.addr.to_string()]);
    one.logs(&["peer up"]);
    two.logs(&["peer up"]);
    for node in [&one, &two] {
        let output = run(&["ping", &node.addr.to_string(), "--count", "3", "--interval", "20ms"]);
        let out = stdout(&output);
        assert!(output.status.success(), "{out}\n{}", stderr(&output));
        assert_eq!(out.matches("pong from").count(), 3, "{out}");
        assert!(out.contains("rtt min/avg/max"), "{out}");
    }
    assert_eq!(two.end("-INT"), Some(0));
    one.logs(&["peer down", "Shutdown"]);
    assert_eq!(one.end("-TERM"), Some(0));
}

#[test]
fn an_interrupted_ping_prints_its_summary() {
    let node = RunningNode::start(&["--listen", "127.0.0.1:0"]);
    let mut command = peerpool();
    // The name may have more addresses than the node listens on.
    command.args([
        "ping",
        &format!("localhost:{}", node.addr.port()),
        "--count",
        "100000",
        "--interval",
        "20ms",
    ]);
    let mut ping = Running::spawn(command);
    ping.out.wait(2, |line| line.starts_with("pong from"));
    ping.signal("-INT");
    assert_eq!(ping.code(), Some(0), "{}", ping.log.text());
    ping.out.wait(1, |line| line.starts_with("rtt min/avg/max"));
    assert_eq!(ping.out.count(|line| line.contains(" 0 % lost")), 1, "{}", ping.out.text());
}

#[test]
fn a_failed_ping_is_explained() {
    let other_service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = other_service.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in other_service.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.write_all(b"220 mail.example.org ESMTP\r\n");
            let _ = stream.read(&mut [0; 512]);
        }
    });
    let node = RunningNode::start(&["--listen", "127.0.0.1:0"]);
    let node_addr = node.addr.to_string();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let cases = [
        (vec!["ping", &free], "connection refused"),
        (vec!["ping", &other], "not our protocol"),
        (
            vec!["ping", &node_addr, "--network", "9"],
            "it is of network 0, and this command asked for 9 (see --network)",
        ),
    ];
    for (args, wanted) in cases {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(wanted), "{wanted}: {}", stderr(&output));
    }
}

/// Detects failures and reconnects within three seconds, even on a machine that is busy with other
/// tests.
const QUICK: &str = "\
[runtime]
ping_interval = \"200ms\"
maintenance_interval = \"50ms\"
handshake_timeout = \"1s\"
write_stall_timeout = \"1s\"
[runtime.liveness]
stale_after = \"1s\"
[tcp]
send_buffer = \"64 KiB\"
[book.backoff]
base = \"200ms\"
cap = \"500ms\"
";

/// Tolerates silent peers, but soon disconnects peers that accept no data.
const STERN: &str = "\
[runtime]
maintenance_interval = \"50ms\"
handshake_timeout = \"1s\"
write_stall_timeout = \"1s\"
[tcp]
send_buffer = \"64 KiB\"
";

#[test]
fn a_killed_node_is_noticed_and_reconnects() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, "quick.toml", QUICK);
    let config = config.to_str().unwrap();
    let one = RunningNode::start(&["--listen", "127.0.0.1:0", "--config", config]);
    let (addr, book) = (one.addr.to_string(), folder.path().join("two.redb"));
    let two_args = ["--peer", &addr, "--config", config, "--book", book.to_str().unwrap()];
    let two = RunningNode::start(&[&["--listen", "127.0.0.1:0"], &two_args[..]].concat());
    let two_addr = two.addr.to_string();
    one.logs(&["peer up"]);
    two.logs(&["peer up"]);

    // Killed: the operating system closes its sockets.
    assert_eq!(two.end("-KILL"), None);
    let noticed = one.logs(&["peer down"]);
    assert!(noticed < Duration::from_secs(3), "noticed after {noticed:?}");

    // Restarted at its address: it reconnects.
    let ups = one.count(&["peer up"]);
    let two = RunningNode::start(&[&["--listen", &two_addr], &two_args[..]].concat());
    assert_eq!(two.addr.to_string(), two_addr);
    one.logs_times(&["peer up"], ups + 1);
    two.logs(&["peer up"]);

    // Stopped: its sockets stay open, so only the missing pongs reveal it.
    let downs = one.count(&["peer down"]);
    two.signal("-STOP");
    let noticed = one.logs_times(&["peer down"], downs + 1);
    assert!(noticed < Duration::from_secs(8), "noticed after {noticed:?}");
    assert_eq!(one.count(&["reaped"]), 1);
    two.signal("-CONT");
    one.logs_times(&["peer up"], ups + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legacy_nodes_exchange_messages_through_the_command_in_both_directions() {
    use legacy_node::{ConnectionSetup, LegacyNode, Timing, What, sample};
    // No other process uses this address.
    let process = std::process::id();
    let ours = SocketAddr::from(([127, 128 + (process >> 8 & 0x7f) as u8, process as u8, 255], 24_100));
    let dialled = LegacyNode::start(ConnectionSetup::full(41, Timing::faster(10))).await;
    let dialling = LegacyNode::start(ConnectionSetup::new(42, Timing::faster(10)).dials_from_itself()).await;
    let to = dialled.addr().to_string();
    let started = tokio::task::spawn_blocking(move || {
        RunningNode::start(&["--network", "testnet", "--timecoin", &ours.to_string(), "--peer", &to])
    });
    let node = started.await.unwrap();
    assert_eq!(node.addr, ours);
    dialling.connect_to_peer(ours).await.unwrap();
    dialled.record().until(WAIT, |record| record.when(|what| *what == What::Pooled).is_some()).await;
    // The dialling node reads nothing at first, but its pings are answered at once.
    dialling.record().until(WAIT, |record| record.counts(ours.ip()).pings_ok > 0).await;
    let tip = sample("TransactionBroadcast");
    dialling.send_to_peer_tcp(ours.ip(), tip).await.unwrap();
    let heard = |record: &legacy_node::Record| {
        record.entries().iter().any(
            |entry| matches!(&entry.what, What::Got(message, legacy_node::FrameFate::Read) if message.text == tip),
        )
    };
    dialled.record().until(WAIT, heard).await;
    let counts = dialled.counts(std::net::IpAddr::from([127, 0, 0, 1]));
    assert!(
        counts.unreadable == 0 && counts.got.iter().any(|name| name == "TransactionBroadcast"),
        "{counts:?}"
    );
    assert_eq!(node.count(&["peer down"]), 0);
    let ended = tokio::task::spawn_blocking(move || node.end("-TERM"));
    assert_eq!(ended.await.unwrap(), Some(0));
}

/// Encodes a hello that any node accepts.
fn hello() -> Vec<u8> {
    let mut nonce = [7u8; 16];
    nonce[..4].copy_from_slice(&std::process::id().to_le_bytes());
    let hello = Hello {
        version: Native::VERSION,
        network: 0,
        nonce: Some(Nonce(nonce)),
        features: 0,
        listen: None,
        agent: "hostile".into(),
        genesis: None,
        app: Bytes::new(),
    };
    let mut out = BytesMut::new();
    Native::default().encode_hello(&hello, &mut out).unwrap();
    out.to_vec()
}

/// Connects and writes these bytes. The connection lasts as long as the stream.
fn connect_and_write(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn name(stream: &TcpStream) -> String {
    stream.local_addr().unwrap().to_string()
}

#[test]
fn hostile_clients_cost_a_node_their_own_connections_only() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, "stern.toml", STERN);
    let node = RunningNode::start(&["--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let good = runtime.block_on(async {
        let mut config = NodeConfig::local();
        config.runtime.target_outbound = 0;
        let good = Node::builder().config(config).start().await.unwrap();
        good.connect(node.addr).await.unwrap();
        good
    });
    let garbage = connect_and_write(node.addr, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
    let oversize_hello = connect_and_write(node.addr, &[&Native::MAGIC[..], &[1, 0xff, 0xff]].concat());
    let half_open = connect_and_write(node.addr, &hello()[..9]);
    let silent = connect_and_write(node.addr, b"");
    // A valid hello, then a frame header that announces 16 MiB.
    let oversize = connect_and_write(node.addr, &[&hello()[..], &[0xff, 0xff, 0xff, 0x01]].concat());
    node.logs(&["inbound refused", &name(&garbage), "does not begin with this protocol's magic"]);
    node.logs(&["inbound refused", &name(&oversize_hello), "a first frame of 65542 bytes"]);
    node.logs(&["peer down", &name(&oversize), "a frame of 16777215 bytes"]);
    node.logs(&["inbound refused", &name(&half_open), "the handshake took too long"]);
    node.logs(&["inbound refused", &name(&silent), "the handshake took too long"]);

    // A peer that never reads, while the good peer broadcasts through the node.
    let stalled = connect_and_write(node.addr, &hello());
    node.logs(&["peer up", &name(&stalled)]);
    let begun = Instant::now();
    let mut number = 0u64;
    while node.count(&["peer down", &name(&stalled)]) == 0 {
        assert!(begun.elapsed() < WAIT, "the stalled peer is not disconnected");
        for _ in 0..20 {
            number += 1;
            let mut payload = vec![0; 8 * 1024];
            payload[..8].copy_from_slice(&number.to_le_bytes());
            good.broadcast(&Message::new(1, payload)).unwrap();
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(node.count(&["peer down", &name(&stalled), "overloaded"]), 1, "the reason must be named");

    assert_eq!(good.roster().iter().count(), 1, "the good peer must stay connected");
    assert_eq!(node.count(&["peer down"]), 2, "only the two hostile peers that completed the handshake");
    let output = run(&["ping", &node.addr.to_string(), "--count", "1"]);
    assert!(output.status.success(), "the node must serve others: {}", stderr(&output));
    runtime.block_on(good.shutdown(Duration::from_secs(1)));
    assert_eq!(node.end("-TERM"), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_failed_write_to_stdout_is_a_failure() {
    for args in [&["config"][..], &["mesh", "--nodes", "2", "--degree", "1", "--seconds", "1"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = peerpool().args(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains("stdout: "), "{}", stderr(&output));
    }
}

/// Starts a node whose stderr the test chooses. Returns the process and its address.
fn node_with_stderr(stderr: Stdio) -> (Child, SocketAddr) {
    let mut command = peerpool();
    command.args(["node", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(stderr);
    // More than a pipe holds.
    command.env("RUST_LOG", "trace");
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let addr = first.trim().strip_prefix("listening ").expect(&first).parse().unwrap();
    (child, addr)
}

/// So many handshakes, one after the other.
fn shake_hands(addr: SocketAddr, times: u8) {
    for nonce in 1..=times {
        let mut bytes = BytesMut::new();
        Native::default()
            .encode_hello(&Hello::new(Native::VERSION, 0, Nonce([nonce; 16])), &mut bytes)
            .unwrap();
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut answer = [0; 64];
        assert!(stream.read(&mut answer).expect("the node lives") > 0, "handshake {nonce}");
    }
}

#[test]
fn a_log_that_nobody_takes_costs_lines_and_not_the_node() {
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    for (name, stderr) in [("full", full()), ("not read", Stdio::piped())] {
        let (mut child, addr) = node_with_stderr(stderr);
        let kept = child.stderr.take();
        for _ in 0..4 {
            shake_hands(addr, 250);
        }
        signal(&child, "-TERM");
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            assert!(begun.elapsed() < WAIT, "{name}: the node does not end");
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(code, Some(0), "{name}");
        if let Some(mut kept) = kept {
            let mut log = Vec::new();
            kept.read_to_end(&mut log).unwrap();
            assert!(log.len() >= 60_000, "{name}: {} bytes do not fill a pipe", log.len());
        }
    }
}

#[test]
fn strangers_cause_a_few_log_lines_a_second_and_a_summary() {
    let node = RunningNode::start(&["--listen", "127.0.0.1:0"]);
    let begun = Instant::now();
    shake_hands(node.addr, 250);
    shake_hands(node.addr, 250);
    node.logs(&["more of kind `peer down` from 1 sources"]);
    let lines = node.process.log.count(|_| true);
    let most = 6 * (20 + 2 * (begun.elapsed().as_secs() as usize + 1));
    assert!(lines <= most, "{lines} lines for 500 handshakes:\n{}", node.process.log.text());
    assert_eq!(node.end("-HUP"), Some(0), "SIGHUP ends the node in good order");
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(peerpool().arg("--help").stdout(full).status().unwrap().code(), Some(1));
}

#[test]
fn a_configuration_without_end_is_refused() {
    let output = run(&["config", "--config", "/dev/zero"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/dev/zero: is larger than 1048576 bytes"), "{}", stderr(&output));
}
