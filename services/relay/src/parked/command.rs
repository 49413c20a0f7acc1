//! `relay parked …`: what a person on call can see and do. It needs PostgreSQL alone, and asks nothing back.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Subcommand};
use commerce_core::{
    config::Env,
    postgres::PostgresConfig,
    print::{self, Output, counted, safe},
};
use serde::Serialize;
use sqlx::{Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{
    events::{self, Content, ParkedEvent, Which},
    text,
};

/// Longer than what a session of ours waits for by itself.
const PATIENCE: Duration = Duration::from_secs(15);

// A lock is given up before PostgreSQL looks for deadlocks: it must not be the relay that loses.
const SESSION: &str = "set statement_timeout = '10s'; set lock_timeout = '500ms'";

const LONGEST_REASON: usize = 500;

/// What there is to see and to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the events that hold up others: the first parked one of each aggregate.
    List {
        /// No more than this many, those with the lowest ids.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
        /// Also those that wait behind them, and those that were discarded.
        #[arg(long)]
        all: bool,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show all that is known about an event.
    Show {
        outbox_id: i64,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Try events again at once, instead of when it is time.
    #[command(group(ArgGroup::new("which").required(true).args(["outbox_ids", "all"])))]
    Requeue {
        outbox_ids: Vec<i64>,
        /// All that Kafka has refused.
        #[arg(long)]
        all: bool,
    },
    /// Give events up for good: they are never published, and what waits behind them follows.
    Discard {
        #[arg(required = true)]
        outbox_ids: Vec<i64>,
        /// Why, for whoever asks later.
        #[arg(long, value_parser = reason)]
        reason: String,
    },
}

/// What to print, and which events nothing could be done to.
#[derive(Default)]
struct Answer {
    text: String,
    not_done: Vec<String>,
}

impl Command {
    /// Does what the command line says, configured as the relay is.
    pub async fn run(self, mut env: Env) -> anyhow::Result<()> {
        let postgres = PostgresConfig::from_env(&mut env);
        let postgres = env.finish(|| postgres)?;
        let answer = timeout(PATIENCE, self.answer(&postgres.options));
        let Answer { text, not_done } = answer
            .await
            .map_err(|_| anyhow!("PostgreSQL does not answer"))??;
        std::io::stdout()
            .write_all(text.as_bytes())
            .context("printing the answer")?;
        if not_done.is_empty() {
            Ok(())
        } else {
            bail!(not_done.join("; "))
        }
    }

    async fn answer(self, options: &PgConnectOptions) -> anyhow::Result<Answer> {
        let connection = &mut connect(options).await.context("connecting to PostgreSQL")?;
        match self {
            Self::List { limit, all, output } => list(connection, limit, all, output).await,
            Self::Show { outbox_id, output } => show(connection, outbox_id, output).await,
            Self::Requeue { all: true, .. } => requeue_all(connection).await,
            Self::Requeue { outbox_ids, .. } => {
                let done = events::requeue(connection, &outbox_ids)
                    .await
                    .context("requeueing parked events")?;
                outcome(connection, &outbox_ids, &done, requeued).await
            }
            Self::Discard { outbox_ids, reason } => {
                let done = events::discard(connection, &outbox_ids, &reason)
                    .await
                    .context("discarding parked events")?;
                outcome(connection, &outbox_ids, &done, discarded).await
            }
        }
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let options = options.clone().application_name("relay-parked");
    let mut connection = PgConnection::connect_with(&options).await?;
    connection.execute(SESSION).await?;
    Ok(connection)
}

async fn list(
    connection: &mut PgConnection,
    limit: i64,
    all: bool,
    output: Output,
) -> anyhow::Result<Answer> {
    let which = if all { Which::Unsent } else { Which::Heads };
    let events = read(connection, which, Some(limit)).await?;
    let text = match output {
        Output::Text => text::list(&events),
        Output::Json => print::json(&events).context("writing JSON")?,
    };
    Ok(Answer {
        text,
        ..Answer::default()
    })
}

async fn show(connection: &mut PgConnection, outbox_id: i64, output: Output) -> anyhow::Result<Answer> {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        event: &'a ParkedEvent,
        #[serde(flatten)]
        content: Option<&'a Content>,
    }

    let events = read(connection, Which::These(&[outbox_id]), None).await?;
    let Some(event) = events.first() else {
        bail!(why_not(outbox_id, None))
    };
    let content = events::content(connection, event)
        .await
        .with_context(|| format!("reading event {outbox_id}"))?;
    let text = match output {
        Output::Text => text::show(event, content.as_ref()),
        Output::Json => print::json(&Shown {
            event,
            content: content.as_ref(),
        })
        .context("writing JSON")?,
    };
    Ok(Answer {
        text,
        ..Answer::default()
    })
}

async fn requeue_all(connection: &mut PgConnection) -> anyhow::Result<Answer> {
    let (requeued, waiting) = events::requeue_all(connection)
        .await
        .context("requeueing parked events")?;
    if requeued == 0 {
        return Ok(Answer {
            text: "Kafka has refused no event that is still parked\n".to_owned(),
            ..Answer::default()
        });
    }
    let tried = counted(requeued, "event is", "events are");
    let behind = counted(waiting, "event waits", "events wait");
    let mut text = format!("{tried} tried again at once; {behind} behind\n");
    text.push_str(remark(connection).await?);
    Ok(Answer {
        text,
        ..Answer::default()
    })
}

/// Says of each event what was done, or why nothing was.
async fn outcome(
    connection: &mut PgConnection,
    asked: &[i64],
    done: &[i64],
    tell: fn(&ParkedEvent) -> String,
) -> anyhow::Result<Answer> {
    let events = read(connection, Which::These(asked), None).await?;
    let mut answer = Answer::default();
    for outbox_id in asked {
        let event = events.iter().find(|event| event.outbox_id == *outbox_id);
        match event {
            Some(event) if done.contains(outbox_id) => {
                answer.text.push_str(&tell(event));
                answer.text.push('\n');
            }
            other => answer.not_done.push(why_not(*outbox_id, other)),
        }
    }
    if !done.is_empty() {
        answer.text.push_str(remark(connection).await?);
    }
    Ok(answer)
}

async fn read(
    connection: &mut PgConnection,
    which: Which<'_>,
    limit: Option<i64>,
) -> anyhow::Result<Vec<ParkedEvent>> {
    events::read(connection, which, limit)
        .await
        .context("reading the parked events")
}

async fn remark(connection: &mut PgConnection) -> anyhow::Result<&'static str> {
    let active = events::relay_is_active(connection)
        .await
        .context("reading the relay's lease")?;
    Ok(if active {
        ""
    } else {
        "no relay is active: it takes effect when one is\n"
    })
}

fn requeued(event: &ParkedEvent) -> String {
    let id = event.outbox_id;
    match event.waits_behind {
        Some(before) => {
            format!("event {id} is tried when event {before}, which it waits behind, is sent or discarded")
        }
        None if event.behind == 0 => format!("event {id} is tried again at once"),
        None => {
            let behind = counted(event.behind, "event waits", "events wait");
            format!("event {id} is tried again at once; {behind} behind it")
        }
    }
}

fn discarded(event: &ParkedEvent) -> String {
    let id = event.outbox_id;
    match event.waits_behind {
        Some(before) => format!(
            "event {id} is discarded, and passed over when event {before}, which it waits behind, is sent or discarded"
        ),
        None if event.behind == 0 => format!("event {id} is discarded"),
        None => {
            let behind = counted(
                event.behind,
                "later event of its aggregate follows",
                "later events of its aggregate follow",
            );
            format!("event {id} is discarded; {behind}")
        }
    }
}

fn why_not(outbox_id: i64, event: Option<&ParkedEvent>) -> String {
    let Some(event) = event else {
        return format!("event {outbox_id} is not parked");
    };
    match (event.sent_at, event.discarded_at) {
        (Some(at), _) => format!("event {outbox_id} was sent at {}", print::time(at)),
        (None, Some(at)) => {
            let reason = safe(event.discard_reason.as_deref().unwrap_or_default());
            format!("event {outbox_id} was discarded at {}: {reason}", print::time(at))
        }
        (None, None) => format!("event {outbox_id} was only just parked"),
    }
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if (1..=LONGEST_REASON).contains(&text.chars().count()) {
        Ok(text.to_owned())
    } else {
        Err(format!("it takes 1 to {LONGEST_REASON} characters"))
    }
}
