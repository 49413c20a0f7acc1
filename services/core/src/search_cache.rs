//! When a cached search answer is out of date: what the API, which caches, and the indexer, which knows, agree on.
//!
//! Redis holds a *generation* for each user and one for all users together: a random token that says nothing but
//! "unchanged". An answer is cached together with the generation that was current before Elasticsearch was asked, and
//! is good for as long as that is still the current one. So invalidating all answers about a user is one write, it
//! can't be overtaken by an answer that is just being cached, and nothing has to know which answers there are.
//! Tokens are never used twice: where Redis loses a generation, the answers that were cached under it are lost, too.

use std::time::Duration;

use redis::{RedisResult, aio::ConnectionLike};

/// How long a generation is kept in Redis. Cached answers live for less.
pub const GENERATION_TTL: Duration = Duration::from_hours(24);

/// The Redis key of the generation of one user's orders or, without a user, of all orders.
#[must_use]
pub fn generation_key(prefix: &str, user: Option<&str>) -> String {
    match user {
        Some(user) => format!("{prefix}search:gen:{user}"),
        None => format!("{prefix}search:gen"),
    }
}

/// A generation that never was.
#[must_use]
pub fn new_generation() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Makes every cached answer about these users' orders, and every one that is not about a single user, out of date.
/// To be called when changes of their orders have become searchable, that is after a refresh.
pub async fn invalidate<'a>(
    connection: &mut impl ConnectionLike,
    prefix: &str,
    users: impl IntoIterator<Item = &'a str>,
) -> RedisResult<()> {
    let generation = new_generation();
    let mut writes = redis::pipe();
    for user in users.into_iter().map(Some).chain([None]) {
        writes
            .set_ex(
                generation_key(prefix, user),
                &generation,
                GENERATION_TTL.as_secs(),
            )
            .ignore();
    }
    writes.query_async(connection).await
}
