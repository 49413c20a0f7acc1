//! What was measured, and how far it is from what it should be.

use std::{fmt, time::Duration};

pub const BARE: &str = "bare producer, backlog";
pub const RELAY: &str = "relay, backlog";
pub const HELD: &str = "relay, backlog, a transaction held open";
pub const DEBEZIUM: &str = "Debezium, backlog";
pub const IDLE: &str = "relay, idle";
/// Events a second.
pub const PACES: [u32; 2] = [500, 2_000];

pub const HEAD: &str = "\
| what | events/s | first after | CPU s per million events: program | PostgreSQL | Kafka | peak memory | p50 | p99 | dead rows |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
";

const TARGETS: &str = "
| relay | target | measured | |
| --- | --- | --- | --- |
";

/// One line of the table.
pub struct Row {
    pub name: String,
    pub rate: f64,
    /// From when the program could begin to the first message.
    pub first: Option<Duration>,
    /// CPU time of the program, of PostgreSQL and of Kafka, an event.
    pub cpu: [Duration; 3],
    /// Bytes.
    pub memory: Option<u64>,
    /// p50 and p99.
    pub latency: Option<(Duration, Duration)>,
    pub dead_rows: Option<i64>,
}

/// The relay with nothing to do.
pub struct Idle {
    pub seconds: f64,
    pub transactions: f64,
    /// CPU time of the relay and of PostgreSQL.
    pub cpu: [Duration; 2],
}

/// All that was measured.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
    pub idle: Option<Idle>,
}

/// The name of a row about paced events.
pub fn paced(party: &str, pace: u32) -> String {
    format!("{party}, {pace} events/s")
}

impl Table {
    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn rate(&self, name: &str) -> Option<f64> {
        Some(self.row(name)?.rate)
    }

    /// Lines for those targets whose measurements were made.
    pub fn targets(&self) -> String {
        let (relay, debezium) = (self.row(RELAY), self.row(DEBEZIUM));
        let paces = PACES.iter().filter_map(|pace| self.row(&paced("relay", *pace)));
        let latencies: Vec<_> = paces.filter_map(|row| row.latency).collect();
        let highest = |of: fn(&(Duration, Duration)) -> Duration| latencies.iter().map(of).max();
        let of_relay = self.rows.iter().filter(|row| row.name.starts_with("relay"));
        let (memory, dead_rows): (Vec<_>, Vec<_>) =
            of_relay.filter_map(|row| row.memory.zip(row.dead_rows)).unzip();
        let mebibytes = |bytes: u64| to_f64(bytes >> 10) / 1024.0;
        let cpu = |row: &Row| row.cpu[0].as_secs_f64();
        let lines = [
            target(
                "events/s, to Debezium's",
                "≥ 2.5",
                "",
                ratio(self.rate(RELAY), self.rate(DEBEZIUM)),
                |ratio| ratio >= 2.5,
            ),
            target(
                "CPU time an event, to Debezium's",
                "≤ 0.2",
                "",
                ratio(relay.map(cpu), debezium.map(cpu)),
                |ratio| ratio <= 0.2,
            ),
            target(
                "events/s, to the bare producer's",
                "≥ 0.6",
                "",
                ratio(self.rate(RELAY), self.rate(BARE)),
                |ratio| ratio >= 0.6,
            ),
            target(
                "events/s lost by a transaction held open",
                "< 10",
                " %",
                ratio(self.rate(HELD), self.rate(RELAY)).map(|ratio| 100.0 * (1.0 - ratio)),
                |percent| percent < 10.0,
            ),
            target(
                "peak memory",
                "≤ 64",
                " MiB",
                memory.into_iter().max().map(mebibytes),
                |mebibytes| mebibytes <= 64.0,
            ),
            target(
                "insert → Kafka, p50",
                "≤ 5",
                " ms",
                highest(|latency| latency.0).map(milliseconds),
                |milliseconds| milliseconds <= 5.0,
            ),
            target(
                "insert → Kafka, p99",
                "≤ 15",
                " ms",
                highest(|latency| latency.1).map(milliseconds),
                |milliseconds| milliseconds <= 15.0,
            ),
            target(
                "dead rows in the outbox",
                "0",
                "",
                dead_rows
                    .into_iter()
                    .max()
                    .map(|rows| to_f64(rows.unsigned_abs())),
                |rows| rows == 0.0,
            ),
        ];
        let lines: String = lines.into_iter().flatten().collect();
        let idle = self.idle.as_ref().map(ToString::to_string).unwrap_or_default();
        if lines.is_empty() {
            idle
        } else {
            format!("{TARGETS}{lines}{idle}")
        }
    }
}

fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? / other?)
}

fn target(
    what: &str,
    bound: &str,
    unit: &str,
    measured: Option<f64>,
    met: impl Fn(f64) -> bool,
) -> Option<String> {
    let measured = measured?;
    let verdict = if met(measured) { "met" } else { "missed" };
    Some(format!(
        "| {what} | {bound}{unit} | {measured:.2}{unit} | {verdict} |\n"
    ))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Counts of this size lose nothing.
#[expect(clippy::cast_precision_loss)]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let in_milliseconds = |time: Duration| format!("{:.1} ms", milliseconds(time));
        let [program, postgres, kafka] = self.cpu.map(|time| time.as_secs_f64() * 1e6);
        let (p50, p99) = self.latency.unzip();
        write!(
            f,
            "| {} | {:.0} | {} | {program:.1} | {postgres:.1} | {kafka:.1} | {} | {} | {} | {} |",
            self.name,
            self.rate,
            or_dash(self.first.map(|time| format!("{:.2} s", time.as_secs_f64()))),
            or_dash(self.memory.map(|bytes| format!("{} MiB", bytes >> 20))),
            or_dash(p50.map(in_milliseconds)),
            or_dash(p99.map(in_milliseconds)),
            or_dash(self.dead_rows.map(|rows| rows.to_string())),
        )
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [relay, postgres] = self.cpu.map(|time| 100.0 * time.as_secs_f64() / self.seconds);
        writeln!(
            f,
            "\nIdle for {:.0} s: {:.1} transactions/s in PostgreSQL, {relay:.2} % of a CPU for the relay and {postgres:.2} % for PostgreSQL.",
            self.seconds,
            self.transactions / self.seconds,
        )
    }
}
