//! What was measured, as the tables of docs/benchmarks.md.

use std::{fmt, time::Duration};

use super::cluster::Requests;

/// Targets.
const LONGEST_RESTART: Duration = Duration::from_mins(1);
const MOST_MEMORY: u64 = 96 * MIB;
const MIB: u64 = 1024 * 1024;

/// What something took, since the operator's process began.
pub struct Cost {
    pub took: Duration,
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub peak: u64,
}

pub struct Rest {
    pub long: Duration,
    pub cpu: Duration,
    pub kubernetes: Duration,
    pub passes: f64,
    /// By the operator.
    pub requests: Requests,
    /// By anybody.
    pub written: Requests,
    /// Objects.
    pub changed: usize,
    pub peak: u64,
}

pub struct Restart {
    pub cost: Cost,
    pub requests: Requests,
    pub changed: usize,
    /// A while later.
    pub peak: u64,
}

pub struct Measured {
    pub pipelines: u32,
    pub converged: Cost,
    pub requests: Requests,
    pub rest: Rest,
    pub restart: Restart,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pipelines,
            converged,
            requests,
            rest,
            restart,
        } = self;
        let share = |time: Duration| time.as_secs_f64() / rest.long.as_secs_f64() * 100.0;
        writeln!(
            f,
            "| {pipelines} pipelines | time | CPU of the operator | its peak memory | its requests to the API server |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        writeln!(
            f,
            "| from nothing until all are ready | {:.0} s | {:.0} s | {} MiB | {} |",
            converged.took.as_secs_f64(),
            converged.cpu.as_secs_f64(),
            converged.peak / MIB,
            verbs(requests),
        )?;
        writeln!(
            f,
            "| at rest ({:.0} passes) | {:.0} s | {:.1} % of a core (API server and etcd: {:.0} %) | {} MiB | {} |",
            rest.passes,
            rest.long.as_secs_f64(),
            share(rest.cpu),
            share(rest.kubernetes),
            rest.peak / MIB,
            verbs(&rest.requests),
        )?;
        writeln!(
            f,
            "| after a restart, until all were looked at and are ready | {:.0} s | {:.0} s | {} MiB | {} |\n",
            restart.cost.took.as_secs_f64(),
            restart.cost.cpu.as_secs_f64(),
            restart.peak / MIB,
            verbs(&restart.requests),
        )?;
        let written: u64 = rest.written.values().sum();
        writeln!(
            f,
            "Written at rest, as the API server counts it, Leases left out: {written}; objects changed: {}. Objects changed by the restart: {}.",
            rest.changed, restart.changed
        )?;
        if written > 0 {
            writeln!(f, "It was: {}.", list(&rest.written))?;
        }
        let peak = restart.peak.max(rest.peak);
        let met = |met: bool| if met { "met" } else { "missed" };
        writeln!(
            f,
            "\nTargets: {} s after a restart ({}), {} MiB ({}), no writes at rest ({}).",
            LONGEST_RESTART.as_secs(),
            met(restart.cost.took <= LONGEST_RESTART),
            MOST_MEMORY / MIB,
            met(peak <= MOST_MEMORY),
            met(written == 0 && rest.changed == 0),
        )
    }
}

/// Added up by verb; the Lease's own are told apart.
fn verbs(requests: &Requests) -> String {
    let mut verbs = Requests::new();
    for (what, count) in requests {
        let (verb, resource) = what.split_once(' ').unwrap_or((what, ""));
        let verb = if resource == "leases" {
            format!("{verb} of the Lease")
        } else {
            verb.to_owned()
        };
        *verbs.entry(verb).or_default() += count;
    }
    list(&verbs)
}

fn list(requests: &Requests) -> String {
    let each = requests.iter().map(|(what, count)| format!("{count} {what}"));
    each.collect::<Vec<_>>().join(", ")
}
