//! `/docs` shows the document with nothing from another host.

use std::io::Read as _;

use flate2::read::GzDecoder;
use pretty_assertions::assert_eq;

use crate::support::Api;

/// The values of an attribute in the page.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("{name}=\"");
    let values = page.split(start.as_str()).skip(1);
    values.filter_map(|rest| rest.split('"').next()).collect()
}

#[tokio::test]
async fn the_page_and_all_it_refers_to_come_from_here() {
    let (api, _pool) = Api::with_catalogue().await;
    let page = api.get("/docs").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    for source in policy
        .split(';')
        .flat_map(|directive| directive.split_whitespace().skip(1))
    {
        let accepted = ["'none'", "'self'", "'unsafe-inline'", "data:"];
        assert!(accepted.contains(&source), "{source} in {policy}");
    }
    let mut references = attributes(&page.body, "href");
    references.extend(attributes(&page.body, "src"));
    references.retain(|reference| *reference != "data:,");
    assert_eq!(
        references,
        [
            "docs/swagger-ui.css",
            "docs/swagger-ui-bundle.js",
            "docs/start.js"
        ]
    );
    for reference in references {
        let response = reqwest::get(format!("{}/{reference}", api.base)).await.unwrap();
        assert_eq!(response.status(), 200, "{reference}");
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let kind = if reference.contains(".css") {
            "text/css"
        } else {
            "text/javascript"
        };
        assert_eq!(header("content-type").as_deref(), Some(kind), "{reference}");
        assert!(header("cache-control").unwrap().starts_with("public"));
        let gzipped = header("content-encoding").is_some();
        let bytes = response.bytes().await.unwrap();
        let mut text = String::new();
        if gzipped {
            GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(bytes.to_vec()).unwrap();
        }
        if kind == "text/css" {
            let loaded: Vec<_> = text.split("url(").skip(1).collect();
            assert!(
                loaded
                    .iter()
                    .all(|url| url.trim_start_matches(['"', '\'']).starts_with("data:"))
            );
            assert!(!text.contains("@import"));
        } else {
            assert!(text.contains("SwaggerUIBundle"), "{reference}");
        }
    }
    for path in ["/docs/", "/docs/index.html", "/docs/a/b"] {
        api.get(path).await.assert_problem(404);
    }
}
