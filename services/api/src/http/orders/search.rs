//! `GET /search/orders`

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};

use crate::{
    http::{
        auth::Caller,
        fields,
        rules::{CORRELATION_ID, ID, LIMIT, SEARCH_CURSOR, STATUS, TIME, USER_ID},
    },
    openapi::{BadRequest, StoreAway},
    orders::read::Order,
    page::next_link,
    problem::Problem,
    search::{Error, Query},
    state::Shared,
};

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const WHAT: &str = "searching orders";
const PATH: &str = "/search/orders";

/// Finds orders, newest first.
///
/// An order is found about a second after it was placed. All filters that are given must match. Where authentication is
/// on, only the caller's own orders are found. Only where the index is away, an answer may be older: it says so in `X-Cache`
/// and `Age`.
#[utoipa::path(
    get,
    path = PATH,
    operation_id = "searchOrders",
    tag = "search",
    params(
        ("userId" = Option<String>, Query, description = "Who ordered", min_length = 1, max_length = 128,
            pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"),
        ("skuId" = Option<i64>, Query, description = "What was ordered", minimum = 1, maximum = 9_223_372_036_854_775_807_i64),
        ("correlationId" = Option<String>, Query, description = "Of the request that placed the order",
            min_length = 1, max_length = 80, pattern = "^[!-~]+$"),
        ("status" = Option<String>, Query, pattern = "^(CREATED|CANCELLED)$"),
        ("createdFrom" = Option<String>, Query, description = "Placed then or later, to the millisecond", format = DateTime),
        ("createdTo" = Option<String>, Query, description = "Placed before then, to the millisecond", format = DateTime),
        ("limit" = Option<u16>, Query, description = "How many at most; 20 where absent", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "From the header `Link` of the page before", format = "cursor"),
    ),
    responses(
        (status = 200, description = "One page", body = Vec<Order>, headers(
            ("Link" = String, description = "`rel=\"next\"`: the next page; absent on the last"),
            ("X-Cache" = String, description = "`HIT`: from the cache; `MISS`: not in it; `BYPASS`: the cache is away; \
                `STALE`: from the cache, while a newer answer is fetched or because the index is away"),
            ("Age" = u64, description = "With `HIT` and `STALE`: seconds since the index gave this answer"),
        )),
        BadRequest,
        (status = 403, description = "`userId` is somebody else", body = Problem, content_type = "application/problem+json"),
        StoreAway,
        (status = 504, description = "The index did not answer in time", body = Problem,
            content_type = "application/problem+json"),
    ),
)]
pub async fn search(
    State(app): State<Shared>,
    caller: Caller,
    parameters: fields::Query,
) -> Result<Response, Problem> {
    let (query, text) = parse(parameters)?;
    let query = own(query, &caller)?;
    let answer = app.search.find(&query).await.map_err(problem)?;
    let mut response = answer.page.body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CACHE, HeaderValue::from_static(answer.source.as_str()));
    if let Some(seconds) = answer.age {
        headers.insert(header::AGE, HeaderValue::from(seconds));
    }
    if let Some(link) = answer
        .page
        .next
        .and_then(|cursor| next_link(PATH, text.as_deref(), &cursor))
    {
        headers.insert(header::LINK, link);
    }
    Ok(response)
}

/// The query, bound to the user that the caller is bound to, whatever else it asks for.
fn own(query: Query, caller: &Caller) -> Result<Query, Problem> {
    let Some(user) = caller.user() else {
        return Ok(query);
    };
    if query
        .user_id
        .as_deref()
        .is_some_and(|given| !caller.may_see(given))
    {
        let detail =
            "userId is somebody else; only your own orders can be searched, which leaving it out does";
        return Err(Problem::forbidden(detail));
    }
    Ok(Query {
        user_id: Some(user.to_string()),
        ..query
    })
}

/// The query, and the query string it was made of.
fn parse(mut parameters: fields::Query) -> Result<(Query, Option<String>), Problem> {
    let query = Query {
        user_id: parameters.optional("userId", &USER_ID),
        sku_id: parameters.optional("skuId", &ID),
        correlation_id: parameters.optional("correlationId", &CORRELATION_ID),
        status: parameters.optional("status", &STATUS),
        created_from: parameters.optional("createdFrom", &TIME),
        created_to: parameters.optional("createdTo", &TIME),
        limit: parameters.optional("limit", &LIMIT).unwrap_or(20),
        after: parameters.optional("cursor", &SEARCH_CURSOR),
    };
    Ok((query, parameters.finish()?))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn problem(error: Arc<Error>) -> Problem {
    match &*error {
        Error::Unavailable(cause) => Problem::unavailable(WHAT, cause),
        Error::TimedOut => Problem::timed_out(WHAT),
        Error::Elasticsearch(_) | Error::Answer(_) => Problem::internal(WHAT, &error),
    }
}
