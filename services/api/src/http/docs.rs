//! `GET /docs`: the OpenAPI document for people, shown by Swagger UI.
//!
//! All that the page needs is part of this program. Its Content-Security-Policy keeps it from loading anything from elsewhere.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::Path,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use utoipa_swagger_ui::Config;

use crate::problem::Problem;

/// References are relative, so that the page also works behind a proxy that adds a prefix to the paths.
const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Commerce Pipeline API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"#;
const START: &str = r##"SwaggerUIBundle({ url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null });
"##;
/// Swagger UI sets styles in its markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE)
}

/// What the page refers to.
pub async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let (content_type, encoding, bytes) = match &*name {
        "start.js" => ("text/javascript".to_owned(), None, Cow::from(START.as_bytes())),
        "swagger-ui.css" | "swagger-ui-bundle.js" => {
            let file = utoipa_swagger_ui::serve(&name, Arc::new(Config::default()));
            let file = file.ok().flatten().ok_or_else(Problem::no_such_path)?;
            // Every browser takes gzip, and nothing else asks for these.
            (file.content_type, file.gzpipped.then_some("gzip"), file.bytes)
        }
        _ => return Err(Problem::no_such_path()),
    };
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "public, max-age=3600".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let mut response = (headers, bytes).into_response();
    if let Some(encoding) = encoding {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Ok(response)
}
