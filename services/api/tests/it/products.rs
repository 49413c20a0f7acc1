//! The catalogue is shown whole, page by page.

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use crate::support::Api;

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
