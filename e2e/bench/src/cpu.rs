//! CPU time of processes, from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

/// What the kernel counts in, as user space sees it on every Linux architecture.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// The CPU time that a process and its descendants have taken so far, ended children included.
pub fn of_tree(root: u32) -> Result<Duration> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc").context("listing /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        if let Some(stat) = read(&Path::new("/proc").join(name).join("stat")) {
            stats.insert(pid, stat);
        }
    }
    let mut tree = HashSet::from([root]);
    loop {
        let found: Vec<_> = stats
            .iter()
            .filter(|(pid, stat)| !tree.contains(pid) && tree.contains(&stat.parent))
            .map(|(pid, _)| *pid)
            .collect();
        if found.is_empty() {
            break;
        }
        tree.extend(found);
    }
    let ticks: u64 = stats
        .iter()
        .filter(|(pid, _)| tree.contains(pid))
        .map(|(_, stat)| stat.ticks)
        .sum();
    Ok(duration(ticks))
}

/// Waits until these have nothing left to do, as their compilers do beside their work; a minute at most.
pub async fn at_rest(roots: &[u32]) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    let spent = || roots.iter().map(|root| of_tree(*root)).sum::<Result<Duration>>();
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        let before = spent()?;
        sleep(SECOND).await;
        if spent()?.saturating_sub(before) < SECOND / 20 || Instant::now() > until {
            return Ok(());
        }
    }
}

fn read(path: &Path) -> Option<Stat> {
    let text = fs::read_to_string(path).ok()?;
    let fields = fields(&text)?;
    let ticks = (14..=17)
        .map(|field| number(&fields, field))
        .sum::<Option<u64>>()?;
    Some(Stat {
        parent: u32::try_from(number(&fields, 4)?).ok()?,
        ticks,
    })
}

/// The CPU time of a process's children that have ended and were waited for.
pub fn of_ended_children(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading the process's times")?;
    let fields = fields(&text).context("the process's times are not as expected")?;
    Ok(duration(
        number(&fields, 16).unwrap_or(0) + number(&fields, 17).unwrap_or(0),
    ))
}

fn duration(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// The fields of `proc_pid_stat(5)` from the third on; before it is a name in parentheses that may hold anything.
fn fields(text: &str) -> Option<Vec<&str>> {
    Some(text.rsplit_once(')')?.1.split_whitespace().collect())
}

fn number(fields: &[&str], field: usize) -> Option<u64> {
    fields.get(field - 3)?.parse().ok()
}
