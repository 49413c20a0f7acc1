//! Documents on their way into the index: sent again, with growing pauses, until Elasticsearch has taken or refused each.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    bulk::{BulkClient, Failure, Outcome},
    sizing::SMALLEST,
};

/// What a bulk request has lines of.
pub(crate) trait Lines {
    /// Where in the body they are.
    fn lines(&self) -> Range<usize>;
}

/// The lines of `body` that are still to be settled.
pub(crate) struct Delivery<I> {
    body: Bytes,
    groups: Vec<Vec<I>>,
    backoff: Backoff,
    /// Something has to be sent again, after a pause.
    pause: bool,
}

/// What one request has led to.
pub(crate) enum Answer<I> {
    /// It was answered for each of its documents.
    Each {
        settled: Vec<(I, Settled)>,
        /// So many have to be sent again, and why the first of them.
        again: Option<(usize, String)>,
        took: Duration,
    },
    /// All of its documents have to be sent again.
    Failed { documents: usize, problem: String },
}

/// What became of a document in the end.
#[derive(Debug)]
pub(crate) enum Settled {
    /// It is in the index or, where it was to be deleted, it is not.
    Done,
    /// The index has this version or a newer one.
    Conflict,
    /// Never, as it is; the text says why.
    Rejected(String),
}

impl<I: Lines> Delivery<I> {
    /// The items must have lines of `body`, in their order.
    pub(crate) fn new(body: impl Into<Bytes>, items: Vec<I>) -> Self {
        Self {
            body: body.into(),
            groups: Vec::from([items]),
            backoff: Backoff::new(),
            pause: false,
        }
    }

    /// The body's memory, empty, for another.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        let mut buffer = Vec::from(self.body);
        buffer.clear();
        buffer
    }

    /// Sends the next request; `None` when all is settled.
    pub(crate) async fn next(&mut self, bulk: &BulkClient) -> Option<Answer<I>> {
        if self.pause {
            self.backoff.wait().await;
            self.pause = false;
        }
        loop {
            let group = self.groups.pop()?;
            if group.is_empty() {
                continue;
            }
            let start = Instant::now();
            match bulk.send(self.lines(&group), group.len()).await {
                Ok(outcomes) => return Some(self.sort(group, outcomes, start.elapsed())),
                Err(Failure::Transient(problem)) => {
                    let documents = group.len();
                    self.groups.push(group);
                    self.pause = true;
                    return Some(Answer::Failed { documents, problem });
                }
                Err(Failure::TooMuch(problem)) => {
                    let documents = group.len();
                    self.push_smaller(group);
                    self.pause = true;
                    return Some(Answer::Failed { documents, problem });
                }
                // One of them spoils the request for all.
                Err(Failure::Refused(_)) if group.len() > 1 => self.halve(group),
                Err(Failure::Refused(error)) => {
                    let rejected = |item| (item, Settled::Rejected(error.clone()));
                    return Some(Answer::Each {
                        settled: group.into_iter().map(rejected).collect(),
                        again: None,
                        took: start.elapsed(),
                    });
                }
            }
        }
    }

    /// What Elasticsearch took nothing of may be more than it ever takes at once.
    fn push_smaller(&mut self, group: Vec<I>) {
        if group.len() > SMALLEST {
            self.halve(group);
        } else {
            self.groups.push(group);
        }
    }

    /// Makes two requests of one.
    fn halve(&mut self, mut group: Vec<I>) {
        let rest = group.split_off(group.len() / 2);
        self.groups.extend([rest, group]);
    }

    fn lines(&self, group: &[I]) -> Bytes {
        let length: usize = group.iter().map(|item| item.lines().len()).sum();
        if length == self.body.len() {
            return self.body.clone();
        }
        let lines: Vec<_> = group.iter().map(|item| &self.body[item.lines()]).collect();
        Bytes::from(lines.concat())
    }

    fn sort(&mut self, group: Vec<I>, outcomes: Vec<Outcome>, took: Duration) -> Answer<I> {
        let (mut settled, mut retry) = (Vec::with_capacity(group.len()), Vec::new());
        let mut problem = None;
        for (item, outcome) in group.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Done => settled.push((item, Settled::Done)),
                Outcome::Conflict => settled.push((item, Settled::Conflict)),
                Outcome::Rejected(error) => settled.push((item, Settled::Rejected(error))),
                Outcome::Retry(error) => {
                    problem.get_or_insert(error);
                    retry.push(item);
                }
            }
        }
        let again = problem.map(|problem| (retry.len(), problem));
        if again.is_some() {
            if settled.is_empty() {
                self.push_smaller(retry);
            } else {
                self.groups.push(retry);
            }
            self.pause = true;
        } else {
            self.backoff.reset();
        }
        Answer::Each { settled, again, took }
    }
}
