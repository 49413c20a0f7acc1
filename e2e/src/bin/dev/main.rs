//! A whole pipeline as plain processes, for a quick try and for the inner loop: real stores and the three services, without
//! a container engine. Everything ends with this process, and nothing is kept.

mod service;
mod stores;

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use commerce_core::shutdown;
use futures::future::{join_all, select_all, try_join_all};

use crate::{service::Service, stores::Stores};

/// Runs stores and services on this machine until Ctrl-C.
#[derive(Debug, Parser)]
struct Arguments {
    /// The API's port on 127.0.0.1; without it 8080 where that is free, else any.
    #[arg(long)]
    port: Option<u16>,
    /// SKUs that the catalogue has, with ids from 1.
    #[arg(long, default_value_t = 1_000)]
    skus: u32,
    /// Pieces of each SKU.
    #[arg(long, default_value_t = 1_000_000)]
    stock: u64,
}

const PREFERRED_PORT: u16 = 8080;
/// How long a service may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let stop = shutdown::on_signal().context("listening for signals")?;
    let mut services = Vec::new();
    let stores = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        stores = start(&arguments, &mut services) => stores?,
    };
    let ended = services.iter_mut().map(|service| Box::pin(service.ended()));
    tokio::select! {
        () = stop.cancelled() => {}
        (how, ..) = select_all(ended) => bail!(how),
    }
    print("stopping")?;
    join_all(services.into_iter().map(|service| service.stop(PATIENCE))).await;
    drop(stores);
    Ok(())
}

/// Brings everything up and says where it is.
async fn start(arguments: &Arguments, services: &mut Vec<Service>) -> Result<Stores> {
    let programs = programs()?;
    let api = programs.join("api");
    let port = choose_port(arguments.port)?;

    let began = Instant::now();
    print("==> PostgreSQL, Kafka, Elasticsearch and Redis")?;
    let stores = Stores::start().await?;
    done(began)?;

    let began = Instant::now();
    print(&format!(
        "==> schema with {} SKUs, topics and index",
        arguments.skus
    ))?;
    let (skus, stock) = (arguments.skus.to_string(), arguments.stock.to_string());
    let migrate = ["migrate", "--seed-skus", &skus, "--seed-stock", &stock];
    let variables = stores.variables();
    let migrate = service::run(&api, &migrate, &variables);
    tokio::try_join!(migrate, stores.create_topics(), stores.create_index())?;
    done(began)?;

    let began = Instant::now();
    print("==> api, relay and indexer")?;
    for name in ["api", "relay", "indexer"] {
        let mut variables = stores.variables();
        if name == "api" {
            variables.push(("HTTP_ADDR", local(port).to_string()));
        }
        services.push(Service::start(
            name,
            &programs.join(name),
            local(free_port(0)?),
            variables,
        )?);
    }
    try_join_all(services.iter_mut().map(|service| service.ready(PATIENCE))).await?;
    done(began)?;

    print(&welcome(port, &stores, services))?;
    Ok(stores)
}

fn welcome(port: u16, stores: &Stores, services: &[Service]) -> String {
    let api = format!("http://{}", local(port));
    let admin: Vec<_> = services.iter().map(Service::to_string).collect();
    let admin = admin.join("\n");
    format!(
        "
The API:         {api}/orders  {api}/products  {api}/docs
{admin}
{stores}
Order something, and find it:
  curl -i {api}/orders -H 'Content-Type: application/json' -d '{{\"skuId\": 1, \"quantity\": 2, \"userId\": \"ada\"}}'
  curl -s '{api}/search/orders?userId=ada'

Ctrl-C ends all of it, data included.
"
    )
}

/// The folder with the services' programs: they are built beside this one.
fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's own path")?;
    let folder = own.parent().context("this program's path has no folder")?;
    for name in ["api", "relay", "indexer"] {
        let program = folder.join(name);
        if !program.is_file() {
            bail!(
                "{} is not there; build the services first: cargo build --bin api --bin relay --bin indexer",
                program.display()
            );
        }
    }
    Ok(folder.to_owned())
}

fn choose_port(wanted: Option<u16>) -> Result<u16> {
    match wanted {
        Some(port) => free_port(port).with_context(|| format!("the port {port} of --port can't be used")),
        None => free_port(PREFERRED_PORT)
            .or_else(|_| free_port(0))
            .context("finding a port for the API"),
    }
}

/// The port itself, when nobody has it; any free one for 0.
fn free_port(port: u16) -> io::Result<u16> {
    Ok(TcpListener::bind(local(port))?.local_addr()?.port())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn print(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

fn done(began: Instant) -> io::Result<()> {
    print(&format!("    done in {:.1}s", began.elapsed().as_secs_f64()))
}
