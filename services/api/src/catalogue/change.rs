//! Changes of the catalogue.
//!
//! The ledger follows: what a SKU begins with is written down by the table's trigger, what its stock is set to here, in the
//! same transaction. Orders change stock, too; whoever sets it locks the SKU first, as they do.

use sqlx::{Connection as _, PgPool};

use super::{Product, Row, Sku, products};
use crate::version::Expected;

/// A SKU to add; both fields are in their range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSku {
    /// 1 to 200 characters.
    pub name: String,
    pub stock: i64,
}

/// What became of setting a stock. Only [`StockSet::Set`] may have changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockSet {
    /// The SKU as it is now.
    Set(Sku),
    /// It has another version than the caller expects.
    OtherVersion(Sku),
    UnknownSku,
}

const ADD_PRODUCT: &str = "
    with product as (
        insert into products (name) values ($1) returning product_id, name
    ), added as (
        insert into skus (product_id, name, stock)
        select product_id, line.name, line.stock
          from product, unnest($2::text[], $3::bigint[]) with ordinality as line (name, stock, place)
         order by place
        returning sku_id, name, stock, version
    )
    select product_id, product.name as product_name, sku_id, added.name as sku_name, stock, version
      from product
      left join added on true
     order by sku_id";

const ADD_SKU: &str = "
    insert into skus (product_id, name, stock)
    select product_id, $2, $3 from products where product_id = $1
    returning sku_id, name, stock, version";

const LOCK: &str = "select sku_id, name, stock, version from skus where sku_id = $1 for no key update";

const SET_STOCK: &str = "
    with adjusted as (
        insert into stock_adjustments (sku_id, delta, reason) values ($1, $2, 'ADJUSTMENT')
    )
    update skus
       set stock = stock + $2, version = version + 1, updated_at = now()
     where sku_id = $1
    returning sku_id, name, stock, version";

/// Adds a product with SKUs, all or nothing. Its SKUs get ids in their order.
pub async fn add_product(pool: &PgPool, name: &str, skus: &[NewSku]) -> Result<Product, sqlx::Error> {
    let (names, stocks): (Vec<_>, Vec<_>) = skus.iter().map(|sku| (sku.name.as_str(), sku.stock)).unzip();
    let rows: Vec<Row> = sqlx::query_as(ADD_PRODUCT)
        .bind(name)
        .bind(names)
        .bind(stocks)
        .fetch_all(pool)
        .await?;
    products(rows).pop().ok_or(sqlx::Error::RowNotFound)
}

/// Adds a SKU to a product; `None` where there is no such product.
pub async fn add_sku(pool: &PgPool, product_id: i64, sku: &NewSku) -> Result<Option<Sku>, sqlx::Error> {
    sqlx::query_as(ADD_SKU)
        .bind(product_id)
        .bind(&sku.name)
        .bind(sku.stock)
        .fetch_optional(pool)
        .await
}

/// Sets the stock of a SKU that has an expected version. One that has this stock already keeps its version.
pub async fn set_stock(
    pool: &PgPool,
    sku_id: i64,
    stock: i64,
    expected: &Expected,
) -> Result<StockSet, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection
        .begin_with("begin isolation level read committed")
        .await?;
    let sku: Option<Sku> = sqlx::query_as(LOCK)
        .bind(sku_id)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(sku) = sku else {
        return Ok(StockSet::UnknownSku);
    };
    if !expected.includes(sku.version) {
        return Ok(StockSet::OtherVersion(sku));
    }
    if sku.stock == stock {
        return Ok(StockSet::Set(sku));
    }
    let changed = sqlx::query_as(SET_STOCK)
        .bind(sku_id)
        .bind(stock - sku.stock)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(StockSet::Set(changed))
}
