//! Configuration from environment variables, parsed once, at start, into types that can't be wrong.
//!
//! A mistake names the variable, the value (unless it is a secret) and what is accepted, and all mistakes are reported
//! together. A secret `X` may be given as `X_FILE`, the path of a file that holds it.

use std::{collections::HashMap, fmt::Write as _, path::PathBuf, str::FromStr, time::Duration};

use secrecy::SecretString;

/// Reads variables and remembers what was wrong with them. Getters give `None` for a variable that is missing or
/// wrong; [`Env::finish`] then reports every mistake.
#[derive(Debug)]
pub struct Env {
    variables: HashMap<String, String>,
    problems: Vec<String>,
}

/// All that was wrong with the configuration; where that is more than one thing, one line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is not usable:{}", list(problems))]
pub struct ConfigError {
    problems: Vec<String>,
}

fn list(problems: &[String]) -> String {
    if let [problem] = problems {
        return format!(" {problem}");
    }
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = write!(text, "\n  {problem}");
        text
    })
}

impl Env {
    /// The variables of this process.
    #[must_use]
    pub fn from_process() -> Self {
        Self::from_pairs(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }))
    }

    /// Variables given as pairs, for tests.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables,
            problems: Vec::new(),
        }
    }

    /// The text of a variable; an empty one counts as not set.
    pub fn optional_text(&mut self, name: &str) -> Option<String> {
        self.variables
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    }

    /// The text of a variable that must be set; `accepted` says what it holds.
    pub fn text(&mut self, name: &str, accepted: &str) -> Option<String> {
        let value = self.optional_text(name);
        if value.is_none() {
            self.problems
                .push(format!("{name} is not set; it takes {accepted}"));
        }
        value
    }

    /// A variable parsed by `parse`, or `default` where it is not set.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        default: T,
        accepted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(value) = self.optional_text(name) else {
            return Some(default);
        };
        let parsed = parse(&value);
        if parsed.is_none() {
            self.problems
                .push(format!("{name} is {value:?}; it takes {accepted}"));
        }
        parsed
    }

    /// A switch: `true` or `false`.
    pub fn switch(&mut self, name: &str, default: bool) -> Option<bool> {
        self.parsed(name, default, "true or false", |value| value.parse().ok())
    }

    /// A number between `min` and `max`.
    pub fn number<T>(&mut self, name: &str, default: T, min: T, max: T) -> Option<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let accepted = format!("a whole number from {min} to {max}");
        self.parsed(name, default, &accepted, |value| {
            value.parse().ok().filter(|number| (min..=max).contains(number))
        })
    }

    /// A duration such as `24h`, not less than `min`.
    pub fn duration_from(&mut self, name: &str, default: Duration, min: Duration) -> Option<Duration> {
        let accepted = format!(
            "a duration of at least {}, such as 24h",
            humantime::format_duration(min)
        );
        self.parsed(name, default, &accepted, |value| {
            humantime::parse_duration(value)
                .ok()
                .filter(|duration| *duration >= min)
        })
    }

    /// A duration such as `250ms`, `30s` or `24h`, greater than zero.
    pub fn duration(&mut self, name: &str, default: Duration) -> Option<Duration> {
        self.parsed(
            name,
            default,
            "a duration greater than zero, such as 250ms, 30s or 24h",
            |value| {
                humantime::parse_duration(value)
                    .ok()
                    .filter(|duration| !duration.is_zero())
            },
        )
    }

    /// A secret from `name`, or from the file that `name_FILE` names.
    pub fn optional_secret(&mut self, name: &str) -> Option<SecretString> {
        let file = format!("{name}_FILE");
        if let Some(path) = self.optional_text(&file) {
            return match std::fs::read_to_string(&path) {
                Ok(text) => Some(SecretString::from(text.trim_end_matches(['\r', '\n']))),
                Err(error) => {
                    self.problems
                        .push(format!("{file} is {path:?}; reading that file: {error}"));
                    None
                }
            };
        }
        self.optional_text(name).map(SecretString::from)
    }

    /// A secret that must be set.
    pub fn secret(&mut self, name: &str, accepted: &str) -> Option<SecretString> {
        let before = self.problems.len();
        let secret = self.optional_secret(name);
        if secret.is_none() && self.problems.len() == before {
            self.problems.push(format!(
                "neither {name} nor {name}_FILE is set; it takes {accepted}, {name}_FILE the path of a file with it"
            ));
        }
        secret
    }

    /// The path of a file that must exist, where set.
    pub fn optional_file(&mut self, name: &str) -> Option<PathBuf> {
        let text = self.optional_text(name)?;
        let path = PathBuf::from(&text);
        if !path.is_file() {
            self.problems
                .push(format!("{name} is {text:?}; there is no such file"));
        }
        Some(path)
    }

    /// Notes a mistake that only the caller can see.
    pub fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// The finished configuration, or everything that was wrong.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, ConfigError> {
        match build() {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError {
                problems: self.problems,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn every_mistake_names_variable_value_and_what_is_accepted() {
        let mut env = Env::from_pairs([("SIZE", "many"), ("WAIT", "0s"), ("CA", "/nowhere")]);
        let size = env.number("SIZE", 10_u32, 1, 100);
        let wait = env.duration("WAIT", Duration::from_secs(1));
        env.optional_file("CA");
        env.secret("URL", "a PostgreSQL URI");
        let error = env.finish(|| Some((size?, wait?))).unwrap_err().to_string();
        assert_eq!(
            error,
            "the configuration is not usable:\n  \
             SIZE is \"many\"; it takes a whole number from 1 to 100\n  \
             WAIT is \"0s\"; it takes a duration greater than zero, such as 250ms, 30s or 24h\n  \
             CA is \"/nowhere\"; there is no such file\n  \
             neither URL nor URL_FILE is set; it takes a PostgreSQL URI, URL_FILE the path of a file with it"
        );
    }

    #[test]
    fn a_single_mistake_is_told_in_one_line() {
        let mut env = Env::from_pairs([("KEEP", "59m")]);
        let keep = env.duration_from("KEEP", Duration::from_hours(24), Duration::from_hours(1));
        let error = env.finish(|| keep).unwrap_err().to_string();
        assert_eq!(
            error,
            "the configuration is not usable: KEEP is \"59m\"; it takes a duration of at least 1h, such as 24h"
        );
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let mut env = Env::from_pairs([("TOKEN_FILE", file.path().to_str().unwrap())]);
        let secret = env.secret("TOKEN", "a token");
        assert_eq!(env.finish(|| secret).unwrap().expose_secret(), "hunter2");
    }
}
