//! The attacked node, in a process of its own: this program again, with `victim_process` as its
//! only test.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use peerpool::{
    Context, Event, Handled, Handler, Node, NodeConfig, Request, Responder, address_book, test_util,
};
use serde_json::Value;

/// The setup of the child process, as one JSON object.
const SETUP: &str = "PEERPOOL_ATTACK_SETUP";
/// Begins the lines of the child that are meant for its parent.
const MARK: &str = "@victim ";
/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a scenario changes in the recommended settings.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Setup {
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) max_inbound: Option<u32>,
    pub(crate) memory_limit: Option<usize>,
}

pub(crate) struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) addr: SocketAddr,
}

impl Victim {
    pub(crate) fn start(setup: &Setup) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("the path of this program"))
            .args(["victim_process", "--exact", "--ignored", "--nocapture"])
            .env(SETUP, serde_json::to_string(setup).expect("plain data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut victim = Self { child, stdin, stdout, addr: SocketAddr::from(([0; 4], 0)) };
        victim.addr = victim.read_answer().as_str().and_then(|addr| addr.parse().ok()).expect("an address");
        victim
    }

    fn read_answer(&mut self) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.stdout.read_line(&mut line).expect("a pipe") > 0, "the victim has died");
            if let Some(answer) = line.strip_prefix(MARK) {
                return serde_json::from_str(answer).expect("JSON");
            }
        }
    }

    pub(crate) fn ask(&mut self, command: &str) -> Value {
        let stdin = self.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{command}").expect("the victim lives");
        self.read_answer()
    }

    /// One figure of the victim's statistics, by its path.
    pub(crate) fn figure(&mut self, path: &str) -> u64 {
        let stats = self.ask("stats");
        stats.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no figure {path} in {stats}"))
    }

    /// Waits until a figure is at least `least`.
    pub(crate) fn wait_for(&mut self, path: &str, least: u64) {
        let since = Instant::now();
        loop {
            let figure = self.figure(path);
            if figure >= least {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{path} is {figure}, not {least}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It ends when its standard input does.
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// Relays events and repeats requests.
struct App;

impl Handler for App {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let _ = cx.node().relay(&event.into_message(), Some(cx.peer()));
        Handled::Done
    }

    fn request(&self, _: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let _ = responder.respond(request.payload.into_bytes());
        Handled::Done
    }
}

pub(crate) fn run() {
    let Ok(setup) = std::env::var(SETUP) else { return };
    let setup: Setup = serde_json::from_str(&setup).expect("a setup");
    test_util::treat_loopback_as_public(true);
    let mut config = NodeConfig::recommended();
    config.listen.push(SocketAddr::from(([127, 1, 1, 1], 0)));
    config.seeds = setup.seeds.into_iter().map(Into::into).collect();
    if let Some(max_inbound) = setup.max_inbound {
        config.runtime.limits.max_inbound = max_inbound;
    }
    if let Some(memory_limit) = setup.memory_limit {
        config.runtime.memory_limit = memory_limit;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(Node::builder().config(config).handler(App).start()).expect("a node");
    answer(&Value::from(node.local_addrs()[0].to_string()));
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        answer(&match line.as_str() {
            "stats" => serde_json::to_value(node.stats()).expect("plain data"),
            "peers" => node.roster().iter().map(|peer| peer.addr().to_string()).collect::<Vec<_>>().into(),
            other => match other.strip_prefix("learn ") {
                Some(addr) => {
                    let addr = addr.parse().expect("an address");
                    node.book()
                        .add(addr, address_book::ReportedBy::Seed, address_book::WallTime::now())
                        .is_ok()
                        .into()
                }
                None => panic!("{other}"),
            },
        });
    }
    runtime.block_on(node.shutdown(Duration::from_secs(1)));
}

fn answer(value: &Value) {
    // A line of its own: the test runner may have begun one.
    println!("\n{MARK}{value}");
}
