//! What the API, the events and the index share about orders: their statuses, and the ways from one to another.

use serde::{Deserialize, Serialize};

/// Where an order stands. An order begins as [`Status::Created`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    Created,
    Cancelled,
}

impl Status {
    /// As it is written in PostgreSQL, in events and in the index.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Where an order may go from here. This table is the whole state machine; nothing leads out of a status without
    /// entries.
    const fn next(self) -> &'static [Self] {
        match self {
            Self::Created => &[Self::Cancelled],
            Self::Cancelled => &[],
        }
    }

    /// What it takes to bring an order that stands here to `goal`.
    #[must_use]
    pub fn step_to(self, goal: Self) -> Step {
        if self == goal {
            Step::Done
        } else if self.next().contains(&goal) {
            Step::Allowed
        } else {
            Step::Refused
        }
    }
}

/// Whether an order may go to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is there already; nothing is to be done.
    Done,
    /// It may go there.
    Allowed,
    /// There is no way from where it stands.
    Refused,
}

impl std::str::FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        match text {
            "CREATED" => Ok(Self::Created),
            "CANCELLED" => Ok(Self::Cancelled),
            _ => Err(UnknownStatus),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A status that is none of the accepted ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a status is CREATED or CANCELLED")]
pub struct UnknownStatus;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_order_can_be_cancelled_and_a_cancelled_one_stays_so() {
        use Status::{Cancelled, Created};
        assert_eq!(Created.step_to(Cancelled), Step::Allowed);
        assert_eq!(Cancelled.step_to(Cancelled), Step::Done);
        assert_eq!(Cancelled.step_to(Created), Step::Refused);
        assert_eq!(Created.step_to(Created), Step::Done);
    }
}
