//! The issuer's keys: rotated, away, slow, or nonsense.

use axum::http::StatusCode;
use reqwest::Method;
use serde_json::json;

use crate::{
    auth::ready,
    support::{Api, catalogue, closed_port, config, until},
    tokens::{Answer, Issuer, Signer, access, claims},
};

async fn api_with(access: commerce_api::access::AccessConfig) -> Api {
    let database = catalogue().await;
    Api::start(commerce_api::Config {
        access,
        ..config(&database).await
    })
    .await
}

async fn ask(api: &Api, signer: &Signer, kid: &str) -> crate::support::Answer {
    let token = signer.token(&json!({"kid": kid}), &claims("ada"));
    let authorization = format!("Bearer {token}");
    api.send(Method::GET, "/products", &[("authorization", &authorization)], "")
        .await
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let issuer = Issuer::start(Answer::Keys(vec![old.jwk("old")])).await;
    let api = api_with(issuer.access("ES256")).await;
    ready(&api).await;
    assert_eq!(ask(&api, &old, "old").await.status, 200);

    issuer.answers(Answer::Keys(vec![old.jwk("old"), new.jwk("new")]));
    until("the new key is taken", async || {
        (ask(&api, &new, "new").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(
        ask(&api, &old, "old").await.status,
        200,
        "the old one is still published"
    );

    issuer.answers(Answer::Keys(vec![new.jwk("new")]));
    until("the old key is dropped", async || {
        // A name that nobody has makes it look.
        ask(&api, &old, "unheard-of").await.assert_problem(401);
        (ask(&api, &old, "old").await.status == 401).then_some(())
    })
    .await;
    assert_eq!(ask(&api, &new, "new").await.status, 200);
}

#[tokio::test]
async fn keys_that_were_good_stay_good_while_the_issuer_is_away_slow_or_talks_nonsense() {
    let signer = Signer::es256();
    let keys = Answer::Keys(vec![signer.jwk("a")]);
    let issuer = Issuer::start(keys.clone()).await;
    let api = api_with(issuer.access("ES256")).await;
    until("it is ready", async || {
        (api.ask_admin("/readyz").await.status == 200).then_some(())
    })
    .await;
    for trouble in [
        Answer::Status(StatusCode::INTERNAL_SERVER_ERROR),
        Answer::Status(StatusCode::FOUND),
        Answer::Text("<html>down for maintenance</html>".to_owned()),
        Answer::Text(String::new()),
        Answer::Text(json!({"keys": []}).to_string()),
        Answer::Text(json!({"keys": [{"kty": "oct", "kid": "a", "k": "AAAA"}]}).to_string()),
        Answer::Text(format!(
            "{{\"keys\": [], \"padding\": \"{}\"}}",
            "x".repeat(1_000_000)
        )),
    ] {
        issuer.answers(trouble);
        until("the trouble is noticed", async || {
            ask(&api, &signer, "unheard-of").await.assert_problem(401);
            let checks = api.ask_admin("/readyz").await.json();
            (checks["checks"]["jwks"]["ready"] == false).then_some(())
        })
        .await;
        assert_eq!(ask(&api, &signer, "a").await.status, 200);
        assert_eq!(api.ask_admin("/readyz").await.status, 200, "it goes on working");
        issuer.answers(keys.clone());
        ready(&api).await;
    }
    issuer.answers(Answer::Never);
    ask(&api, &signer, "unheard-of").await.assert_problem(401);
    assert_eq!(ask(&api, &signer, "a").await.status, 200);
}

#[tokio::test]
async fn until_keys_are_known_it_is_not_ready_and_says_to_come_back() {
    let signer = Signer::es256();
    let issuer = Issuer::start(Answer::Status(StatusCode::SERVICE_UNAVAILABLE)).await;
    let api = api_with(issuer.access("ES256")).await;
    let answer = ask(&api, &signer, "a").await;
    answer.assert_problem(503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(
        api.get("/products").await.status,
        401,
        "that takes no keys to see"
    );
    assert_eq!(api.get("/openapi.json").await.status, 200);
    assert_eq!(api.ask_admin("/readyz").await.status, 503);
    let message = until("it says why", async || {
        let checks = api.ask_admin("/readyz").await.json();
        let message = checks["checks"]["jwks"]["message"].as_str()?.to_owned();
        message.contains("answered 503").then_some(message)
    })
    .await;
    assert!(message.starts_with(&issuer.url), "{message}");

    issuer.answers(Answer::Keys(vec![signer.jwk("a")]));
    until("it is let in", async || {
        (ask(&api, &signer, "a").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_issuer_that_is_away_at_the_start_is_no_crash() {
    let url = format!("http://{}/jwks", closed_port().await);
    let api = api_with(access(&[
        ("AUTH_MODE", "jwt"),
        ("AUTH_JWT_ALGORITHMS", "ES256"),
        ("AUTH_JWKS_URL", &url),
    ]))
    .await;
    ask(&api, &Signer::es256(), "a").await.assert_problem(503);
    assert_eq!(api.ask_admin("/livez").await.status, 200);
}

#[tokio::test]
async fn tokens_with_made_up_keys_do_not_reach_the_issuer() {
    let signer = Signer::es256();
    let issuer = Issuer::start(Answer::Keys(vec![signer.jwk("a")])).await;
    let mut access = issuer.access("ES256");
    if let Some(jwt) = &mut access.jwt {
        jwt.refetch_pause = std::time::Duration::from_hours(1);
    }
    let api = api_with(access).await;
    ready(&api).await;
    for number in 0..50 {
        let kid = format!("{number}\u{0}\"../{}", "k".repeat(200));
        ask(&api, &signer, &kid).await.assert_problem(401);
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn keys_come_from_a_file_as_well() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let file = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::new_v4()));
    std::fs::write(&file, json!({"keys": [old.jwk("old")]}).to_string()).unwrap();
    let mut access = access(&[
        ("AUTH_MODE", "jwt"),
        ("AUTH_JWT_ALGORITHMS", "ES256"),
        ("AUTH_JWKS_FILE", file.to_str().unwrap()),
    ]);
    if let Some(jwt) = &mut access.jwt {
        jwt.refetch_pause = std::time::Duration::from_millis(50);
    }
    let api = api_with(access).await;
    ready(&api).await;
    assert_eq!(ask(&api, &old, "old").await.status, 200);
    std::fs::write(&file, json!({"keys": [new.jwk("new")]}).to_string()).unwrap();
    until("the new key is taken", async || {
        (ask(&api, &new, "new").await.status == 200).then_some(())
    })
    .await;
    ask(&api, &old, "old").await.assert_problem(401);
    std::fs::remove_file(file).unwrap();
}
