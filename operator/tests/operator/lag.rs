//! How many indexers there are to be: what never happens, whatever is seen, and how it goes under a load.

use std::time::Duration;

use tokio::time::Instant;

use commerce_operator::reconcile::{
    flow::Progress,
    lag::{Load, Memory, PATIENCE, PAUSE, STABLE},
    services::{Answer, Freshness, IndexerStatus, PartitionLag, Seen},
    validate::Scaling,
};
use proptest::prelude::*;

fn between(min: i32, max: i32) -> Scaling {
    Scaling { min, max, cpu: None }
}

fn behind(seconds: u64) -> Load {
    Load::Behind {
        time: Duration::from_secs(seconds),
        partitions: 100,
    }
}

fn any_load() -> impl Strategy<Value = Load> {
    prop_oneof![
        Just(Load::Unknown),
        Just(Load::Blocked),
        Just(Load::KeptUp),
        Just(Load::Busy),
        (5_u64..500, 1..30).prop_map(|(seconds, partitions)| Load::Behind {
            time: Duration::from_secs(seconds),
            partitions,
        }),
    ]
}

/// A load for some time, whether all replicas are ready, and how often it is looked at.
fn looks() -> impl Strategy<Value = Vec<(Load, bool, u64)>> {
    let stretch = (any_load(), prop::bool::weighted(0.8), 1_u64..60, 1_usize..40);
    let stretch = stretch.prop_map(|(load, settled, pause, times)| vec![(load, settled, pause); times]);
    prop::collection::vec(stretch, 1..20).prop_map(|stretches| stretches.concat())
}

proptest! {
    #[test]
    fn it_stays_between_the_bounds_and_moves_for_a_reason_and_in_steps(
        looks in looks(), min in 1..5, more in 0..20, start in 0..40,
    ) {
        let scaling = between(min, min + more);
        let (mut memory, mut now, mut current) = (Memory::default(), Instant::now(), start);
        let (mut behind, mut kept_up) = (Duration::ZERO, Duration::ZERO);
        let mut since_change = Duration::MAX;
        for (index, (load, settled, pause)) in looks.into_iter().enumerate() {
            let pause = Duration::from_secs(pause);
            now += pause;
            since_change = since_change.saturating_add(pause);
            // How long what is seen now has been seen at each look.
            let lasting = |holds: bool, time: Duration, first: bool| if !holds { Duration::MAX } else if first { Duration::ZERO } else { time + pause };
            let is_behind = settled && matches!(load, Load::Behind { .. });
            let is_kept_up = settled && load == Load::KeptUp;
            behind = lasting(is_behind, behind, behind == Duration::MAX || index == 0);
            kept_up = lasting(is_kept_up, kept_up, kept_up == Duration::MAX || index == 0);
            let next = memory.decide(scaling, current, settled, load, now);
            prop_assert!((scaling.min..=scaling.max).contains(&next));
            if next == current {
                continue;
            }
            if (scaling.min..=scaling.max).contains(&current) {
                prop_assert!(since_change >= PAUSE);
                if next > current {
                    prop_assert!(is_behind && behind >= PATIENCE, "{load:?} for {behind:?}");
                    prop_assert!(next <= current * 2);
                    if let Load::Behind { partitions, .. } = load {
                        prop_assert!(next <= partitions);
                    }
                } else {
                    prop_assert!(is_kept_up && kept_up >= STABLE, "{load:?} for {kept_up:?}");
                    prop_assert_eq!(next, current - 1);
                }
            }
            (current, since_change) = (next, Duration::ZERO);
            (behind, kept_up) = (Duration::MAX, Duration::MAX);
        }
    }

    #[test]
    fn blocked_poisoned_and_unready_work_never_scales_out(
        seconds in prop::collection::vec((any_load(), 1_u64..120), 1..200), start in 2..=6,
    ) {
        let (mut memory, mut now, mut current) = (Memory::default(), Instant::now(), start);
        for (load, pause) in seconds {
            now += Duration::from_secs(pause);
            // However far behind: they are not all ready, or the load is none that more of them could take.
            let settled = !matches!(load, Load::Behind { .. });
            let next = memory.decide(between(2, 6), current, settled, load, now);
            prop_assert!(next <= current);
            current = next;
        }
    }

    /// Indexers that each take so many events a second, against a load that does not change: the number comes to rest.
    #[test]
    fn a_steady_load_leads_to_few_changes(arrivals in 10_u32..12_000, each in 500_u32..2_000) {
        let scaling = between(1, 12);
        let (mut memory, mut now, mut current, mut lag) = (Memory::default(), Instant::now(), 2, 0_i64);
        let (mut changes, mut worst) = (0, 0);
        let (step, hours) = (10_i64, 12);
        for look in 0..hours * 360 {
            now += Duration::from_secs(10);
            let speed = i64::from(each) * i64::from(current);
            let done = (lag + i64::from(arrivals) * step).min(speed * step);
            lag += i64::from(arrivals) * step - done;
            let seconds = u64::try_from(lag * step / done.max(1)).unwrap();
            let load = match seconds {
                0..2 => Load::KeptUp,
                2..=5 => Load::Busy,
                _ => behind(seconds),
            };
            let next = memory.decide(scaling, current, true, load, now);
            changes += i32::from(next != current);
            current = next;
            // After the first hour, in which it had to find out.
            if look > 360 {
                worst = worst.max(seconds);
            }
        }
        let enough = arrivals <= each * 12;
        prop_assert!(changes <= 45, "{changes} changes in {hours} hours");
        if enough {
            prop_assert!(worst < 600, "{worst} s behind");
        }
    }
}

#[test]
fn more_come_soon_and_fewer_come_late_and_later_where_that_was_wrong() {
    let scaling = between(2, 12);
    let (mut memory, mut now) = (Memory::default(), Instant::now());
    let mut look = |current: i32, load: Load, seconds: u64| {
        now += Duration::from_secs(seconds);
        memory.decide(scaling, current, true, load, now)
    };
    assert_eq!(look(2, behind(60), 0), 2);
    assert_eq!(look(2, behind(60), 15), 4, "at most twice as many");
    assert_eq!(look(4, behind(60), 15), 4, "the group has just been shared anew");
    assert_eq!(look(4, behind(6), 30), 5, "by how far they are behind");
    assert_eq!(look(5, Load::KeptUp, 60), 5);
    assert_eq!(look(5, Load::KeptUp, STABLE.as_secs()), 4);
    look(4, behind(20), 60);
    assert_eq!(look(4, behind(20), 20), 8, "four were too few");
    look(8, Load::KeptUp, 60);
    assert_eq!(look(8, Load::KeptUp, STABLE.as_secs()), 8, "not again so soon");
    assert_eq!(look(8, Load::KeptUp, STABLE.as_secs()), 7);
}

fn said(partitions: &[(i32, i64, u64)]) -> Answer<IndexerStatus> {
    let partition = |(partition, committed, lag): &(i32, i64, u64)| PartitionLag {
        topic: "order.created".into(),
        partition: *partition,
        lag: *lag,
        committed: Some(*committed),
    };
    Answer {
        pod: "shop-indexer-x".into(),
        said: Ok(IndexerStatus {
            partitions: partitions.iter().map(partition).collect(),
            freshness: Freshness::default(),
        }),
    }
}

/// What is seen ten seconds apart, as often as it is given.
fn loads(looks: &[Vec<Answer<IndexerStatus>>]) -> Vec<Load> {
    let (mut progress, mut now) = (Progress::default(), Instant::now());
    let mut load = |indexers: &Vec<Answer<IndexerStatus>>| {
        now += Duration::from_secs(10);
        progress.note(indexers, now);
        let seen = Seen {
            relays: Vec::new(),
            indexers: indexers.clone(),
        };
        Load::of(&seen, &progress, now)
    };
    looks.iter().map(&mut load).collect()
}

#[test]
fn the_load_is_what_moves_and_how_long_it_would_take() {
    let mute = Answer {
        pod: "shop-indexer-y".into(),
        said: Err("no answer".into()),
    };
    assert_eq!(loads(&[vec![]]), [Load::Unknown]);
    assert_eq!(loads(&[vec![said(&[(0, 5, 5)]), mute]]), [Load::Unknown]);
    assert_eq!(loads(&[vec![said(&[(0, 5, 5), (1, 9, 0)])]]), [Load::KeptUp]);
    // 100 events a second, and 90 s of work; 300 stuck ones beside them do not count.
    let moving = loads(&[
        vec![said(&[(0, 1000, 9500), (1, 7, 300)])],
        vec![said(&[(0, 2000, 9000), (1, 7, 300)])],
    ]);
    let expected = Load::Behind {
        time: Duration::from_secs(90),
        partitions: 1,
    };
    assert_eq!(moving, [Load::Busy, expected]);
    let still: Vec<_> = (0..8).map(|_| vec![said(&[(0, 1000, 9000)])]).collect();
    assert_eq!(loads(&still)[7], Load::Blocked);
    assert!(
        loads(&still)
            .iter()
            .all(|load| !matches!(load, Load::Behind { .. }))
    );
}
