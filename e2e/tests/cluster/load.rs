//! The chart `k6` runs the project's scripts inside the cluster, and its Job tells whether they passed.

use std::time::Duration;

use anyhow::ensure;
use commerce_e2e::{
    k6::K6,
    scenario::{Outcome, scenario},
};

const FINISHED: Duration = Duration::from_mins(2);

#[tokio::test]
async fn the_smoke_script_passes_in_the_cluster() -> Outcome {
    scenario(async |s| {
        let smoke = K6::start(s, "smoke", &[]).await?;
        smoke.passes(FINISHED).await?;
        // Its results can be fetched although it has ended: a gzipped archive in base64.
        let results = smoke.log("results").await?;
        ensure!(
            results.starts_with("H4sI"),
            "the results are no archive: {results:.100}"
        );
        Ok(())
    })
    .await
}
