//! Topics, template, index and alias: what others change is found field by field, put right, and nothing else is touched.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use commerce_core::{
    drift::Difference,
    elasticsearch::body,
    index::{self, IndexSpec, IndexState},
    kafka::KafkaConfig,
    testing::shared,
    topics::{self, Topic, TopicSpec},
};
use elasticsearch::{
    Elasticsearch,
    indices::{IndicesCreateParts, IndicesPutIndexTemplateParts, IndicesPutSettingsParts},
};
use rdkafka::{
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

fn spec(partitions: i32, config: &[(&str, &str)]) -> TopicSpec {
    let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    TopicSpec {
        partitions,
        replication_factor: 1,
        config: config.iter().map(entry).collect(),
    }
}

fn told(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

async fn set(kafka: &KafkaConfig, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = kafka.client("test").create()?;
    let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (key, value) in settings {
        change = change.set(key, value);
    }
    for result in admin.alter_configs([&change], &AdminOptions::new()).await? {
        result.map_err(|(_, code)| code)?;
    }
    Ok(())
}

/// Kafka tells of a change a moment after it has taken it.
async fn read_until(
    kafka: &KafkaConfig,
    spec: &TopicSpec,
    holds: impl Fn(&BTreeMap<String, Topic>) -> bool,
) -> Result<BTreeMap<String, Topic>> {
    let read = async {
        loop {
            let found = topics::read(kafka, spec).await?;
            if holds(&found) {
                return anyhow::Ok(found);
            }
        }
    };
    timeout(PATIENCE, read)
        .await
        .context("Kafka does not tell of the change")?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_changed_is_put_right_and_keeps_what_the_spec_does_not_name() -> Result<()> {
    let kafka = shared().kafka_config().await?;
    let wanted = spec(2, &[("retention.ms", "604800000")]);
    let missing = told(&topics::differences(&kafka, &wanted, &BTreeMap::new()));
    assert_eq!(
        missing[0],
        format!("topic {} does not exist", kafka.topic("order.created"))
    );
    topics::ensure(&kafka, &wanted).await?;
    let found = read_until(&kafka, &wanted, |found| found.len() == 4).await?;
    assert_eq!(topics::differences(&kafka, &wanted, &found), []);

    let topic = kafka.topic("order.created");
    set(
        &kafka,
        &topic,
        &[("retention.ms", "1000"), ("segment.ms", "70000")],
    )
    .await?;
    let is = |found: &BTreeMap<String, Topic>, value: &str| found[&topic].config["retention.ms"] == value;
    let found = read_until(&kafka, &wanted, |found| is(found, "1000")).await?;
    assert_eq!(
        told(&topics::differences(&kafka, &wanted, &found)),
        [format!(
            "topic {topic}: retention.ms is 1000, spec says 604800000"
        )]
    );
    let states = topics::ensure(&kafka, &wanted).await?;
    let changed: Vec<_> = states
        .iter()
        .filter(|state| state.changed)
        .map(|state| &state.name)
        .collect();
    assert_eq!(changed, [&topic], "the others are left alone");
    let found = read_until(&kafka, &wanted, |found| is(found, "604800000")).await?;
    assert_eq!(found[&topic].own["segment.ms"].as_deref(), Some("70000"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_too_many_partitions_or_other_replicas_is_told_and_left() -> Result<()> {
    let kafka = shared().kafka_config().await?;
    topics::ensure(&kafka, &spec(3, &[])).await?;
    let mut wanted = spec(2, &[]);
    wanted.replication_factor = 2;
    let found = read_until(&kafka, &wanted, |found| found.len() == 4).await?;
    let differences = topics::differences(&kafka, &wanted, &found);
    let topic = kafka.topic("order.created");
    assert_eq!(
        told(&differences)[..2],
        [
            format!(
                "topic {topic}: partitions are 3, spec says 2 (Kafka can't take partitions away: set kafka.topics.partitions to 3)"
            ),
            format!(
                "topic {topic}: replicationFactor is 1, spec says 2 (move replicas with kafka-reassign-partitions.sh)"
            ),
        ]
    );
    assert!(differences.iter().all(|difference| difference.stays.is_some()));
    let states = topics::ensure(&kafka, &wanted).await?;
    assert!(
        states.iter().all(|state| !state.changed && state.partitions == 3),
        "{states:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_kafka_refuses_one_setting_nothing_is_changed() -> Result<()> {
    let kafka = shared().kafka_config().await?;
    topics::ensure(&kafka, &spec(1, &[])).await?;
    let wanted = spec(2, &[("retention.ms", "soon")]);
    read_until(&kafka, &wanted, |found| found.len() == 4).await?;
    let error = topics::ensure(&kafka, &wanted).await.unwrap_err().to_string();
    assert!(
        error.contains("setting retention.ms of the topic") && error.contains("InvalidConfig"),
        "{error}"
    );
    let found = topics::read(&kafka, &wanted).await?;
    assert!(found.values().all(|topic| topic.partitions == 1), "{found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_template_setting_or_alias_is_told_and_put_right() -> Result<()> {
    let config = shared().elasticsearch_config().await?;
    let client = config.client(PATIENCE)?;
    let mut wanted = IndexSpec::new(&config.index);
    wanted
        .properties
        .insert("note".into(), json!({"type": "text", "index": false}));
    wanted
        .settings
        .insert("mapping".into(), json!({"total_fields": {"limit": 500}}));
    wanted
        .settings
        .insert("query.default_field".into(), json!(["userId", "skuId"]));
    let differ = async || anyhow::Ok(told(&index::read(&client, &wanted).await?.differences(&wanted)));
    let (name, active) = (&config.index, &wanted.wanted_index());
    assert_eq!(
        differ().await?,
        [
            format!("index template {name} does not exist"),
            format!("alias {name} does not exist")
        ]
    );
    index::ensure(&client, &wanted).await?;
    assert_eq!(
        differ().await?,
        [""; 0],
        "Elasticsearch's notation is no difference"
    );

    let settings = json!({"index": {"number_of_replicas": 3}});
    let parts = IndicesPutSettingsParts::Index(&[active]);
    body(
        "edit",
        client.indices().put_settings(parts).body(settings).send().await,
    )
    .await?;
    let template = json!({"index_patterns": [format!("{name}-*")], "priority": 7, "template": {"mappings": {"dynamic": "true"}}});
    let parts = IndicesPutIndexTemplateParts::Name(name);
    body(
        "edit",
        client
            .indices()
            .put_index_template(parts)
            .body(template)
            .send()
            .await,
    )
    .await?;
    let foreign = &format!("foreign-{name}");
    create(&client, foreign, &json!({"aliases": {name: {}}})).await?;

    let found = differ().await?;
    for expected in [
        format!("index {active}: index.number_of_replicas is 3, spec says 0"),
        format!(
            "index template {name}: priority is 7, spec says {}",
            200 + name.len()
        ),
        format!("index template {name}: template.mappings.dynamic is true, spec says strict"),
        format!("alias {name}: index is {foreign},{active}, spec says {active}"),
    ] {
        assert!(found.contains(&expected), "{expected} is not in {found:#?}");
    }
    let state = index::ensure(&client, &wanted).await?;
    assert_eq!(
        state,
        IndexState::Active {
            index: active.clone(),
            created: false
        }
    );
    assert_eq!(differ().await?, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_that_is_gone_is_put_back_and_one_that_leads_elsewhere_is_told() -> Result<()> {
    let config = shared().elasticsearch_config().await?;
    let client = config.client(PATIENCE)?;
    let wanted = IndexSpec::new(&config.index);
    let (name, active) = (&config.index, &wanted.wanted_index());
    index::ensure(&client, &wanted).await?;
    let remove = json!({"remove": {"index": active, "alias": name}});
    aliases(&client, std::slice::from_ref(&remove)).await?;
    let state = index::ensure(&client, &wanted).await?;
    assert_eq!(
        state,
        IndexState::Active {
            index: active.clone(),
            created: false
        }
    );

    let foreign = &format!("foreign-{name}");
    create(&client, foreign, &json!({})).await?;
    aliases(
        &client,
        &[remove, json!({"add": {"index": foreign, "alias": name}})],
    )
    .await?;
    let differences = index::read(&client, &wanted).await?.differences(&wanted);
    assert_eq!(differences.len(), 1, "{differences:?}");
    let text = differences[0].to_string();
    assert!(
        text.starts_with(&format!("alias {name}: index is {foreign}, spec says {active}")),
        "{text}"
    );
    Ok(())
}

async fn aliases(client: &Elasticsearch, actions: &[Value]) -> Result<()> {
    let actions = json!({"actions": actions});
    body(
        "move the alias",
        client.indices().update_aliases().body(actions).send().await,
    )
    .await?;
    Ok(())
}

async fn create(client: &Elasticsearch, index: &str, definition: &Value) -> Result<()> {
    let indices = client.indices();
    let create = indices.create(IndicesCreateParts::Index(index));
    body("create", create.body(definition).send().await).await?;
    Ok(())
}

/// What the spec does not ask for any more is not in the next index either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_and_a_setting_that_are_taken_back_leave_the_template() -> Result<()> {
    let config = shared().elasticsearch_config().await?;
    let client = config.client(PATIENCE)?;
    let mut before = IndexSpec::new(&config.index);
    before
        .properties
        .insert("note".into(), json!({"type": "keyword"}));
    before.settings.insert("codec".into(), json!("best_compression"));
    index::ensure(&client, &before).await?;
    let wanted = IndexSpec::new(&config.index);
    let name = &config.index;
    let differences = index::read(&client, &wanted).await?.differences(&wanted);
    assert_eq!(
        told(&differences),
        [
            format!(
                "index template {name}: template.mappings.properties.note.type is keyword, spec says not set"
            ),
            format!(
                "index template {name}: template.settings.index.codec is best_compression, spec says not set"
            ),
        ]
    );
    index::ensure(&client, &wanted).await?;
    let next = &wanted.wanted_index();
    assert!(index::create_beside(&client, name, next).await?);
    let found = index::read(&client, &wanted).await?;
    assert_eq!(told(&found.differences(&wanted)), [""; 0]);
    assert_eq!(found.indices[next]["mappings"], wanted.mappings());
    assert_eq!(found.indices[next]["settings"].get("index.codec"), None);
    Ok(())
}

/// An index that was filled beside live events takes the place of the one before in one step, and one that has missed an event
/// does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_promoted_while_it_is_the_next_one() -> Result<()> {
    let config = shared().elasticsearch_config().await?;
    let client = config.client(PATIENCE)?;
    let before = IndexSpec::new(&config.index);
    let mut wanted = before.clone();
    wanted
        .properties
        .insert("note".into(), json!({"type": "keyword"}));
    let name = &config.index;
    let (old, new) = (&before.wanted_index(), &wanted.wanted_index());
    index::ensure(&client, &before).await?;
    let state = index::ensure(&client, &wanted).await?;
    let differs = IndexState::MappingDiffers {
        active: old.clone(),
        wanted: new.clone(),
    };
    assert_eq!(state, differs);
    assert_eq!(index::count(&client, new).await?, None);
    assert!(
        !index::promote(&client, name, new).await?,
        "there is no such index"
    );

    index::create_beside(&client, name, new).await?;
    assert!(
        !index::promote(&client, name, new).await?,
        "it takes no live events"
    );
    assert_eq!(index::read(&client, &wanted).await?.behind(name), [old]);

    index::move_alias(&client, &index::next_alias(name), new).await?;
    assert!(index::promote(&client, name, new).await?);
    let found = index::read(&client, &wanted).await?;
    assert_eq!(found.behind(name), [new]);
    assert_eq!(found.behind(&index::next_alias(name)), [""; 0]);
    assert_eq!(found.indices[new]["aliases"][name]["is_write_index"], true);
    assert!(
        !index::promote(&client, name, new).await?,
        "a call that is repeated changes nothing"
    );
    assert_eq!(index::read(&client, &wanted).await?.behind(name), [new]);
    assert_eq!(index::count(&client, new).await?, Some(0));

    index::delete_index(&client, old).await?;
    index::delete_index(&client, old).await?;
    let found = index::read(&client, &wanted).await?;
    assert_eq!(found.indices.keys().collect::<Vec<_>>(), [new]);

    // What is left of an index that was being filled goes with the rest.
    index::create_beside(&client, name, old).await?;
    index::delete(&client, name).await?;
    assert_eq!(index::read(&client, &wanted).await?, index::Found::default());
    Ok(())
}
