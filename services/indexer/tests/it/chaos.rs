//! Faults of all kinds at once, in an order that a seed decides.

use std::time::Duration;

use anyhow::{Result, bail};
use commerce_core::{
    config::Env,
    testing::{Elasticsearch, FaultProxy, Faults, Kafka},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{crashes::spawn_with, shop::Shop, traffic::Traffic, world::World};

/// How long things go wrong.
const CHAOS: Duration = Duration::from_mins(1);
const MOST_INDEXERS: usize = 3;

#[tokio::test]
async fn whatever_goes_wrong_nothing_is_lost() -> Result<()> {
    let seed = Env::from_process().optional_text("CHAOS_SEED");
    let seed: u64 = seed.map_or_else(|| Ok(rand::random()), |seed| seed.parse())?;
    eprintln!("repeat with CHAOS_SEED={seed}");
    let (kafka, elasticsearch) = tokio::try_join!(Kafka::start(), Elasticsearch::start())?;
    let shop = Shop::of(World::with_own_kafka_and_elasticsearch(&kafka, &elasticsearch).await?).await?;
    let proxy = FaultProxy::start(elasticsearch.url()).await?;
    let mut traffic = Traffic::new(&shop);
    let until = Instant::now() + CHAOS;

    let load = async {
        let mut random = StdRng::seed_from_u64(seed);
        while Instant::now() < until {
            traffic.flow(random.random_range(1..600)).await?;
            pause(&mut random, 1000).await;
        }
        anyhow::Ok(())
    };
    let index = async {
        let mut random = StdRng::seed_from_u64(seed ^ 1);
        while Instant::now() < until {
            trouble_elasticsearch(&mut random, &shop, &elasticsearch, &proxy).await?;
            pause(&mut random, 1000).await;
        }
        anyhow::Ok(())
    };
    let consumers = async {
        let mut random = StdRng::seed_from_u64(seed ^ 2);
        let mut indexers = Indexers::new(&shop, &proxy)?;
        while Instant::now() < until {
            trouble_consumers(&mut random, &kafka, &mut indexers).await?;
            pause(&mut random, 3000).await;
            indexers.run()?;
        }
        anyhow::Ok(indexers)
    };
    let ((), (), mut indexers) = tokio::try_join!(load, index, consumers)?;
    tokio::select! {
        arrived = traffic.assert_arrived() => arrived.map(drop),
        ended = indexers.supervise() => ended,
    }
}

async fn pause(random: &mut StdRng, most: u64) {
    sleep(Duration::from_millis(random.random_range(0..most))).await;
}

/// For some time; then everything is well again.
async fn trouble_elasticsearch(
    random: &mut StdRng,
    shop: &Shop,
    store: &Elasticsearch,
    proxy: &FaultProxy,
) -> Result<()> {
    let none = Faults::default();
    let block = async |value| {
        let settings = json!({"index.blocks.read_only_allow_delete": value});
        shop.ask("PUT", "_settings", Some(&settings)).await
    };
    match random.random_range(0..9) {
        0 => {
            store.kill()?;
            pause(random, 3000).await;
            store.restart().await?;
        }
        1 => {
            store.pause()?;
            pause(random, 3000).await;
            store.resume()?;
        }
        2 => {
            block(json!(true)).await?;
            pause(random, 3000).await;
            block(json!(null)).await?;
        }
        fault => {
            let status = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
            proxy.set(match fault {
                3 | 4 => Faults {
                    every_second: true,
                    ..none
                },
                5 => Faults {
                    status: Some(status[random.random_range(0..2)]),
                    ..none
                },
                6 => Faults {
                    most_documents: Some(random.random_range(100..300)),
                    ..none
                },
                7 => Faults {
                    most_in_shard: Some(random.random_range(100..300)),
                    ..none
                },
                _ => Faults {
                    delay: Duration::from_millis(random.random_range(1..1000)),
                    ..none
                },
            });
            pause(random, 5000).await;
            proxy.set(Faults::default());
        }
    }
    Ok(())
}

async fn trouble_consumers(random: &mut StdRng, kafka: &Kafka, indexers: &mut Indexers<'_>) -> Result<()> {
    let running = indexers.running.len();
    match random.random_range(0..4) {
        0 => {
            kafka.kill()?;
            pause(random, 2000).await;
            kafka.restart().await?;
        }
        1 if running > 1 => indexers.terminate(random.random_range(0..running)).await?,
        2 => indexers.kill(random.random_range(0..running)).await?,
        _ if running < MOST_INDEXERS => indexers.add()?,
        _ => {}
    }
    Ok(())
}

/// Processes, at least one.
struct Indexers<'a> {
    shop: &'a Shop,
    proxy: &'a FaultProxy,
    running: Vec<Child>,
}

impl<'a> Indexers<'a> {
    fn new(shop: &'a Shop, proxy: &'a FaultProxy) -> Result<Self> {
        let mut indexers = Self {
            shop,
            proxy,
            running: Vec::new(),
        };
        indexers.add()?;
        Ok(indexers)
    }

    fn add(&mut self) -> Result<()> {
        self.running.push(self.start()?);
        Ok(())
    }

    fn start(&self) -> Result<Child> {
        let proxy = ("ELASTICSEARCH_URL", self.proxy.url().as_str());
        spawn_with(&self.shop.world, &[proxy])
    }

    /// SIGKILL; another one takes its place, as in Kubernetes.
    async fn kill(&mut self, number: usize) -> Result<()> {
        self.running.remove(number).kill().await?;
        self.add()
    }

    /// SIGTERM, and nobody waits for it to end.
    async fn terminate(&mut self, number: usize) -> Result<()> {
        let mut indexer = self.running.remove(number);
        let Some(id) = indexer.id() else {
            bail!("an indexer has ended by itself")
        };
        Command::new("kill").arg(id.to_string()).status().await?;
        tokio::spawn(async move { indexer.wait().await });
        Ok(())
    }

    /// Starts those anew that have ended with an error, as Kubernetes does: of a Kafka client that is lost nothing else helps.
    /// They end in no other way.
    fn run(&mut self) -> Result<()> {
        for number in 0..self.running.len() {
            match self.running[number].try_wait()? {
                None => {}
                Some(status) if status.code() == Some(1) => self.running[number] = self.start()?,
                Some(status) => bail!("an indexer has ended by itself: {status}"),
            }
        }
        Ok(())
    }

    async fn supervise(&mut self) -> Result<()> {
        loop {
            self.run()?;
            sleep(Duration::from_secs(1)).await;
        }
    }
}
