//! An order through the ingress: taken once, however often it is sent, published, and found by search within three seconds.

use std::time::Duration;

use anyhow::ensure;
use commerce_e2e::{
    eventually::eventually,
    orders::{Order, Orders, new_user},
    scenario::{Outcome, scenario},
    stores,
};

const SEARCHABLE_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_order_is_found_by_search_in_under_three_seconds() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let order = Order {
            quantity: 3,
            ..Order::of(&new_user())
        };
        // The empty answer is cached now: what is found later proves that the cache was told.
        ensure!(
            orders.found(&order.user).await?.is_empty(),
            "a new user has orders"
        );

        let answer = orders.post(&order).await?.expect(200)?;
        let id = answer.order_id()?;
        let found = orders
            .finds(&order.user, std::slice::from_ref(&id), SEARCHABLE_WITHIN)
            .await?;

        assert_eq!(answer.header("x-correlation-id"), order.correlation);
        assert_eq!(answer.body["correlationId"], order.correlation);
        assert_eq!(answer.body["status"], "CREATED");
        assert!(
            answer.header("location").ends_with(&format!("/orders/{id}")),
            "Location: {}",
            answer.header("location")
        );
        let document = &found[&id];
        assert_eq!(document["skuId"], order.sku);
        assert_eq!(document["quantity"], order.quantity);
        assert_eq!(document["status"], "CREATED");
        assert_eq!(document["correlationId"], order.correlation);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_repeated_order_is_the_same_order() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let order = Order::of(&new_user());
        let first = orders.post(&order).await?.expect(200)?;
        let second = orders.post(&order).await?.expect(200)?;

        assert_eq!(first.order_id()?, second.order_id()?);
        assert_eq!(first.body, second.body, "a replay gives the first answer");
        assert_eq!(first.header("idempotency-replayed"), "");
        assert_eq!(second.header("idempotency-replayed"), "true");

        let other = Order {
            quantity: order.quantity + 1,
            ..order.clone()
        };
        let refused = orders.post(&other).await?.expect(422)?;
        assert!(
            refused
                .header("content-type")
                .starts_with("application/problem+json"),
            "{:?}",
            refused.headers
        );

        orders
            .finds(&order.user, &[first.order_id()?], SEARCHABLE_WITHIN)
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_cancelled_order_is_found_as_one_and_its_timeline_says_how_it_got_there() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let order = Order::of(&new_user());
        let id = orders.place(&order).await?;
        let first = orders.cancel(&id).await?.expect(200)?;
        let again = orders.cancel(&id).await?.expect(200)?;
        assert_eq!(first.body["status"], "CANCELLED");
        assert_eq!(
            first.body, again.body,
            "a repeated cancellation is answered like the first"
        );

        let path = format!("/orders/{id}/timeline");
        eventually(
            "the cancellation has come all the way",
            Duration::from_secs(10),
            async || {
                let timeline = orders.get(&path).await?.expect(200)?.body;
                let stages = timeline["stages"].as_array().cloned().unwrap_or_default();
                ensure!(
                    stages.len() == 5 && stages.iter().all(|stage| stage["state"] == "DONE"),
                    "the timeline is {timeline}"
                );
                Ok(())
            },
        )
        .await?;
        let found = orders
            .finds(&order.user, std::slice::from_ref(&id), SEARCHABLE_WITHIN)
            .await?;
        assert_eq!(found[&id]["status"], "CANCELLED");
        assert_eq!(found[&id]["correlationId"], order.correlation);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_order_can_be_read_and_its_event_is_sent() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let order = Order::of(&new_user());
        let id = orders.place(&order).await?;

        let read = orders.get(&format!("/orders/{id}")).await?.expect(200)?;
        assert_eq!(read.order_id()?, id);
        assert_eq!(read.body["userId"], order.user);
        assert_eq!(read.body["correlationId"], order.correlation);
        assert_ne!(read.header("etag"), "", "ETag is the order's version");
        assert_ne!(
            read.header("x-correlation-id"),
            "",
            "every answer has a correlation id"
        );

        let mut shop = stores::postgres(&s.cluster, None).await?;
        let query = "select status, correlation_id from outbox_events where aggregate_id = $1";
        let events = eventually("the order's event is SENT", Duration::from_secs(10), async || {
            let events: Vec<(String, String)> = sqlx::query_as(query)
                .bind(&id)
                .fetch_all(&mut shop.connection)
                .await?;
            ensure!(
                !events.is_empty() && events.iter().all(|(status, _)| status == "SENT"),
                "the outbox has {events:?}"
            );
            Ok(events)
        })
        .await?;
        assert_eq!(
            events,
            [("SENT".to_owned(), order.correlation)],
            "one event for one order"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_ingress_shows_clean_errors_and_nothing_of_the_admin_port() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let bad = orders
            .post(&Order {
                quantity: 0,
                ..Order::of(&new_user())
            })
            .await?
            .expect(400)?;
        assert!(
            bad.header("content-type").starts_with("application/problem+json"),
            "{:?}",
            bad.headers
        );
        assert!(
            bad.body.to_string().contains("quantity"),
            "the field is named: {}",
            bad.body
        );
        assert_ne!(bad.body["correlationId"], serde_json::Value::Null, "{}", bad.body);

        orders.get("/orders/999999999999").await?.expect(404)?;
        for path in ["/metrics", "/livez", "/readyz", "/status"] {
            orders.get(path).await?.expect(404)?;
        }
        Ok(())
    })
    .await
}
