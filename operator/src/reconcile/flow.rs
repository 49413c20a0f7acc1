//! Whether orders flow: from what the services say to the condition `Flowing` and the figures in the status. Pure, but for
//! [`look`].
//!
//! Nothing flaps and nothing is written because a number jitters. What may pass by itself (a relay that hands over, a pod
//! that has just started) is told once it has lasted for [`PATIENCE`], limits are lower on the way back, and messages are
//! made of the rounded figures.

mod figures;
mod progress;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use tokio::time::Instant;

pub use self::{
    figures::{Figures, IN_TRANSIT, count, settled},
    progress::{Progress, STANDS_STILL},
};
use super::{
    lag,
    services::{Answer, RelayState, RelayStatus, Seen},
    status::{FLOWING, Finding},
};
use crate::crd::{CommercePipeline, CommercePipelineSpec};

/// What may pass by itself is told once it has lasted so long.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The relay is behind when an event has waited for so long, or for the objective if that is longer.
const RELAY_BEHIND: Duration = Duration::from_secs(5);
/// With fewer orders, 1 % of them is less than one order, and the median is looked at instead.
const MANY_ORDERS: u64 = 100;
const DEFAULT_OBJECTIVE: Duration = Duration::from_secs(1);
/// Longest part of a service's words that ends up in the condition.
const EXCERPT: usize = 600;

/// What a pass found.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Absent: as it was.
    pub finding: Option<Finding>,
    pub figures: Figures,
    /// Worth another look soon.
    pub unsettled: bool,
}

/// What is remembered between two passes. After a restart it is found again.
#[derive(Debug, Default)]
pub struct Memory {
    pub progress: Progress,
    /// Of the number of indexers.
    pub scaling: lag::Memory,
    /// Since when what is seen contradicts the condition.
    suspected: Option<(&'static str, Instant)>,
}

impl Flow {
    /// Of a suspended pipeline nothing is asked.
    #[must_use]
    pub fn suspended() -> Self {
        let finding = Finding::unknown("Suspended", "not looked at while the pipeline is suspended");
        Self {
            finding: Some(finding),
            ..Self::default()
        }
    }
}

/// One thing that keeps orders from flowing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    reason: &'static str,
    message: String,
    /// It may pass by itself within seconds.
    brief: bool,
}

impl Trouble {
    fn lasting(reason: &'static str, message: String) -> Self {
        Self {
            reason,
            message,
            brief: false,
        }
    }

    fn brief(reason: &'static str, message: String) -> Self {
        Self {
            reason,
            message,
            brief: true,
        }
    }
}

/// What the pipeline is to be measured by.
struct Measure<'a> {
    name: String,
    namespace: String,
    spec: &'a CommercePipelineSpec,
    objective: Duration,
    before: Option<&'a Condition>,
}

/// What the services say, against the condition that was told last.
#[must_use]
pub fn judge(resource: &CommercePipeline, seen: &Seen, memory: &mut Memory, now: Instant) -> Flow {
    let status = resource.status.clone().unwrap_or_default();
    let before = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == FLOWING);
    let measure = Measure {
        name: resource.name_any(),
        namespace: resource.namespace().unwrap_or_default(),
        spec: &resource.spec,
        objective: objective(&resource.spec),
        before,
    };
    memory.progress.note(&seen.indexers, now);
    let figures = Figures::of(&status).next(seen, &memory.progress, now);

    let mut unknown = Vec::new();
    let mut troubles = measure.relay(seen, &figures, &mut unknown);
    troubles.extend(measure.indexer(seen, &memory.progress, now, &mut unknown));
    troubles.extend(measure.parked(&figures));
    troubles.extend(measure.stale(seen, &figures));

    let brief = troubles.iter().chain(&unknown).all(|trouble| trouble.brief);
    let reason = troubles
        .first()
        .or_else(|| unknown.first())
        .map(|trouble| trouble.reason);
    let messages: Vec<_> = troubles
        .iter()
        .chain(&unknown)
        .map(|trouble| trouble.message.as_str())
        .collect();
    let message = messages.join("; ");
    let finding = match (reason, troubles.is_empty()) {
        (None, _) => Finding::yes(FLOWING, "orders are published, indexed and found in time"),
        (Some(reason), true) => Finding::unknown(reason, message),
        (Some(reason), false) => Finding::no(reason, message),
    };
    let brief = reason.filter(|_| brief);
    if memory.is_too_soon(&finding, brief, before, now) {
        return Flow {
            finding: None,
            figures: Figures::of(&status),
            unsettled: true,
        };
    }
    Flow {
        unsettled: finding.status != "True",
        finding: Some(finding),
        figures,
    }
}

impl Memory {
    /// A brief trouble is told when it has lasted, unless it is what was told before. Until then all stays as it was, the
    /// figures included: a relay that hands over knows none for a moment.
    fn is_too_soon(
        &mut self,
        finding: &Finding,
        brief: Option<&'static str>,
        before: Option<&Condition>,
        now: Instant,
    ) -> bool {
        let news = before.is_some_and(|before| before.reason != finding.reason);
        let since = match (brief.filter(|_| news), self.suspected) {
            (None, _) => None,
            (Some(reason), Some((suspected, since))) if suspected == reason => Some((reason, since)),
            (Some(reason), _) => Some((reason, now)),
        };
        self.suspected = since;
        since.is_some_and(|(_, since)| now.duration_since(since) < PATIENCE)
    }
}

impl Measure<'_> {
    fn told(&self, reason: &str) -> bool {
        self.before.is_some_and(|before| before.reason == reason)
    }

    /// Nothing runs yet, and nothing ever did.
    fn starting(&self) -> bool {
        self.before.is_none() || self.told("Starting")
    }

    fn exec(&self, command: &str) -> String {
        format!(
            "`kubectl exec -n {} deploy/{}-relay -- relay {command}`",
            self.namespace, self.name
        )
    }

    fn relay(&self, seen: &Seen, figures: &Figures, unknown: &mut Vec<Trouble>) -> Vec<Trouble> {
        if self.spec.relay.replicas == 0 {
            let message = "no relay is asked for: orders are taken and wait in the outbox; set relay.replicas to 1 or more";
            return vec![Trouble::lasting("NoActiveRelay", message.to_owned())];
        }
        if seen.relays.is_empty() {
            if self.starting() {
                unknown.push(Trouble::brief(
                    "Starting",
                    "no pod of the relay runs yet".to_owned(),
                ));
                return Vec::new();
            }
            let message =
                "no pod of the relay runs: orders are taken and wait in the outbox; RelayAvailable tells why";
            return vec![Trouble::brief("NoActiveRelay", message.to_owned())];
        }
        let answers = || seen.relays.iter().filter_map(|answer| answer.said.as_ref().ok());
        if let Some(why) = answers().find_map(|status| status.blocked.as_ref()) {
            let why: String = why.chars().take(EXCERPT).collect();
            let message = format!(
                "the relay waits for a decision: {why}; {} tells what adopting would do",
                self.exec("adopt")
            );
            return vec![Trouble::lasting("RelayBlocked", message)];
        }
        match answers().find(|status| status.state == RelayState::Active) {
            Some(active) => self.behind(active, figures).into_iter().collect(),
            None => match unreachable("relay", &seen.relays) {
                Some(trouble) => {
                    unknown.push(trouble);
                    Vec::new()
                }
                None => vec![inactive(&seen.relays)],
            },
        }
    }

    fn behind(&self, active: &RelayStatus, figures: &Figures) -> Option<Trouble> {
        let oldest = seconds(active.oldest_unpublished_seconds?);
        let limit = lower_on_the_way_back(RELAY_BEHIND.max(self.objective), 0.5, self.told("RelayBehind"));
        let outbox = figures.outbox.as_ref()?;
        (oldest > limit).then(|| {
            let message = format!(
                "{} events wait to be published, the oldest for {}: if that does not fall by itself, see {} and the log of the relay's pods",
                outbox.new, outbox.oldest_unpublished, readyz("the relay's pods"),
            );
            Trouble::brief("RelayBehind", message)
        })
    }

    fn indexer(
        &self,
        seen: &Seen,
        progress: &Progress,
        now: Instant,
        unknown: &mut Vec<Trouble>,
    ) -> Option<Trouble> {
        if self.spec.indexer.is_off() {
            let message = "no indexer is asked for: events wait in Kafka; set indexer.replicas to 1 or more";
            return Some(Trouble::lasting("NoActiveIndexer", message.to_owned()));
        }
        if seen.indexers.is_empty() {
            if self.starting() {
                unknown.push(Trouble::brief(
                    "Starting",
                    "no pod of the indexer runs yet".to_owned(),
                ));
                return None;
            }
            let message = "no pod of the indexer runs, events wait in Kafka: IndexerAvailable tells why";
            return Some(Trouble::brief("NoActiveIndexer", message.to_owned()));
        }
        let still = progress.standing_still(now);
        if let Some(((topic, partition), mark)) = still.first() {
            let message = format!(
                "{} of the topics' partitions stand still, {topic}/{partition} at offset {}: Elasticsearch does not take its events; see {} and the log of the indexer's pods",
                still.len(),
                mark.committed,
                readyz("the indexer's pods"),
            );
            return Some(Trouble::lasting("IndexerBehind", message));
        }
        if let Some(trouble) = unreachable("indexer", &seen.indexers) {
            unknown.push(trouble);
            return None;
        }
        let mut answers = seen
            .indexers
            .iter()
            .filter_map(|answer| answer.said.as_ref().ok());
        if answers.all(|status| status.partitions.is_empty()) {
            let message = format!(
                "no indexer reads a partition, events wait in Kafka: see StoresReachable, and {}",
                readyz("the indexer's pods")
            );
            return Some(Trouble::brief("NoActiveIndexer", message));
        }
        None
    }

    fn parked(&self, figures: &Figures) -> Option<Trouble> {
        let parked = figures.outbox.as_ref()?.failed;
        (parked > 0).then(|| {
            let message = format!("{parked} events are parked, since Kafka refused them or they wait behind one: {} tells why, then `relay parked requeue` or `relay parked discard`", self.exec("parked list"));
            Trouble::lasting("EventsParked", message)
        })
    }

    fn stale(&self, seen: &Seen, figures: &Figures) -> Option<Trouble> {
        let limit = lower_on_the_way_back(self.objective, 0.8, self.told("Stale"));
        let answers = seen
            .indexers
            .iter()
            .filter_map(|answer| answer.said.as_ref().ok());
        let mut slowest = answers.filter_map(|status| {
            let fresh = &status.freshness;
            if fresh.orders >= MANY_ORDERS {
                fresh.p99_seconds
            } else {
                fresh.p50_seconds
            }
        });
        let shown = figures.freshness.as_ref()?;
        slowest.any(|took| seconds(took) > limit).then(|| {
            let message = format!(
                "in the last five minutes half of the orders could be found after {}, 99 of 100 after {}, and monitoring.freshnessObjective is {}: look for what is slow at the backlog (status.outbox), the lag (status.consumerLag) and the CPU of Elasticsearch",
                shown.p50, shown.p99, figures::text(self.objective),
            );
            Trouble::lasting("Stale", message)
        })
    }
}

/// Pods run, and none of them publishes.
fn inactive(relays: &[Answer<RelayStatus>]) -> Trouble {
    let waiting = relays.iter().find(|answer| {
        answer
            .said
            .as_ref()
            .is_ok_and(|status| status.state == RelayState::Waiting)
    });
    let why = match waiting {
        Some(answer) => format!("pod {} waits for PostgreSQL or Kafka: see StoresReachable, and {}", answer.pod, readyz("that pod")),
        None => "all of them stand by while another process holds the lease: does another pipeline, or an old Deployment, use this database?".to_owned(),
    };
    Trouble::brief(
        "NoActiveRelay",
        format!("no relay publishes, orders wait in the outbox: {why}"),
    )
}

/// One that can't be asked may be the one that knows.
fn unreachable<T>(component: &str, answers: &[Answer<T>]) -> Option<Trouble> {
    let (pod, problem) = answers
        .iter()
        .find_map(|answer| Some((&answer.pod, answer.said.as_ref().err()?)))?;
    let message = format!(
        "pod {pod} runs and can't be asked for its status: {problem}. Does a NetworkPolicy keep the operator from port 9090 of the {component}'s pods?"
    );
    Some(Trouble::brief("StatusUnknown", message))
}

fn readyz(whose: &str) -> String {
    format!("/readyz on port 9090 of {whose}")
}

fn lower_on_the_way_back(limit: Duration, share: f64, told: bool) -> Duration {
    if told { limit.mul_f64(share) } else { limit }
}

/// How soon orders are to be found. The API server lets only durations pass.
#[must_use]
pub fn objective(spec: &CommercePipelineSpec) -> Duration {
    let text = spec
        .monitoring
        .as_ref()
        .and_then(|monitoring| monitoring.freshness_objective.as_ref());
    text.and_then(|text| humantime::parse_duration(text).ok())
        .unwrap_or(DEFAULT_OBJECTIVE)
}

fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}
