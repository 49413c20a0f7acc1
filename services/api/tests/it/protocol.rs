//! What every answer has in common, and what is refused before an action sees it.

use std::collections::BTreeSet;

use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, until};

#[tokio::test]
async fn requests_that_reach_no_action_get_a_problem_all_the_same() {
    let (api, _pool) = Api::with_catalogue().await;
    for path in ["/", "/order", "/orders/1/refund", "/livez", "/metrics"] {
        api.get(path).await.assert_problem(404);
    }
    api.get("/orders/%ff").await.assert_problem(400);
    for (method, path, allowed) in [
        (Method::GET, "/orders", "POST"),
        (Method::DELETE, "/orders/1", "GET,HEAD"),
        (Method::POST, "/search/orders", "GET,HEAD"),
        (Method::PUT, "/products", "GET,HEAD,POST"),
        (Method::GET, "/orders/1/cancel", "POST"),
        (Method::POST, "/skus/1/stock", "PUT"),
    ] {
        let answer = api.send(method, path, &[], "").await;
        answer.assert_problem(405);
        assert_eq!(answer.header("allow"), Some(allowed), "{path}");
    }
}

#[tokio::test]
async fn only_json_objects_of_a_sane_size_are_read() {
    let (api, _pool) = Api::with_catalogue().await;
    let good = json!({"skuId": 1, "quantity": 1}).to_string();
    let post = async |kind: &str, body: String| {
        let headers = if kind.is_empty() {
            vec![]
        } else {
            vec![("content-type", kind)]
        };
        api.send(Method::POST, "/orders", &headers, body).await
    };
    for kind in ["", "text/plain", "application/x-www-form-urlencoded", "json"] {
        post(kind, good.clone()).await.assert_problem(415);
    }
    for kind in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/order+json",
    ] {
        assert_eq!(post(kind, good.clone()).await.status, 200, "{kind}");
    }
    for body in ["", "{", "[]", "1", "null", "{\"skuId\":1,}", "\u{feff}{}"] {
        let problem = post("application/json", body.to_owned())
            .await
            .assert_problem(400);
        assert_eq!(
            problem["type"], "tag:commerce.lab,2026:malformed-request",
            "{body}"
        );
    }
    let large = json!({"skuId": 1, "quantity": 1, "userId": "x".repeat(17_000)}).to_string();
    let problem = post("application/json", large).await.assert_problem(413);
    assert_eq!(problem["detail"], "the body is larger than 16384 bytes");
}

#[tokio::test]
async fn a_usable_correlation_id_is_kept_and_another_replaced() {
    let (api, _pool) = Api::with_catalogue().await;
    let ask = async |id: &str| {
        let answer = api
            .send(Method::GET, "/products", &[("x-correlation-id", id)], "")
            .await;
        answer.header("x-correlation-id").unwrap().to_owned()
    };
    assert_eq!(ask("shop/42").await, "shop/42");
    for unusable in ["", "two words", &"x".repeat(81)] {
        let given = ask(unusable).await;
        assert!(given != unusable && given.len() == 36, "{given}");
    }
}

#[tokio::test]
async fn the_document_describes_what_is_served() {
    let (api, _pool) = Api::with_catalogue().await;
    let answer = api.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        paths,
        [
            "/orders",
            "/orders/{id}",
            "/orders/{id}/cancel",
            "/orders/{id}/timeline",
            "/products",
            "/products/{id}",
            "/products/{id}/skus",
            "/search/orders",
            "/skus/{id}",
            "/skus/{id}/stock"
        ]
    );
    let mut ids = BTreeSet::new();
    for path in document["paths"].as_object().unwrap().values() {
        for operation in path.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            let responses = operation["responses"].as_object().unwrap();
            for status in ["400", "500", "503"] {
                assert!(responses.contains_key(status), "{status} is not in {operation}");
            }
            assert!(
                responses.contains_key("200") || responses.contains_key("201"),
                "{operation}"
            );
            for (status, response) in responses {
                assert!(
                    response["headers"]["X-Correlation-Id"].is_object(),
                    "{status} of {id}"
                );
            }
            for (status, response) in responses.iter().filter(|(status, _)| status.as_str() >= "400") {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{status} of {operation}");
            }
        }
    }
    let request = &document["components"]["schemas"]["OrderRequest"];
    assert_eq!(request["required"], json!(["skuId", "quantity"]));
    assert_eq!(request["additionalProperties"], json!(false));
    assert_eq!(request["properties"]["quantity"]["maximum"], 1000);
    assert_eq!(
        serde_json::from_str::<Value>(&commerce_api::openapi::document(false).to_json().unwrap()).unwrap(),
        document
    );
}

#[tokio::test]
async fn requests_are_counted_by_route_and_not_by_path() {
    let (api, _pool) = Api::with_catalogue().await;
    api.get("/orders/1").await;
    api.get("/nowhere").await;
    let metrics = api.ask_admin("/metrics").await.body;
    for labels in [
        r#"method="GET",route="/orders/{id}",status="404""#,
        r#"method="GET",route="unmatched",status="404""#,
    ] {
        assert!(
            metrics.contains(&format!("http_request_duration_seconds_count{{{labels}}} 1")),
            "{labels}: {metrics}"
        );
    }
    assert!(!metrics.contains("nowhere"));
}

#[tokio::test]
async fn it_is_ready_with_postgresql_alone_and_says_what_else_is_away() {
    let (api, _pool) = Api::with_catalogue().await;
    let ready = until("it is ready", async || {
        Some(api.ask_admin("/readyz").await).filter(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(ready.json()["checks"]["postgresql"]["ready"], true);
    let reason = until("Elasticsearch is found away", async || {
        let checks = api.ask_admin("/readyz").await.json();
        let message = checks["checks"]["elasticsearch"]["message"].as_str()?.to_owned();
        (message != "not reached yet").then_some(message)
    })
    .await;
    assert!(
        reason.starts_with("calling Elasticsearch to read the alias"),
        "{reason}"
    );
    assert_eq!(api.ask_admin("/livez").await.status, 200);
}
