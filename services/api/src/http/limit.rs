//! How much one caller may ask of this replica.
//!
//! Each caller has a bucket (GCRA) that holds as many requests as the limit says and fills evenly over the window. Each replica
//! counts for itself. Buckets that have been full for long are forgotten, and there are no more of them than [`CALLERS`]:
//! past that, the one unused for longest goes first.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use moka::{future::Cache, policy::EvictionPolicy};

use crate::{access::RateLimit, problem::Problem};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Callers that are remembered.
const CALLERS: u64 = 50_000;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Counted {
    User(Arc<str>),
    /// A client's address; of IPv6 its first 64 bits, since whoever has one address of a network has all.
    Address(IpAddr),
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// Counts requests.
#[derive(Debug)]
pub struct Limiter {
    limit: RateLimit,
    quota: Quota,
    policy: HeaderValue,
    buckets: Cache<Counted, Arc<Bucket>>,
}

/// What a caller has left.
#[derive(Debug)]
pub struct Standing {
    policy: HeaderValue,
    remaining: u32,
    /// Until the bucket is full again.
    reset: Duration,
    /// Until there is one request left again, where there is none.
    wait: Option<Duration>,
}

impl Limiter {
    /// Everybody has all of `limit` to begin with.
    pub fn new(limit: RateLimit) -> Self {
        let interval = (limit.window / limit.requests.get()).max(Duration::from_nanos(1));
        // `with_period` refuses nothing but zero.
        let quota = Quota::with_period(interval)
            .unwrap_or(Quota::per_second(limit.requests))
            .allow_burst(limit.requests);
        let policy = format!("\"default\";q={};w={}", limit.requests, limit.window.as_secs());
        let buckets = Cache::builder()
            .max_capacity(CALLERS)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(limit.window * 2)
            .build();
        Self {
            limit,
            quota,
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("\"default\"")),
            buckets,
        }
    }

    /// Counts one request.
    pub async fn count(&self, caller: Counted) -> Standing {
        let bucket = self
            .buckets
            .get_with(caller, async { Arc::new(self.bucket()) })
            .await;
        let (remaining, wait) = match bucket.check() {
            Ok(left) => (left.remaining_burst_capacity(), None),
            Err(not_until) => (0, Some(not_until.wait_time_from(DefaultClock::default().now()))),
        };
        let used = self.limit.requests.get().saturating_sub(remaining);
        Standing {
            policy: self.policy.clone(),
            remaining,
            reset: self.quota.replenish_interval().saturating_mul(used),
            wait,
        }
    }

    fn bucket(&self) -> Bucket {
        RateLimiter::direct(self.quota).with_middleware()
    }
}

impl Counted {
    /// The client at this address.
    pub fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Standing {
    /// The answer, where there was no request left.
    pub fn refusal(&self) -> Option<Response> {
        let wait = seconds(self.wait?);
        let detail = format!("too many requests; the next one is taken in {wait} s");
        let mut response = Problem::too_many_requests(detail).into_response();
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(wait));
        Some(response)
    }

    /// Tells the caller, as draft-ietf-httpapi-ratelimit-headers-10 has it.
    pub fn tell(self, headers: &mut HeaderMap) {
        let limit = format!("\"default\";r={};t={}", self.remaining, seconds(self.reset));
        if let Ok(limit) = HeaderValue::try_from(limit) {
            headers.insert(RATELIMIT, limit);
        }
        headers.insert(RATELIMIT_POLICY, self.policy);
    }
}

/// Rounded up, since whoever comes too early is refused again.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limiter(requests: u32, window: Duration) -> Limiter {
        let requests = NonZeroU32::new(requests).unwrap();
        Limiter::new(RateLimit { requests, window })
    }

    #[tokio::test]
    async fn each_caller_has_a_bucket_of_its_own() {
        let limiter = limiter(2, Duration::from_hours(1));
        let ada = || Counted::User("ada".into());
        let left = [ada(), ada(), ada(), Counted::User("bob".into())];
        let mut found = Vec::new();
        for caller in left {
            let standing = limiter.count(caller).await;
            found.push((standing.remaining, standing.wait.is_some()));
        }
        assert_eq!(found, [(1, false), (0, false), (0, true), (1, false)]);
        let standing = limiter.count(ada()).await;
        let wait = standing.wait.unwrap();
        assert!(
            wait <= Duration::from_mins(30) && wait > Duration::from_mins(29),
            "{wait:?}"
        );
        assert_eq!(standing.reset, Duration::from_hours(1));
    }

    #[tokio::test]
    async fn many_callers_do_not_fill_the_memory() {
        let limiter = limiter(1, Duration::from_hours(1));
        for number in 0..CALLERS + 10_000 {
            limiter.count(Counted::User(number.to_string().into())).await;
        }
        limiter.buckets.run_pending_tasks().await;
        assert!(limiter.buckets.entry_count() <= CALLERS);
        let last = Counted::User((CALLERS + 9_999).to_string().into());
        assert!(
            limiter.count(last).await.wait.is_some(),
            "the newest are remembered"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_caller() {
        let of = |text: &str| Counted::address(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
