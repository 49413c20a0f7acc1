//! The OpenAPI document, made from the handlers.
//!
//! A handler describes what is its own: parameters, body, answers. What every operation has in common (the correlation id,
//! `Retry-After`, the answers to our own faults) is added to all of them here, so that no handler can forget it.

use utoipa::{
    IntoResponses, OpenApi,
    openapi::{
        Object, Ref, RefOr, Required, Response, Schema, Type,
        extensions::Extensions,
        header::{Header, HeaderBuilder},
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, Paths},
        schema::SchemaType,
    },
};

use crate::{http, problem::Problem};

/// Headers that a request to any operation may have. No value of theirs is refused.
const REQUEST_HEADERS: [(&str, &str); 2] = [
    (
        "X-Correlation-Id",
        "What the request is to be known by in answers, logs, events and the index: 1 to 80 visible ASCII characters. \
         Another value is replaced.",
    ),
    (
        "traceparent",
        "The caller's W3C trace context, which the order and its events carry on. Another value is ignored.",
    ),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Commerce Pipeline",
        description = "Takes orders, tells about them and finds them.\n\n\
            Every answer carries `X-Correlation-Id`. Errors are `application/problem+json` (RFC 9457); one that may pass by \
            itself has `Retry-After`. A path that is not here is answered with 404, a method that a path does not take with \
            405 and `Allow`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/", description = "Where this document comes from")),
    tags(
        (name = "orders", description = "Placing orders, cancelling and following them"),
        (name = "search", description = "Finding orders"),
        (name = "catalogue", description = "What can be ordered"),
    ),
)]
struct Head;

/// The document without routes.
pub(crate) fn head() -> utoipa::openapi::OpenApi {
    Head::openapi()
}

/// The whole document; `authenticated` where callers need a token.
#[must_use]
pub fn document(authenticated: bool) -> utoipa::openapi::OpenApi {
    let mut document = http::routes().to_openapi();
    http::describe(&mut document, authenticated);
    let components = document.components.get_or_insert_default();
    for (name, description) in REQUEST_HEADERS {
        let parameter = request_header(name, description);
        components.parameters.insert(name.to_owned(), parameter.into());
    }
    for (name, header) in [
        ("X-Correlation-Id", correlation_id()),
        ("Retry-After", retry_after()),
    ] {
        components.headers.insert(name.to_owned(), header.into());
    }
    operations(&mut document.paths).for_each(complete);
    document
}

fn operations(paths: &mut Paths) -> impl Iterator<Item = &mut Operation> {
    let items = paths.paths.values_mut();
    items
        .flat_map(|item| {
            [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.patch,
                &mut item.delete,
            ]
        })
        .flatten()
}

/// Adds what all operations have in common.
fn complete(operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    parameters.iter_mut().for_each(never_null);
    for (name, _) in REQUEST_HEADERS {
        parameters.push(RefOr::Ref(Ref::new(format!("#/components/parameters/{name}"))));
    }
    let responses = &mut operation.responses.responses;
    for (status, response) in Always::responses() {
        responses.entry(status).or_insert(response);
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        refer_to_header(response, "X-Correlation-Id");
        if matches!(status.as_str(), "409" | "429" | "503" | "504") {
            refer_to_header(response, "Retry-After");
        }
    }
}

/// A parameter that may be absent is an `Option` in Rust, but none can be null.
fn never_null(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(Parameter {
        schema: Some(RefOr::T(Schema::Object(schema))),
        ..
    }) = parameter
        && let SchemaType::Array(types) = &mut schema.schema_type
    {
        types.retain(|kind| *kind != Type::Null);
        if types.len() == 1 {
            schema.schema_type = types.remove(0).into();
        }
    }
}

fn refer_to_header(response: &mut Response, name: &str) {
    let header = Ref::new(format!("#/components/headers/{name}"));
    response
        .headers
        .entry(name.to_owned())
        .or_insert(RefOr::Ref(header));
}

fn request_header(name: &str, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
        .build()
}

fn correlation_id() -> Header {
    let text = Object::builder()
        .schema_type(Type::String)
        .pattern(Some("^[!-~]{1,80}$"))
        .build();
    HeaderBuilder::new()
        .schema(Some(text))
        .description(Some(
            "The request's, if it gave a usable one; else one made for it",
        ))
        // The type has no field for this keyword.
        .extensions(Some(Extensions::from_iter([("required", true)])))
        .build()
}

fn retry_after() -> Header {
    let seconds = Object::builder()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .build();
    HeaderBuilder::new()
        .schema(Some(seconds))
        .description(Some(
            "Seconds after which to try again; absent where trying again is of no use",
        ))
        .build()
}

/// What any request may be answered with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
enum Always {
    #[response(
        status = 500,
        description = "Our fault; the log has more under the correlation id",
        content_type = "application/problem+json"
    )]
    OurFault(Problem),
    #[response(
        status = 503,
        description = "Not possible now; `Retry-After` says when to try again",
        content_type = "application/problem+json"
    )]
    NotNow(Problem),
}

/// The request is at fault.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 400,
    description = "The request is malformed; `errors` names each field that is wrong",
    content_type = "application/problem+json"
)]
pub(crate) struct BadRequest(Problem);

/// What a request with a body can be refused for, beside its fields.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(crate) enum BodyRefused {
    #[response(
        status = 413,
        description = "The body is too large",
        content_type = "application/problem+json"
    )]
    TooLarge(Problem),
    #[response(
        status = 415,
        description = "The body is not JSON",
        content_type = "application/problem+json"
    )]
    MediaType(Problem),
}

/// The key belongs to another request.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 422,
    description = "The idempotency key was used for another request",
    content_type = "application/problem+json"
)]
pub(crate) struct KeyReused(Problem);

/// `If-Match` names another version.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 412,
    description = "It has another version than `If-Match` names",
    content_type = "application/problem+json"
)]
pub(crate) struct OtherVersion(Problem);

/// `If-Match` is missing.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 428,
    description = "The header `If-Match` is missing",
    content_type = "application/problem+json"
)]
pub(crate) struct VersionNeeded(Problem);

/// A store is away.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 503,
    description = "A store is away, or there is more to do than can be done; `Retry-After` says when to try again",
    content_type = "application/problem+json"
)]
pub(crate) struct StoreAway(Problem);
