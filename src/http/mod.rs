//! HTTP: routes to calls and back.
//!
//! The only place that knows status codes, and the only one that speaks to `axum`, `hyper` and `utoipa`. What a
//! request means is decided below, in [`Replication`]; what it may look like is decided here, before anything below
//! hears of it. Every answer is JSON and carries `node_id`, errors included (`error.rs` has the table).
//!
//! ```text
//! POST /write /delete      client.rs   store and delete        body.rs   type, size and time of a body
//! GET  /read               client.rs   one key                 json.rs   what may stand in it (pure)
//! GET  /data               data.rs     all keys, streamed      query.rs  what may stand in a query (pure)
//! GET  /health /ready      status.rs                           server.rs connections, their limits and their end
//! POST /recover            client.rs   go on in spite of loss
//! GET  /api/status         overview.rs the cluster as this node sees it
//! GET  /api/logs           overview.rs the log, a line an operation
//! POST /api/command        client.rs   write, delete or read, said in the body
//! GET  /cluster/members …  members.rs  who belongs to a raft cluster
//! POST /replicate …        peer.rs     messages of other nodes
//! GET  /openapi.json                   all of this, for programs
//! ```
//!
//! *Caveat.* What is not HTTP at all (a malformed head, one of more than 100 headers) is answered by `hyper` itself: a
//! bare status without a body.

mod answer;
mod body;
mod client;
mod connection;
mod data;
mod error;
mod json;
mod members;
mod overview;
mod peer;
mod query;
mod schema;
mod server;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::{get, post};
use hyper::body::Incoming;
use tower_service::Service;
use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Limits;
use crate::replication::Replication;
use crate::wire::PeerPath;
use error::{Code, Failure};

pub use server::serve;

/// What the routes need of their node.
pub struct Api {
    /// In every answer.
    pub node_id: String,
    /// What messages of peers must show, if it is set.
    pub cluster_token: Option<String>,
    /// Sizes and times of requests.
    pub limits: Limits,
    /// Who does the work.
    pub replication: Replication,
}

impl Api {
    /// Reads the body of a client's request.
    async fn read_body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Failure> {
        body::read(headers, body, self.limits.max_body_bytes, self.limits.header_timeout).await
    }

    /// Gives an error the name of this node.
    fn answer(&self, result: Result<Response, Failure>) -> Response {
        result.unwrap_or_else(|failure| failure.into_response(&self.node_id))
    }
}

/// Every route there is. Cheap to clone.
#[derive(Clone)]
pub struct Routes {
    api: Arc<Api>,
    router: Router,
}

impl Routes {
    /// The routes of a node.
    pub fn new(api: Api) -> Routes {
        let api = Arc::new(api);
        Routes { router: router(api.clone()), api }
    }

    /// Answers a request. The routes of a node's daily work are told apart by hand, ahead of the router, which has them
    /// too (another method, a slash too much): it costs ten times what they need of it (docs/BENCHMARKS.md).
    async fn answer(mut self, request: Request<Incoming>) -> Response {
        let request = request.map(Body::new);
        let peer_path = match (request.method(), request.uri().path()) {
            (&Method::POST, "/write") => return client::write(State(self.api), request).await,
            (&Method::GET, "/read") => return client::read(State(self.api), request).await,
            (&Method::POST, path) => PeerPath::of(path),
            _ => None,
        };
        if let Some(path) = peer_path {
            return peer::handle(&self.api, path, request).await;
        }
        match self.router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn router(api: Arc<Api>) -> Router {
    let mut routes = OpenApiRouter::with_openapi(description())
        .routes(routes!(client::write))
        .routes(routes!(client::delete))
        .routes(routes!(client::read))
        .routes(routes!(data::data))
        .routes(routes!(status::health))
        .routes(routes!(status::ready))
        .routes(routes!(client::recover))
        .routes(routes!(client::command))
        .routes(routes!(overview::status))
        .routes(routes!(overview::logs))
        .routes(routes!(members::members, members::add))
        .routes(routes!(members::remove))
        .routes(routes!(members::transfer));
    for path in PeerPath::ALL {
        let handler = move |State(api): State<Arc<Api>>, request: Request| async move {
            peer::handle(&api, path, request).await
        };
        routes = routes.route(path.as_str(), post(handler));
        let (method, operation) = peer::operation(path);
        let paths = &mut routes.get_openapi_mut().paths.paths;
        paths.insert(path.as_str().to_owned(), PathItem::new(method, operation));
    }
    let (routes, openapi) = routes.split_for_parts();
    let openapi = Bytes::from(serde_json::to_vec(&openapi).unwrap_or_default());
    routes
        .route("/openapi.json", get(move || async move { answer::json(openapi.into()) }))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(api)
}

async fn not_found(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    body::discard(&head.headers, body, api.limits.header_timeout).await;
    let message = format!("there is no route {}; GET /openapi.json lists them all", head.uri.path());
    api.answer(Err(Failure::new(Code::NotFound, message)))
}

/// The `Allow` header is axum's work: it knows what else the route takes.
async fn method_not_allowed(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    body::discard(&head.headers, body, api.limits.header_timeout).await;
    let message =
        format!("{} does not take {}; the header `allow` says what it takes", head.uri.path(), head.method);
    api.answer(Err(Failure::new(Code::MethodNotAllowed, message)))
}

fn description() -> OpenApi {
    let info = InfoBuilder::new()
        .title("quorate")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(env!("CARGO_PKG_DESCRIPTION")))
        .build();
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = ComponentsBuilder::new().security_scheme("cluster_token", token).build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}
