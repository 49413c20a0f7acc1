//! How the services' programs end.

use std::{error::Error, iter::successors, process::ExitCode};

/// The exit code for a result. An error is told in one line on standard error.
pub fn code<E: AsRef<dyn Error + Send + Sync>>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line; causes that an error already repeats are left out.
fn explain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in successors(error.source(), |&cause| cause.source()).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn each_cause_is_told_once() {
        let refused = || anyhow!("connection refused");
        let error = refused()
            .context("connecting to PostgreSQL: connection refused")
            .context("listing");
        assert_eq!(
            explain(&*error),
            "listing: connecting to PostgreSQL: connection refused"
        );
        let error = Err::<(), _>(refused())
            .context("connecting to PostgreSQL")
            .unwrap_err();
        assert_eq!(explain(&*error), "connecting to PostgreSQL: connection refused");
    }
}
