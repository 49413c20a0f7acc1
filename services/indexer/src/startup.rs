//! Waits for the stores before there is anything to do with them.

use std::time::Duration;

use commerce_core::{
    admin::Gate,
    elasticsearch::{ElasticsearchConfig, Error},
    index,
    kafka::KafkaConfig,
    topics,
};

use crate::{backoff::Backoff, problem::with_cause, server::Gates};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns when the alias exists. Until then this member stays out of the group: another may reach Elasticsearch.
pub(crate) async fn wait_for_alias(config: &ElasticsearchConfig, elasticsearch: &Gate) -> Result<(), Error> {
    let client = config.client(TIMEOUT)?;
    let mut backoff = Backoff::new();
    loop {
        match index::active_index(&client, &config.index).await {
            Ok(Some(_)) => {
                elasticsearch.pass();
                return Ok(());
            }
            Ok(None) => elasticsearch.fail(format!("the alias {} does not exist", config.index)),
            Err(error) => elasticsearch.fail(with_cause(&error)),
        }
        backoff.wait().await;
    }
}

/// Returns when the topics of the events exist, and those of their dead letters.
pub(crate) async fn wait_for_topics(config: &KafkaConfig, gates: &Gates) {
    let mut backoff = Backoff::new();
    loop {
        match topics::partitions(config).await {
            Ok(found) => {
                let mut missing = topics::names(config);
                missing.retain(|name| !found.contains_key(name));
                if missing.is_empty() {
                    gates.kafka.pass();
                    gates.dead_letters.pass();
                    return;
                }
                let missing = missing.join(", ");
                gates.kafka.fail(format!("these topics do not exist: {missing}"));
            }
            Err(error) => gates.kafka.fail(error.to_string()),
        }
        backoff.wait().await;
    }
}
