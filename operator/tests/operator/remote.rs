//! What the operator does in the stores, with real ones.

use std::time::Duration;

use commerce_core::{
    index::IndexState,
    owner::{Mark, Owner},
    testing::{Redis, shared},
    topics,
};
use commerce_operator::reconcile::{
    secrets::Secrets,
    stores::{Remote, Stores as _},
    validate::{Pipeline, validate},
};
use serde_json::json;

use crate::fixtures::{minimal, parsed, secret};

/// A pipeline on the shared stores, but for Redis.
async fn pipeline(redis: &str) -> Pipeline {
    let stores = shared();
    stores.start().await.unwrap();
    let database = stores.database().await.unwrap();
    let kafka = stores.kafka_config().await.unwrap();
    let elasticsearch = stores.elasticsearch_config().await.unwrap();
    let topics =
        json!({ "prefix": kafka.topic_prefix, "partitions": 2, "replicationFactor": 1, "config": {} });
    let resource = parsed(
        &minimal(),
        &[
            ("kafka/bootstrapServers", json!(kafka.bootstrap_servers)),
            ("kafka/topics", topics),
            (
                "elasticsearch/url",
                json!(elasticsearch.url.as_str().trim_end_matches('/')),
            ),
            ("elasticsearch/index/name", json!(elasticsearch.index)),
        ],
    );
    let secrets = Secrets::new([
        secret("pg", &[("uri", database.url())]),
        secret("cache", &[("uri", redis)]),
    ]);
    validate(&resource, &secrets).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_answer_are_prepared_and_cleaned_up() {
    let pipeline = pipeline(&shared().redis().await.unwrap().url()).await;
    assert_eq!(Remote.away(&pipeline).await, []);

    let (found, needed) = Remote.schema_version(&pipeline.postgres.connect).await.unwrap();
    assert_eq!(found, needed);
    for new in [true, false] {
        let topics = Remote.ensure_topics(&pipeline.kafka).await.unwrap();
        let states: Vec<_> = topics
            .iter()
            .map(|topic| (topic.partitions, topic.changed))
            .collect();
        assert_eq!(states, [(2, new); 4]);
        let index = Remote.ensure_index(&pipeline.elasticsearch).await.unwrap();
        assert!(
            matches!(index, IndexState::Active { created, .. } if created == new),
            "{index:?}"
        );
    }

    // Twice: what is gone already is no error.
    for _ in 0..2 {
        Remote.remove_topics(&pipeline.kafka).await.unwrap();
        Remote.remove_index(&pipeline.elasticsearch).await.unwrap();
        Remote.remove_schema(&pipeline.postgres.connect).await.unwrap();
    }
    let (found, _) = Remote.schema_version(&pipeline.postgres.connect).await.unwrap();
    assert_eq!(found, 0);
    // Kafka forgets a deleted topic a moment after it has said so.
    let gone = async {
        loop {
            let all = topics::partitions(&pipeline.kafka.connect).await.unwrap();
            if topics::names(&pipeline.kafka.connect)
                .iter()
                .all(|name| !all.contains_key(name))
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_are_set_by_comparison_and_taken_off_by_their_owner() {
    let pipeline = pipeline(&shared().redis().await.unwrap().url()).await;
    let (postgres, elasticsearch) = (&pipeline.postgres.connect, &pipeline.elasticsearch);
    let owner = |uid: &str, generation| Owner {
        uid: uid.to_owned(),
        namespace: "store".to_owned(),
        name: "shop".to_owned(),
        cluster: "c1".to_owned(),
        generation,
    };
    let (ours, newer, others) = (owner("a", 1), owner("a", 2), owner("b", 1));

    assert_eq!(Remote.schema_mark(postgres).await.unwrap(), Mark::Free);
    let mark = async |owner: &Owner, found: Option<&Owner>| {
        Remote.mark_schema(postgres, owner, found).await.unwrap()
    };
    assert!(mark(&ours, None).await);
    assert!(!mark(&others, None).await, "it is not free any more");
    assert!(mark(&newer, Some(&ours)).await);
    assert!(!mark(&ours, Some(&ours)).await, "it is not that one any more");
    assert!(!mark(&others, Some(&ours)).await);
    Remote.unmark_schema(postgres, "b").await.unwrap();
    let found = Remote.schema_mark(postgres).await.unwrap();
    assert_eq!(found, Mark::Of(newer.clone()));
    assert!(mark(&others, Some(&newer)).await, "adopted");
    Remote.unmark_schema(postgres, "b").await.unwrap();
    assert_eq!(Remote.schema_mark(postgres).await.unwrap(), Mark::Free);
    assert!(mark(&ours, None).await);
    Remote.remove_schema(postgres).await.unwrap();
    assert_eq!(Remote.schema_mark(postgres).await.unwrap(), Mark::Unmarkable);
    let nowhere = postgres.clone().database("not_there");
    assert_eq!(Remote.schema_mark(&nowhere).await.unwrap(), Mark::Unmarkable);

    let found = async || Remote.index_mark(elasticsearch).await.unwrap();
    let mark = async |owner: &Owner, new: bool| Remote.mark_index(elasticsearch, owner, new).await.unwrap();
    assert_eq!(found().await, Mark::Free);
    assert!(mark(&ours, true).await);
    assert!(!mark(&others, true).await, "it is not free any more");
    assert_eq!(found().await, Mark::Of(ours));
    assert!(mark(&others, false).await, "adopted");
    Remote.unmark_index(elasticsearch, "a").await.unwrap();
    assert_eq!(found().await, Mark::Of(others.clone()));
    Remote.unmark_index(elasticsearch, "b").await.unwrap();
    assert_eq!(found().await, Mark::Free);
    assert!(mark(&others, true).await);
    Remote.ensure_index(elasticsearch).await.unwrap();
    Remote.remove_index(elasticsearch).await.unwrap();
    assert_eq!(found().await, Mark::Free);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_named_with_its_field() {
    let redis = Redis::start().await.unwrap();
    let pipeline = pipeline(&redis.url()).await;
    assert_eq!(Remote.away(&pipeline).await, []);
    redis.kill().unwrap();
    let away = Remote.away(&pipeline).await;
    assert_eq!(away.len(), 1, "{away:?}");
    assert!(
        away[0].to_string().starts_with("Redis (redis.secretRef): "),
        "{}",
        away[0]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_is_told_without_the_password() {
    let mut pipeline = pipeline(&shared().redis().await.unwrap().url()).await;
    pipeline.postgres.connect = pipeline
        .postgres
        .connect
        .clone()
        .username("nobody")
        .password("hunter2");
    let away = Remote.away(&pipeline).await;
    let stores: Vec<_> = away.iter().map(|away| away.store).collect();
    assert_eq!(stores, ["PostgreSQL"]);
    assert!(!away[0].to_string().contains("hunter2"), "{}", away[0]);
}
