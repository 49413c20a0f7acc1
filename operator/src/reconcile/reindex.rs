//! A changed mapping: another index is filled beside the one that serves, and takes its place in one step.
//!
//! A Job does the filling: `indexer rebuild --live`, then `indexer verify --repair`. The rebuild has the running indexers write
//! each event into the new index, too, before it reads PostgreSQL (see the indexer's `target.rs`): whatever is not in
//! PostgreSQL then, the indexers write, first into the new index and then through the alias. So at every moment from then on
//! the new index has all that searches of the old one have found, and nothing is left to be written behind the alias once it
//! is moved. An index that did not take an event loses its mark, the alias `~next`; the call that moves the alias takes that
//! mark, and does nothing without it.
//!
//! What always holds:
//! - The alias leads to one index with all orders, the old one or the new one.
//! - The Job says which index it fills and which one was there before. It is kept until everything behind it is cleaned up,
//!   so that an operator that begins anew knows what is left to do.
//! - No index is deleted but one that such a Job names, that was made for this alias, and that nobody is led to.

use std::time::Duration;

use commerce_core::index::{Found, next_alias};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    apply, build,
    error::{Error, Stop},
    events,
    fetch::Observed,
    flow,
    health::{self, JobState},
    marks::Marks,
    names::{MANAGER, REINDEX_FROM, REINDEX_INTO},
    status::{Findings, INDEX, REINDEXING},
    validate::Pipeline,
};
use crate::crd::IndexStatus;

/// Searches that were led to an index are over after so long.
const LAST_SEARCH: Duration = Duration::from_secs(10);

/// Whether something is under way, or left to be cleaned up.
#[must_use]
pub fn is_under_way(jobs: &[Job]) -> bool {
    jobs.iter().any(|job| Work::of(job).is_some())
}

/// A Job, and the indices that it is about.
#[derive(Clone, Copy)]
struct Work<'a> {
    job: &'a Job,
    into: &'a str,
    from: &'a str,
}

impl<'a> Work<'a> {
    fn of(job: &'a Job) -> Option<Self> {
        let annotations = job.annotations();
        Some(Self {
            job,
            into: annotations.get(REINDEX_INTO)?,
            from: annotations.get(REINDEX_FROM)?,
        })
    }

    fn is_over(self) -> bool {
        health::job(self.job) != JobState::Running
    }

    fn is_suspended(self) -> bool {
        self.job
            .spec
            .as_ref()
            .is_some_and(|spec| spec.suspend == Some(true))
    }

    /// Whether some pod may still write.
    fn has_pods(self, pods: &[Pod]) -> bool {
        let uid = self.job.metadata.uid.as_deref();
        let is_of = |pod: &&Pod| {
            let mut owners = pod.owner_references().iter();
            owners.any(|owner| Some(owner.uid.as_str()) == uid)
        };
        pods.iter().filter(is_of).any(|pod| !has_ended(pod))
    }
}

/// What a pass knows of the index.
pub struct Reindex<'a> {
    pub marks: &'a Marks<'a>,
    pub pipeline: &'a Pipeline,
    pub observed: &'a Observed,
    pub found: &'a Found,
}

impl Reindex<'_> {
    /// The active index has another mapping than the wanted one: takes the next step to it.
    pub async fn advance(&self, active: &str, findings: &mut Findings) -> Result<IndexStatus, Stop> {
        let spec = &self.pipeline.elasticsearch.index;
        let wanted = spec.wanted_index();
        let status = self.status(active, Some(&wanted)).await;
        let (percent, trouble) = (status.progress, self.trouble());
        findings.index = Some(status);
        let waiting = |message: String| Stop::Waiting {
            reason: REINDEXING,
            message: format!("{active} is read and written as {}; {message}", spec.name),
        };

        let job = build::reindex(self.pipeline, active);
        let name = job.name_any();
        for work in self.works().filter(|work| work.job.name_any() != name) {
            if !self.clean_up(work, &[active, &wanted]).await? {
                let message = format!(
                    "Job {} for {} comes to its end first",
                    work.job.name_any(),
                    work.into
                );
                return Err(waiting(message));
            }
        }

        let fills = |trouble: &str| {
            let done = percent
                .map(|percent| format!(", {percent} %"))
                .unwrap_or_default();
            waiting(if self.compares() {
                format!("Job {name} compares {wanted} with PostgreSQL{trouble}")
            } else {
                format!("Job {name} fills {wanted} from PostgreSQL{done}{trouble}")
            })
        };
        let Some(work) = self.works().find(|work| work.job.name_any() == name) else {
            apply::apply(&self.marks.context.client, &job, &[]).await?;
            return Err(fills(""));
        };
        match health::job(work.job) {
            JobState::Running if work.is_suspended() => {
                self.remove_job(work).await?;
                Err(waiting(format!("{wanted} is filled anew")))
            }
            JobState::Running => Err(fills(
                &trouble.map(|trouble| format!("; {trouble}")).unwrap_or_default(),
            )),
            JobState::Failed => {
                let trouble = trouble.unwrap_or_else(|| "its pods are gone".to_owned());
                Err(Error::ReindexFailed(format!(
                    "Job {name}, which fills {wanted}, failed ({trouble}); {active} goes on serving with the mapping before. See `kubectl logs job/{name} --all-containers`, mend the cause and delete the Job to try again, or put elasticsearch.index.mappings back"
                ))
                .into())
            }
            JobState::Succeeded if self.promote(&wanted).await? => {
                self.marks
                    .context
                    .memory
                    .forget_index(&self.pipeline.owner.uid, active);
                findings.again = true;
                Ok(self.status(&wanted, None).await)
            }
            JobState::Succeeded => {
                self.remove_job(work).await?;
                let message = format!(
                    "{wanted} has missed an event, which it did not take (the indexers' logs tell), and is filled anew"
                );
                let event = events::event(false, "ReindexFailed", INDEX, &message);
                events::publish(&self.marks.context.recorder, self.marks.resource, vec![event]).await;
                Err(waiting(message))
            }
        }
    }

    /// The active index is the wanted one: removes what is left of how it came about, and of what was given up. Gives what
    /// kept it from doing so, if something did.
    pub async fn settle(&self, active: &str, findings: &mut Findings) -> Result<Option<String>, Error> {
        for work in self.works() {
            // The alias was moved by somebody else, before all was in it.
            let completes = work.into == active && !work.is_over() && !work.is_suspended();
            let done = match () {
                () if completes => Ok(false),
                () => self.clean_up(work, &[active]).await,
            };
            match done {
                Ok(done) => findings.again |= !done,
                Err(error @ Error::ReindexFailed(_)) => return Ok(Some(error.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The status of the index while this one is active, and that one is filled.
    pub async fn status(&self, active: &str, target: Option<&str>) -> IndexStatus {
        let elasticsearch = &self.pipeline.elasticsearch;
        let before = self
            .marks
            .resource
            .status
            .as_ref()
            .and_then(|status| status.index.as_ref());
        let count = async |index: &str| {
            // What can't be counted now is counted later: nothing depends on it.
            self.marks
                .context
                .stores
                .documents(elasticsearch, index)
                .await
                .ok()
        };
        let documents = count(active).await.flatten();
        let filled = match target {
            Some(target) => count(target).await.map(Option::unwrap_or_default),
            None => None,
        };
        let known = before.filter(|before| before.active == active);
        let known = known.and_then(|before| before.documents);
        let settled = documents.map(|now| {
            let known = known.and_then(|known| u64::try_from(known).ok());
            flow::count(flow::settled(known, now, 0))
        });
        let progress = filled.zip(documents).map(|(filled, all)| percent(filled, all));
        let told = before.filter(|before| before.target.as_deref() == target);
        IndexStatus {
            alias: elasticsearch.index.name.clone(),
            active: active.to_owned(),
            documents: settled.or(known),
            target: target.map(str::to_owned),
            progress: progress.or_else(|| told?.progress),
        }
    }

    /// Moves the alias; false where the index has missed an event.
    async fn promote(&self, index: &str) -> Result<bool, Error> {
        let elasticsearch = &self.pipeline.elasticsearch;
        let failed = |problem| Error::ReindexFailed(format!("moving the alias to {index}: {problem}"));
        let work = self.marks.context.stores.promote_index(elasticsearch, index);
        let promoted = self.write(work, failed).await?;
        tracing::info!(index, promoted, "moved the alias");
        Ok(promoted)
    }

    /// Writes into Elasticsearch, if the spec is still the newest one that was carried out.
    async fn write<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
        failed: impl FnOnce(String) -> Error,
    ) -> Result<T, Error> {
        self.marks.set_schema(&self.pipeline.postgres).await?;
        self.marks.context.write(work, failed).await
    }

    /// Ends what a Job was for, and removes the indices that are not used any more, then the Job; false where that takes
    /// longer.
    async fn clean_up(&self, work: Work<'_>, used: &[&str]) -> Result<bool, Error> {
        if !work.is_over() {
            // A Job that is deleted takes its pods along sooner or later; one that is suspended stays until they are gone.
            if !work.is_suspended() {
                self.suspend(work).await?;
                return Ok(false);
            }
            if work.has_pods(&self.observed.live.pods) {
                return Ok(false);
            }
        }
        let next = next_alias(&self.pipeline.elasticsearch.index.name);
        if used.first() == Some(&work.into) && self.found.behind(&next).contains(&work.into) {
            // It is the one that serves: its events come through the alias.
            self.promote(work.into).await?;
        }
        for index in [work.into, work.from] {
            if !used.contains(&index) && !self.delete(index, index == work.from).await? {
                return Ok(false);
            }
        }
        self.remove_job(work).await?;
        Ok(true)
    }

    /// Deletes an index, if it was made for the alias, which does not lead to it. False where it may still be searched.
    async fn delete(&self, index: &str, was_searched: bool) -> Result<bool, Error> {
        let (context, elasticsearch) = (self.marks.context, &self.pipeline.elasticsearch);
        let (spec, uid) = (&elasticsearch.index, &self.pipeline.owner.uid);
        let there = self.found.indices.contains_key(index);
        if !there || !spec.owns(index) || self.found.behind(&spec.name).contains(&index) {
            return Ok(true);
        }
        if was_searched && !context.memory.unused_for(uid, index, LAST_SEARCH) {
            return Ok(false);
        }
        let failed = |problem| {
            Error::ReindexFailed(format!(
                "deleting the index {index}, which is not used any more: {problem}"
            ))
        };
        let work = context.stores.delete_index(elasticsearch, index);
        self.write(work, failed).await?;
        context.memory.forget_index(uid, index);
        tracing::info!(index, "deleted an index that is not used any more");
        Ok(true)
    }

    async fn suspend(&self, work: Work<'_>) -> Result<(), Error> {
        let name = work.job.name_any();
        let api: Api<Job> = Api::namespaced(self.marks.context.client.clone(), &self.pipeline.namespace);
        let patch = Patch::Merge(json!({ "spec": { "suspend": true } }));
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch(&name, &params, &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(source) => Err(Error::ApplyFailed {
                kind: "Job".to_owned(),
                name,
                source,
            }),
        }
    }

    async fn remove_job(&self, work: Work<'_>) -> Result<(), Error> {
        let name = work.job.name_any();
        apply::prune(&self.marks.context.client, &self.observed.live.jobs, |other| {
            other != name
        })
        .await
    }

    fn works(&self) -> impl Iterator<Item = Work<'_>> {
        self.observed.live.jobs.iter().filter_map(Work::of)
    }

    fn trouble(&self) -> Option<String> {
        health::trouble(&self.observed.live.pods, build::REINDEX)
    }

    /// Whether the Job has filled the index, and compares it now.
    fn compares(&self) -> bool {
        let has_filled = |pod: &Pod| {
            let containers = pod
                .status
                .iter()
                .flat_map(|status| &status.init_container_statuses);
            let mut ended = containers
                .flatten()
                .filter_map(|container| container.state.as_ref()?.terminated.as_ref());
            ended.any(|ended| ended.exit_code == 0)
        };
        let own = |pod: &&Pod| health::is_of(pod, build::REINDEX) && !has_ended(pod);
        self.observed.live.pods.iter().filter(own).any(has_filled)
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn percent(part: u64, whole: u64) -> i32 {
    let percent = (part.saturating_mul(100)).checked_div(whole).unwrap_or(100);
    i32::try_from(percent.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn progress_is_in_whole_percent_and_never_more_than_all() {
        for (part, whole, expected) in [(0, 0, 100), (0, 7, 0), (2, 3, 66), (3, 3, 100), (9, 3, 100)] {
            assert_eq!(percent(part, whole), expected, "{part} of {whole}");
        }
        assert_eq!(percent(u64::MAX, u64::MAX), 1, "absurd numbers do no harm");
    }
}
