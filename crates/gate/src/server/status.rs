// SPDX-License-Identifier: Apache-2.0
//! `/metrics` and `/healthz` over HTTP, for monitors.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::PAUSE;
use super::slots::ConnectionSlots;
use crate::engine::Engine;

/// Connections at a time. A monitor needs one; others wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// Time for all requests of a connection.
const WAIT: Duration = Duration::from_secs(10);

/// What is reported about.
#[derive(Debug)]
pub(super) struct State {
    pub(super) engine: Arc<Engine>,
    pub(super) slots: Arc<ConnectionSlots>,
}

/// Serves until it is aborted.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                cvmm_log_limit::warn!(%error, "cannot accept a connection for status");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&state, &request);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), answer);
            let _ = timeout(WAIT, connection).await;
            drop(permit);
        });
    }
}

fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let engine = &state.engine;
            let text = engine.metrics().text(state.slots.used(), engine.policies());
            (StatusCode::OK, "text/plain; version=0.0.4", text)
        }
        (&Method::GET, "/healthz") => match state.engine.health() {
            Ok(()) => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{reason}\n")),
        },
        (_, "/metrics" | "/healthz") => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "/metrics or /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
