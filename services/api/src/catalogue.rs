//! The catalogue as PostgreSQL has it.

pub mod change;

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

/// A product with all its SKUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the names are the API's")]
pub struct Product {
    #[schema(example = 1)]
    pub product_id: i64,
    pub name: String,
    pub skus: Vec<Sku>,
}

/// What is ordered: one variant of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the names are the API's")]
pub struct Sku {
    #[schema(example = 1)]
    pub sku_id: i64,
    pub name: String,
    /// Pieces that can be ordered.
    #[schema(minimum = 0)]
    pub stock: i64,
    /// One more with each change.
    pub version: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    product_id: i64,
    product_name: String,
    /// These four are there or not together: a product may have no SKU.
    sku_id: Option<i64>,
    sku_name: Option<String>,
    stock: Option<i64>,
    version: Option<i64>,
}

const LIST: &str = "
    select product_id, page.name as product_name, sku_id, skus.name as sku_name, stock, version
      from (select product_id, name from products where product_id > $1 order by product_id limit $2) page
      left join skus using (product_id)
     order by product_id, sku_id";

const ONE: &str = "
    select product_id, products.name as product_name, sku_id, skus.name as sku_name, stock, skus.version
      from products
      left join skus using (product_id)
     where product_id = $1
     order by sku_id";

const SKU: &str = "select sku_id, name, stock, version from skus where sku_id = $1";

/// Up to `limit` products with ids above `after`, by id.
pub async fn list(pool: &PgPool, after: i64, limit: i64) -> Result<Vec<Product>, sqlx::Error> {
    Ok(products(
        sqlx::query_as(LIST)
            .bind(after)
            .bind(limit)
            .fetch_all(pool)
            .await?,
    ))
}

/// The product with this id.
pub async fn by_id(pool: &PgPool, product_id: i64) -> Result<Option<Product>, sqlx::Error> {
    Ok(products(sqlx::query_as(ONE).bind(product_id).fetch_all(pool).await?).pop())
}

/// The SKU with this id.
pub async fn sku_by_id(pool: &PgPool, sku_id: i64) -> Result<Option<Sku>, sqlx::Error> {
    sqlx::query_as(SKU).bind(sku_id).fetch_optional(pool).await
}

/// Rows of one product follow each other.
fn products(rows: Vec<Row>) -> Vec<Product> {
    let mut products: Vec<Product> = Vec::new();
    for row in rows {
        if products
            .last()
            .is_none_or(|last| last.product_id != row.product_id)
        {
            products.push(Product {
                product_id: row.product_id,
                name: row.product_name,
                skus: Vec::new(),
            });
        }
        let sku = (row.sku_id, row.sku_name, row.stock, row.version);
        if let (Some(product), (Some(sku_id), Some(name), Some(stock), Some(version))) =
            (products.last_mut(), sku)
        {
            product.skus.push(Sku {
                sku_id,
                name,
                stock,
                version,
            });
        }
    }
    products
}
