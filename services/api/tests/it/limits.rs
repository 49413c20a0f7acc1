//! How much a caller may ask, from where, and how long a connection may take.

use std::time::Duration;

use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    support::{Answer, Api, PATIENCE, catalogue, config},
    tokens::{Signer, access, hs256_access},
};

async fn api_with(access: commerce_api::access::AccessConfig) -> Api {
    let database = catalogue().await;
    Api::start(commerce_api::Config {
        access,
        ..config(&database).await
    })
    .await
}

async fn get(api: &Api, headers: &[(&str, &str)]) -> Answer {
    api.send(Method::GET, "/products", headers, "").await
}

fn assert_limited(answer: &Answer, wait: std::ops::RangeInclusive<u64>) {
    answer.assert_problem(429);
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(wait.contains(&after), "{answer:?}");
}

#[tokio::test]
async fn every_answer_tells_what_is_left_and_the_last_when_to_come_back() {
    let api = api_with(access(&[
        ("RATE_LIMIT_REQUESTS", "3"),
        ("RATE_LIMIT_WINDOW", "1h"),
    ]))
    .await;
    let told = |answer: &Answer| {
        assert_eq!(answer.header("ratelimit-policy"), Some("\"default\";q=3;w=3600"));
        answer.header("ratelimit").unwrap().to_owned()
    };
    assert_eq!(told(&get(&api, &[]).await), "\"default\";r=2;t=1200");
    // What fails counts, too.
    let answer = api.get("/orders/none").await;
    answer.assert_problem(400);
    assert_eq!(told(&answer), "\"default\";r=1;t=2400");
    assert_eq!(told(&api.get("/nowhere").await), "\"default\";r=0;t=3600");
    let answer = api.order(&json!({"skuId": 1, "quantity": 1})).await;
    assert_limited(&answer, 1100..=1200);
    assert_eq!(told(&answer), "\"default\";r=0;t=3600");
    assert_eq!(answer.json()["type"], "tag:commerce.lab,2026:too-many-requests");
}

#[tokio::test]
async fn users_are_counted_by_subject_and_the_rest_by_address() {
    let api = api_with(commerce_api::access::AccessConfig {
        rate_limit: access(&[("RATE_LIMIT_REQUESTS", "2"), ("RATE_LIMIT_WINDOW", "1h")]).rate_limit,
        ..hs256_access()
    })
    .await;
    let (ada, bob) = (Signer::hs256().bearer("ada"), Signer::hs256().bearer("bob"));
    for _ in 0..2 {
        assert_eq!(get(&api, &[("authorization", &ada)]).await.status, 200);
    }
    assert_limited(&get(&api, &[("authorization", &ada)]).await, 1..=1800);
    assert_eq!(
        get(&api, &[("authorization", &bob)]).await.status,
        200,
        "bob has his own"
    );
    // Guessing at tokens is counted, and takes nothing from users.
    for _ in 0..2 {
        assert_eq!(get(&api, &[("authorization", "Bearer guess")]).await.status, 401);
    }
    assert_limited(&get(&api, &[("authorization", "Bearer guess")]).await, 1..=1800);
    assert_limited(&get(&api, &[]).await, 1..=1800);
    assert_eq!(get(&api, &[("authorization", &bob)]).await.status, 200);
}

#[tokio::test]
async fn an_address_is_believed_from_trusted_proxies_only() {
    let limit = [("RATE_LIMIT_REQUESTS", "1"), ("RATE_LIMIT_WINDOW", "1h")];
    let spoofed = api_with(access(&limit)).await;
    assert_eq!(
        get(&spoofed, &[("x-forwarded-for", "192.0.2.1")]).await.status,
        200
    );
    assert_limited(
        &get(&spoofed, &[("x-forwarded-for", "192.0.2.2")]).await,
        1..=3600,
    );

    let proxied = api_with(access(&[limit[0], limit[1], ("TRUSTED_PROXIES", "127.0.0.0/8")])).await;
    assert_eq!(
        get(&proxied, &[("x-forwarded-for", "192.0.2.1")]).await.status,
        200
    );
    assert_eq!(
        get(&proxied, &[("x-forwarded-for", "192.0.2.2")]).await.status,
        200
    );
    assert_limited(
        &get(&proxied, &[("x-forwarded-for", "192.0.2.2")]).await,
        1..=3600,
    );
    // What the client itself wrote stands further left.
    let forged = [("x-forwarded-for", "198.51.100.9, 192.0.2.2")];
    assert_limited(&get(&proxied, &forged).await, 1..=3600);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_answers() {
    let api = api_with(commerce_api::access::AccessConfig {
        allowed_origins: vec!["https://shop.example.com".to_owned()],
        ..hs256_access()
    })
    .await;
    let preflight = async |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,content-type,idempotency-key",
            ),
        ];
        api.send(Method::OPTIONS, "/orders", &headers, "").await
    };
    let answer = preflight("https://shop.example.com").await;
    assert_eq!(
        answer.status, 200,
        "without a token, which browsers do not send along"
    );
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://shop.example.com")
    );
    for method in ["GET", "POST", "PUT"] {
        assert!(
            answer
                .header("access-control-allow-methods")
                .unwrap()
                .contains(method)
        );
    }
    for name in [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "x-correlation-id",
    ] {
        assert!(
            answer
                .header("access-control-allow-headers")
                .unwrap()
                .contains(name),
            "{name}"
        );
    }
    assert_eq!(
        preflight("https://evil.example.com")
            .await
            .header("access-control-allow-origin"),
        None
    );

    // A refusal can be read, too.
    let answer = get(&api, &[("origin", "https://shop.example.com")]).await;
    answer.assert_problem(401);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://shop.example.com")
    );
    let exposed = answer.header("access-control-expose-headers").unwrap();
    for name in [
        "x-correlation-id",
        "idempotency-replayed",
        "link",
        "etag",
        "ratelimit",
        "ratelimit-policy",
    ] {
        assert!(
            exposed.split(',').any(|found| found == name),
            "{name} is not in {exposed}"
        );
    }
    for name in ["x-cache", "age", "location", "retry-after", "www-authenticate"] {
        assert!(
            exposed.split(',').any(|found| found == name),
            "{name} is not in {exposed}"
        );
    }
    let foreign = get(&api, &[("origin", "https://evil.example.com")]).await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);
}

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.base.strip_prefix("http://").unwrap())
        .await
        .unwrap()
}

/// All that is answered until the connection ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset says that it has ended, too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn heads_that_are_too_large_or_have_too_many_headers_are_refused() {
    let (api, _pool) = Api::with_catalogue().await;
    let many = (0..200)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect::<Vec<_>>()
        .concat();
    let huge = format!("x: {}\r\n", "x".repeat(40_000));
    for headers in [many, huge] {
        let mut stream = connect(&api).await;
        let head = format!("GET /products HTTP/1.1\r\nhost: api\r\n{headers}\r\n");
        // It may answer and close before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let fits = "x".repeat(16_000);
    assert_eq!(get(&api, &[("authorization", &fits)]).await.status, 200);
}

#[tokio::test]
async fn a_caller_that_sends_its_request_byte_by_byte_is_hung_up_on() {
    let mut access = access(&[]);
    access.header_timeout = Duration::from_millis(300);
    let api = api_with(access).await;
    let mut silent = connect(&api).await;
    assert_eq!(rest(&mut silent).await, "");
    let slow = connect(&api).await;
    let (mut reading, mut writing) = slow.into_split();
    let trickle = tokio::spawn(async move {
        writing
            .write_all(b"GET /products HTTP/1.1\r\nhost: api\r\n")
            .await
            .unwrap();
        // Until nobody listens any more.
        while writing.write_all(b"x: 1\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut text = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut text))
        .await
        .unwrap();
    assert!(!String::from_utf8_lossy(&text).contains(" 200 "));
    tokio::time::timeout(PATIENCE, trickle).await.unwrap().unwrap();
    assert_eq!(get(&api, &[]).await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_one_to_end() {
    let mut access = access(&[]);
    access.max_connections = 1;
    let api = api_with(access).await;
    let request = b"GET /openapi.json HTTP/1.1\r\nhost: api\r\n\r\n";
    let mut first = connect(&api).await;
    first.write_all(request).await.unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = connect(&api).await;
    second.write_all(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), second.read_exact(&mut byte)).await;
    assert!(early.is_err(), "the first one still holds the only place");
    drop(first);
    tokio::time::timeout(PATIENCE, second.read_exact(&mut byte))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_lets_requests_end() {
    let (api, _pool) = Api::with_catalogue().await;
    let mut idle = connect(&api).await;
    let mut kept = connect(&api).await;
    kept.write_all(b"GET /openapi.json HTTP/1.1\r\nhost: api\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    kept.read_exact(&mut byte).await.unwrap();
    let stopping = tokio::time::Instant::now();
    api.stop().await;
    assert!(
        stopping.elapsed() < Duration::from_secs(15),
        "it waited for idle connections"
    );
    assert_eq!(rest(&mut idle).await, "");
    assert!(rest(&mut kept).await.contains("200 OK") || byte == *b"H");
}
