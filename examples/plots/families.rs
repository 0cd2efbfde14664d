//! What is drawn and printed of each family of results. The targets are the figures that the
//! project holds itself to.

use crate::charts::{Bar, Panel, Scale};
use crate::results::{Cell, Results};
use crate::tables::{RATIO, Row, Target, Unit, table, wide};
use Target::{AtLeast, AtMost, Stated};

/// A family: one results file, one plot, one or more tables.
pub(crate) struct Family {
    /// The name of the file and of the plot.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) panels: fn(&Results) -> Vec<Panel>,
    /// Names of markers and texts.
    pub(crate) tables: fn(&Results) -> Vec<(String, String)>,
}

pub(crate) const FAMILIES: [Family; 13] = [
    Family {
        name: "fanout",
        title: "Broadcast: deliveries, of bare pre-batched writes",
        panels: fanout::panels,
        tables: fanout::tables,
    },
    Family {
        name: "paced",
        title: "One message to idle peers: time to receipt",
        panels: paced::panels,
        tables: paced::tables,
    },
    Family {
        name: "votes",
        title: "A vote past 10 MB blocks: time to the remote handler",
        panels: votes::panels,
        tables: votes::tables,
    },
    Family {
        name: "slow_readers",
        title: "Slow readers: what the other peers get",
        panels: slow_readers::panels,
        tables: slow_readers::tables,
    },
    Family {
        name: "relay",
        title: "Relay: 200 B from 8 of 64 peers",
        panels: relay::panels,
        tables: relay::tables,
    },
    Family {
        name: "requests",
        title: "Requests: round trips, of a hand-written ping-pong",
        panels: requests::panels,
        tables: requests::tables,
    },
    Family { name: "idle", title: "19,000 idle connections", panels: idle::panels, tables: idle::tables },
    Family {
        name: "lifecycle",
        title: "Start and stop",
        panels: lifecycle::panels,
        tables: lifecycle::tables,
    },
    Family {
        name: "pool",
        title: "The pool: time to mark a peer as seen",
        panels: pool::panels,
        tables: pool::tables,
    },
    Family { name: "log", title: "The broadcast log in memory", panels: log::panels, tables: log::tables },
    Family {
        name: "timecoin",
        title: "Broadcast over the TIME Coin wire",
        panels: timecoin::panels,
        tables: timecoin::tables,
    },
    Family {
        name: "timecoin_claims",
        title: "The legacy structures: time to mark a peer as seen",
        panels: claims::panels,
        tables: claims::tables,
    },
    Family {
        name: "guard",
        title: "Instructions, of their bounds",
        panels: guard::panels,
        tables: guard::tables,
    },
];

/// The cell of a contender, of a case of which these values are given.
fn find<'a>(results: &'a Results, case: &[(&str, &str)], contender: &str, metric: &str) -> Option<&'a Cell> {
    find_over(results, case, contender, None, metric)
}

/// The same of a ratio.
fn find_ratio<'a>(
    results: &'a Results,
    case: &[(&str, &str)],
    contender: &str,
    over: &str,
    metric: &str,
) -> Option<&'a Cell> {
    find_over(results, case, contender, Some(over), metric)
}

fn find_over<'a>(
    results: &'a Results,
    case: &[(&str, &str)],
    contender: &str,
    over: Option<&str>,
    metric: &str,
) -> Option<&'a Cell> {
    results.cells.iter().find(|cell| {
        cell.contender == contender
            && cell.over.as_deref() == over
            && cell.metric == metric
            && case.iter().all(|(name, value)| cell.case.get(*name).is_some_and(|given| given == value))
    })
}

/// The values of a name in all cases, numbers in their order.
fn values_of(results: &Results, name: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for cell in &results.cells {
        if let Some(value) = cell.case.get(name)
            && !values.contains(value)
        {
            values.push(value.clone());
        }
    }
    if values.iter().all(|value| value.parse::<u64>().is_ok()) {
        values.sort_by_key(|value| value.parse::<u64>().unwrap_or(0));
    }
    values
}

fn bar(cell: Option<&Cell>, divisor: f64) -> Option<Bar> {
    cell.map(|cell| Bar { median: cell.median / divisor, min: cell.min / divisor, max: cell.max / divisor })
}

/// A panel whose bars are found by group and series.
fn panel(
    title: impl Into<String>,
    y_label: &str,
    (groups, series): (&[String], &[&str]),
    scale: Scale,
    find: impl Fn(&str, &str) -> Option<Bar>,
) -> Panel {
    Panel {
        title: title.into(),
        y_label: y_label.to_owned(),
        groups: groups.to_vec(),
        series: series.iter().map(|name| (*name).to_owned()).collect(),
        bars: groups.iter().map(|group| series.iter().map(|name| find(group, name)).collect()).collect(),
        scale,
        target: None,
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// One table named like the family.
fn one(name: &str, rows: &[Row]) -> Vec<(String, String)> {
    vec![(name.to_owned(), table(rows))]
}

fn peers_text(peers: &str) -> String {
    format!("{} peers", crate::tables::grouped(peers))
}

mod fanout {
    use super::*;

    const RATE: &str = "deliveries_per_second";
    const LIMIT: &str = "raw_write_limit";
    const OURS: &str = "peerpool";
    /// Beside the limit and peerpool.
    const ALTERNATIVES: [&str; 4] = ["pea2pea", "channel, batched", "channel, plain", "spawn + lock + JSON"];
    const CPU: Unit = Unit::new(1.0, 3, " s");

    fn size_text(size: &str) -> &str {
        match size {
            "1024" => "1 KiB",
            "65536" => "64 KiB",
            _ => "100 B",
        }
    }

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let peers = values_of(results, "peers");
        let series = [&[OURS][..], &ALTERNATIVES].concat();
        let sizes = values_of(results, "payload_bytes");
        let one = |size: &String| {
            let title = format!("{}, by number of peers", size_text(size));
            panel(title, "of raw writes", (&peers, &series), Scale::Log, |peers, name| {
                let case = [("payload_bytes", size.as_str()), ("peers", peers)];
                bar(find_ratio(results, &case, name, LIMIT, RATE), 1.0)
            })
        };
        sizes.iter().map(one).collect()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let sizes = values_of(results, "payload_bytes");
        let peers = values_of(results, "peers");
        let from_64 = |peers: &str, target| if peers == "8" { Stated } else { target };
        for size in &sizes {
            for peers in &peers {
                let case = [("payload_bytes", size.as_str()), ("peers", peers.as_str())];
                let target = match (size.as_str(), peers.as_str()) {
                    ("100", "8") => AtLeast(0.6),
                    ("100", _) => AtLeast(0.8),
                    _ => Stated,
                };
                let title = format!("{} to {}, of raw writes", size_text(size), peers_text(peers));
                let rate = find(results, &case, OURS, RATE);
                let note = rate.map_or(String::new(), |rate| format!("{:.2} M/s", rate.median / 1e6));
                rows.push(
                    Row::new(title, target, RATIO, find_ratio(results, &case, OURS, LIMIT, RATE)).note(note),
                );
            }
        }
        for peers in &peers {
            let case = [("payload_bytes", "100"), ("peers", peers.as_str())];
            for (other, name, target) in [
                ("pea2pea", "times pea2pea", 10.0),
                ("channel, plain", "times a channel with a write a message", 60.0),
            ] {
                let title = format!("100 B to {}, {name}", peers_text(peers));
                let cell = find_ratio(results, &case, OURS, other, RATE);
                rows.push(Row::new(title, from_64(peers, AtLeast(target)), RATIO, cell));
            }
        }
        for (size, target) in [("1024", 0.9), ("65536", 0.8)] {
            for peers in &peers {
                let case = [("payload_bytes", size), ("peers", peers.as_str())];
                let cells =
                    ALTERNATIVES.iter().filter_map(|other| find_ratio(results, &case, OURS, other, RATE));
                let least = cells.min_by(|a, b| a.median.total_cmp(&b.median));
                let note = least
                    .and_then(|cell| cell.over.clone())
                    .map_or(String::new(), |over| format!("which is {over}"));
                let title = format!("{} to {}, of the best alternative", size_text(size), peers_text(peers));
                rows.push(Row::new(title, AtLeast(target), RATIO, least).note(note));
            }
        }
        for peers in &peers {
            let case = [("payload_bytes", "100"), ("peers", peers.as_str())];
            let metric = "cpu_seconds_per_million";
            let limit = find(results, &case, LIMIT, metric);
            let note = limit.map_or(String::new(), |limit| format!("raw writes {:.3} s", limit.median));
            let title = format!("CPU for a million of 100 B to {}", peers_text(peers));
            rows.push(Row::new(title, Stated, CPU, find(results, &case, OURS, metric)).note(note));
        }
        let columns: Vec<(&String, &String)> =
            sizes.iter().flat_map(|size| peers.iter().map(move |peers| (size, peers))).collect();
        let line = |name: &&str| {
            let value = |(size, peers): &(&String, &String)| {
                let case = [("payload_bytes", size.as_str()), ("peers", peers.as_str())];
                find_ratio(results, &case, name, LIMIT, RATE).map(|cell| cell.median)
            };
            ((*name).to_owned(), columns.iter().map(value).collect())
        };
        let lines: Vec<_> = [&[OURS][..], &ALTERNATIVES].concat().iter().map(line).collect();
        let titles: Vec<String> =
            columns.iter().map(|(size, peers)| format!("{} x {peers}", size_text(size))).collect();
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let all = wide("of raw writes", &titles, &lines, Unit::new(1.0, 3, ""));
        vec![("fanout".to_owned(), table(&rows)), ("fanout_all".to_owned(), all)]
    }
}

mod paced {
    use super::*;

    const LOOP: &str = "loop of writes";
    /// Contenders, and from where they are called.
    const OURS: [(&str, &str); 2] = [
        ("peerpool", "called by a task of the runtime"),
        ("peerpool, outside", "called by a thread outside of it"),
    ];
    const P50: &str = "latency_p50_us";

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let peers = values_of(results, "peers");
        let series = [LOOP, OURS[0].0, OURS[1].0];
        let one = |(title, metric): (&str, &str)| {
            panel(title, "microseconds", (&peers, &series), Scale::Log, |peers, name| {
                bar(find(results, &[("peers", peers)], name, metric), 1.0)
            })
        };
        [("p50, by number of peers", P50), ("p99, by number of peers", "latency_p99_us")].map(one).into()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for (metric, name) in [(P50, "p50"), ("latency_p99_us", "p99"), ("cpu_us_per_broadcast", "CPU")] {
            for (ours, from) in OURS {
                for peers in values_of(results, "peers") {
                    let case = [("peers", peers.as_str())];
                    let bound = metric == P50 && ["64", "256"].contains(&peers.as_str());
                    let target = if bound { AtMost(1.3) } else { Stated };
                    let medians =
                        [ours, LOOP].map(|name| find(results, &case, name, metric).map(|cell| cell.median));
                    let note = match medians {
                        [Some(ours), Some(base)] => format!("{ours:.0} us, the loop {base:.0}"),
                        _ => String::new(),
                    };
                    let title = format!("{}, {from}: {name} over the loop's", peers_text(&peers));
                    let cell = find_ratio(results, &case, ours, LOOP, metric);
                    rows.push(Row::new(title, target, RATIO, cell).note(note));
                }
            }
        }
        one("paced", &rows)
    }
}

mod votes {
    use super::*;

    const P99: &str = "latency_p99_us";
    const IDLE: &str = "idle connection";
    const BULK: [&str; 2] = ["blocks broadcast", "blocks sent"];
    const ENDS: [(&str, &str); 2] = [("reader", "a bare reader"), ("node", "a whole node")];

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let groups = strings(&["reader", "node"]);
        let one = |(title, metric): (&str, &str)| {
            panel(title, "microseconds", (&groups, &[IDLE, BULK[0], BULK[1]]), Scale::Log, |end, name| {
                bar(find(results, &[("remote_end", end)], name, metric), 1.0)
            })
        };
        [("p50, by remote end", "latency_p50_us"), ("p99, by remote end", P99)].map(one).into()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for (end, end_text) in ENDS {
            let case = [("remote_end", end)];
            let median = |name: &str, metric: &str| {
                find(results, &case, name, metric).map_or(f64::NAN, |cell| cell.median)
            };
            for bulk in BULK {
                let cell = find_ratio(results, &case, bulk, IDLE, P99);
                let note = format!("{:.0} us, idle {:.0}", median(bulk, P99), median(IDLE, P99));
                let title = format!("p99, {bulk}, to {end_text}, over an idle connection's");
                rows.push(Row::new(title, AtMost(2.0), RATIO, cell).note(note));
                let cell = find(results, &case, bulk, "block_bytes_per_second");
                let title = format!("{bulk} to {end_text} meanwhile");
                rows.push(Row::new(title, Stated, Unit::new(1e6, 0, " MB/s"), cell));
                let cell = find(results, &case, bulk, "sent_of_due");
                let title = format!("votes sent of those due, {bulk}, to {end_text}");
                rows.push(Row::new(title, Stated, Unit::new(1.0, 3, ""), cell));
            }
        }
        let title = "p99 while four strangers flood with the smallest frames, over that without them";
        rows.push(Row::new(title, AtMost(5.0), RATIO, None));
        one("votes", &rows)
    }
}

mod slow_readers {
    use super::*;

    const CASES: [(&str, &str, &str); 2] = [
        ("63 and 1 not reading", "63 alone", "1 of 64 does not read"),
        ("48 and 16 at 1 %", "48 alone", "16 of 64 read at 1 %"),
    ];
    const STEADY: &str = "messages_per_second";
    const FIRST: &str = "messages_in_first_second";

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let groups = strings(&[CASES[0].2, CASES[1].2]);
        let series = ["once detected", "first second"];
        let mut panel = panel(
            "messages a second",
            "of a run without slow readers",
            (&groups, &series),
            Scale::Linear,
            |group, name| {
                let (case, base, _) = CASES.iter().find(|(_, _, title)| *title == group)?;
                let metric = if name == series[0] { STEADY } else { FIRST };
                bar(find_ratio(results, &[("peers", case)], "peerpool", base, metric), 1.0)
            },
        );
        panel.target = Some((1.0, "without slow readers".to_owned()));
        vec![panel]
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for (case, base, title) in CASES {
            let at = [("peers", case)];
            for (metric, name) in [(STEADY, "once detected"), (FIRST, "first second")] {
                let cell = find_ratio(results, &at, "peerpool", base, metric);
                rows.push(Row::new(
                    format!("{title}: the others, {name}, of a run without"),
                    Stated,
                    RATIO,
                    cell,
                ));
            }
            for (metric, name) in [("held_bytes", "held, by stats"), ("resident_bytes", "resident, peak")] {
                let cell = find(results, &at, "peerpool", metric);
                rows.push(Row::new(format!("{title}: {name}"), Stated, Unit::new(1e6, 1, " MB"), cell));
            }
        }
        one("slow_readers", &rows)
    }
}

mod relay {
    use super::*;

    const WAYS: [(&str, &str); 2] =
        [("full speed", "senders at full speed"), ("all keep up", "senders no faster than all peers read")];

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let groups = strings(&[WAYS[0].0, WAYS[1].0]);
        let one = |(title, metric): (&str, &str)| {
            panel(title, "millions a second", (&groups, &["peerpool"]), Scale::Linear, |group, name| {
                bar(find(results, &[("senders", group)], name, metric), 1e6)
            })
        };
        [("frames received", "frames_per_second"), ("deliveries", "deliveries_per_second")].map(one).into()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for (way, text) in WAYS {
            for (metric, name, unit) in [
                ("frames_per_second", "frames received, duplicates included", Unit::new(1e6, 2, " M/s")),
                ("deliveries_per_second", "deliveries that arrived", Unit::new(1e6, 2, " M/s")),
                ("missed_share", "deliveries missed", Unit::new(0.01, 1, " %")),
                ("cpu_ns_per_frame", "CPU of the node a frame with its deliveries", Unit::new(1e3, 2, " us")),
            ] {
                let cell = find(results, &[("senders", way)], "peerpool", metric);
                rows.push(Row::new(format!("{name}; {text}"), Stated, unit, cell));
            }
        }
        one("relay", &rows)
    }
}

mod requests {
    use super::*;

    const METRIC: &str = "round_trips_per_second";
    const BASE: &str = "ping-pong";
    const OTHERS: [(&str, &str); 3] = [
        ("peerpool", "pipeline"),
        ("ping-pong, tasks", "ping-pong, a task a request"),
        ("peerpool, tasks", "`request`, a task a request"),
    ];

    fn answer_text(bytes: &str) -> &str {
        if bytes == "65536" { "64 KiB" } else { "100 B" }
    }

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let depths = values_of(results, "depth");
        let one = |bytes: &String| {
            let title = format!("answers of {}, by requests in flight", answer_text(bytes));
            let series = OTHERS.map(|(name, _)| name);
            let mut panel =
                panel(title, "of the ping-pong", (&depths, &series), Scale::Linear, |depth, name| {
                    let case = [("answer_bytes", bytes.as_str()), ("depth", depth)];
                    bar(find_ratio(results, &case, name, BASE, METRIC), 1.0)
                });
            panel.target = Some((1.0, "ping-pong".to_owned()));
            panel
        };
        values_of(results, "answer_bytes").iter().map(one).collect()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for (name, text) in OTHERS {
            for bytes in values_of(results, "answer_bytes") {
                for depth in values_of(results, "depth") {
                    let case = [("answer_bytes", bytes.as_str()), ("depth", depth.as_str())];
                    let base = find(results, &case, BASE, METRIC).map_or(f64::NAN, |cell| cell.median);
                    let cell = find_ratio(results, &case, name, BASE, METRIC);
                    let title =
                        format!("{text}: {} answers, {depth} in flight, of a ping-pong", answer_text(&bytes));
                    rows.push(
                        Row::new(title, Stated, RATIO, cell).note(format!("ping-pong {:.0} k/s", base / 1e3)),
                    );
                }
            }
        }
        one("requests", &rows)
    }
}

mod idle {
    use super::*;

    const TOKIO: &str = "tokio, a task each";
    const KINDS: [&str; 3] = [TOKIO, "peerpool", "pea2pea"];
    const BYTES: Unit = Unit::new(1.0, 0, " B");

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let groups = strings(&["allocated", "once used", "resident"]);
        let bytes = panel("bytes a connection", "bytes", (&groups, &KINDS), Scale::Log, |group, name| {
            let metric = match group {
                "allocated" => "allocated_bytes_per_connection",
                "once used" => "allocated_bytes_once_used",
                _ => "resident_bytes_per_connection",
            };
            bar(find(results, &[], name, metric), 1.0)
        });
        let accepted = panel(
            "accepted a second",
            "connections",
            (&strings(&["accepted"]), &KINDS),
            Scale::Linear,
            |_, name| bar(find(results, &[], name, "accepted_per_second"), 1.0),
        );
        vec![bytes, accepted]
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let accepted = "accepted_per_second";
        let ratio = |name: &str| find_ratio(results, &[], name, TOKIO, accepted);
        let of = |name: &str, metric: &str| find(results, &[], name, metric);
        let allocated = "allocated_bytes_per_connection";
        let text = |metric: &str| {
            let others =
                [KINDS[0], KINDS[2]].map(|name| of(name, metric).map_or(f64::NAN, |cell| cell.median));
            format!("tokio's loop {:.0}, pea2pea {:.0}", others[0], others[1])
        };
        let mut rows = vec![
            Row::new(
                "connections accepted a second, of a bare tokio loop",
                AtLeast(0.8),
                RATIO,
                ratio("peerpool"),
            ),
            Row::new("pea2pea: the same", Stated, RATIO, ratio("pea2pea")),
            Row::new("allocated, a connection", AtMost(1536.0), BYTES, of("peerpool", allocated))
                .note(text(allocated)),
        ];
        for (metric, title, unit) in [
            ("allocated_bytes_once_used", "allocated, a connection that was used once", BYTES),
            ("resident_bytes_per_connection", "resident, a connection", BYTES),
            ("server_cpu_us_per_connection", "CPU to accept a connection", Unit::new(1.0, 0, " us")),
        ] {
            rows.push(Row::new(title, Stated, unit, of("peerpool", metric)).note(text(metric)));
        }
        for pings in ["without pings", "pings every 15 s"] {
            let idle = values_of(results, "idle");
            let most = idle.last().map_or("0", String::as_str);
            let rest = idle.iter().rev().nth(1).map_or("0", String::as_str);
            for (active, idle, title) in [
                ("100", "0", "100 active connections alone"),
                ("100", rest, "100 active beside the idle ones"),
                ("0", most, "only idle ones"),
            ] {
                let case = [("pings", pings), ("active", active), ("idle", idle)];
                let cell = find(results, &case, "peerpool", "cpu_ms_per_second");
                rows.push(Row::new(
                    format!("CPU of {title}, {pings}"),
                    Stated,
                    Unit::new(1.0, 0, " ms/s"),
                    cell,
                ));
            }
        }
        one("idle", &rows)
    }
}

mod lifecycle {
    use super::*;

    const FIGURES: [(&str, &str); 2] = [
        ("shutdown_ms", "a node with 1,000 live peers shuts down"),
        ("mesh_start_ms", "a mesh of 200 nodes starts"),
    ];

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let one = |(metric, title): (&str, &str)| {
            panel(
                title,
                "milliseconds",
                (&strings(&["peerpool"]), &["peerpool"]),
                Scale::Linear,
                |_, name| bar(find(results, &[], name, metric), 1.0),
            )
        };
        FIGURES.map(one).into()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let row = |(metric, title): (&str, &str)| {
            Row::new(title, Stated, Unit::new(1.0, 0, " ms"), find(results, &[], "peerpool", metric))
        };
        one("lifecycle", &FIGURES.map(row))
    }
}

mod pool {
    use super::*;

    const METRIC: &str = "ns_per_mark";
    const BY_KEY: &str = "pool, by key";
    const BY_HANDLE: &str = "pool, by handle";
    const SHARED: &str = "DashMap<K, Arc<entry>>";
    /// The same map, marked by a compare-exchange as the pool marks, so that no mark is lost to the
    /// reaper.
    const EXCHANGED: &str = "DashMap<K, Arc<entry>>, exchange";
    const NS: Unit = Unit::new(1.0, 1, " ns");
    const CONTENDERS: [&str; 11] = [
        BY_KEY,
        BY_HANDLE,
        SHARED,
        EXCHANGED,
        "DashMap<K, AtomicU64>",
        "papaya, entry inline",
        "scc HashIndex<K, Arc<entry>>",
        "parking_lot RwLock<HashMap>",
        "tokio RwLock<HashMap>, unified",
        "tokio RwLock<HashMap>, our hasher",
        "three tokio RwLock<HashMap>",
    ];
    const SITUATIONS: [(&str, &str); 4] = [("1", "no"), ("2", "no"), ("1", "yes"), ("2", "yes")];

    fn situation(threads: &str, churn: &str) -> String {
        let threads = if threads == "1" { "one thread" } else { "two threads" };
        if churn == "yes" { format!("{threads}, churn") } else { threads.to_owned() }
    }

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let peers = values_of(results, "peers");
        let one = |(threads, churn): (&str, &str)| {
            let title = format!("{}, by number of peers", situation(threads, churn));
            panel(title, "nanoseconds", (&peers, &CONTENDERS), Scale::Log, |peers, name| {
                let case = [("peers", peers), ("threads", threads), ("churn", churn)];
                bar(find(results, &case, name, METRIC), 1.0)
            })
        };
        [SITUATIONS[0], SITUATIONS[1]].map(one).into()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let peers = values_of(results, "peers");
        let most = peers.last().map_or("", String::as_str);
        let figure = |metric: &str| find(results, &[("peers", most)], "pool", metric);
        let mut rows = vec![
            Row::new("mark by handle, 200 peers in cache", AtMost(3.0), NS, figure("mark_by_handle_ns")),
            Row::new("the same, many marks in one tick", Stated, NS, figure("mark_in_one_tick_ns")),
        ];
        for (threads, churn) in SITUATIONS {
            for peers in &peers {
                let case = [("peers", peers.as_str()), ("threads", threads), ("churn", churn)];
                let target = if churn == "no" { AtMost(1.15) } else { Stated };
                for (rival, target, how) in [(SHARED, target, ""), (EXCHANGED, Stated, " that exchanges")] {
                    let title = format!(
                        "mark by key, {}, {}, of a `DashMap` of `Arc`{how}",
                        peers_text(peers),
                        situation(threads, churn)
                    );
                    let medians = [BY_KEY, rival]
                        .map(|name| find(results, &case, name, METRIC).map_or(f64::NAN, |cell| cell.median));
                    let note = format!("{:.1} and {:.1} ns", medians[0], medians[1]);
                    let ratio = find_ratio(results, &case, BY_KEY, rival, METRIC);
                    rows.push(Row::new(title, target, RATIO, ratio).note(note));
                }
            }
        }
        let us = Unit::new(1e3, 1, " us");
        let at_most = peers_text(most);
        rows.extend([
            Row::new(
                format!("sweep of {at_most} that examines each, a peer"),
                AtMost(20.0),
                NS,
                figure("sweep_ns_per_peer"),
            ),
            Row::new(
                "for comparison: one load of each, in that order",
                Stated,
                NS,
                figure("load_ns_per_peer"),
            ),
            Row::new(
                "insert beside such a sweep, p99.9",
                AtMost(1e6),
                us,
                figure("insert_beside_sweep_p999_ns"),
            ),
            Row::new("`stats`, a peer", Stated, NS, figure("stats_ns_per_peer")),
            Row::new("insert and remove one peer", Stated, NS, figure("insert_remove_ns")),
            Row::new("admit, claim, go live, remove", Stated, NS, figure("admit_to_remove_ns")),
        ]);
        for peers in &peers {
            for (name, metric) in [("mark by key", "mark_by_key"), ("insert", "insert")] {
                let metric = format!("{metric}_beside_busy_p999_ns");
                let title = format!("{name} beside a busy thread, {}, p99.9", peers_text(peers));
                rows.push(Row::new(title, Stated, us, find(results, &[("peers", peers)], "pool", &metric)));
            }
        }
        let mut lines = Vec::new();
        for (threads, churn) in SITUATIONS {
            for peers in &peers {
                let case = [("peers", peers.as_str()), ("threads", threads), ("churn", churn)];
                let value = |name: &&str| find(results, &case, name, METRIC).map(|cell| cell.median);
                let title = format!("{}, {}", peers_text(peers), situation(threads, churn));
                lines.push((title, CONTENDERS.iter().map(value).collect()));
            }
        }
        let columns = CONTENDERS.map(|name| format!("`{name}`"));
        let columns = columns.each_ref().map(String::as_str);
        let marks = wide("ns to mark one peer", &columns, &lines, NS);
        vec![("pool".to_owned(), table(&rows)), ("pool_marks".to_owned(), marks)]
    }
}

mod log {
    use super::*;

    /// Short names below the axis, and cases.
    const BARS: [(&str, &str); 6] = [
        ("copy", "copy of 100 B alone"),
        ("lock, fence", "a lock and a fence alone"),
        ("append", "append 100 B, no cursor"),
        ("append\n64 idle", "append 100 B, 64 idle"),
        ("append\n1,024 idle", "append 100 B, 1024 idle"),
        ("delivery\n64 cursors", "delivery 100 B, 64 cursors, bursts of 2000"),
    ];

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let groups = strings(&BARS.map(|(name, _)| name));
        vec![panel("100 B", "nanoseconds", (&groups, &["peerpool"]), Scale::Linear, |group, name| {
            let (_, case) = BARS.iter().find(|(short, _)| *short == group)?;
            bar(find(results, &[("what", case)], name, "ns"), 1.0)
        })]
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let row = |cell: &Cell| {
            let unit = if cell.metric == "ns" {
                Unit::new(1.0, 1, " ns")
            } else {
                Unit::new(1024.0, 0, " KiB a round")
            };
            Row::new(cell.case["what"].clone(), Stated, unit, Some(cell))
        };
        one("log", &results.cells.iter().map(row).collect::<Vec<_>>())
    }
}

mod timecoin {
    use super::*;

    const RATE: &str = "deliveries_per_second";
    const LIMIT: &str = "raw_write_limit";
    const OURS: &str = "peerpool";
    const LEGACY: [&str; 2] = ["cascade", "unified map"];
    const MESSAGES: [(&str, &str); 3] = [
        ("UpdateTip", "`UpdateTip`, 104 B"),
        ("Transaction", "`Transaction`, 347 B"),
        ("BlockProposal", "`BlockProposal`, 1 KiB as 3,679 B"),
    ];

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let groups = strings(&MESSAGES.map(|(name, _)| name));
        let one = |peers: &String| {
            let series = [LIMIT, OURS, LEGACY[0], LEGACY[1]];
            panel(
                peers_text(peers),
                "deliveries a second",
                (&groups, &series),
                Scale::Log,
                |message, name| {
                    bar(find(results, &[("message", message), ("peers", peers)], name, RATE), 1.0)
                },
            )
        };
        values_of(results, "peers").iter().map(one).collect()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for peers in values_of(results, "peers") {
            for (message, text) in MESSAGES {
                let case = [("message", message), ("peers", peers.as_str())];
                let rate =
                    |name: &str| find(results, &case, name, RATE).map_or(f64::NAN, |cell| cell.median / 1e3);
                let note = format!("{:.0} k/s", rate(OURS));
                let title = format!("{text}, {}: of raw writes", peers_text(&peers));
                rows.push(
                    Row::new(title, Stated, RATIO, find_ratio(results, &case, OURS, LIMIT, RATE)).note(note),
                );
                for legacy in LEGACY {
                    let title = format!("{text}, {}: times the {legacy}", peers_text(&peers));
                    let note = format!("{legacy} {:.0} k/s", rate(legacy));
                    rows.push(
                        Row::new(title, Stated, RATIO, find_ratio(results, &case, OURS, legacy, RATE))
                            .note(note),
                    );
                }
            }
            for name in [OURS, LEGACY[0], LEGACY[1]] {
                let cell = find(results, &[("peers", &peers)], name, "overtaken_share");
                let title = format!("tips that came after a later one, {}: {name}", peers_text(&peers));
                rows.push(Row::new(title, Stated, Unit::new(0.01, 1, " %"), cell));
            }
        }
        one("timecoin", &rows)
    }
}

mod claims {
    use super::*;

    const CONTENDERS: [&str; 4] = ["cascade", "unified map", "peerpool, by key", "peerpool, by handle"];
    const METRICS: [(&str, &str); 5] = [
        ("bytes_per_connection", "bytes a connection"),
        ("sweep_nobody_stale_ns_per_peer", "sweep, nobody stale, ns a peer"),
        ("sweep_tenth_stale_ns_per_peer", "sweep, one in ten stale, ns a peer"),
        ("peer_seen_1_threads_ns", "mark seen, one thread, ns"),
        ("peer_seen_2_threads_ns", "mark seen, two threads, ns"),
    ];

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let peers = values_of(results, "peers");
        let one = |(metric, title): (&str, &str)| {
            panel(title, "nanoseconds", (&peers, &CONTENDERS), Scale::Log, |peers, name| {
                bar(find(results, &[("peers", peers)], name, metric), 1.0)
            })
        };
        [METRICS[3], METRICS[4]].map(one).into()
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        for peers in values_of(results, "peers") {
            for (metric, title) in METRICS {
                let value =
                    |name: &&str| find(results, &[("peers", &peers)], name, metric).map(|cell| cell.median);
                lines.push((
                    format!("{title}, {}", peers_text(&peers)),
                    CONTENDERS.iter().map(value).collect(),
                ));
            }
        }
        vec![("timecoin_claims".to_owned(), wide("", &CONTENDERS, &lines, Unit::new(1.0, 1, "")))]
    }
}

mod guard {
    use super::*;

    fn bound(cell: &Cell) -> f64 {
        cell.case.get("bound").and_then(|bound| bound.parse().ok()).unwrap_or(f64::NAN)
    }

    pub(super) fn panels(results: &Results) -> Vec<Panel> {
        let groups: Vec<String> =
            results.cells.iter().map(|cell| cell.case["what"].replace(", ", "\n")).collect();
        let mut panel =
            panel("by callgrind", "of the bound", (&groups, &["peerpool"]), Scale::Linear, |group, _| {
                let cell =
                    results.cells.iter().find(|cell| cell.case["what"].replace(", ", "\n") == group)?;
                bar(Some(cell), bound(cell))
            });
        panel.target = Some((1.0, "bound".to_owned()));
        vec![panel]
    }

    pub(super) fn tables(results: &Results) -> Vec<(String, String)> {
        let row = |cell: &Cell| {
            Row::new(cell.case["what"].clone(), AtMost(bound(cell)), Unit::new(1.0, 0, ""), Some(cell))
        };
        one("guard", &results.cells.iter().map(row).collect::<Vec<_>>())
    }
}
