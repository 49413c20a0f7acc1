//! The catalogue is shown whole, page by page, and changed without losing anybody's change.

use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, number};

const NAME: &str = "text of 1 to 200 characters without control characters";
const STOCK: &str = "a whole number from 0 to 1000000000000";

#[tokio::test]
async fn a_product_comes_with_its_skus() {
    let (api, pool) = Api::with_catalogue().await;
    let sku = |id: i64, size: &str| json!({"skuId": id, "name": format!("Product 2, {size}"), "stock": 100, "version": 1});
    assert_eq!(
        api.get("/products/2").await.json(),
        json!({"productId": 2, "name": "Product 2", "skus": [sku(5, "S"), sku(6, "M"), sku(7, "L"), sku(8, "XL")]})
    );
    sqlx::query("insert into products (name) values ('Bare')")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(
        api.get("/products/3").await.json(),
        json!({"productId": 3, "name": "Bare", "skus": []})
    );
    assert_eq!(
        api.get("/products/4").await.assert_problem(404)["detail"],
        "there is no product 4"
    );
}

#[tokio::test]
async fn pages_lead_through_all_products_once_while_more_are_added() {
    let (api, pool) = Api::with_catalogue().await;
    let add = "insert into products (name) select 'More' from generate_series(1, 5)";
    sqlx::query(add).execute(&pool).await.unwrap();
    let (mut path, mut seen) = ("/products?limit=3".to_owned(), Vec::new());
    loop {
        let page = api.get(&path).await;
        let products: Vec<Value> = serde_json::from_str(&page.body).unwrap();
        assert!(products.len() <= 3);
        seen.extend(
            products
                .iter()
                .map(|product| product["productId"].as_i64().unwrap()),
        );
        let Some(next) = page.next() else { break };
        if seen.len() == 3 {
            sqlx::query(add).execute(&pool).await.unwrap();
        }
        path = next;
    }
    assert_eq!(seen, (1..=12).collect::<Vec<_>>());
}

async fn post(api: &Api, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    api.send(Method::POST, path, &headers, body.to_string()).await
}

async fn set_stock(api: &Api, sku: &str, if_match: Option<&str>, body: &Value) -> Answer {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(if_match.map(|tags| ("if-match", tags)));
    let path = format!("/skus/{sku}/stock");
    api.send(Method::PUT, &path, &headers, body.to_string()).await
}

/// What is wrong with which field.
fn errors(answer: &Answer) -> Vec<(String, String)> {
    let problem = answer.assert_problem(400);
    let errors = problem["errors"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    errors
        .map(|error| (text(&error["field"]), text(&error["message"])))
        .collect()
}

#[tokio::test]
async fn a_product_is_added_with_its_skus_and_gets_more() {
    let (api, pool) = Api::with_catalogue().await;
    let skus = json!([{"name": "red", "stock": 3}, {"name": "Größe „XL“", "stock": 0}]);
    let answer = post(&api, "/products", &json!({"name": "Kettle", "skus": skus})).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (201, Some("/products/3"))
    );
    let red = json!({"skuId": 9, "name": "red", "stock": 3, "version": 1});
    let large = json!({"skuId": 10, "name": "Größe „XL“", "stock": 0, "version": 1});
    let mut product = json!({"productId": 3, "name": "Kettle", "skus": [red, large]});
    assert_eq!(answer.json(), product);

    let answer = post(&api, "/products/3/skus", &json!({"name": "blue", "stock": 5})).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (201, Some("/skus/11"))
    );
    assert_eq!(answer.header("etag"), Some("\"1\""));
    let blue = json!({"skuId": 11, "name": "blue", "stock": 5, "version": 1});
    assert_eq!(answer.json(), blue);
    let sku = api.get("/skus/11").await;
    assert_eq!((sku.json(), sku.header("etag")), (blue.clone(), Some("\"1\"")));
    product["skus"].as_array_mut().unwrap().push(blue);
    assert_eq!(api.get("/products/3").await.json(), product);

    for bare in [
        json!({"name": "Bare"}),
        json!({"name": "Bare", "skus": null}),
        json!({"name": "Bare", "skus": []}),
    ] {
        let answer = post(&api, "/products", &bare).await;
        assert_eq!((answer.status, &answer.json()["skus"]), (201, &json!([])));
    }
    assert_eq!(api.order(&json!({"skuId": 9, "quantity": 3})).await.status, 200);
    let problem = post(&api, "/products/99/skus", &json!({"name": "x", "stock": 1})).await;
    assert_eq!(problem.assert_problem(404)["detail"], "there is no product 99");
    let ledger = "select count(*) from stock_adjustments where reason = 'INITIAL' and sku_id > 8";
    assert_eq!(number(&pool, ledger).await, 3);
}

#[tokio::test]
async fn a_bad_product_is_refused_whole_and_told_where_it_is_wrong() {
    let (api, pool) = Api::with_catalogue().await;
    let takes = |shown: &str, accepted: &str| format!("is {shown}; it takes {accepted}");
    let missing = |accepted: &str| format!("is missing; it takes {accepted}");
    let long = "x".repeat(201);
    let cases = [
        (json!({}), vec![("name", missing(NAME))]),
        (json!({"name": null}), vec![("name", takes("null", NAME))]),
        (json!({"name": ""}), vec![("name", takes("\"\"", NAME))]),
        (
            json!({"name": "a\u{7}"}),
            vec![("name", takes("\"a\\u0007\"", NAME))],
        ),
        (
            json!({"name": long}),
            vec![("name", takes(&format!("\"{}…", &long[..59]), NAME))],
        ),
        (
            json!({"name": "x", "skus": {}}),
            vec![("skus", takes("{}", "a list of at most 100 objects"))],
        ),
        (
            json!({"name": "x", "skus": vec![0; 101]}),
            vec![("skus", takes("a list of 101", "a list of at most 100 objects"))],
        ),
        (
            json!({"name": 1, "colour": "red", "skus": [{"name": "ok", "stock": 1}, 7, {"stock": -1, "size": 2},
                   {"name": "y", "stock": 1_000_000_000_001_i64}]}),
            vec![
                ("name", takes("1", NAME)),
                ("skus[1]", takes("7", "an object")),
                ("skus[2].name", missing(NAME)),
                ("skus[2].stock", takes("-1", STOCK)),
                ("skus[2].size", "is not known; known are name, stock".to_owned()),
                ("skus[3].stock", takes("1000000000001", STOCK)),
                ("colour", "is not known; known are name, skus".to_owned()),
            ],
        ),
    ];
    for (body, wrong) in cases {
        let wrong: Vec<_> = wrong
            .into_iter()
            .map(|(field, text)| (field.to_owned(), text))
            .collect();
        assert_eq!(errors(&post(&api, "/products", &body).await), wrong, "{body}");
    }
    let answer = post(&api, "/products/1/skus", &json!({"name": "x", "stock": 1.5})).await;
    assert_eq!(errors(&answer), [("stock".to_owned(), takes("1.5", STOCK))]);
    api.send(Method::POST, "/products", &[], "{}")
        .await
        .assert_problem(415);
    let all = "select (select count(*) from products) * 100 + (select count(*) from skus)";
    assert_eq!(number(&pool, all).await, 208);
}

#[tokio::test]
async fn a_stock_is_set_only_by_who_knows_what_has_been_sold() {
    let (api, pool) = Api::with_catalogue().await;
    let body = json!({"stock": 40});
    let problem = set_stock(&api, "1", None, &body).await.assert_problem(428);
    assert!(
        problem["detail"].as_str().unwrap().contains("If-Match"),
        "{problem}"
    );
    let seen = api.get("/skus/1").await.header("etag").unwrap().to_owned();
    assert_eq!(seen, "\"1\"");
    let known = api
        .send(Method::GET, "/skus/1", &[("if-none-match", &seen)], "")
        .await;
    assert_eq!(known.status, 304);

    // Somebody orders meanwhile.
    assert_eq!(api.order(&json!({"skuId": 1, "quantity": 10})).await.status, 200);
    for stale in [seen.as_str(), "W/\"2\"", "\"3\""] {
        let problem = set_stock(&api, "1", Some(stale), &body).await.assert_problem(412);
        assert_eq!(
            problem["detail"],
            "the SKU has version 2, which If-Match does not name; read it again"
        );
    }
    let answer = set_stock(&api, "1", Some("\"2\""), &body).await;
    let sku = json!({"skuId": 1, "name": "Product 1, S", "stock": 40, "version": 3});
    assert_eq!(
        (answer.status, answer.json(), answer.header("etag")),
        (200, sku.clone(), Some("\"3\""))
    );
    // The same again is no change.
    let answer = set_stock(&api, "1", Some("*"), &body).await;
    assert_eq!((answer.json(), answer.header("etag")), (sku, Some("\"3\"")));
    let ledger: Vec<(i64, String)> = sqlx::query_as(
        "select delta, reason from stock_movements where sku_id = 1 order by created_at, delta",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let movement = |delta: i64, reason: &str| (delta, reason.to_owned());
    assert_eq!(
        ledger,
        [
            movement(100, "INITIAL"),
            movement(-10, "ORDER"),
            movement(-50, "ADJUSTMENT")
        ]
    );

    set_stock(&api, "99", Some("*"), &body).await.assert_problem(404);
    api.get("/skus/99").await.assert_problem(404);
    let answer = set_stock(&api, "1", Some("*"), &json!({"stock": -1})).await;
    assert_eq!(
        errors(&answer),
        [("stock".to_owned(), format!("is -1; it takes {STOCK}"))]
    );
    assert_eq!(
        set_stock(&api, "1", Some("*"), &json!({"stock": 1_000_000_000_000_i64}))
            .await
            .status,
        200
    );
}
