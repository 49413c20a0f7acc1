//! One replica works at a time: the one that holds a Lease.
//!
//! The rules are client-go's. A holder that could not renew in time stops by itself, before another may take the Lease; how
//! long a Lease was left alone is measured with one's own clock from the moment when its last change was seen, so clocks of
//! different nodes need not agree. Crates for this keep calling a holder the leader while the API server can't be reached,
//! which is when it matters.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout};

/// Name of the Lease.
const NAME: &str = "commerce-operator";

/// How long things may take. `period` < `renew_within` < `valid`, or two replicas could work at once.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A Lease that was not renewed for so long is free.
    pub valid: Duration,
    /// A holder that could not renew for so long is none any more.
    pub renew_within: Duration,
    /// Between renewals, and between attempts to get hold of it.
    pub period: Duration,
}

impl Default for Timing {
    /// client-go's.
    fn default() -> Self {
        Self {
            valid: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            period: Duration::from_secs(2),
        }
    }
}

/// For how long this replica may be sure that no other works.
///
/// It is counted from before the Lease was last renewed, by one's own clock; another replica counts from when it saw that,
/// which is later.
#[derive(Clone, Debug, Default)]
pub struct Tenure(Arc<Mutex<Option<Instant>>>);

impl Tenure {
    /// Whether it lasts at least this long from now.
    #[must_use]
    pub fn lasts(&self, long: Duration) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() + long < until)
    }

    /// It lasts until then.
    pub fn until(&self, end: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }
}

/// A candidate.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    timing: Timing,
    tenure: Tenure,
    /// The Lease as it was when it last changed, and when that was seen.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    /// A candidate for the Lease in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String, timing: Timing) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity,
            timing,
            tenure: Tenure::default(),
            seen: None,
        }
    }

    /// For how long it holds the Lease.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Waits until this candidate holds the Lease. `heard` is told after each answer of the API server.
    pub async fn win(&mut self, heard: impl Fn(&Result<bool, kube::Error>)) {
        loop {
            let attempt = self.attempt().await;
            heard(&attempt);
            match attempt {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "asking for the Lease; trying again"),
            }
            sleep(self.timing.period).await;
        }
    }

    /// Renews the Lease; returns when it is lost.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(self.timing.period).await;
            let left = self.timing.renew_within.saturating_sub(renewed.elapsed());
            let before = Instant::now();
            match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = before,
                Ok(Ok(false)) => {
                    self.tenure.until(None);
                    return tracing::error!("another replica has taken the Lease");
                }
                Ok(Err(error)) => tracing::warn!(%error, "renewing the Lease; trying again"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.timing.renew_within {
                return tracing::error!(
                    "the Lease could not be renewed for {} s",
                    self.timing.renew_within.as_secs()
                );
            }
        }
    }

    /// Gives the Lease back, so that another replica need not wait for it to run out.
    pub async fn release(&mut self) -> Result<(), kube::Error> {
        self.tenure.until(None);
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            self.api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// Takes or renews the Lease if it is free or ours. The resource version makes sure that only one of several succeeds.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let before = Instant::now();
        let held = self.take().await?;
        self.tenure.until(held.then(|| before + self.timing.valid));
        Ok(held)
    }

    async fn take(&mut self) -> Result<bool, kube::Error> {
        let written = match self.api.get_opt(NAME).await? {
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                };
                let lease = Lease {
                    metadata,
                    spec: Some(self.mine(None)),
                };
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let spec = lease.spec.take().unwrap_or_default();
                if !self.may_take(&spec) {
                    return Ok(false);
                }
                lease.spec = Some(self.mine(Some(&spec)));
                self.api.replace(NAME, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, spec: &LeaseSpec) -> bool {
        match spec.holder_identity.as_deref() {
            None | Some("") => return true,
            Some(holder) if holder == self.identity => return true,
            Some(_) => {}
        }
        match &self.seen {
            Some((known, since)) if known == spec => since.elapsed() > self.timing.valid,
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn mine(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let renewal = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.valid.as_secs()).ok(),
            acquire_time: renewal.map_or_else(|| now.clone(), |spec| spec.acquire_time.clone()),
            renew_time: now,
            lease_transitions: Some(if renewal.is_some() || before.is_none() {
                transitions
            } else {
                transitions + 1
            }),
            ..LeaseSpec::default()
        }
    }
}
