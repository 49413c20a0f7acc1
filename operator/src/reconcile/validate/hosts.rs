//! Host names as the pipeline's pods understand them.
//!
//! A name without a dot, such as `kafka`, is a Service in the pipeline's namespace: that is what it means to the pods, and
//! what whoever wrote it had in mind. The operator runs in another namespace, where the same name is nothing or something
//! else, so for its own connections such a name is completed.

use commerce_core::redis::parse_url;
use redis::ConnectionInfo;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnectOptions;
use url::{Host, Url};

/// The name by which a host can be reached from every namespace.
pub fn complete(host: &str, namespace: &str) -> String {
    let is_service = !host.is_empty() && host != "localhost" && !host.contains(['.', ':', '/']);
    if is_service {
        format!("{host}.{namespace}.svc")
    } else {
        host.to_owned()
    }
}

/// The same name for all spellings of a Service's: `kafka.store`, `kafka.store.svc`, `kafka.store.svc.cluster.local`.
pub fn plain(host: &str) -> String {
    let host = host.to_lowercase();
    let short = host
        .trim_end_matches('.')
        .trim_end_matches(".cluster.local")
        .trim_end_matches(".svc");
    short.to_owned()
}

/// `host:port` separated by commas.
pub fn of_servers(servers: &str, namespace: &str) -> String {
    let each = servers.split(',').map(|server| match server.rsplit_once(':') {
        Some((host, port)) => format!("{}:{port}", complete(host, namespace)),
        None => complete(server, namespace),
    });
    each.collect::<Vec<_>>().join(",")
}

pub fn of_url(mut url: Url, namespace: &str) -> Url {
    if let Some(Host::Domain(host)) = url.host() {
        let host = complete(host, namespace);
        // A host name followed by a domain is a host name again.
        let _ = url.set_host(Some(&host));
    }
    url
}

pub fn of_postgres(options: PgConnectOptions, namespace: &str) -> PgConnectOptions {
    let host = complete(options.get_host(), namespace);
    options.host(&host)
}

/// The address and login of a URI; `None` where it is not one.
pub fn of_redis(uri: &SecretString, namespace: &str) -> Option<ConnectionInfo> {
    let url = of_url(Url::parse(uri.expose_secret()).ok()?, namespace);
    parse_url(&SecretString::from(url.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_service_of_the_pipelines_namespace() {
        assert_eq!(
            of_servers("kafka:9092,kafka-0.kafka:9092,10.0.0.1:9092", "shop"),
            "kafka.shop.svc:9092,kafka-0.kafka:9092,10.0.0.1:9092"
        );
        let url = |text: &str| of_url(Url::parse(text).unwrap(), "shop").to_string();
        assert_eq!(url("http://search:9200/es"), "http://search.shop.svc:9200/es");
        assert_eq!(url("https://search.example.com/"), "https://search.example.com/");
        assert_eq!(url("http://10.0.0.1:9200/"), "http://10.0.0.1:9200/");
        assert_eq!(url("http://localhost:9200/"), "http://localhost:9200/");
        assert_eq!(
            url("redis://:p%40ss@cache:6379/0"),
            "redis://:p%40ss@cache.shop.svc:6379/0"
        );
        let options: PgConnectOptions = "postgres://u:p@db/orders".parse().unwrap();
        assert_eq!(of_postgres(options, "shop").get_host(), "db.shop.svc");
    }
}
