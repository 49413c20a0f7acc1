//! How far a tool has come, on standard error: a bar on a terminal, else a line every few seconds.

use std::{
    cell::Cell,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(5);
const BAR: &str = "{msg} [{bar:30}] {percent} %, {eta} to go";

/// Counts orders from the first to the last.
pub(super) struct Progress {
    /// What was done with the orders, such as `compared`.
    done: &'static str,
    first: i64,
    last: i64,
    began: Instant,
    told: Cell<Instant>,
    waited: Cell<Option<Instant>>,
    orders: Cell<u64>,
    /// Where there is a terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(done: &'static str, first: i64, last: i64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(u64::try_from(last - first + 1).unwrap_or_default());
            match ProgressStyle::with_template(BAR) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            done,
            first,
            last,
            began: Instant::now(),
            told: Cell::new(Instant::now()),
            waited: Cell::new(None),
            orders: Cell::new(0),
            bar,
        }
    }

    /// So many orders more are done, those up to `id`.
    pub(super) fn reached(&self, id: i64, orders: u64) {
        self.orders.set(self.orders.get() + orders);
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(id - self.first + 1).unwrap_or_default());
            bar.set_message(format!("{} up to order {id}, {}/s", self.done, self.rate()));
        } else if self.told.get().elapsed() >= PAUSE {
            self.told.set(Instant::now());
            self.say(&format!(
                "{} up to order {id} of {}, {} orders/s",
                self.done,
                self.last,
                self.rate()
            ));
        }
    }

    /// Elasticsearch does not take something now.
    pub(super) fn waiting(&self, problem: &str) {
        if self.waited.get().is_none_or(|at| at.elapsed() >= PAUSE) {
            self.waited.set(Some(Instant::now()));
            self.say(&format!("trying again: {problem}"));
        }
    }

    /// A line for people. One that can't be written is not worth stopping for.
    pub(super) fn say(&self, text: &str) {
        self.beside(|| drop(writeln!(std::io::stderr(), "{text}")));
    }

    /// Writes to the terminal without the bar in the way.
    pub(super) fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away: no orders are left.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn rate(&self) -> u64 {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.orders.get() * 1000 / millis.max(1)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
