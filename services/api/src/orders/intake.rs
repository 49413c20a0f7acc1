//! Where new orders go in.

use sqlx::PgPool;

use super::{NewOrder, Outcome, place::place};
use crate::wake::Wake;

/// Takes new orders and answers each with its outcome, once that is durable.
#[derive(Debug)]
pub struct Intake {
    pool: PgPool,
    wake: Wake,
}

impl Intake {
    /// Orders go to `pool`; the relay is told of them through `wake`.
    #[must_use]
    pub fn new(pool: PgPool, wake: Wake) -> Self {
        Self { pool, wake }
    }

    /// Places one order. An error leaves open whether it was placed if the connection broke while committing; to find
    /// out, submit it again with the same key.
    pub async fn submit(&self, order: NewOrder) -> Result<Outcome, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let outcomes = place(&mut connection, std::slice::from_ref(&order)).await?;
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Placed(_)))
        {
            self.wake.outbox_changed();
        }
        outcomes.into_iter().next().ok_or(sqlx::Error::RowNotFound)
    }
}
