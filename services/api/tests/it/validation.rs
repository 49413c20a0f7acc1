//! Bad input is refused with every field that is wrong and what it takes.

use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, number};

const SKU: &str = "a whole number from 1 to 9223372036854775807";
const QUANTITY: &str = "a whole number from 1 to 1000";
const USER: &str = "text of 1 to 128 characters without control characters";
const KEY: &str = "1 to 255 visible ASCII characters";
const TIME: &str = "an RFC 3339 time such as 2026-01-31T12:00:00Z (a plus sign is written %2B)";
const CURSOR: &str = "the cursor from the Link header of another page";

fn fields(answer: &Answer) -> Vec<(String, String)> {
    let problem = answer.assert_problem(400);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (text(&error["field"]), text(&error["message"])))
        .collect()
}

#[tokio::test]
async fn bad_orders_are_refused_field_by_field() {
    let (api, pool) = Api::with_catalogue().await;
    let good = json!({"skuId": 1, "quantity": 1, "userId": "ada", "idempotencyKey": "k"});
    let takes = |shown: &str, accepted: &str| format!("is {shown}; it takes {accepted}");
    let long = "x".repeat(256);
    let cases = [
        ("skuId", json!(0), takes("0", SKU)),
        ("skuId", json!(-1), takes("-1", SKU)),
        ("skuId", json!("1"), takes("\"1\"", SKU)),
        ("skuId", json!(1.5), takes("1.5", SKU)),
        ("skuId", json!(null), takes("null", SKU)),
        ("skuId", json!(true), takes("true", SKU)),
        ("skuId", json!([1]), takes("[1]", SKU)),
        (
            "skuId",
            json!(9_223_372_036_854_775_808_u64),
            takes("9223372036854775808", SKU),
        ),
        ("quantity", json!(0), takes("0", QUANTITY)),
        ("quantity", json!(-5), takes("-5", QUANTITY)),
        ("quantity", json!(1001), takes("1001", QUANTITY)),
        (
            "quantity",
            json!(4_294_967_297_i64),
            takes("4294967297", QUANTITY),
        ),
        ("quantity", json!("two"), takes("\"two\"", QUANTITY)),
        ("quantity", json!(1e4), takes("10000.0", QUANTITY)),
        ("quantity", json!(0.5), takes("0.5", QUANTITY)),
        ("userId", json!(""), takes("\"\"", USER)),
        ("userId", json!(7), takes("7", USER)),
        ("userId", json!("a\u{0}b"), takes("\"a\\u0000b\"", USER)),
        ("userId", json!("line\nbreak"), takes("\"line\\nbreak\"", USER)),
        (
            "userId",
            json!("x".repeat(129)),
            takes(&format!("\"{}…", "x".repeat(59)), USER),
        ),
        ("userId", json!({"id": 1}), takes("{\"id\":1}", USER)),
        ("idempotencyKey", json!(""), takes("\"\"", KEY)),
        ("idempotencyKey", json!("two words"), takes("\"two words\"", KEY)),
        ("idempotencyKey", json!("schlüssel"), takes("\"schlüssel\"", KEY)),
        (
            "idempotencyKey",
            json!(long),
            takes(&format!("\"{}…", "x".repeat(59)), KEY),
        ),
        ("idempotencyKey", json!(1), takes("1", KEY)),
        (
            "status",
            json!("CREATED"),
            "is not known; known are skuId, quantity, userId, idempotencyKey".to_owned(),
        ),
    ];
    for (field, value, message) in cases {
        let mut request = good.clone();
        request[field] = value;
        assert_eq!(
            fields(&api.order(&request).await),
            [(field.to_owned(), message)],
            "{request}"
        );
    }
    assert_eq!(number(&pool, "select count(*) from orders").await, 0);
    assert_eq!(api.order(&good).await.status, 200);
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let (api, _pool) = Api::with_catalogue().await;
    let answer = api.order(&json!({"quantity": 0, "userId": "", "note": 1})).await;
    let wrong: Vec<_> = fields(&answer).into_iter().map(|(field, _)| field).collect();
    assert_eq!(wrong, ["skuId", "quantity", "userId", "note"]);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with(&format!(
            "skuId is missing; it takes {SKU}; quantity is 0; it takes "
        )),
        "{detail}"
    );
}

#[tokio::test]
async fn the_keys_in_header_and_body_must_agree() {
    let (api, _pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 1, "quantity": 1, "idempotencyKey": "one"});
    let message = "is not the one in the header Idempotency-Key; give one of them, or the same";
    let answer = api.order_with(&request, &[("idempotency-key", "two")]).await;
    assert_eq!(
        fields(&answer),
        [("idempotencyKey".to_owned(), message.to_owned())]
    );
    let answer = api.order_with(&request, &[("idempotency-key", "a b")]).await;
    assert_eq!(
        fields(&answer),
        [("Idempotency-Key".to_owned(), format!("is a b; it takes {KEY}"))]
    );
    let answer = api
        .order_with(
            &request,
            &[("idempotency-key", "one"), ("idempotency-key", "one")],
        )
        .await;
    assert_eq!(fields(&answer)[0].1, "is there more than once; it takes one key");
    assert_eq!(
        api.order_with(&request, &[("idempotency-key", "one")])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
    let (api, _pool) = Api::with_catalogue().await;
    assert_eq!(
        api.order(&json!({"skuId": 1.0, "quantity": 1e1})).await.status,
        200
    );
}

#[tokio::test]
async fn what_may_be_left_out_may_be_null() {
    let (api, pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 1, "quantity": 1, "userId": null, "idempotencyKey": null});
    assert_eq!(api.order(&request).await.status, 200);
    assert_eq!(
        number(&pool, "select count(*) from orders where user_id = 'anonymous'").await,
        1
    );
}

#[tokio::test]
async fn bad_paths_and_parameters_are_refused() {
    let (api, _pool) = Api::with_catalogue().await;
    let takes = |shown: &str, accepted: &str| format!("is {shown}; it takes {accepted}");
    let search = "userId, skuId, correlationId, status, createdFrom, createdTo, limit, cursor";
    let cases = [
        ("/orders/abc", "id", takes("\"abc\"", SKU)),
        ("/orders/0", "id", takes("\"0\"", SKU)),
        ("/orders/+1", "id", takes("\"+1\"", SKU)),
        (
            "/orders/9223372036854775808",
            "id",
            takes("\"9223372036854775808\"", SKU),
        ),
        ("/products/-1", "id", takes("\"-1\"", SKU)),
        (
            "/products?limit=0",
            "limit",
            takes("\"0\"", "a whole number from 1 to 100"),
        ),
        (
            "/products?limit=1&limit=2",
            "limit",
            "is there more than once; it takes a whole number from 1 to 100".to_owned(),
        ),
        (
            "/products?page=2",
            "page",
            "is not known; known are limit, cursor".to_owned(),
        ),
        ("/products?cursor=LTE", "cursor", takes("\"LTE\"", CURSOR)),
        ("/search/orders?userId=", "userId", takes("\"\"", USER)),
        ("/search/orders?skuId=x", "skuId", takes("\"x\"", SKU)),
        (
            "/search/orders?correlationId=a%20b",
            "correlationId",
            takes("\"a b\"", "1 to 80 visible ASCII characters"),
        ),
        (
            "/search/orders?status=created",
            "status",
            takes("\"created\"", "CREATED or CANCELLED"),
        ),
        (
            "/search/orders?createdFrom=yesterday",
            "createdFrom",
            takes("\"yesterday\"", TIME),
        ),
        (
            "/search/orders?createdTo=2026-01-31T12:00:00+01:00",
            "createdTo",
            takes("\"2026-01-31T12:00:00 01:00\"", TIME),
        ),
        (
            "/search/orders?limit=101",
            "limit",
            takes("\"101\"", "a whole number from 1 to 100"),
        ),
        (
            "/search/orders?cursor=WzEsIngiXQ",
            "cursor",
            takes("\"WzEsIngiXQ\"", CURSOR),
        ),
        (
            "/search/orders?user=ada",
            "user",
            format!("is not known; known are {search}"),
        ),
    ];
    for (path, field, message) in cases {
        let answer = api.send(Method::GET, path, &[], "").await;
        assert_eq!(fields(&answer), [(field.to_owned(), message)], "{path}");
    }
    api.get("/orders/1").await.assert_problem(404);
}
