//! What was found and done: one line for each difference, and one about all of it; or the same as a JSON document.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use anyhow::Context as _;
use commerce_core::print::{Output, counted, json_line, safe};
use serde::Serialize;

use super::super::{Ended, orders::Block, progress::Progress};

/// What is wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// There is none, but an order.
    Missing,
    /// There is no such order.
    Ghost,
    /// It tells of an older version of the order.
    Stale,
    /// It tells of a version that the order does not have yet.
    Ahead,
    /// It tells something else of the order.
    Differing,
    /// It tells the right thing, but would keep out the order's next events, or let in old ones.
    Misversioned,
}

/// A document that is not as its order is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Difference {
    pub(super) order_id: String,
    pub(super) kind: Kind,
    pub(super) order_version: Option<i64>,
    /// In the document.
    pub(super) document_version: Option<i64>,
    /// Of the document, as Elasticsearch counts it.
    pub(super) index_version: Option<i64>,
    /// Which are not the same.
    pub(super) fields: Vec<String>,
}

pub(super) struct Report {
    output: Output,
    totals: Totals,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    from: i64,
    to: i64,
    orders: u64,
    /// Those that were compared; strays are not among them.
    documents: u64,
    found: BTreeMap<Kind, u64>,
    repaired: u64,
    not_repaired: u64,
}

impl Report {
    pub(super) fn new(output: Output, from: i64) -> anyhow::Result<Self> {
        if output == Output::Json {
            print("{\"differences\":[")?;
        }
        Ok(Self {
            output,
            totals: Totals {
                from,
                to: from - 1,
                orders: 0,
                documents: 0,
                found: BTreeMap::new(),
                repaired: 0,
                not_repaired: 0,
            },
        })
    }

    pub(super) fn compared(&mut self, block: &Block, documents: usize) {
        self.totals.orders += block.summary.orders.unsigned_abs();
        self.totals.documents += u64::try_from(documents).unwrap_or_default();
        self.totals.to = block.last;
    }

    pub(super) fn tell(&mut self, difference: &Difference, progress: &Progress) -> anyhow::Result<()> {
        let first = self.totals.found.is_empty();
        *self.totals.found.entry(difference.kind).or_default() += 1;
        let line = match self.output {
            Output::Text => format!("{}\n", difference.line()),
            Output::Json => {
                let comma = if first { "" } else { "," };
                format!("{comma}\n{}", json_line(difference).context("writing JSON")?)
            }
        };
        progress.beside(|| print(&line))
    }

    /// A difference that was told is no more.
    pub(super) fn repaired(&mut self) {
        self.totals.repaired += 1;
    }

    /// A difference that was told stays.
    pub(super) fn not_repaired(&mut self, id: &str, why: &str, progress: &Progress) {
        self.totals.not_repaired += 1;
        progress.say(&format!("order {} is not repaired: {}", safe(id), safe(why)));
    }

    pub(super) fn has_repairs(&self) -> bool {
        self.totals.repaired > 0
    }

    /// Prints the totals; tells whether differences are left.
    pub(super) fn finish(self, progress: &Progress) -> anyhow::Result<Ended> {
        let Self { output, totals } = self;
        let differences: u64 = totals.found.values().sum();
        let text = match output {
            Output::Text => totals.line(differences),
            Output::Json => {
                let rest = json_line(&totals).context("writing JSON")?;
                format!("\n],{}\n", rest.trim_start_matches('{'))
            }
        };
        progress.beside(|| print(&text))?;
        Ok(if differences > totals.repaired {
            Ended::Differing
        } else {
            Ended::Fine
        })
    }
}

impl Totals {
    fn line(&self, differences: u64) -> String {
        let mut line = match self.to {
            to if to < self.from => "no orders".to_owned(),
            to => {
                let (orders, documents) = (
                    counted(self.orders, "order", "orders"),
                    counted(self.documents, "document", "documents"),
                );
                format!("{} to {to}: {orders}, {documents}", self.from)
            }
        };
        if differences == 0 {
            line.push_str("; no differences\n");
            return line;
        }
        let kinds: Vec<_> = self
            .found
            .iter()
            .map(|(kind, count)| format!("{count} {}", kind.name()))
            .collect();
        let _ = write!(
            line,
            "; {} ({})",
            counted(differences, "difference", "differences"),
            kinds.join(", ")
        );
        if self.repaired + self.not_repaired > 0 {
            let _ = write!(line, ", {} repaired", self.repaired);
        }
        line.push('\n');
        line
    }
}

impl Difference {
    fn line(&self) -> String {
        let version =
            |version: Option<i64>| version.map_or_else(|| "none".to_owned(), |number| number.to_string());
        let (order, document) = (version(self.order_version), version(self.document_version));
        let index = version(self.index_version);
        let what = match self.kind {
            Kind::Missing => format!("the index does not have version {order}"),
            Kind::Ghost => format!("there is no such order; the index has version {document}"),
            Kind::Stale | Kind::Ahead => {
                format!("the index has version {document}, PostgreSQL {order}")
            }
            Kind::Differing => format!("version {order} has another {}", self.fields.join(", ")),
            Kind::Misversioned => {
                format!("version {order} counts as {index} in Elasticsearch")
            }
        };
        format!("order {} {}: {what}", safe(&self.order_id), self.kind.name())
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ghost => "ghost",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
            Self::Differing => "differing",
            Self::Misversioned => "misversioned",
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("printing the report")
}
