// SPDX-License-Identifier: Apache-2.0
//! RCAR over HTTP. Clients are not authenticated, so connections, their time, their requests and the memory
//! of those are all limited: when all slots are in use, a new connection evicts the one that has waited
//! longest for its client, never one whose request is being answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::PAUSE;
use super::slots::{ConnectionSlots, Priority, SlotGuard};
use crate::audit::budget::Origin;
use crate::engine::{Call, Engine, Reply};
use crate::rcar::wire::{self, MAX_BODY};

const PREFIX: &str = "/kbs/v0/";
/// Time for all requests of a connection; a client that needs more opens another.
const WHOLE: Duration = Duration::from_secs(60);

/// What connections share.
#[derive(Debug)]
pub(super) struct State {
    engine: Arc<Engine>,
    slots: Arc<ConnectionSlots>,
    /// For a request's head, and for its body.
    wait: Duration,
}

impl State {
    pub(super) fn new(engine: Arc<Engine>, connections: usize, message_s: u64) -> Self {
        Self { engine, slots: ConnectionSlots::new(connections), wait: Duration::from_secs(message_s) }
    }
}

/// Serves until it is aborted.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                cvmm_log_limit::warn!(%error, "cannot accept a connection for RCAR");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Every slot is in use for a request: that is soon over, and to say so would take a slot too.
        let Some((slot, full)) = state.slots.take() else {
            state.engine.metrics().turned_away();
            continue;
        };
        if full {
            state.engine.metrics().evicted();
        }
        tokio::spawn(connection(Arc::clone(&state), slot, stream, peer));
    }
}

async fn connection(
    state: Arc<State>,
    slot: SlotGuard,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
) {
    let eviction = slot.eviction();
    let (slot, wait) = (Arc::new(Mutex::new(slot)), state.wait);
    let answer = service_fn(move |request| {
        let (state, slot) = (Arc::clone(&state), Arc::clone(&slot));
        async move { Ok::<_, Infallible>(answer(state, &slot, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(wait)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        _ = timeout(WHOLE, connection) => {}
        () = eviction.notified() => {}
    }
}

async fn answer(
    state: Arc<State>,
    slot: &Mutex<SlotGuard>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let wait = state.wait;
    let (head, body) = request.into_parts();
    let session = {
        let mut cookies = head.headers.get_all(COOKIE).iter();
        let first = cookies.next().and_then(|value| value.to_str().ok());
        // Several Cookie headers are allowed in HTTP/2 only.
        first.filter(|_| cookies.next().is_none()).and_then(wire::cookie).map(str::to_owned)
    };
    let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
    let plain = head.uri.query().is_none();
    enum Route {
        Auth,
        Attest,
        Resource,
    }
    let route = match (&head.method, path.as_str()) {
        (&Method::POST, "auth") if plain => Route::Auth,
        (&Method::POST, "attest") if plain => Route::Attest,
        (&Method::GET, path) if path.starts_with("resource/") && plain => Route::Resource,
        _ => {
            let text = "{\"type\":\"rcar.resource\",\"detail\":\"POST auth, POST attest or GET resource/REPO/TYPE/TAG, without a query\"}";
            return response(StatusCode::NOT_FOUND, text.as_bytes().to_vec());
        }
    };
    let too_long = body.size_hint().lower() > MAX_BODY as u64;
    let body =
        if too_long { None } else { Some(timeout(wait, Limited::new(body, MAX_BODY).collect()).await) };
    let body = match body {
        Some(Ok(Ok(body))) => Some(body.to_bytes()),
        Some(Ok(Err(error))) if error.is::<LengthLimitError>() => None,
        None => None,
        Some(Ok(Err(_)) | Err(_)) => {
            let mut response = response(
                StatusCode::REQUEST_TIMEOUT,
                b"{\"type\":\"rcar.format\",\"detail\":\"the body did not arrive in time\"}".to_vec(),
            );
            response.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
    };
    // From here to the answer the connection is not evicted, unless it was already.
    slot.lock().unwrap_or_else(PoisonError::into_inner).touch(Priority::Launch);
    let reply = tokio::task::spawn_blocking(move || {
        let session = session.as_deref();
        let call = match (&body, route) {
            (None, _) => Call::TooLong,
            (Some(body), Route::Auth) => Call::Auth(body),
            (Some(body), Route::Attest) => Call::Attest(session, body),
            (Some(_), Route::Resource) => {
                Call::Resource(session, path.strip_prefix("resource/").unwrap_or_default())
            }
        };
        state.engine.rcar(call, &Origin::address(peer.ip()), &peer.to_string())
    })
    .await;
    slot.lock().unwrap_or_else(PoisonError::into_inner).touch(Priority::Silent);
    let Ok(Reply { status, body, session }) = reply else {
        return response(StatusCode::INTERNAL_SERVER_ERROR, Vec::new());
    };
    let mut response =
        response(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body);
    if let Some((id, seconds)) = session {
        let cookie =
            format!("{}={id}; Max-Age={seconds}; Path=/kbs/v0; HttpOnly; SameSite=Strict", wire::COOKIE);
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.headers_mut().insert(SET_COOKIE, value);
        }
    }
    if status == 413 || status == 503 {
        // The rest of the body is not read.
        response.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn response(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
