//! What the OpenAPI document says of authentication and limits, which is the same for every route.

use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, OpenApi, PathItem, Ref, Response, ResponseBuilder, Schema,
    path::Operation,
    schema::{ObjectBuilder, Type},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use super::CATALOGUE_WRITE;

/// The name of the security scheme.
const SCHEME: &str = "bearer";

/// Adds to every operation what it can be refused with and, where callers need a token, the security scheme. A route of administration declares
/// `security(("bearer" = ["catalog:write"]))`; every other takes any token.
pub fn describe(document: &mut OpenApi, authenticated: bool) {
    let limits = " Where callers are limited, every answer carries `RateLimit` and `RateLimit-Policy`.";
    document.info.description.get_or_insert_default().push_str(limits);
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            refuse(
                operation,
                "429",
                "The caller's requests are used up",
                retry_after(),
            );
            if authenticated {
                restrict(operation);
            } else {
                operation.security = None;
            }
        }
    }
    if !authenticated {
        return;
    }
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(
            "Where authentication is on: a signed token whose subject is the user. Administration of the catalogue takes \
             the scope `catalog:write`.",
        ))
        .build();
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.head,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

fn restrict(operation: &mut Operation) {
    let administration = SecurityRequirement::new(SCHEME, [CATALOGUE_WRITE]);
    let security = operation
        .security
        .get_or_insert_with(|| vec![SecurityRequirement::new(SCHEME, [""; 0])]);
    let administers = security.contains(&administration);
    refuse(operation, "401", "The token is missing or not good", challenge());
    if administers {
        refuse(
            operation,
            "403",
            "The token lacks the scope `catalog:write`",
            challenge(),
        );
    }
}

fn refuse(operation: &mut Operation, status: &str, description: &str, header: (&str, Header)) {
    operation
        .responses
        .responses
        .entry(status.to_owned())
        .or_insert_with(|| refusal(description, header).into());
}

fn refusal(description: &str, (name, header): (&str, Header)) -> Response {
    let problem = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", problem)
        .header(name, header)
        .build()
}

fn challenge() -> (&'static str, Header) {
    let header = HeaderBuilder::new().description(Some("What is taken, and what was wrong (RFC 6750)"));
    ("WWW-Authenticate", header.schema(Some(text())).build())
}

fn retry_after() -> (&'static str, Header) {
    let header = HeaderBuilder::new().description(Some("Seconds until a request is taken again"));
    ("Retry-After", header.schema(Some(text())).build())
}

fn text() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).into()
}
