//! Why a relay stops publishing, for the moment.

use crate::invariants::Violation;

/// The relay gives up its lease, waits and starts again from the checkpoint, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action}: {source}")]
    Postgres {
        action: &'static str,
        source: sqlx::Error,
    },
    /// Another relay has taken over. No failure: it goes on there.
    #[error("another relay holds the lease")]
    LeaseLost,
    /// Not the fault of a single event.
    #[error("publishing to Kafka: {0}")]
    Kafka(String),
    #[error(
        "events of {aggregates} aggregates are parked already, and Kafka refuses yet another one: {refusal}"
    )]
    TooManyParked { aggregates: usize, refusal: String },
    /// A mistake in the relay's own work, found before it did any harm.
    #[error("an invariant does not hold: {0}")]
    Invariant(#[from] Violation),
    /// What PostgreSQL has is not what was published from. Which of the two is right only a person can tell.
    #[error("nothing is published, since {0}; `relay adopt` tells what can be done")]
    History(String),
}

/// Makes an error of PostgreSQL into one that says what was being done.
pub(crate) fn doing(action: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| Error::Postgres { action, source }
}
