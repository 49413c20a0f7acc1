//! Who gets in, with which token, and what they may see.

use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    support::{self, Api, catalogue, config, until},
    tokens::{self, AUDIENCE, Issuer, Signer, claims, from_now, hs256_access},
};

/// What takes no token.
const OPEN: [&str; 2] = ["/openapi.json", "/docs"];

async fn api_with(access: commerce_api::access::AccessConfig) -> (Api, PgPool) {
    let database = catalogue().await;
    let config = commerce_api::Config {
        access,
        ..config(&database).await
    };
    (Api::start(config).await, database.pool())
}

async fn get(api: &Api, path: &str, authorization: &str) -> support::Answer {
    api.send(Method::GET, path, &[("authorization", authorization)], "")
        .await
}

/// A GET with this token in place of a good one.
async fn try_token(api: &Api, token: &str) -> support::Answer {
    get(api, "/products", &format!("Bearer {token}")).await
}

/// Fails unless the token was refused for this reason, and is not repeated.
#[track_caller]
fn assert_refused(answer: &support::Answer, token: &str, reason: &str) {
    answer.assert_problem(401);
    let expected = format!("Bearer error=\"invalid_token\", error_description=\"{reason}\"");
    assert_eq!(answer.header("www-authenticate"), Some(expected.as_str()));
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(
            !format!("{answer:?}").contains(part),
            "{answer:?} repeats the token"
        );
    }
}

/// Every operation of the document: its method, its path with `{…}` in it, and whether it is administration.
async fn operations(api: &Api) -> Vec<(Method, String, bool)> {
    let document = api.get("/openapi.json").await.json();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            let administration = operation["security"][0]["bearer"] == json!(["catalog:write"]);
            found.push((method, path.clone(), administration));
        }
    }
    assert!(found.len() >= 5, "{found:?}");
    found
}

/// The path with this id in it.
fn with_id(path: &str, id: &str) -> String {
    let segments = path
        .split('/')
        .map(|segment| if segment.starts_with('{') { id } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

/// Asks with an empty JSON object as the body.
async fn ask(api: &Api, method: &Method, path: &str, authorization: Option<&str>) -> support::Answer {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(authorization.map(|value| ("authorization", value)));
    api.send(method.clone(), path, &headers, "{}").await
}

#[tokio::test]
async fn every_route_of_the_document_takes_a_token() {
    let (api, _pool) = api_with(hs256_access()).await;
    for (method, path, _) in operations(&api).await {
        let path = with_id(&path, "1");
        let answer = ask(&api, &method, &path, None).await;
        answer.assert_problem(401);
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer"),
            "{method} {path}"
        );
        let answer = ask(&api, &method, &path, Some("Basic YWRhOmFkYQ==")).await;
        assert_eq!(answer.status, 401, "{method} {path}");
    }
    for path in OPEN {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    api.get("/nowhere").await.assert_problem(404);
}

#[tokio::test]
async fn administration_takes_the_scope_and_nothing_else_does() {
    let (api, _pool) = api_with(hs256_access()).await;
    let token = |scope: Value| {
        let mut claims = claims("ada");
        claims["scope"] = scope;
        format!("Bearer {}", Signer::hs256().token(&json!({}), &claims))
    };
    let (without, with) = (
        token(json!("orders catalog:writer")),
        token(json!("orders catalog:write")),
    );
    for (method, path, administration) in operations(&api).await {
        let path = with_id(&path, "1");
        let answer = ask(&api, &method, &path, Some(&without)).await;
        assert_eq!(
            answer.status == 403,
            administration,
            "{method} {path}: {answer:?}"
        );
        if administration {
            let challenge = "Bearer error=\"insufficient_scope\", scope=\"catalog:write\"";
            assert_eq!(answer.header("www-authenticate"), Some(challenge));
        }
        let answer = ask(&api, &method, &path, Some(&with)).await;
        assert!(
            ![401, 403].contains(&answer.status),
            "{method} {path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_token_is_judged_by_all_that_the_configuration_asks_for() {
    let (api, _pool) = api_with(hs256_access()).await;
    let signer = Signer::hs256();
    let with = |changes: Value| {
        let mut claims = claims("ada");
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        signer.token(&json!({}), &claims)
    };
    for good in [
        json!({}),
        json!({"aud": ["other", AUDIENCE]}),
        json!({"exp": from_now(-10)}),
        json!({"nbf": from_now(10)}),
        json!({"sub": "Ada Lovelace ÿ"}),
        json!({"scope": {"not": "a scope"}}),
    ] {
        assert_eq!(try_token(&api, &with(good.clone())).await.status, 200, "{good}");
    }
    let subject =
        "the subject (sub) of the token is not text of 1 to 128 characters without control characters";
    for (bad, reason) in [
        (json!({"exp": from_now(-60)}), "the token has expired"),
        (
            json!({"exp": null}),
            "the token does not say when it expires (exp)",
        ),
        (
            json!({"exp": "9999999999"}),
            "the token does not say when it expires (exp)",
        ),
        (json!({"exp": -1}), "the token does not say when it expires (exp)"),
        (json!({"nbf": from_now(60)}), "the token is not valid yet"),
        (json!({"nbf": "now"}), "a claim of the token can not be read"),
        (
            json!({"iss": "https://evil.example.com/"}),
            "the issuer (iss) of the token is not accepted",
        ),
        (json!({"iss": null}), "the token has no issuer (iss)"),
        (
            json!({"aud": "others"}),
            "the token is for another audience (aud)",
        ),
        (json!({"aud": []}), "the token is for another audience (aud)"),
        (json!({"aud": null}), "the token has no audience (aud)"),
        (json!({"sub": null}), "the token has no subject (sub)"),
        (json!({"sub": 7}), "the token has no subject (sub)"),
        (json!({"sub": ""}), subject),
        (json!({"sub": "a\u{0}b"}), subject),
        (json!({"sub": "x".repeat(129)}), subject),
    ] {
        let token = with(bad.clone());
        assert_refused(&try_token(&api, &token).await, &token, reason);
    }
    let long = "x".repeat(17_000);
    for (bad, reason) in [
        ("not-a-token", "the token is not a signed JWT"),
        ("e30.e30.", "the token is not a signed JWT"),
        ("a.b.c.d", "the token is not a signed JWT"),
        (&long, "the token is empty or too long"),
    ] {
        assert_refused(&try_token(&api, bad).await, bad, reason);
    }
    let crit = signer.token(&json!({"crit": ["b64"], "b64": false}), &claims("ada"));
    assert_refused(
        &try_token(&api, &crit).await,
        &crit,
        "the token asks for extensions (crit) that are not known",
    );
}

#[tokio::test]
async fn a_token_of_another_key_or_with_other_claims_than_were_signed_is_refused() {
    let (api, _pool) = api_with(hs256_access()).await;
    let reason = "the signature of the token is wrong";
    let other = Signer::Hs256(b"another secret, which is long enough, too".to_vec());
    let forged = other.token(&json!({}), &claims("ada"));
    assert_refused(&try_token(&api, &forged).await, &forged, reason);
    let (ada, bob) = (
        Signer::hs256().token(&json!({}), &claims("ada")),
        Signer::hs256().token(&json!({}), &claims("bob")),
    );
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (ada, bob) = (parts(&ada), parts(&bob));
    let mixed = format!("{}.{}.{}", ada[0], bob[1], ada[2]);
    assert_refused(&try_token(&api, &mixed).await, &mixed, reason);
    let unsigned = format!("{}.{}.", ada[0], ada[1]);
    assert_refused(&try_token(&api, &unsigned).await, &unsigned, reason);
}

#[tokio::test]
async fn no_token_chooses_its_own_algorithm() {
    let (rs256, es256) = (Signer::rs256(), Signer::es256());
    let issuer = Issuer::start(tokens::Answer::Keys(vec![rs256.jwk("a"), es256.jwk("b")])).await;
    let (api, _pool) = api_with(issuer.access("RS256,ES256")).await;
    ready(&api).await;
    let kid = |kid: &str| json!({"kid": kid});
    for (signer, header) in [
        (&rs256, kid("a")),
        (&es256, kid("b")),
        (&rs256, json!({})),
        (&es256, json!({})),
    ] {
        assert_eq!(
            try_token(&api, &signer.token(&header, &claims("ada")))
                .await
                .status,
            200,
            "{header}"
        );
    }

    let refused = "the algorithm of the token is not accepted";
    // The public key, taken for the secret of an HMAC.
    for (signer, kid) in [(&rs256, "a"), (&es256, "b")] {
        for public in signer.public_forms() {
            let token = Signer::Hs256(public).token(&json!({"kid": kid}), &claims("ada"));
            assert_refused(&try_token(&api, &token).await, &token, refused);
        }
    }
    // No signature at all.
    for none in ["none", "None", "NONE", ""] {
        let token = rs256.token(&json!({"kid": "a", "alg": none}), &claims("ada"));
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        for token in [token, unsigned] {
            assert_refused(
                &try_token(&api, &token).await,
                &token,
                "the token is not a signed JWT",
            );
        }
    }
    // The key of one algorithm under the name of the other, and its own under a name that is not accepted.
    for (signer, header, reason) in [
        (
            &rs256,
            json!({"kid": "a", "alg": "ES256"}),
            "the key of the token is not known",
        ),
        (&es256, json!({"kid": "a"}), "the key of the token is not known"),
        (&rs256, json!({"kid": "a", "alg": "RS512"}), refused),
        (&rs256, json!({"kid": "a", "alg": "PS256"}), refused),
    ] {
        let token = signer.token(&header, &claims("ada"));
        assert_refused(&try_token(&api, &token).await, &token, reason);
    }
    // A key that the token brings along.
    let own = Signer::es256();
    let token = own.token(
        &json!({"kid": "b", "jwk": own.jwk("b"), "jku": issuer.url}),
        &claims("ada"),
    );
    assert_refused(
        &try_token(&api, &token).await,
        &token,
        "the signature of the token is wrong",
    );
}

#[tokio::test]
async fn an_order_is_its_callers_whatever_the_body_says() {
    let (api, pool) = api_with(hs256_access()).await;
    let ada = Signer::hs256().bearer("ada");
    let order = async |body: Value| api.order_with(&body, &[("authorization", &ada)]).await;
    assert_eq!(order(json!({"skuId": 1, "quantity": 1})).await.status, 200);
    assert_eq!(
        order(json!({"skuId": 1, "quantity": 1, "userId": "ada"}))
            .await
            .status,
        200
    );
    assert_eq!(
        order(json!({"skuId": 1, "quantity": 1, "userId": null}))
            .await
            .status,
        200
    );
    let problem = order(json!({"skuId": 1, "quantity": 1, "userId": "bob"}))
        .await
        .assert_problem(400);
    assert_eq!(
        problem["errors"],
        json!([{"field": "userId", "message": "is not the caller; it takes the subject of the token, or nothing"}])
    );
    let users: Vec<String> = sqlx::query_scalar("select distinct user_id from orders")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(users, ["ada"]);
}

#[tokio::test]
async fn nobody_sees_or_guesses_the_orders_of_others() {
    let (api, _pool) = api_with(hs256_access()).await;
    let (ada, bob) = (Signer::hs256().bearer("ada"), Signer::hs256().bearer("bob"));
    let body = json!({"skuId": 1, "quantity": 1, "idempotencyKey": "the-same"});
    let placed = api.order_with(&body, &[("authorization", &ada)]).await.json();
    let id = placed["orderId"].as_str().unwrap();
    let path = format!("/orders/{id}");
    assert_eq!(get(&api, &path, &ada).await.json()["userId"], "ada");

    let of_orders = operations(&api)
        .await
        .into_iter()
        .filter(|(_, path, _)| path.starts_with("/orders/{"));
    for (method, path, _) in of_orders {
        let others = ask(&api, &method, &with_id(&path, id), Some(&bob))
            .await
            .assert_problem(404);
        let none = ask(&api, &method, &with_id(&path, "987654321"), Some(&bob))
            .await
            .assert_problem(404);
        let detail = |problem: &Value| problem["detail"].as_str().unwrap().replace(char::is_numeric, "");
        assert_eq!(detail(&others), detail(&none), "{method} {path}");
        assert_eq!(others["type"], none["type"], "{method} {path}");
    }
    let order = get(&api, &path, &ada).await.json();
    assert_eq!(
        (&order["status"], &order["version"]),
        (&json!("CREATED"), &json!(1))
    );
    let unmodified = [("authorization", bob.as_str()), ("if-none-match", "*")];
    api.send(Method::GET, &path, &unmodified, "")
        .await
        .assert_problem(404);

    // A key is its user's: the same one is another's first.
    let answer = api.order_with(&body, &[("authorization", &bob)]).await;
    assert_eq!(
        (answer.status, answer.header("idempotency-replayed")),
        (200, None)
    );
    assert_ne!(answer.json()["orderId"], placed["orderId"]);
}

#[tokio::test]
async fn a_search_finds_the_callers_orders_only_whatever_it_asks_for() {
    let database = catalogue().await;
    let index = support::orders_index().await;
    let api = Api::start(commerce_api::Config {
        access: hs256_access(),
        elasticsearch: index.clone(),
        ..config(&database).await
    })
    .await;
    let client = index.client(support::PATIENCE).unwrap();
    for (id, user) in [(1, "ada"), (2, "bob"), (3, "ada")] {
        let document = json!({
            "orderId": id.to_string(), "skuId": 1, "quantity": 1, "userId": user, "status": "CREATED", "version": 1,
            "correlationId": "shared", "createdAt": format!("2026-01-01T00:00:0{id}.000Z"),
        });
        let id = id.to_string();
        let place = elasticsearch::IndexParts::IndexId(&index.index, &id);
        let written = client
            .index(place)
            .refresh(elasticsearch::params::Refresh::True)
            .body(document)
            .send()
            .await
            .unwrap();
        assert!(
            written.status_code().is_success(),
            "{}",
            written.text().await.unwrap()
        );
    }
    let (ada, bob) = (Signer::hs256().bearer("ada"), Signer::hs256().bearer("bob"));
    let found = async |path: &str, caller: &str| {
        let answer = get(&api, path, caller).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let orders = answer.json();
        let ids: Vec<_> = orders
            .as_array()
            .unwrap()
            .iter()
            .map(|order| order["orderId"].to_string())
            .collect();
        ids.join(",").replace('"', "")
    };
    for filter in [
        "",
        "?correlationId=shared",
        "?skuId=1",
        "?status=CREATED",
        "?createdFrom=2020-01-01T00:00:00Z",
    ] {
        let path = format!("/search/orders{filter}");
        // Twice, the second time from the cache, which must not mix callers up.
        for _ in 0..2 {
            assert_eq!(found(&path, &ada).await, "3,1", "{path}");
            assert_eq!(found(&path, &bob).await, "2", "{path}");
        }
    }
    assert_eq!(found("/search/orders?userId=ada", &ada).await, "3,1");
    let problem = get(&api, "/search/orders?userId=ada", &bob)
        .await
        .assert_problem(403);
    assert_eq!(problem["type"], "tag:commerce.lab,2026:forbidden");
    get(&api, "/search/orders?userId=nobody", &bob)
        .await
        .assert_problem(403);
    // The next page is the caller's, too.
    let first = get(&api, "/search/orders?limit=1", &ada).await;
    let next = first.next().unwrap();
    assert_eq!(found(&next, &ada).await, "1");
    assert_eq!(found(&next, &Signer::hs256().bearer("carol")).await, "");
}

#[tokio::test]
async fn with_authentication_off_a_token_means_nothing() {
    let (api, _pool) = Api::with_catalogue().await;
    let headers = [("authorization", "Bearer not-a-token")];
    let answer = api
        .order_with(&json!({"skuId": 1, "quantity": 1, "userId": "ada"}), &headers)
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("ratelimit"), None);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let document = api.get("/openapi.json").await.body;
    assert!(!document.contains("\"security\"") && !document.contains("\"401\""));
}

/// Waits until keys are known.
pub async fn ready(api: &Api) {
    until("the keys are known", async || {
        let checks = api.ask_admin("/readyz").await.json();
        (checks["checks"]["jwks"]["ready"] == true).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_document_says_what_a_caller_can_be_refused_with() {
    let (api, _pool) = api_with(hs256_access()).await;
    let document = api.get("/openapi.json").await.json();
    assert_eq!(
        document["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
    for (method, path, administration) in operations(&api).await {
        let operation = &document["paths"][&path][method.as_str().to_lowercase()];
        assert!(operation["security"][0]["bearer"].is_array(), "{method} {path}");
        for status in ["401", "429"] {
            assert!(
                operation["responses"][status].is_object(),
                "{status} of {method} {path}"
            );
        }
        assert!(!administration || operation["responses"]["403"].is_object());
    }
}
