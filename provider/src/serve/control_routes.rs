//! What the control socket of a provider can be asked. A new route is a line in the list and an arm of the match.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::control::{Answer, Routes, refusal};
use crate::log;
use crate::serve::app::App;

/// What decisions about machines begin with.
const CLIENTS: &str = "/clients/";

/// The provider, as its operator sees it.
pub(super) struct Operator(pub(super) Arc<App>);

impl Routes for Operator {
    fn list(&self) -> &'static [(&'static str, &'static str, &'static str)] {
        &[
            ("GET", "/status", "the state of the provider"),
            (
                "GET",
                "/clients",
                "every machine that was seen, and every address that fetched something",
            ),
            (
                "POST",
                "/clients/allow",
                "a machine is answered: {\"mac\": \"aa:bb:cc:dd:ee:ff\"}",
            ),
            ("POST", "/clients/deny", "a machine is not answered"),
            (
                "POST",
                "/clients/once",
                "its next boot only; besides \"mac\": \"channel\", or \"local\": true",
            ),
            ("POST", "/clients/local", "a machine boots from its disk"),
            ("POST", "/clients/network", "a machine boots from here"),
            (
                "POST",
                "/clients/profile",
                "a machine gets the profile called \"profile\"; without, the one that matches",
            ),
            (
                "POST",
                "/clients/forget",
                "everything about a machine is forgotten",
            ),
            ("GET", "/config", "every setting, and where it comes from"),
            (
                "POST",
                "/reload",
                "read keys, certificates and settings again",
            ),
            ("GET", "/log-level", "what is logged"),
            (
                "PUT",
                "/log-level",
                "log something else: {\"level\": \"debug\"}",
            ),
        ]
    }

    async fn answer(&self, method: &Method, path: &str, body: Value) -> Answer {
        let app = &self.0;
        match (method.as_str(), path) {
            ("GET", "/status") => (StatusCode::OK, app.state()),
            ("GET", "/clients") => (StatusCode::OK, app.all_clients(usize::MAX)),
            ("GET", "/config") => {
                let in_force = app.in_force();
                let file = &in_force.file;
                (
                    StatusCode::OK,
                    json!({ "file": file, "settings": in_force.settings }),
                )
            }
            ("POST", "/reload") => reload(app).await,
            ("GET", "/log-level") => (StatusCode::OK, json!({ "level": log::level() })),
            ("PUT", "/log-level") => set_log_level(&body),
            ("POST", path) if path.starts_with(CLIENTS) => {
                let (app, route) = (Arc::clone(app), path[CLIENTS.len()..].to_owned());
                // It is durable before it is answered.
                let decided = tokio::task::spawn_blocking(move || app.decide(&route, body));
                decided.await.unwrap_or_else(|error| {
                    refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
                })
            }
            // The list above is what is let through.
            _ => refusal(StatusCode::NOT_FOUND, "there is no such route"),
        }
    }
}

/// What failed stands in the answer, beside what did not.
async fn reload(app: &App) -> Answer {
    let reloads = Arc::clone(&app.reloads);
    match tokio::task::spawn_blocking(move || reloads.run()).await {
        Ok(reloaded) => (StatusCode::OK, json!(reloaded)),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn set_log_level(body: &Value) -> Answer {
    let Some(level) = body["level"].as_str() else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "the body must be {\"level\": \"...\"}",
        );
    };
    let before = log::level();
    match log::set_level(level) {
        Ok(()) => {
            let now = log::level();
            // Whatever the level is: somebody will wonder why the log changed.
            tracing::warn!(before, now, "log level changed");
            (StatusCode::OK, json!({ "level": now }))
        }
        Err(error) => refusal(StatusCode::BAD_REQUEST, &error),
    }
}
