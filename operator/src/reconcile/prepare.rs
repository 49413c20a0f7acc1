//! The steps before the workloads: stores reachable → schema → topics → index. Each begins when the one before it is done.

use commerce_core::{
    drift::{Difference, What},
    index::IndexState,
    topics::{self, TopicState},
};
use kube::ResourceExt as _;

use super::{
    apply,
    build::Objects,
    claims, drift,
    error::{Error, Stop},
    fetch::Observed,
    flow,
    health::{self, JobState},
    marks::Marks,
    reindex::{self, Reindex},
    status::{Finding, Findings, INDEX, SCHEMA, STORES, TOPICS},
    validate::Pipeline,
};
use crate::{
    context::Context,
    crd::{CommercePipeline, DriftPolicy, IndexStatus, TopicStatus},
};

/// Brings the stores to what the pipeline needs.
pub async fn prepare(
    resource: &CommercePipeline,
    pipeline: &Pipeline,
    objects: &Objects,
    observed: &Observed,
    policy: DriftPolicy,
    context: &Context,
    findings: &mut Findings,
) -> Result<(), Stop> {
    let uid = &pipeline.owner.uid;
    if reindex::is_under_way(&observed.live.jobs) {
        context.memory.unprepared(uid);
    }
    let lately = context
        .memory
        .prepared_lately(uid, &pipeline.inputs, context.settings.drift_interval);
    if !context.memory.answered_lately(uid, &pipeline.inputs) {
        let result = stores(pipeline, context).await;
        record(findings, STORES, result, "Reachable", |()| {
            "all four stores answer".to_owned()
        })?;
        context.memory.answered(uid, &pipeline.inputs);
    }

    if !lately {
        unclaimed(resource, context, findings).await?;
        let marks = Marks::of(resource, context).await?;
        told(findings, marks.set(pipeline).await)?;
    }
    let result = schema(pipeline, objects, observed, context).await;
    record(findings, SCHEMA, result, "Migrated", Clone::clone)?;

    if lately {
        findings.index = recount(resource, pipeline, context).await;
        return Ok(());
    }
    let version = context.stores.schema_version(&pipeline.postgres.connect).await;
    let (version, _) =
        version.map_err(|error| Error::MigrationFailed(format!("reading the schema's version: {error}")))?;
    findings.schema_version = Some(version);
    let marks = Marks::of(resource, context).await?;
    // The first migration has made a place for the mark.
    let marked = marks.set_schema(&pipeline.postgres).await;
    told(findings, marked.map_err(|error| (SCHEMA, error)))?;
    let mut drift = Drift::default();
    let result = topics(&marks, pipeline, policy, context, &mut drift).await;
    let topics = record(findings, TOPICS, result, "Created", |topics| {
        format!("{} topics are there", topics.len())
    });
    // What differs is told also where it ends the pass.
    let result = match &topics {
        Ok(_) => {
            let work = index(&marks, pipeline, observed, policy, &mut drift, findings);
            Box::pin(work).await.map(Some)
        }
        Err(_) => Ok(None),
    };
    if result.is_ok() && topics.is_ok() || !drift.left.is_empty() {
        findings.drift = Some(drift::condition(&drift.left, policy));
    }
    findings.corrected = drift.corrected;
    findings.topics = Some(topics?);
    let message = |index: &Option<(IndexStatus, String)>| {
        let of = |(index, left): &(IndexStatus, String)| {
            format!("{} is read and written as {}{left}", index.active, index.alias)
        };
        index.as_ref().map(of).unwrap_or_default()
    };
    let index = record(findings, INDEX, result, "Created", message)?;
    findings.index = index.map(|(index, _)| index);
    context.memory.prepared(uid, &pipeline.inputs);
    Ok(())
}

/// The index as it was told, with its documents counted, where that could not be done then.
async fn recount(resource: &CommercePipeline, pipeline: &Pipeline, context: &Context) -> Option<IndexStatus> {
    let index = resource.status.as_ref()?.index.as_ref()?;
    if index.documents.is_some() {
        return None;
    }
    let counted = context.stores.documents(&pipeline.elasticsearch, &index.active);
    let documents = counted.await.ok().flatten()?;
    Some(IndexStatus {
        documents: Some(flow::count(documents)),
        ..index.clone()
    })
}

/// Notes the outcome of a step, and ends the pass if it was not reached.
fn record<T>(
    findings: &mut Findings,
    step: &'static str,
    result: Result<T, Stop>,
    reason: &'static str,
    message: impl FnOnce(&T) -> String,
) -> Result<T, Stop> {
    match &result {
        Ok(value) => findings.pass(step, reason, message(value)),
        Err(why) => findings.stop(Some(step), why),
    }
    result
}

/// Ends the pass where an older pipeline has claimed the same.
async fn unclaimed(
    resource: &CommercePipeline,
    context: &Context,
    findings: &mut Findings,
) -> Result<(), Stop> {
    let conflicts = claims::conflicts(resource, context).await?;
    if conflicts.is_empty() {
        return Ok(());
    }
    for conflict in &conflicts {
        let finding = Finding::no("Conflict", &conflict.message);
        findings.steps.push((conflict.step, finding));
    }
    Err(Error::Conflict(claims::list(&conflicts)).into())
}

/// Ends the pass where a store is marked as another pipeline's, or as a newer spec's.
fn told(findings: &mut Findings, marked: Result<(), (&'static str, Error)>) -> Result<(), Stop> {
    marked.map_err(|(step, error)| {
        let stop = Stop::Failed(error);
        findings.stop(Some(step), &stop);
        stop
    })
}

async fn stores(pipeline: &Pipeline, context: &Context) -> Result<(), Stop> {
    let away = context.stores.away(pipeline).await;
    if away.is_empty() {
        return Ok(());
    }
    let list = away
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    let message = format!("{list}. What runs goes on running, and the stores are asked again soon");
    Err(Error::StoresUnreachable(message).into())
}

/// The schema is up to date once the Job of this image and seed has succeeded.
async fn schema(
    pipeline: &Pipeline,
    objects: &Objects,
    observed: &Observed,
    context: &Context,
) -> Result<String, Stop> {
    let Some(job) = &objects.migration else {
        return migrated_by_hand(pipeline, context).await;
    };
    let name = job.name_any();
    let Some(live) = observed.live.jobs.iter().find(|live| live.name_any() == name) else {
        apply::apply(&context.client, job, &[]).await?;
        return Err(Stop::Waiting {
            reason: "Migrating",
            message: format!("Job {name} brings the schema up to date"),
        });
    };
    match health::job(live) {
        JobState::Succeeded => {
            // Jobs of earlier images have served their purpose.
            let others = format!("{}-migrate-", pipeline.name);
            let keep = |other: &str| other == name || !other.starts_with(&others);
            apply::prune(&context.client, &observed.live.jobs, keep).await?;
            Ok(format!("Job {name} has brought the schema up to date"))
        }
        JobState::Running => {
            let trouble = health::trouble(&observed.live.pods, "migrate")
                .map(|t| format!("; {t}"))
                .unwrap_or_default();
            let message = format!("Job {name} brings the schema up to date{trouble}");
            Err(Stop::Waiting {
                reason: "Migrating",
                message,
            })
        }
        JobState::Failed if health::gave_up(live) => Err(Error::DowngradeRefused(format!(
            "the schema is newer than the image {} knows, and Job {name} has left it as it is; what ran before goes on running: set image.tag to the version that made the schema, or a later one",
            pipeline.images.of("api")
        ))
        .into()),
        JobState::Failed => {
            let trouble = health::trouble(&observed.live.pods, "migrate")
                .unwrap_or_else(|| "its pods are gone".to_owned());
            Err(Error::MigrationFailed(format!(
                "Job {name} failed ({trouble}); what ran before goes on running. See `kubectl logs job/{name}`, mend the cause, then delete the Job to try again"
            ))
            .into())
        }
    }
}

async fn migrated_by_hand(pipeline: &Pipeline, context: &Context) -> Result<String, Stop> {
    let version = context.stores.schema_version(&pipeline.postgres.connect).await;
    let (found, needed) =
        version.map_err(|error| Error::MigrationFailed(format!("reading the schema's version: {error}")))?;
    if found >= needed {
        return Ok(format!("the schema has version {found}"));
    }
    let message = format!(
        "the schema has version {found} and the services need {needed}: run `api migrate` with the image {}, or set postgres.migrations: Auto",
        pipeline.images.of("api")
    );
    Err(Stop::Waiting {
        reason: "WaitingForMigration",
        message,
    })
}

/// What was found to differ.
#[derive(Default)]
struct Drift {
    corrected: Vec<Difference>,
    left: Vec<Difference>,
}

impl Drift {
    /// Notes the differences; whether some are to be put right.
    fn found(&mut self, policy: DriftPolicy, differences: Vec<Difference>) -> bool {
        let (correct, left) = drift::sort(policy, differences);
        self.left.extend(left);
        let some = !correct.is_empty();
        self.corrected.extend(correct);
        some
    }
}

async fn topics(
    marks: &Marks<'_>,
    pipeline: &Pipeline,
    policy: DriftPolicy,
    context: &Context,
    drift: &mut Drift,
) -> Result<Vec<TopicStatus>, Stop> {
    let (stores, kafka) = (&context.stores, &pipeline.kafka);
    let found = stores.read_topics(kafka).await.map_err(Error::TopicsFailed)?;
    if drift.found(policy, drift::of_topics(pipeline, &found)) {
        marks.set_schema(&pipeline.postgres).await?;
        let topics = context
            .write(stores.ensure_topics(kafka), Error::TopicsFailed)
            .await?;
        let status = |topic: TopicState| TopicStatus {
            name: topic.name,
            partitions: topic.partitions,
        };
        return Ok(topics.into_iter().map(status).collect());
    }
    missing(&drift.left).map_or(Ok(()), |message| Err(Error::TopicsFailed(message)))?;
    let status = |name: String| {
        let partitions = found.get(&name)?.partitions;
        Some(TopicStatus { name, partitions })
    };
    Ok(topics::names(&kafka.connect)
        .into_iter()
        .filter_map(status)
        .collect())
}

/// Without some things nothing works, whoever is to bring them about.
fn missing(left: &[Difference]) -> Option<String> {
    let missing: Vec<_> = left
        .iter()
        .filter(|difference| difference.what == What::Missing)
        .map(ToString::to_string)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "{}, and driftPolicy: Observe leaves it so: create it, or set driftPolicy: Correct",
            missing.join("; ")
        )
    })
}

/// The index that serves, and what there is to say of it beside that it does.
async fn index(
    marks: &Marks<'_>,
    pipeline: &Pipeline,
    observed: &Observed,
    policy: DriftPolicy,
    drift: &mut Drift,
    findings: &mut Findings,
) -> Result<(IndexStatus, String), Stop> {
    let context = marks.context;
    let (stores, elasticsearch) = (&context.stores, &pipeline.elasticsearch);
    let spec = &elasticsearch.index;
    let found = stores
        .read_index(elasticsearch)
        .await
        .map_err(Error::IndexFailed)?;
    let topics = drift.left.len();
    let state = if drift.found(policy, drift::of_index(pipeline, &found)) {
        marks.set_schema(&pipeline.postgres).await?;
        context
            .write(stores.ensure_index(elasticsearch), Error::IndexFailed)
            .await?
    } else {
        missing(&drift.left[topics..]).map_or(Ok(()), |message| Err(Error::IndexFailed(message)))?;
        IndexState::of(spec, &found)
    };
    let reindex = Reindex {
        marks,
        pipeline,
        observed,
        found: &found,
    };
    match state {
        IndexState::Active { index, .. } => {
            let left = reindex.settle(&index, findings).await?;
            let left = left.map(|problem| format!("; {problem}. It is tried again"));
            Ok((reindex.status(&index, None).await, left.unwrap_or_default()))
        }
        IndexState::MappingDiffers { active, wanted } => {
            if policy == DriftPolicy::Correct && spec.owns(&active) {
                let status = reindex.advance(&active, findings).await?;
                return Ok((status, String::new()));
            }
            let advice = if spec.owns(&active) {
                format!(
                    "driftPolicy: Observe leaves it so. With driftPolicy: Correct, or with the next change of the spec, {wanted} is filled and takes its place"
                )
            } else {
                format!(
                    "it is not one of the pipeline's, and left alone. `indexer rebuild --live --into {wanted}` fills one that is, and says how to move the alias"
                )
            };
            Err(Error::IndexFailed(format!(
                "the alias {} leads to {active}, whose mapping differs from what the spec asks for ({wanted}): {advice}",
                spec.name
            ))
            .into())
        }
    }
}
