//! Whether orders flow: each reason from what the services say, and that nothing flaps or is written for nothing.

use std::time::Duration;

use commerce_operator::{
    crd::CommercePipeline,
    reconcile::{
        flow::{Flow, Memory, PATIENCE, STANDS_STILL, judge},
        services::{Answer, Freshness, IndexerStatus, RelayState, RelayStatus, Seen},
        status::{self, Findings},
    },
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    fixtures::{minimal, parsed},
    services::{active, idle, reading},
};

fn answer<T>(said: Result<T, &str>) -> Answer<T> {
    Answer {
        pod: "shop-x".into(),
        said: said.map_err(str::to_owned),
    }
}

fn seen(relay: RelayStatus, indexer: IndexerStatus) -> Seen {
    Seen {
        relays: vec![answer(Ok(relay)), answer(Ok(idle(RelayState::Standby)))],
        indexers: vec![answer(Ok(indexer))],
    }
}

fn fresh(orders: u64, p50: f64, p99: f64) -> IndexerStatus {
    IndexerStatus {
        freshness: Freshness {
            orders,
            p50_seconds: Some(p50),
            p99_seconds: Some(p99),
        },
        ..reading(5, 0)
    }
}

/// A pipeline that is looked at again and again, by an operator that remembers.
struct Watch {
    resource: CommercePipeline,
    memory: Memory,
    now: Instant,
    writes: usize,
}

impl Watch {
    fn of(changes: &[(&str, Value)]) -> Self {
        Self {
            resource: parsed(&minimal(), changes),
            memory: Memory::default(),
            now: Instant::now(),
            writes: 0,
        }
    }

    /// One that flowed until now.
    fn flowing(changes: &[(&str, Value)]) -> Self {
        let mut watch = Self::of(changes);
        assert_eq!(watch.look(&seen(active(0, 0.0), reading(0, 0))), "True Flowing");
        watch
    }

    /// A look some seconds later, and what the condition says then.
    fn after(&mut self, seconds: u64, seen: &Seen) -> String {
        self.now += Duration::from_secs(seconds);
        self.look(seen)
    }

    fn look(&mut self, seen: &Seen) -> String {
        let flow = judge(&self.resource, seen, &mut self.memory, self.now);
        self.take(flow)
    }

    fn take(&mut self, flow: Flow) -> String {
        let findings = Findings {
            flow: Some(flow),
            ..Findings::default()
        };
        let next = status::next(&self.resource, &findings, &Time(Timestamp::UNIX_EPOCH));
        self.writes += usize::from(self.resource.status.as_ref() != Some(&next));
        self.resource.status = Some(next);
        let condition = self.condition();
        format!(
            "{} {}",
            condition["status"].as_str().unwrap(),
            condition["reason"].as_str().unwrap()
        )
    }

    fn condition(&self) -> Value {
        let status = serde_json::to_value(&self.resource.status).unwrap();
        let conditions = status["conditions"].as_array().unwrap();
        conditions
            .iter()
            .find(|condition| condition["type"] == "Flowing")
            .unwrap()
            .clone()
    }

    fn message(&self) -> String {
        self.condition()["message"].as_str().unwrap().to_owned()
    }

    fn status(&self, pointer: &str) -> Value {
        let status = serde_json::to_value(&self.resource.status).unwrap();
        status.pointer(pointer).cloned().unwrap_or(Value::Null)
    }
}

/// What is seen, what is told once it has lasted, and a part of the message.
#[test]
fn each_trouble_has_its_reason_and_says_what_to_do() {
    let fine = || reading(0, 0);
    let blocked = RelayStatus {
        blocked: Some("Kafka has events that the outbox has not".into()),
        ..idle(RelayState::Waiting)
    };
    let parked = RelayStatus {
        parked: Some(3),
        ..active(0, 0.0)
    };
    let nobody = Seen::default();
    let no_relay = Seen {
        relays: Vec::new(),
        ..seen(active(0, 0.0), fine())
    };
    let no_indexer = Seen {
        indexers: Vec::new(),
        ..seen(active(0, 0.0), fine())
    };
    let mute = Seen {
        relays: vec![answer(Err("no answer within 2 s"))],
        ..seen(active(0, 0.0), fine())
    };
    let mute_indexer = Seen {
        indexers: vec![answer(Err("connection refused")), answer(Ok(fine()))],
        ..seen(active(0, 0.0), fine())
    };
    let standby = Seen {
        relays: vec![answer(Ok(idle(RelayState::Standby)))],
        ..seen(active(0, 0.0), fine())
    };
    let table = [
        (seen(active(40, 0.4), fine()), "True Flowing", "found in time"),
        (
            seen(active(0, 0.0), fresh(5, 0.2, 9.0)),
            "True Flowing",
            "one slow order of five is no 1 %",
        ),
        (
            seen(blocked, fine()),
            "False RelayBlocked",
            "`kubectl exec -n store deploy/shop-relay -- relay adopt`",
        ),
        (
            seen(idle(RelayState::Waiting), fine()),
            "False NoActiveRelay",
            "waits for PostgreSQL or Kafka: see StoresReachable",
        ),
        (standby, "False NoActiveRelay", "another process holds the lease"),
        (no_relay, "False NoActiveRelay", "RelayAvailable tells why"),
        (
            seen(active(70_123, 33.0), fine()),
            "False RelayBehind",
            "70000 events wait to be published, the oldest for 33s",
        ),
        (seen(parked, fine()), "False EventsParked", "3 events are parked"),
        (
            mute,
            "Unknown StatusUnknown",
            "no answer within 2 s. Does a NetworkPolicy keep the operator from port 9090 of the relay's pods?",
        ),
        (mute_indexer, "Unknown StatusUnknown", "of the indexer's pods?"),
        (no_indexer, "False NoActiveIndexer", "IndexerAvailable tells why"),
        (
            seen(active(0, 0.0), IndexerStatus::default()),
            "False NoActiveIndexer",
            "no indexer reads a partition",
        ),
        (
            seen(active(0, 0.0), fresh(500, 0.2, 4.2)),
            "False Stale",
            "99 of 100 after 4.2s, and monitoring.freshnessObjective is 1s",
        ),
        (
            seen(active(0, 0.0), fresh(5, 3.0, 9.0)),
            "False Stale",
            "half of the orders could be found after 3s",
        ),
        (nobody, "False NoActiveRelay", "no pod of the indexer runs"),
    ];
    for (seen, told, message) in table {
        let mut watch = Watch::flowing(&[]);
        watch.after(5, &seen);
        assert_eq!(watch.after(PATIENCE.as_secs(), &seen), told, "{seen:?}");
        if told != "True Flowing" {
            assert!(watch.message().contains(message), "{told}: {}", watch.message());
        }
    }
    for (field, told) in [
        ("relay/replicas", "False NoActiveRelay"),
        ("indexer/replicas", "False NoActiveIndexer"),
    ] {
        let mut watch = Watch::of(&[(field, json!(0))]);
        assert_eq!(watch.look(&seen(active(0, 0.0), fine())), told);
    }
}

#[test]
fn of_several_troubles_the_gravest_gives_the_reason_and_all_are_said() {
    let relay = RelayStatus {
        parked: Some(2),
        ..active(900, 60.0)
    };
    let both = seen(relay, fresh(500, 2.0, 4.0));
    let mut watch = Watch::flowing(&[]);
    watch.after(5, &both);
    watch.after(10, &both);
    assert_eq!(watch.after(10, &both), "False RelayBehind");
    for part in ["900 events wait", "2 events are parked", "freshnessObjective"] {
        assert!(watch.message().contains(part), "{}", watch.message());
    }
}

#[test]
fn before_anything_runs_it_is_unknown_and_a_handover_is_not_told() {
    let mut watch = Watch::of(&[]);
    for _ in 0..10 {
        assert_eq!(watch.after(5, &Seen::default()), "Unknown Starting");
    }
    let none_active = seen(idle(RelayState::Standby), reading(0, 0));
    assert_eq!(
        watch.after(5, &none_active),
        "Unknown Starting",
        "the relay has just started"
    );
    assert_eq!(
        watch.after(5, &seen(active(0, 0.0), reading(0, 0))),
        "True Flowing"
    );
    for _ in 0..5 {
        assert_eq!(watch.after(5, &none_active), "True Flowing", "a handover");
        assert_eq!(
            watch.after(5, &seen(active(0, 0.0), reading(0, 0))),
            "True Flowing"
        );
    }
    assert_eq!(watch.writes, 2);
}

#[test]
fn a_partition_that_stands_still_is_told_and_one_that_moves_is_not() {
    let mut watch = Watch::flowing(&[]);
    for step in 0..20 {
        assert_eq!(
            watch.after(30, &seen(active(0, 0.0), reading(step, 40))),
            "True Flowing"
        );
    }
    let still = seen(active(0, 0.0), reading(19, 40));
    assert_eq!(watch.after(30, &still), "True Flowing");
    assert_eq!(watch.after(STANDS_STILL.as_secs(), &still), "False IndexerBehind");
    assert!(
        watch.message().contains("order.created/0 at offset 19"),
        "{}",
        watch.message()
    );
    assert_eq!(watch.status("/consumerLag"), 40, "however few, they are stuck");
    // Another operator does not know since when; what was told stays until it moves.
    watch.memory = Memory::default();
    assert_eq!(
        watch.after(5, &seen(active(0, 0.0), reading(20, 39))),
        "True Flowing"
    );
    assert_eq!(watch.status("/consumerLag"), 0);
}

#[test]
fn stale_needs_clearly_fresher_orders_to_end() {
    let looks = |p99| seen(active(0, 0.0), fresh(1000, 0.2, p99));
    let mut watch = Watch::flowing(&[("monitoring", json!({ "freshnessObjective": "2s" }))]);
    assert_eq!(watch.after(30, &looks(1.9)), "True Flowing");
    assert_eq!(watch.after(30, &looks(2.1)), "False Stale");
    assert_eq!(watch.after(30, &looks(1.9)), "False Stale");
    assert_eq!(watch.after(30, &looks(1.5)), "True Flowing");
}

#[test]
fn a_busy_pipeline_is_written_seldom_and_an_idle_one_never() {
    let mut watch = Watch::flowing(&[]);
    watch.after(30, &seen(active(0, 0.0), fresh(1000, 0.12, 0.3)));
    assert_eq!(
        (watch.status("/freshness/p50"), watch.status("/freshness/p99")),
        (json!("120ms"), json!("300ms"))
    );
    watch.writes = 0;
    for step in 1..=100_u32 {
        let jitter = (step * 37) % 90;
        let moving = IndexerStatus {
            freshness: fresh(
                1000,
                0.11 + f64::from(jitter) / 4000.0,
                0.28 + f64::from(jitter) / 1500.0,
            )
            .freshness,
            ..reading(i64::from(step) * 30_000, 60 + u64::from(jitter))
        };
        watch.after(30, &seen(active(500 + u64::from(jitter), 0.3), moving));
    }
    assert_eq!(watch.writes, 0, "{:?}", watch.resource.status);
    for _ in 0..20 {
        watch.after(30, &seen(active(0, 0.0), reading(3_000_000, 0)));
    }
    assert_eq!(
        watch.writes, 0,
        "freshness stays as it was while there are no orders"
    );

    // A backlog of a million that is worked off is written some dozens of times, not two hundred.
    for step in 0..=200 {
        let backlog = 1_000_000 - step * 5000;
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let oldest = if backlog == 0 {
            0.0
        } else {
            backlog as f64 / 1000.0
        };
        watch.after(5, &seen(active(backlog, oldest), reading(3_000_000, 0)));
    }
    assert!((5..40).contains(&watch.writes), "{}", watch.writes);
    assert_eq!(
        watch.status("/outbox"),
        json!({ "new": 0, "failed": 0, "oldestUnpublished": "0s" })
    );
}

#[test]
fn what_nobody_tells_is_absent() {
    let mut watch = Watch::flowing(&[]);
    assert_eq!(watch.status("/consumerLag"), 0);
    watch.after(30, &Seen::default());
    assert_eq!(watch.status("/consumerLag"), 0, "not told yet");
    watch.after(PATIENCE.as_secs(), &Seen::default());
    assert_eq!(
        (watch.status("/outbox"), watch.status("/consumerLag")),
        (Value::Null, Value::Null)
    );
    assert_eq!(watch.take(Flow::suspended()), "Unknown Suspended");
}
