//! A catalogue to begin with.

use sqlx::{Connection as _, PgConnection};

/// SKUs of each product.
const VARIANTS: i64 = 4;

const PRODUCTS: &str = "
    insert into products (product_id, name)
    select id, 'Product ' || id from generate_series(1, ($1 + $2 - 1) / $2) as id
        on conflict do nothing";

const SKUS: &str = "
    insert into skus (sku_id, product_id, name, stock)
    select id, (id - 1) / $2 + 1, 'Product ' || (id - 1) / $2 + 1 || ', ' || (array['S', 'M', 'L', 'XL'])[(id - 1) % $2 + 1], $3
      from generate_series(1, $1) as id
        on conflict do nothing";

/// Moves the sequences past the ids that were given by hand, and never back.
const SEQUENCES: &str = "
    select setval('products_product_id_seq', greatest((select max(product_id) from products),
                                                      (select last_value from products_product_id_seq))),
           setval('skus_sku_id_seq', greatest((select max(sku_id) from skus), (select last_value from skus_sku_id_seq)))";

/// Brings the catalogue to at least the SKUs 1 to `skus`, the new ones with `stock` pieces each. Returns how many are new;
/// products and SKUs that are there already stay as they are. The stock ledger learns of the new ones by their table's trigger.
pub async fn seed(connection: &mut PgConnection, skus: i64, stock: i64) -> Result<u64, sqlx::Error> {
    if skus == 0 {
        return Ok(0);
    }
    let mut transaction = connection.begin().await?;
    sqlx::query(PRODUCTS)
        .bind(skus)
        .bind(VARIANTS)
        .execute(&mut *transaction)
        .await?;
    let added = sqlx::query(SKUS)
        .bind(skus)
        .bind(VARIANTS)
        .bind(stock)
        .execute(&mut *transaction)
        .await?;
    if added.rows_affected() > 0 {
        sqlx::query(SEQUENCES).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(added.rows_affected())
}
