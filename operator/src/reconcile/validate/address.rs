//! Where stores are, spelled the same for all who name the same host; without credentials.

use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::hosts;

/// The brokers.
pub fn brokers(servers: &str, namespace: &str) -> Vec<String> {
    let servers = hosts::of_servers(servers, namespace);
    let plain = |server: &str| match server.rsplit_once(':') {
        Some((host, port)) => format!("{}:{port}", hosts::plain(host)),
        None => hosts::plain(server),
    };
    servers.split(',').map(plain).collect()
}

/// Elasticsearch.
pub fn search(url: &str, namespace: &str) -> Option<String> {
    let url = hosts::of_url(Url::parse(url).ok()?, namespace);
    let host = hosts::plain(url.host_str()?);
    let port = url.port_or_known_default().unwrap_or_default();
    Some(format!("{host}:{port}{}", url.path().trim_end_matches('/')))
}

/// The database, and the schema in it.
pub fn database(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    let (host, port) = (hosts::plain(options.get_host()), options.get_port());
    format!(
        "{host}:{port}/{database} {}",
        options.get_options().unwrap_or_default()
    )
}
