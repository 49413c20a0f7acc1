//! One replica works at a time.

use std::time::Duration;

use commerce_operator::leader::{Candidate, Timing};
use tokio::time::timeout;

use crate::{cluster::Cluster, stores::Journal};

const TIMING: Timing = Timing {
    valid: Duration::from_millis(400),
    renew_within: Duration::from_millis(250),
    period: Duration::from_millis(10),
};

/// Longer than any of this takes, unless it fails.
const LIMIT: Duration = Duration::from_secs(10);

fn candidate(cluster: &Cluster, identity: &str) -> Candidate {
    Candidate::new(cluster.client(), "commerce-system", identity.to_owned(), TIMING)
}

#[tokio::test]
async fn the_second_waits_while_the_first_renews_and_takes_over_when_it_is_gone() {
    let cluster = Cluster::new(Journal::default());
    let (mut first, mut second) = (candidate(&cluster, "first"), candidate(&cluster, "second"));
    timeout(LIMIT, first.win(|_| ())).await.unwrap();
    tokio::select! {
        () = first.keep() => panic!("the first lost the Lease although it renewed it"),
        () = second.win(|_| ()) => panic!("two replicas hold the Lease"),
        () = tokio::time::sleep(TIMING.valid * 2) => {}
    }
    timeout(LIMIT, second.win(|_| ())).await.unwrap();
    timeout(LIMIT, first.keep())
        .await
        .expect("the first notices that it has lost the Lease");
}

#[tokio::test]
async fn a_lease_that_was_given_back_is_taken_at_once() {
    let cluster = Cluster::new(Journal::default());
    let (mut first, mut second) = (candidate(&cluster, "first"), candidate(&cluster, "second"));
    first.win(|_| ()).await;
    first.release().await.unwrap();
    timeout(TIMING.valid / 2, second.win(|_| ())).await.unwrap();
}

#[tokio::test]
async fn a_holder_that_can_not_renew_stops_before_another_may_start() {
    let cluster = Cluster::new(Journal::default());
    let mut first = candidate(&cluster, "first");
    first.win(|_| ()).await;
    cluster.go_away();
    timeout(TIMING.valid, first.keep()).await.unwrap();
}

#[tokio::test]
async fn the_tenure_ends_before_another_may_start() {
    let cluster = Cluster::new(Journal::default());
    let mut first = candidate(&cluster, "first");
    let tenure = first.tenure();
    assert!(!tenure.lasts(Duration::ZERO));
    first.win(|_| ()).await;
    assert!(tenure.lasts(TIMING.valid / 2) && !tenure.lasts(TIMING.valid));
    cluster.go_away();
    timeout(TIMING.valid, first.keep()).await.unwrap();
    assert!(!tenure.lasts(TIMING.renew_within));
    cluster.come_back();
    first.win(|_| ()).await;
    first.release().await.unwrap();
    assert!(!tenure.lasts(Duration::ZERO), "it was given back");
}
