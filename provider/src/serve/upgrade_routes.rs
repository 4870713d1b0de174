//! `/upgrade`: what this machine does about its own image, orders for init, and whose turn it is to restart.
//!
//! | request | who decides |
//! | --- | --- |
//! | `GET /upgrade` | nobody: it is what init wrote last, as JSON or as a page for people |
//! | `POST /upgrade/orders` | init, which verifies the signatures; here an order is only passed on, a few in a second |
//! | `POST /upgrade/turn` | this file, for every provider: at most one machine of its segment at a time |
//!
//! Only the appliance has an image of its own to replace: elsewhere `/upgrade` and orders answer 404. Nothing here reads an
//! order, and nothing that comes in changes the image.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boot_manifest::handoff::Report;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use http_semantics::accept;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http::body::Body;
use crate::http::target::{self, Target};
use crate::http::{refuse, respond};
use crate::init_link::InitLink;
use crate::sealed::sealed;
use crate::serve::app::App;
use crate::serve::limits::{
    ORDER_SIZE_MAX, ORDER_WAIT_MAX, ORDERS_PER_SECOND_MAX, UPGRADE_STATUS_SIZE_MAX,
};
use crate::serve::metrics::{Reason, add, get};
use crate::upgrade::shown;
use crate::upgrade::turn::{Question, Turns};

/// Said where there is no image to replace.
const NO_IMAGE: &str = "this provider is a program on a host: only the appliance replaces itself";

/// What is known of the upgrades of this machine and of its neighbours.
pub(crate) struct Upgrades {
    /// What init writes; nothing on a host.
    status: Option<PathBuf>,
    turns: Mutex<Turns>,
    /// The second being counted, and the orders passed on in it.
    orders: Mutex<(Instant, u32)>,
}

impl Upgrades {
    /// Nobody has asked for anything yet.
    pub(crate) fn new(status: Option<PathBuf>) -> Self {
        Self {
            status,
            turns: Mutex::default(),
            orders: Mutex::new((Instant::now(), 0)),
        }
    }

    /// What init wrote last. `None`: nobody writes it, or nothing of use yet.
    pub(crate) fn status(&self) -> Option<Value> {
        let file = File::open(self.status.as_ref()?).ok()?;
        let mut bytes = Vec::new();
        let limit = u64::try_from(UPGRADE_STATUS_SIZE_MAX).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes).ok()?;
        let status: Value = serde_json::from_slice(&bytes).ok()?;
        status.is_object().then_some(status)
    }

    /// Whether this is a machine whose init serves its own image.
    pub(super) fn is_appliance(&self) -> bool {
        self.status.is_some()
    }

    fn is_on_trial(&self) -> bool {
        self.status()
            .is_some_and(|status| !status["trial"].is_null())
    }

    /// Whether one more order may be passed on at `now`.
    fn may_order(&self, now: Instant) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(orders.0) >= Duration::from_secs(1) {
            *orders = (now, 0);
        }
        let may = orders.1 < ORDERS_PER_SECOND_MAX;
        orders.1 += u32::from(may);
        may
    }
}

/// Whether this is an order.
pub(super) fn is_order<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && target::parse(request.uri().path()) == Target::Orders
}

impl App {
    /// `GET /upgrade`: JSON, or a page for browsers.
    pub(super) fn upgrade_page(&self, headers: &HeaderMap) -> Response<Body> {
        if self.upgrades.status.is_none() {
            return self.refuse(
                Reason::NotFound,
                refuse::text(StatusCode::NOT_FOUND, NO_IMAGE),
            );
        }
        let Some(status) = self.upgrades.status() else {
            return self.too_early();
        };
        if accept::prefers_html(headers) {
            return respond::page("text/html; charset=utf-8", shown::page(&status));
        }
        respond::json(StatusCode::OK, &status)
    }

    /// The same in short, for `/status`.
    pub(super) fn upgrade_facts(&self) -> Value {
        let metrics = &self.metrics;
        let mut facts = json!({
            "turns_granted_total": get(&metrics.turns_granted_total),
            "turns_refused_total": get(&metrics.turns_refused_total),
            "orders_passed_total": get(&metrics.orders_passed_total),
        });
        if let Some(status) = self.upgrades.status() {
            for member in shown::IN_SHORT {
                facts[member] = status[member].clone();
            }
        }
        facts
    }

    /// `POST /upgrade/turn?id=...&digest=...`
    pub(super) fn turn(&self, client: IpAddr, query: Option<&str>) -> Response<Body> {
        let question = match Question::parse(query.unwrap_or_default()) {
            Ok(question) => question,
            Err(error) => {
                let answer = refuse::text(StatusCode::BAD_REQUEST, &error.to_string());
                return self.refuse(Reason::BadTarget, answer);
            }
        };
        // Outside of the lock: it reads a file.
        let on_trial = self.upgrades.is_on_trial();
        let answer = {
            let mut turns = self
                .upgrades
                .turns
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            turns.ask(&question, client.to_canonical(), on_trial, Instant::now())
        };
        let metrics = &self.metrics;
        match (question.release, answer.granted) {
            (true, _) => {}
            (false, true) => add(&metrics.turns_granted_total, 1),
            (false, false) => add(&metrics.turns_refused_total, 1),
        }
        // Being refused is an answer and no error, and says so in its own words.
        respond::page("application/json", format!("{}\n", answer.to_json()))
    }

    /// `POST /upgrade/orders`: to init, as it came.
    pub(super) async fn order(&self, client: IpAddr, body: &mut Incoming) -> Response<Body> {
        let refused = |status: StatusCode, line: &str| {
            let mut answer = refuse::text(status, line);
            if status != StatusCode::NOT_FOUND {
                answer
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            self.refuse(Reason::Order, answer)
        };
        if self.upgrades.status.is_none() {
            return refused(StatusCode::NOT_FOUND, NO_IMAGE);
        }
        let read = Limited::new(body, ORDER_SIZE_MAX).collect();
        let order = match tokio::time::timeout(ORDER_WAIT_MAX, read).await {
            Ok(Ok(order)) => order.to_bytes(),
            Ok(Err(_)) => {
                let line = format!("an order has at most {ORDER_SIZE_MAX} bytes");
                return refused(StatusCode::PAYLOAD_TOO_LARGE, &line);
            }
            Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, "the order did not come"),
        };
        if order.is_empty() {
            let answer = refuse::text(StatusCode::BAD_REQUEST, "the body must be a signed order");
            return self.refuse(Reason::Order, answer);
        }
        if !self.upgrades.may_order(Instant::now()) {
            let line = "too many orders are under way: send it again in a second";
            return refused(StatusCode::TOO_MANY_REQUESTS, line);
        }
        let init = Arc::clone(&self.init);
        // Sending may wait for init, which must not stop requests.
        let passed = tokio::task::spawn_blocking(move || pass(&init, client, &order)).await;
        match passed {
            Ok(Ok(true)) => {
                add(&self.metrics.orders_passed_total, 1);
                tracing::info!(%client, "an order was passed to init");
                let told = json!({ "passed": true, "see": "/upgrade" });
                respond::json(StatusCode::ACCEPTED, &told)
            }
            Ok(Ok(false)) => refused(StatusCode::SERVICE_UNAVAILABLE, "nobody obeys orders here"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "an order could not be passed to init");
                refused(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "init is busy: send it again",
                )
            }
            Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    fn too_early(&self) -> Response<Body> {
        let line = "this machine has not said yet what it does about its image";
        let mut answer = refuse::text(StatusCode::SERVICE_UNAVAILABLE, line);
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        self.refuse(Reason::Busy, answer)
    }
}

fn pass(init: &InitLink, client: IpAddr, order: &[u8]) -> std::io::Result<bool> {
    let memory = sealed("order", order)?;
    let report = Report::Order {
        client: client.to_string(),
    };
    init.send_with_fds(&report, &[memory.as_fd()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_few_in_a_second() {
        let upgrades = Upgrades::new(None);
        let now = Instant::now();
        let passed = (0..100).filter(|_| upgrades.may_order(now)).count();
        assert_eq!(passed, ORDERS_PER_SECOND_MAX as usize);
        assert!(upgrades.may_order(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_status_is_an_object_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("upgrade.json");
        let upgrades = Upgrades::new(Some(file.clone()));
        assert_eq!(upgrades.status(), None);
        for (text, is_status, is_on_trial) in [
            ("", false, false),
            ("[]", false, false),
            ("{\"trial\":null}", true, false),
            ("{\"trial\":{\"id\":\"d7\"}}", true, true),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(upgrades.status().is_some(), is_status, "{text}");
            assert_eq!(upgrades.is_on_trial(), is_on_trial, "{text}");
        }
        let long = format!("{{\"x\":\"{}\"}}", "y".repeat(UPGRADE_STATUS_SIZE_MAX));
        std::fs::write(&file, long).unwrap();
        assert_eq!(upgrades.status(), None);
    }
}
