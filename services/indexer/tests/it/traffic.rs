//! Orders that come and are cancelled, with something malformed among their events now and then, and where all of it has to
//! end: `verify` finds no difference, and the dead-letter topics hold what was malformed.

use std::collections::BTreeMap;

use anyhow::Result;
use pretty_assertions::assert_eq;
use rdkafka::Message as _;

use crate::shop::Shop;

pub(crate) struct Traffic<'a> {
    shop: &'a Shop,
    malformed: Vec<String>,
}

impl<'a> Traffic<'a> {
    pub(crate) fn new(shop: &'a Shop) -> Self {
        Self {
            shop,
            malformed: Vec::new(),
        }
    }

    /// Places orders, cancels every third, and publishes the events; with each hundred of them comes a record that is none.
    pub(crate) async fn flow(&mut self, orders: i64) -> Result<()> {
        let mut events = self.shop.place(orders).await?;
        let third: Vec<_> = events
            .iter()
            .step_by(3)
            .map(|event| event.order_id.parse())
            .collect::<Result<_, _>>()?;
        events.extend(self.shop.cancel(&third).await?);
        let mut records = Vec::new();
        for (place, event) in events.iter().enumerate() {
            let (topic, key) = (event.event_type.topic(), event.order_id.as_str());
            if place % 100 == 0 {
                let number = self.malformed.len();
                self.malformed.push(format!("{{\"malformed\": {number}"));
                records.push((topic, key, self.malformed[number].clone().into_bytes()));
            }
            records.push((topic, key, serde_json::to_vec(event)?));
        }
        self.shop.world.publish_raw(records).await
    }

    /// Waits until everything is settled, and looks at all of it. Returns how many dead letters repeat another one, as they may
    /// where an indexer ended between a letter and its commit.
    pub(crate) async fn assert_arrived(&self) -> Result<usize> {
        let world = &self.shop.world;
        world.wait_until_committed().await?;
        let (printed, found) = self.shop.verify(&[]).await?;
        assert_eq!((printed.code, found), (Some(0), Vec::new()), "{}", printed.err);
        let letters = world.letters().await?;
        let origin = ["dlq-topic", "dlq-partition", "dlq-offset"];
        let by_origin: BTreeMap<_, _> = letters
            .iter()
            .map(|letter| {
                let payload = String::from_utf8_lossy(letter.record.payload().unwrap_or_default());
                (origin.map(|name| &letter.headers[name]), payload)
            })
            .collect();
        let mut dead: Vec<_> = by_origin.values().cloned().collect();
        let mut malformed = self.malformed.clone();
        dead.sort();
        malformed.sort();
        assert_eq!(dead, malformed);
        Ok(letters.len() - by_origin.len())
    }
}
