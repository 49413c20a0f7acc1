//! What was measured, and how far it is from what it should be.

use std::{fmt, fmt::Write as _, time::Duration};

use super::chain::Freshness;

pub const BARE: &str = "bare loader";
pub const INDEXER: &str = "indexer";
pub const FLINK: &str = "Flink SQL";
/// Not a row: a sentence.
pub const CHAIN: &str = "chain";

pub const HEAD: &str = "\
| what | documents/s | CPU s per million documents: program | Elasticsearch | Kafka | peak memory |
| --- | --- | --- | --- | --- | --- |
";

const MIB: f64 = 1024.0 * 1024.0;

/// One line of the table.
pub struct Row {
    pub name: String,
    pub rate: f64,
    /// CPU time of the program, a document.
    pub program: Option<Duration>,
    /// The same of Elasticsearch and of Kafka.
    pub stores: [Duration; 2],
    /// Bytes.
    pub memory: Option<u64>,
}

impl Row {
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    fn mebibytes(&self) -> Option<f64> {
        self.memory.map(|bytes| bytes as f64 / MIB)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let million = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e6);
        write!(
            f,
            "| {} | {:.0} | {} | {} | {} | {} |",
            self.name,
            self.rate,
            or_none(self.program.map(million)),
            million(self.stores[0]),
            million(self.stores[1]),
            or_none(self.mebibytes().map(|mebibytes| format!("{mebibytes:.0} MiB"))),
        )
    }
}

/// What can be said of the rows that there are.
pub fn targets(rows: &[Row], freshness: Option<&Freshness>) -> String {
    let row = |name: &str| rows.iter().find(|row| row.name.starts_with(name));
    let mut text = "\n| indexer | target | measured | |\n| --- | --- | --- | --- |\n".to_owned();
    let mut line = |what: &str, target: String, measured: f64, met: bool| {
        let met = if met { "met" } else { "missed" };
        let _ = writeln!(text, "| {what} | {target} | {measured:.2} | {met} |");
    };
    if let (Some(bare), Some(indexer)) = (row(BARE), row(INDEXER)) {
        let ratio = indexer.rate / bare.rate;
        line(
            "documents/s, to the bare loader's",
            "≥ 0.9".to_owned(),
            ratio,
            ratio >= 0.9,
        );
    }
    if let (Some(flink), Some(indexer)) = (row(FLINK), row(INDEXER)) {
        let ratio = indexer.rate / flink.rate;
        line(
            "documents/s, to Flink SQL's",
            "≥ 3".to_owned(),
            ratio,
            ratio >= 3.0,
        );
    }
    if let Some(memory) = row(INDEXER).and_then(Row::mebibytes) {
        line("peak memory, MiB", "≤ 128".to_owned(), memory, memory <= 128.0);
    }
    for (what, bound, quantile) in freshness
        .into_iter()
        .flat_map(|found| [("p50", 150.0, found.p50), ("p99", 350.0, found.p99)])
    {
        let milliseconds = quantile.as_secs_f64() * 1e3;
        line(
            &format!("order to searchable, {what}, ms"),
            format!("≤ {bound}"),
            milliseconds,
            milliseconds <= bound,
        );
    }
    text
}
