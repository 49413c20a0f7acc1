//! `POST /orders`
//!
//! A replay's body is the first answer's, byte for byte, so the correlation id in it is the first request's; the
//! header `X-Correlation-Id` is this request's, as on every answer.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use commerce_core::order::Status;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use utoipa::ToSchema;

use crate::{
    http::{
        auth::Caller,
        fields::Body,
        middleware::CorrelationId,
        rules::{self, IDEMPOTENCY_KEY, IDS, QUANTITIES, USER_ID},
    },
    metrics::OrderResult,
    openapi::{BadRequest, BodyRefused, KeyReused, StoreAway},
    orders::{NewOrder, Outcome, Receipt, intake::Refusal},
    problem::Problem,
    state::{App, Shared},
};

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const WHAT: &str = "placing an order";
/// How long PostgreSQL may take before Redis is asked, too, whether the request is a replay.
const PATIENCE: Duration = Duration::from_millis(100);

/// What `POST /orders` takes, for the OpenAPI document; [`parse`] reads it.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its description is used")]
pub struct OrderRequest {
    /// What to order.
    #[schema(minimum = 1, maximum = 9_223_372_036_854_775_807_i64, example = 1)]
    sku_id: i64,
    /// How many pieces.
    #[schema(minimum = 1, maximum = 1000, example = 2)]
    quantity: i32,
    /// Who orders; `anonymous` where absent. Where authentication is on, it is the token's subject, and this may only repeat it.
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        example = "ada"
    )]
    user_id: Option<String>,
    /// One key of a user, one order: a repeated request gets the first one's answer. May also be given as the header
    /// `Idempotency-Key`; where both are there, they must agree.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$",
        example = "6f1c7a52-3f8e-4d3b-9f0a-2b1c0d9e8f7a"
    )]
    idempotency_key: Option<String>,
}

/// A placed order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderPlaced {
    /// A decimal number, as text.
    #[schema(example = "42", pattern = "^[1-9][0-9]{0,18}$")]
    order_id: String,
    /// `CREATED`: what the order was when it was placed, also in a replay.
    #[schema(value_type = String, pattern = "^CREATED$")]
    status: Status,
    /// Of the request that placed the order.
    #[schema(example = "5b0c64f6-6a11-4b5e-9d25-6f1d2a3c4b5e")]
    correlation_id: String,
}

/// Places an order.
///
/// Takes the stock and announces the order in one transaction. With an idempotency key, the same request can be repeated
/// until it is answered, and gives one order for as long as that order exists.
#[utoipa::path(
    post,
    path = "/orders",
    operation_id = "placeOrder",
    tag = "orders",
    params(("Idempotency-Key" = inline(Option<String>), Header, description = "The same as `idempotencyKey` in the body; \
        the key as it is or in double quotes", pattern = r#"^([!#-~][!-~]{0,254}|"[!#-\[\]-~]{1,255}")$"#)),
    request_body = OrderRequest,
    responses(
        (status = 200, description = "The order is placed", body = OrderPlaced, headers(
            ("Location" = String, description = "Path of the order"),
            ("Idempotency-Replayed" = String, description = "`true` where this is the answer of an earlier request; else absent"),
        )),
        BadRequest,
        (status = 404, description = "There is no such SKU", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Too few pieces left; `available` says how many", body = Problem,
            content_type = "application/problem+json"),
        BodyRefused,
        KeyReused,
        StoreAway,
    ),
)]
pub async fn create(
    State(app): State<Shared>,
    caller: Caller,
    correlation_id: CorrelationId,
    headers: HeaderMap,
    body: Result<Body, Problem>,
) -> Result<Response, Problem> {
    app.metrics.order_attempted();
    let result = match body.and_then(|body| parse(body, &headers, &caller, &correlation_id)) {
        Ok(order) => submit(&app, order).await,
        Err(problem) => Err(problem),
    };
    app.metrics.order_ended(match &result {
        Ok((_, false)) => OrderResult::Success,
        Ok((_, true)) => OrderResult::Recovered,
        Err(_) => OrderResult::Failed,
    });
    result.map(|(receipt, replayed)| answer(receipt, replayed))
}

fn parse(
    mut body: Body,
    headers: &HeaderMap,
    caller: &Caller,
    correlation_id: &CorrelationId,
) -> Result<NewOrder, Problem> {
    let sku_id = body.number("skuId", &IDS);
    let quantity = body
        .number("quantity", &QUANTITIES)
        .and_then(|quantity| i32::try_from(quantity).ok());
    let user_id = body.text("userId", &USER_ID);
    if let Some(given) = &user_id
        && !caller.may_see(given)
    {
        body.error(
            "userId",
            "is not the caller; it takes the subject of the token, or nothing",
        );
    }
    let own = caller.user().map(ToString::to_string);
    let in_body = body.text("idempotencyKey", &IDEMPOTENCY_KEY);
    let in_header = body.header_key(headers);
    if let (Some(body_key), Some(header_key)) = (&in_body, &in_header)
        && body_key != header_key
    {
        body.error(
            "idempotencyKey",
            "is not the one in the header Idempotency-Key; give one of them, or the same",
        );
    }
    body.finish()?;
    let (Some(sku_id), Some(quantity)) = (sku_id, quantity) else {
        return Err(Problem::malformed("skuId or quantity is missing"));
    };
    Ok(NewOrder {
        user_id: own.or(user_id).unwrap_or_else(|| "anonymous".to_owned()),
        idempotency_key: in_body.or(in_header),
        sku_id,
        quantity,
        correlation_id: correlation_id.as_str().to_owned(),
        traceparent: rules::traceparent_of(headers),
    })
}

/// The receipt, and whether it is a replay.
async fn submit(app: &App, order: NewOrder) -> Result<(Receipt, bool), Problem> {
    let recall_late = async {
        sleep(PATIENCE).await;
        app.replays.recall(&order).await
    };
    let outcome = tokio::select! {
        outcome = app.intake.submit(order.clone()) => outcome,
        Some(outcome) = recall_late => return conclude(&order, outcome),
    };
    match outcome {
        Ok(Outcome::Replayed(receipt)) => {
            app.replays.remember(&order, &receipt).await;
            Ok((receipt, true))
        }
        Ok(outcome) => conclude(&order, outcome),
        Err(refusal) => match app.replays.recall(&order).await {
            Some(outcome) => conclude(&order, outcome),
            None => Err(match refusal {
                Refusal::Busy | Refusal::Away => Problem::try_again(WHAT),
                Refusal::Failed => Problem::our_fault(),
            }),
        },
    }
}

fn conclude(order: &NewOrder, outcome: Outcome) -> Result<(Receipt, bool), Problem> {
    match outcome {
        Outcome::Placed(receipt) => Ok((receipt, false)),
        Outcome::Replayed(receipt) => Ok((receipt, true)),
        Outcome::KeyReused => Err(Problem::key_reused()),
        Outcome::UnknownSku => Err(Problem::unknown("SKU", order.sku_id)),
        Outcome::OutOfStock { available } => {
            Err(Problem::out_of_stock(order.sku_id, order.quantity, available))
        }
    }
}

fn answer(receipt: Receipt, replayed: bool) -> Response {
    let location = HeaderValue::try_from(format!("/orders/{}", receipt.order_id));
    let body = OrderPlaced {
        order_id: receipt.order_id.to_string(),
        status: Status::Created,
        correlation_id: receipt.correlation_id,
    };
    let mut response = Json(body).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if replayed {
        response
            .headers_mut()
            .insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
