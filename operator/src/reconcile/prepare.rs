//! The steps before the workloads: stores reachable → schema → topics → index. Each begins when the one before it is done.

use commerce_core::index::IndexState;
use kube::ResourceExt as _;

use super::{
    apply,
    build::Objects,
    error::{Error, Stop},
    fetch::Observed,
    health::{self, JobState},
    status::{Findings, INDEX, SCHEMA, STORES, TOPICS},
    validate::Pipeline,
};
use crate::{
    context::Context,
    crd::{IndexStatus, TopicStatus},
};

/// Brings the stores to what the pipeline needs.
pub async fn prepare(
    pipeline: &Pipeline,
    objects: &Objects,
    observed: &Observed,
    context: &Context,
    findings: &mut Findings,
) -> Result<(), Stop> {
    let uid = &pipeline.owner.uid;
    if !context.memory.answered_lately(uid, &pipeline.inputs) {
        let result = stores(pipeline, context).await;
        record(findings, STORES, result, "Reachable", |()| {
            "all four stores answer".to_owned()
        })?;
        context.memory.answered(uid, &pipeline.inputs);
    }

    let result = schema(pipeline, objects, observed, context).await;
    record(findings, SCHEMA, result, "Migrated", Clone::clone)?;

    if context
        .memory
        .prepared_lately(uid, &pipeline.inputs, context.settings.drift_interval)
    {
        return Ok(());
    }
    let result = topics(pipeline, context).await;
    let topics = record(findings, TOPICS, result, "Created", |topics| {
        format!("{} topics are there", topics.len())
    })?;
    findings.topics = Some(topics);

    let result = index(pipeline, context).await;
    let message = |index: &IndexStatus| format!("{} is read and written as {}", index.active, index.alias);
    findings.index = Some(record(findings, INDEX, result, "Created", message)?);
    context.memory.prepared(uid, &pipeline.inputs);
    Ok(())
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
            apply::prune(&context.client, &observed.live.jobs, |other| other == name).await?;
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

async fn topics(pipeline: &Pipeline, context: &Context) -> Result<Vec<TopicStatus>, Stop> {
    let topics = context
        .stores
        .ensure_topics(&pipeline.kafka)
        .await
        .map_err(Error::TopicsFailed)?;
    Ok(topics
        .into_iter()
        .map(|topic| TopicStatus {
            name: topic.name,
            partitions: topic.partitions,
        })
        .collect())
}

async fn index(pipeline: &Pipeline, context: &Context) -> Result<IndexStatus, Stop> {
    let alias = pipeline.elasticsearch.index.name.clone();
    match context.stores.ensure_index(&pipeline.elasticsearch).await.map_err(Error::IndexFailed)? {
        IndexState::Active { index, .. } => Ok(IndexStatus { alias, active: index }),
        IndexState::MappingDiffers { active, wanted } => Err(Error::IndexFailed(format!(
            "the alias {alias} leads to {active}, whose mapping differs from what the spec asks for ({wanted}): put elasticsearch.index.mappings back, or fill {wanted} and move the alias to it"
        ))
        .into()),
    }
}
